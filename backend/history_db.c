/* See history_db.h. */
#include "backend/history_db.h"

#include "common/json.h"
#include "common/text.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define SCHEMA_VERSION  1
#define BUSY_TIMEOUT_MS 10000

struct history_db {
    sqlite3 *sqlite;
    char *path;
    sqlite3_stmt *add_action, *add_event;
};

static bool failed(struct history_db *db, const char *doing, struct error *err) {
    int rc = sqlite3_extended_errcode(db->sqlite);
    bool full = (rc & 0xff) == SQLITE_FULL || sqlite3_system_errno(db->sqlite) == ENOSPC;
    if (full)
        error_set(err, 507, "insufficient_storage", "the disk that holds the history %s is full", db->path);
    else
        error_set(err, 503, ERR_UNAVAILABLE, "cannot %s the history %s: %s", doing, db->path,
                  sqlite3_errmsg(db->sqlite));
    return false;
}

static bool run(struct history_db *db, const char *sql, struct error *err) {
    return sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK || failed(db, "write", err);
}

/* The number in the first column of the first row, or -1. */
static int64_t number(struct history_db *db, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    int64_t out = -1;
    if (sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        out = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return out;
}

/* ---- schema ---- */

static const char tables[] =
    "CREATE TABLE IF NOT EXISTS audit_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, actor "
    "TEXT,"
    " action TEXT, resource TEXT, sandbox_id TEXT, details TEXT);"
    "CREATE TABLE IF NOT EXISTS sandbox_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL,"
    " sandbox_id TEXT, sandbox_name TEXT, namespace TEXT, phase TEXT, reason TEXT, message TEXT);"
    "CREATE TABLE IF NOT EXISTS cost_snapshots (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL,"
    " sandbox_id TEXT, namespace TEXT, cpu_hours REAL, mem_gb_hours REAL, estimated_usd REAL);";

/* What version 1 adds to the tables of the reference. */
static const struct column {
    const char *table, *name, *type;
} columns[] = {
    {"audit_events", "namespace", "TEXT"},  {"audit_events", "email", "TEXT"},
    {"audit_events", "outcome", "TEXT"},    {"audit_events", "status", "INTEGER"},
    {"audit_events", "request_id", "TEXT"}, {"audit_events", "source", "TEXT"},
    {"sandbox_events", "type", "TEXT"},     {"sandbox_events", "event_key", "TEXT"},
};

/* Every index ends with the row's id, which orders rows of one time. */
static const char indexes[] =
    "CREATE INDEX IF NOT EXISTS audit_by_time ON audit_events (ts);"
    "CREATE INDEX IF NOT EXISTS audit_by_actor ON audit_events (actor, ts);"
    "CREATE INDEX IF NOT EXISTS audit_by_sandbox ON audit_events (sandbox_id, ts);"
    "CREATE INDEX IF NOT EXISTS audit_by_outcome ON audit_events (outcome, ts);"
    "CREATE INDEX IF NOT EXISTS audit_by_request ON audit_events (request_id, ts);"
    "CREATE INDEX IF NOT EXISTS events_by_time ON sandbox_events (ts);"
    "CREATE INDEX IF NOT EXISTS events_by_sandbox ON sandbox_events (sandbox_id, ts);"
    "CREATE UNIQUE INDEX IF NOT EXISTS events_by_key ON sandbox_events (event_key);";

static bool add_column(struct history_db *db, const struct column *c, struct error *err) {
    char *sql =
        sqlite3_mprintf("SELECT count(*) FROM pragma_table_info(%Q) WHERE name = %Q", c->table, c->name);
    bool there = number(db, sql) > 0;
    sqlite3_free(sql);
    if (there) return true;
    sql = sqlite3_mprintf("ALTER TABLE \"%w\" ADD COLUMN \"%w\" %s", c->table, c->name, c->type);
    bool ok = run(db, sql, err);
    sqlite3_free(sql);
    return ok;
}

static bool migrate_to_1(struct history_db *db, struct error *err) {
    if (!run(db, tables, err)) return false;
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        if (!add_column(db, &columns[i], err)) return false;
    return run(db, indexes, err);
}

/* The i-th brings a file of version i to version i + 1. */
static bool (*const migrations[SCHEMA_VERSION])(struct history_db *, struct error *) = {migrate_to_1};

static bool migrate(struct history_db *db, struct error *err) {
    /* Another Router may be doing the same. */
    if (!run(db, "BEGIN IMMEDIATE", err)) return false;
    int64_t version = number(db, "PRAGMA user_version");
    bool ok = version >= 0 || failed(db, "read", err);
    if (ok && version > SCHEMA_VERSION) {
        error_set(err, 500, ERR_INTERNAL, "the history %s was made by a newer version of this program",
                  db->path);
        ok = false;
    }
    for (int64_t v = version; ok && v < SCHEMA_VERSION; v++) {
        char sql[48];
        snprintf(sql, sizeof sql, "PRAGMA user_version = %lld", (long long)v + 1);
        ok = migrations[v](db, err) && run(db, sql, err);
    }
    if (ok) return run(db, "COMMIT", err);
    sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
    return false;
}

static bool prepare(struct history_db *db, const char *sql, sqlite3_stmt **out, struct error *err) {
    return sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK ||
           failed(db, "prepare", err);
}

static bool open_for_writing(struct history_db *db, struct error *err) {
    /* FULL: what was committed survives the loss of power, not only the end of this program. */
    return run(db,
               "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
               "PRAGMA journal_size_limit = 16777216;",
               err) &&
           migrate(db, err) &&
           prepare(
               db,
               "INSERT INTO audit_events (ts, actor, action, resource, sandbox_id, details, namespace, email,"
               " outcome, status, request_id, source) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
               "?12)",
               &db->add_action, err) &&
           prepare(
               db,
               "INSERT OR IGNORE INTO sandbox_events (ts, sandbox_id, sandbox_name, namespace, phase, reason,"
               " message, type, event_key) VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
               &db->add_event, err);
}

/* SQLite would create it with the umask's mode. */
static bool make_file(const char *path, struct error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST) {
        error_set_errno(err, errno, "cannot create the history %s", path);
        return false;
    }
    if (fd >= 0) close(fd);
    return true;
}

