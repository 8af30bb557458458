/* Reading the history by filters, page by page: history_db.h. Each filter leads to an index, so a page costs
 * what it holds and not what there is. */
#include "backend/history_sqlite.h"
#include "common/json.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

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
        history_db_failed(db, "read", err);
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
