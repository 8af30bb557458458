/* Reading the history by filters, page by page: history_db.h. Each filter leads to an index, so a page costs
 * what it holds and not what there is. */
#include "backend/history_sqlite.h"
#include "common/json.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

enum table { ACTIONS, EVENTS };

/* Entries are ordered by time, actions before events; actions of one moment by the file that they are in and
 * their id there, events, which every replica has in its file, by their key. */
struct place {
    char ts[40];
    enum table table;
    char replica[33];
    int64_t id;
    char key[160];
};

static char *place_text(const struct place *p) {
    cleanup_free char *plain = p->table == ACTIONS
                                   ? xasprintf("%s|a|%lld@%s", p->ts, (long long)p->id, p->replica)
                                   : xasprintf("%s|e|%s", p->ts, p->key);
    struct buffer out = {0};
    base64url_encode(slice_of(plain), &out);
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

static bool place_read(const char *cursor, struct place *out) {
    static const char pad[] = "===";
    cleanup_buffer struct buffer padded = {0}, plain = {.limit = 256};
    size_t n = strlen(cursor);
    if (n == 0 || n > 340) return false;
    for (size_t i = 0; i < n; i++)
        buffer_append_char(&padded, (char)(cursor[i] == '-' ? '+' : cursor[i] == '_' ? '/' : cursor[i]));
    buffer_append(&padded, pad, (4 - n % 4) % 4);
    if (!base64_decode(buffer_slice(&padded), &plain) || plain.len == 0 ||
        memchr(plain.data, '\0', plain.len))
        return false;
    const char *text = buffer_cstr(&plain);
    const char *bar = strchr(text, '|');
    if (!bar || bar == text || bar - text >= (int)sizeof out->ts) return false;
    memset(out, 0, sizeof *out);
    memcpy(out->ts, text, (size_t)(bar - text));
    long long id = -1;
    if (strncmp(bar, "|a|", 3) == 0) {
        out->table = ACTIONS;
        if (sscanf(bar + 3, "%lld@%32[0-9a-f]", &id, out->replica) != 2 || id < 0) return false;
        out->id = id;
        return true;
    }
    out->table = EVENTS;
    return strncmp(bar, "|e|", 3) == 0 && bar[3] &&
           snprintf(out->key, sizeof out->key, "%s", bar + 3) < (int)sizeof out->key;
}

static bool place_parse(const char *cursor, struct place *out, struct error *err) {
    if (place_read(cursor, out)) return true;
    error_set_field(err, "continue", "is not a cursor of this server");
    return false;
}

int history_cursor_order(const char *a, const char *b) {
    struct place x, y;
    bool known = place_read(a, &x), also = place_read(b, &y);
    if (!known || !also) return also - known;
    int order = strcmp(y.ts, x.ts);
    if (order) return order;
    if (x.table != y.table) return x.table == ACTIONS ? -1 : 1;
    if (x.table == EVENTS) return strcmp(y.key, x.key);
    order = strcmp(y.replica, x.replica);
    return order ? order : (y.id > x.id) - (y.id < x.id);
}

static const char action_columns[] =
    "SELECT id, ts, coalesce(sandbox_id, ''), coalesce(namespace, ''), coalesce(actor, ''), coalesce(email, "
    "''),"
    " coalesce(action, ''), coalesce(resource, ''), coalesce(outcome, ''), coalesce(status, 0),"
    " coalesce(request_id, ''), coalesce(source, ''), coalesce(details, '') FROM audit_events WHERE 1";
static const char event_columns[] = "SELECT id, ts, coalesce(sandbox_id, ''), coalesce(namespace, ''), "
                                    "coalesce(reason, ''), coalesce(message, ''),"
                                    " coalesce(type, ''), event_key FROM sandbox_events WHERE 1";

/* A statement under construction: conditions and what is bound to them. */
struct sql {
    struct buffer text;
    const char *values[16];
    int count;
    /* bound last: what must be passed within the moment of the cursor */
    int64_t id;
    const char *key; /* NULL: every event of that moment */
};

static void condition(struct sql *s, const char *text, const char *value) {
    if (!value || !value[0]) return;
    s->values[s->count++] = value;
    buffer_printf(&s->text, " AND %s ?%d", text, s->count);
}

/* False: the filter excludes the whole table. */
static bool build(const struct history_filter *f, enum table table, const struct place *after,
                  const char *replica, struct sql *s) {
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
        s->values[s->count++] = after->ts;
        bool same = after->table == table;
        /* Of the other table: events of the very moment of an action follow it, actions of an event's do not.
         * Of actions in another file: all or none, by the name of the file. */
        int other_file = strcmp(replica, after->replica);
        s->id = !same || other_file > 0 ? 0 : other_file < 0 ? INT64_MAX : after->id;
        s->key = same ? after->key : NULL;
        buffer_printf(&s->text, " AND (ts, %s) < (?%d, ?%d)", actions ? "id" : "event_key", s->count,
                      s->count + 1);
    }
    buffer_printf(&s->text, " ORDER BY ts DESC, %s DESC LIMIT %d", actions ? "id" : "event_key",
                  f->limit + 1);
    return true;
}