struct history_db *history_db_open(const char *path, bool read_only, struct error *err) {
    if (!read_only && !make_file(path, err)) return NULL;
    struct history_db *db = xcalloc(1, sizeof *db);
    db->path = xstrdup(path);
    int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) | SQLITE_OPEN_NOMUTEX;
    bool ok = sqlite3_open_v2(path, &db->sqlite, flags, NULL) == SQLITE_OK || failed(db, "open", err);
    if (ok) {
        sqlite3_extended_result_codes(db->sqlite, 1);
        sqlite3_busy_timeout(db->sqlite, BUSY_TIMEOUT_MS);
    }
    if (ok && !read_only) ok = open_for_writing(db, err);
    if (ok) return db;
    history_db_close(db);
    return NULL;
}

void history_db_close(struct history_db *db) {
    if (!db) return;
    sqlite3_finalize(db->add_action);
    sqlite3_finalize(db->add_event);
    sqlite3_close(db->sqlite);
    free(db->path);
    free(db);
}

/* ---- writing ---- */

bool history_db_begin(struct history_db *db, struct error *err) {
    return run(db, "BEGIN IMMEDIATE", err);
}

void history_db_rollback(struct history_db *db) {
    if (!sqlite3_get_autocommit(db->sqlite)) sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
}

bool history_db_commit(struct history_db *db, struct error *err) {
    if (run(db, "COMMIT", err)) return true;
    history_db_rollback(db);
    return false;
}

static bool insert(struct history_db *db, sqlite3_stmt *stmt, struct error *err) {
    bool ok = sqlite3_step(stmt) == SQLITE_DONE || failed(db, "write", err);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return ok;
}

bool history_db_add(struct history_db *db, const struct history_entry *e, struct error *err) {
    sqlite3_stmt *stmt = e->is_event ? db->add_event : db->add_action;
    const char *event[] = {e->ts, e->sandbox, e->namespace, e->phase, e->reason, e->message, e->type, e->key};
    const char *action[] = {e->ts,        e->actor, e->action,  e->resource, e->sandbox,    e->details,
                            e->namespace, e->email, e->outcome, NULL,        e->request_id, e->source};
    const char **values = e->is_event ? event : action;
    int count = e->is_event ? (int)(sizeof event / sizeof event[0]) : (int)(sizeof action / sizeof action[0]);
    for (int i = 0; i < count; i++)
        if (values[i]) sqlite3_bind_text(stmt, i + 1, values[i], -1, SQLITE_STATIC);
    if (!e->is_event) sqlite3_bind_int(stmt, 10, e->status);
    return insert(db, stmt, err);
}

