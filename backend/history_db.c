/* See history_db.h. */
#include "backend/history_sqlite.h"

#include "common/sqlite_new.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define SCHEMA_VERSION  2
#define BUSY_TIMEOUT_MS 10000

bool history_db_failed(struct history_db *db, const char *doing, struct error *err) {
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
    return sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK ||
           history_db_failed(db, "write", err);
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

/* A name for the file, and an order of events that is the same in the files of all replicas. */
static bool migrate_to_2(struct history_db *db, struct error *err) {
    return run(db,
               "CREATE TABLE history_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
               "INSERT INTO history_facts VALUES ('replica', lower(hex(randomblob(8))));"
               "UPDATE sandbox_events SET event_key = lower(hex(randomblob(12))) WHERE event_key IS NULL;"
               "DROP INDEX IF EXISTS events_by_time; DROP INDEX IF EXISTS events_by_sandbox;"
               "CREATE INDEX events_by_time ON sandbox_events (ts, event_key);"
               "CREATE INDEX events_by_sandbox ON sandbox_events (sandbox_id, ts, event_key);",
               err);
}

/* The i-th brings a file of version i to version i + 1. */
static bool (*const migrations[SCHEMA_VERSION])(struct history_db *, struct error *) = {migrate_to_1,
                                                                                        migrate_to_2};

static bool migrate(struct history_db *db, struct error *err) {
    /* Another Router may be doing the same. */
    if (!run(db, "BEGIN IMMEDIATE", err)) return false;
    int64_t version = number(db, "PRAGMA user_version");
    bool ok = version >= 0 || history_db_failed(db, "read", err);
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
           history_db_failed(db, "prepare", err);
}

/* What was committed then survives the loss of power, not only the end of this program. */
static bool wait_for_disk(struct history_db *db, struct error *err) {
    return run(db, "PRAGMA synchronous = FULL", err);
}

/* A file without content does not wait for the disk yet. */
static bool configure(struct history_db *db, struct error *err) {
    bool fresh = false;
    if (sqlite_new_begin(db->sqlite, &fresh) != SQLITE_OK) return history_db_failed(db, "open", err);
    if (!run(db, "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;", err)) return false;
    if (sqlite_new_end(db->sqlite, fresh) != SQLITE_OK) return history_db_failed(db, "create", err);
    return (fresh || wait_for_disk(db, err)) && run(db, "PRAGMA journal_size_limit = 16777216", err);
}

static bool open_for_writing(struct history_db *db, struct error *err) {
    if (!configure(db, err)) return false;
    bool migrated = migrate(db, err);
    return wait_for_disk(db, migrated ? err : NULL) && migrated &&
           prepare(
               db,
               "INSERT INTO audit_events (ts, actor, action, resource, sandbox_id, details, namespace, email,"
               " outcome, status, request_id, source) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
               "?12)",
               &db->add_action, err) &&
           prepare(
               db,
               "INSERT OR IGNORE INTO sandbox_events (ts, sandbox_id, sandbox_name, namespace, phase, reason,"
               " message, type, event_key) VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7,"
               " coalesce(?8, lower(hex(randomblob(12)))))",
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

static bool read_name(struct history_db *db, struct error *err) {
    sqlite3_stmt *stmt = NULL;
    bool ok = sqlite3_prepare_v2(db->sqlite, "SELECT value FROM history_facts WHERE name = 'replica'", -1,
                                 &stmt, NULL) == SQLITE_OK &&
              sqlite3_step(stmt) == SQLITE_ROW;
    if (ok) snprintf(db->replica, sizeof db->replica, "%s", (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    return ok || history_db_failed(db, "read", err);
}

struct history_db *history_db_open(const char *path, bool read_only, struct error *err) {
    if (!read_only && !make_file(path, err)) return NULL;
    struct history_db *db = xcalloc(1, sizeof *db);
    db->path = xstrdup(path);
    int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) | SQLITE_OPEN_NOMUTEX;
    bool ok =
        sqlite3_open_v2(path, &db->sqlite, flags, NULL) == SQLITE_OK || history_db_failed(db, "open", err);
    if (ok) {
        sqlite3_extended_result_codes(db->sqlite, 1);
        sqlite3_busy_timeout(db->sqlite, BUSY_TIMEOUT_MS);
    }
    if (ok && !read_only) ok = open_for_writing(db, err);
    if (ok) ok = read_name(db, err);
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
    bool ok = sqlite3_step(stmt) == SQLITE_DONE || history_db_failed(db, "write", err);
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

static bool prune_table(struct history_db *db, const char *table, const char *which, const char *before,
                        int most, int *removed, struct error *err) {
    char *sql =
        sqlite3_mprintf("DELETE FROM \"%w\" WHERE id IN (SELECT id FROM \"%w\"%s ORDER BY ts, id LIMIT ?2)",
                        table, table, which);
    sqlite3_stmt *stmt = NULL;
    bool ok = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL) == SQLITE_OK ||
              history_db_failed(db, "prepare", err);
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
    const char *which = before ? " WHERE ts < ?1" : "";
    *removed = 0;
    /* Whoever is not even logged in must not be able to push out what users did: theirs goes first. */
    if (!before && !prune_table(db, "audit_events", " WHERE actor = ''", NULL, most, removed, err))
        return false;
    if (*removed == 0 && (!prune_table(db, "audit_events", which, before, most, removed, err) ||
                          !prune_table(db, "sandbox_events", which, before, most, removed, err)))
        return false;
    return *removed == 0 || run(db, "PRAGMA incremental_vacuum(1000)", err);
}

int64_t history_db_size(struct history_db *db) {
    int64_t pages = number(db, "PRAGMA page_count"), unused = number(db, "PRAGMA freelist_count");
    return (pages - unused) * number(db, "PRAGMA page_size");
}