static sqlite3_stmt *bound(struct history_db *db, struct sql *s, enum table table, const char *prefix,
                           bool after, struct error *err) {
    sqlite3_stmt *stmt = NULL;
    cleanup_free char *text = xasprintf("%s%s", prefix, buffer_cstr(&s->text));
    if (sqlite3_prepare_v2(db->sqlite, text, -1, &stmt, NULL) != SQLITE_OK) {
        history_db_failed(db, "read", err);
        return NULL;
    }
    for (int i = 0; i < s->count; i++)
        sqlite3_bind_text(stmt, i + 1, s->values[i], -1, SQLITE_STATIC);
    int last = s->count + 1;
    if (after && table == ACTIONS)
        sqlite3_bind_int64(stmt, last, s->id);
    else if (after && s->key)
        sqlite3_bind_text(stmt, last, s->key, -1, SQLITE_STATIC);
    else if (after)
        sqlite3_bind_zeroblob(stmt, last, 0); /* greater than any text */
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
static json_t *merge(sqlite3_stmt *const rows[2], const char *replica, int limit, char **cursor) {
    json_t *out = json_array();
    bool have[2];
    struct place last = {0};
    snprintf(last.replica, sizeof last.replica, "%s", replica);
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
        if (!action) snprintf(last.key, sizeof last.key, "%s", text_at(row, 7));
        cleanup_free char *here = place_text(&last);
        json_t *entry = action ? action_json(row) : event_json(row);
        json_object_set_new(entry, "cursor", json_string(here));
        json_array_append_new(out, entry);
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
    struct sql sql[2] = {{{0}, {0}, 0, 0, NULL}, {{0}, {0}, 0, 0, NULL}};
    bool ok = true;
    for (int t = 0; ok && t < 2; t++)
        if (build(f, (enum table)t, after, db->replica, &sql[t]))
            ok = (rows[t] = bound(db, &sql[t], (enum table)t, "", after != NULL, err)) != NULL;
    json_t *out = ok ? merge(rows, db->replica, f->limit, cursor) : NULL;
    for (int t = 0; t < 2; t++) {
        /* A step that failed shows here. */
        if (sqlite3_finalize(rows[t]) != SQLITE_OK && out) {
            history_db_failed(db, "read", err);
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
        struct sql sql = {{0}, {0}, 0, 0, NULL};
        if (build(f, (enum table)t, after, db->replica, &sql)) {
            sqlite3_stmt *stmt = bound(db, &sql, (enum table)t, "EXPLAIN QUERY PLAN ", after != NULL, NULL);
            while (stmt && sqlite3_step(stmt) == SQLITE_ROW)
                buffer_printf(&out, "%s\n", text_at(stmt, 3));
            sqlite3_finalize(stmt);
        }
        buffer_free(&sql.text);
    }
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}