/* ---- retention ---- */

static bool prune_table(struct history_db *db, const char *table, const char *before, int most, int *removed,
                        struct error *err) {
    char *sql =
        sqlite3_mprintf("DELETE FROM \"%w\" WHERE id IN (SELECT id FROM \"%w\"%s ORDER BY ts, id LIMIT ?2)",
                        table, table, before ? " WHERE ts < ?1" : "");
    sqlite3_stmt *stmt = NULL;
    bool ok = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL) == SQLITE_OK || failed(db, "prepare", err);
    sqlite3_free(sql);
    if (ok) {
        if (before) sqlite3_bind_text(stmt, 1, before, -1, SQLITE_STATIC);
        sqlite3_bind_int(stmt, 2, most);
        ok = insert(db, stmt, err);
        if (ok) *removed += sqlite3_changes(db->sqlite);
    }
    sqlite3_finalize(stmt);
    return ok;
}

bool history_db_prune(struct history_db *db, const char *before, int most, int *removed, struct error *err) {
    *removed = 0;
    if (!prune_table(db, "audit_events", before, most, removed, err) ||
        !prune_table(db, "sandbox_events", before, most, removed, err))
        return false;
    return *removed == 0 || run(db, "PRAGMA incremental_vacuum(1000)", err);
}

int64_t history_db_size(struct history_db *db) {
    int64_t pages = number(db, "PRAGMA page_count"), unused = number(db, "PRAGMA freelist_count");
    return (pages - unused) * number(db, "PRAGMA page_size");
}

/* ---- reading ---- */

enum table { ACTIONS, EVENTS };

/* Entries are ordered by time, actions before events, then by id: the place after which a page begins. */
struct place {
    char ts[40];
    enum table table;
    int64_t id;
};

static char *place_text(const struct place *p) {
    cleanup_free char *plain =
        xasprintf("%s|%c|%lld", p->ts, p->table == ACTIONS ? 'a' : 'e', (long long)p->id);
    struct buffer out = {0};
    base64url_encode(slice_of(plain), &out);
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

static bool place_parse(const char *cursor, struct place *out, struct error *err) {
    static const char pad[] = "===";
    cleanup_buffer struct buffer padded = {0}, plain = {.limit = 128};
    size_t n = strlen(cursor);
    char which = 0;
    long long id = 0;
    if (n < 128) {
        for (size_t i = 0; i < n; i++)
            buffer_append_char(&padded, (char)(cursor[i] == '-' ? '+' : cursor[i] == '_' ? '/' : cursor[i]));
        buffer_append(&padded, pad, (4 - n % 4) % 4);
        if (base64_decode(buffer_slice(&padded), &plain) &&
            sscanf(buffer_cstr(&plain), "%39[^|]|%c|%lld", out->ts, &which, &id) == 3 &&
            (which == 'a' || which == 'e') && id >= 0) {
            out->table = which == 'a' ? ACTIONS : EVENTS;
            out->id = id;
            return true;
        }
    }
    error_set_field(err, "continue", "is not a cursor of this server");
    return false;
}

static const char action_columns[] =
    "SELECT id, ts, coalesce(sandbox_id, ''), coalesce(namespace, ''), coalesce(actor, ''), coalesce(email, "
    "''),"
    " coalesce(action, ''), coalesce(resource, ''), coalesce(outcome, ''), coalesce(status, 0),"
    " coalesce(request_id, ''), coalesce(source, ''), coalesce(details, '') FROM audit_events WHERE 1";
static const char event_columns[] = "SELECT id, ts, coalesce(sandbox_id, ''), coalesce(namespace, ''), "
                                    "coalesce(reason, ''), coalesce(message, ''),"
                                    " coalesce(type, '') FROM sandbox_events WHERE 1";

/* A statement under construction: conditions and what is bound to them. */
struct sql {
    struct buffer text;
    const char *values[16];
    int count;
    int64_t id; /* bound last */
};

static void condition(struct sql *s, const char *text, const char *value) {
    if (!value || !value[0]) return;
    s->values[s->count++] = value;
    buffer_printf(&s->text, " AND %s ?%d", text, s->count);
}

/* False: the filter excludes the whole table. */
static bool build(const struct history_filter *f, enum table table, const struct place *after,
                  struct sql *s) {
    bool actions = table == ACTIONS;
    if (f->kind && strcmp(f->kind, actions ? "action" : "event") != 0) return false;
    if (!actions && (f->actor || f->outcome || f->request_id)) return false;
    buffer_append_str(&s->text, actions ? action_columns : event_columns);
    condition(s, "sandbox_id =", f->sandbox);
    condition(s, actions ? "action =" : "reason =", f->type);
    condition(s, "namespace =", f->namespace);
    condition(s, "ts >=", f->since);
    condition(s, "ts <", f->until);
    if (actions) {
        condition(s, "actor =", f->actor);
        /* "+" keeps the index of outcomes out where another finds less, or where most entries have it. */
        bool rare =
            !f->actor && !f->sandbox && !f->request_id && f->outcome && strcmp(f->outcome, "success") != 0;
        condition(s, rare ? "outcome =" : "+outcome =", f->outcome);
        condition(s, "request_id =", f->request_id);
    }
    if (after) {
        /* Of the other table: events of the very moment of an action follow it, actions of an event's do not.
         */
        s->id = after->table == table ? after->id : table == EVENTS ? INT64_MAX : 0;
        s->values[s->count++] = after->ts;
        buffer_printf(&s->text, " AND (ts, id) < (?%d, ?%d)", s->count, s->count + 1);
    }
    buffer_printf(&s->text, " ORDER BY ts DESC, id DESC LIMIT %d", f->limit + 1);
    return true;
}

static sqlite3_stmt *bound(struct history_db *db, struct sql *s, const char *prefix, bool after,
                           struct error *err) {
    sqlite3_stmt *stmt = NULL;
    cleanup_free char *text = xasprintf("%s%s", prefix, buffer_cstr(&s->text));
    if (sqlite3_prepare_v2(db->sqlite, text, -1, &stmt, NULL) != SQLITE_OK) {
        failed(db, "read", err);
        return NULL;
    }
    for (int i = 0; i < s->count; i++)
        sqlite3_bind_text(stmt, i + 1, s->values[i], -1, SQLITE_STATIC);
    if (after) sqlite3_bind_int64(stmt, s->count + 1, s->id);
    return stmt;
}

static const char *text_at(sqlite3_stmt *stmt, int column) {
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    return text ? text : "";
}

static json_t *shown(const char *text) {
    return json_string_repaired(slice_of(text));
}

static json_t *frame(const char *ts, const char *type, const char *sandbox, const char *namespace,
                     const char *email, json_t *details) {
    json_t *out = json_object();
    json_object_set_new(out, "timestamp", shown(ts));
    json_object_set_new(out, "eventType", shown(type));
    json_object_set_new(out, "sandboxId", shown(sandbox));
    json_object_set_new(out, "sandboxName", shown(sandbox));
    json_object_set_new(out, "namespace", shown(namespace));
    json_object_set_new(out, "userEmail", shown(email));
    json_object_set_new(out, "details", details);
    return out;
}

static json_t *action_json(sqlite3_stmt *stmt) {
    static const char *const names[] = {"actor",   NULL, "action",    "resource",
                                        "outcome", NULL, "requestId", "source"};
    const char *details = text_at(stmt, 12), *actor = text_at(stmt, 4), *outcome = text_at(stmt, 8);
    json_t *out = details[0] ? json_loads(details, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (!json_is_object(out)) {
        json_decref(out);
        out = json_object();
        if (details[0]) json_object_set_new(out, "text", shown(details));
    }
    for (int i = 0; i < 8; i++)
        if (names[i]) json_object_set_new(out, names[i], shown(text_at(stmt, 4 + i)));
    json_object_set_new(out, "kind", json_string("action"));
    json_object_set_new(out, "status", json_integer(sqlite3_column_int(stmt, 9)));
    cleanup_free char *reason = xasprintf("%s by %s%s%s", text_at(stmt, 6), actor[0] ? actor : "nobody known",
                                          outcome[0] ? ": " : "", outcome);
    json_object_set_new(out, "reason", shown(reason));
    bool of_sandbox = strcmp(text_at(stmt, 7), "sandbox") == 0;
    if (!of_sandbox) json_object_set_new(out, "name", shown(text_at(stmt, 2)));
    return frame(text_at(stmt, 1), text_at(stmt, 6), of_sandbox ? text_at(stmt, 2) : "", text_at(stmt, 3),
                 text_at(stmt, 5), out);
}

json_t *history_event_json(const struct history_entry *e) {
    json_t *details = json_object();
    json_object_set_new(details, "kind", json_string("event"));
    json_object_set_new(details, "type", shown(e->type));
    json_object_set_new(details, "reason", shown(e->message));
    return frame(e->ts, e->reason, e->sandbox, e->namespace, "", details);
}

static json_t *event_json(sqlite3_stmt *stmt) {
    struct history_entry e = {.is_event = true,
                              .sandbox = text_at(stmt, 2),
                              .namespace = text_at(stmt, 3),
                              .reason = text_at(stmt, 4),
                              .message = text_at(stmt, 5),
                              .type = text_at(stmt, 6)};
    snprintf(e.ts, sizeof e.ts, "%s", text_at(stmt, 1));
    return history_event_json(&e);
}

/* Whether row `a` of the actions comes before row `b` of the events. */
static bool action_first(sqlite3_stmt *a, sqlite3_stmt *b) {
    return strcmp(text_at(a, 1), text_at(b, 1)) >= 0;
}

/* Merges both tables, the newest first. `rows[t]` is at a row when have[t]. */
static json_t *merge(sqlite3_stmt *const rows[2], int limit, char **cursor) {
    json_t *out = json_array();
    bool have[2];
    struct place last = {0};
    for (int t = 0; t < 2; t++)
        have[t] = rows[t] && sqlite3_step(rows[t]) == SQLITE_ROW;
    while (have[ACTIONS] || have[EVENTS]) {
        if ((int)json_array_size(out) == limit) {
            *cursor = place_text(&last);
            break;
        }
        bool action = have[ACTIONS] && (!have[EVENTS] || action_first(rows[ACTIONS], rows[EVENTS]));
        last.table = action ? ACTIONS : EVENTS;
        sqlite3_stmt *row = rows[last.table];
        snprintf(last.ts, sizeof last.ts, "%s", text_at(row, 1));
        last.id = sqlite3_column_int64(row, 0);
        json_array_append_new(out, action ? action_json(row) : event_json(row));
        have[last.table] = sqlite3_step(row) == SQLITE_ROW;
    }
    return out;
}

json_t *history_db_query(struct history_db *db, const struct history_filter *f, char **cursor,
                         struct error *err) {
    struct place place;
    const struct place *after = NULL;
    *cursor = NULL;
    if (f->cursor && f->cursor[0]) {
        if (!place_parse(f->cursor, &place, err)) return NULL;
        after = &place;
    }
    sqlite3_stmt *rows[2] = {NULL, NULL};
    struct sql sql[2] = {{{0}, {0}, 0, 0}, {{0}, {0}, 0, 0}};
    bool ok = true;
    for (int t = 0; ok && t < 2; t++)
        if (build(f, (enum table)t, after, &sql[t]))
            ok = (rows[t] = bound(db, &sql[t], "", after != NULL, err)) != NULL;
    json_t *out = ok ? merge(rows, f->limit, cursor) : NULL;
    for (int t = 0; t < 2; t++) {
        /* A step that failed shows here. */
        if (sqlite3_finalize(rows[t]) != SQLITE_OK && out) {
            failed(db, "read", err);
            json_decref(out);
            free(*cursor);
            out = NULL;
            *cursor = NULL;
        }
        buffer_free(&sql[t].text);
    }
    return out;
}

char *history_db_plan(struct history_db *db, const struct history_filter *f) {
    struct buffer out = {0};
    struct place somewhere = {.ts = "2026"}, *after = f->cursor ? &somewhere : NULL;
    for (int t = 0; t < 2; t++) {
        struct sql sql = {{0}, {0}, 0, 0};
        if (build(f, (enum table)t, after, &sql)) {
            sqlite3_stmt *stmt = bound(db, &sql, "EXPLAIN QUERY PLAN ", after != NULL, NULL);
            while (stmt && sqlite3_step(stmt) == SQLITE_ROW)
                buffer_printf(&out, "%s\n", text_at(stmt, 3));
            sqlite3_finalize(stmt);
        }
        buffer_free(&sql.text);
    }
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}
