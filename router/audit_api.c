/* GET /audit/events: http-api-extended.md 8.1, with filters and pages. */
#include "common/units.h"
#include "router/audit.h"
#include "router/audit_peers.h"
#include "router/handlers.h"
#include "router/router.h"

#include <stdio.h>

#define LIMIT_DEFAULT 1000
#define LIMIT_MAX     5000
#define FLUSH_MS      2000
/* Each holds a worker while others work for it: so few that replicas cannot wait for each other in a circle.
 */
#define QUESTIONS_MAX 3

/* The first of two names that the query has, "" counting as absent. */
static const char *query_text(struct request *r, const char *name, const char *also) {
    const char *text = request_query(r, name);
    if ((!text || !text[0]) && also) text = request_query(r, also);
    return text && text[0] ? text : NULL;
}

static bool query_time(struct request *r, const char *name, char out[40], struct error *err) {
    const char *text = query_text(r, name, NULL);
    struct timespec t = {0};
    out[0] = '\0';
    if (!text) return true;
    if (!rfc3339_parse(text, &t.tv_sec)) {
        error_set_field(err, name, "must be a time such as 2026-07-21T04:16:07Z");
        return false;
    }
    rfc3339_format_nanos(t, out);
    return true;
}

static bool read_filter(struct request *r, struct history_filter *f, struct error *err) {
    f->actor = query_text(r, "actor", NULL);
    f->sandbox = query_text(r, "sandbox", "sandboxId");
    f->namespace = query_text(r, "namespace", NULL);
    f->type = query_text(r, "type", "eventType");
    f->outcome = query_text(r, "outcome", NULL);
    f->request_id = query_text(r, "requestId", NULL);
    f->kind = query_text(r, "kind", NULL);
    f->cursor = query_text(r, "continue", NULL);
    f->limit = LIMIT_DEFAULT;
    const char *limit = query_text(r, "limit", NULL);
    uint64_t n;
    if (limit && (!slice_parse_u64(slice_of(limit), LIMIT_MAX, &n) || n == 0)) {
        error_set_field(err, "limit", "must be a number from 1 to %d", LIMIT_MAX);
        return false;
    }
    if (limit) f->limit = (int)n;
    if (f->kind && strcmp(f->kind, "action") != 0 && strcmp(f->kind, "event") != 0) {
        error_set_field(err, "kind", "must be action or event");
        return false;
    }
    return query_time(r, "since", f->since, err) && query_time(r, "until", f->until, err);
}

/* ---- without a history: the Events that the store has ---- */

static bool selected(const struct history_filter *f, const struct history_entry *e) {
    return (!f->sandbox || strcmp(f->sandbox, e->sandbox) == 0) &&
           (!f->namespace || strcmp(f->namespace, e->namespace) == 0) &&
           (!f->type || strcmp(f->type, e->reason) == 0) && (!f->since[0] || strcmp(e->ts, f->since) >= 0) &&
           (!f->until[0] || strcmp(e->ts, f->until) < 0);
}

struct found {
    struct history_entry entry;
    const char *name; /* of the Event */
};

static int newest_first(const void *a, const void *b) {
    const struct found *x = a, *y = b;
    int order = strcmp(y->entry.ts, x->entry.ts);
    return order ? order : strcmp(x->name, y->name);
}

static json_t *events_of_store(struct request *r, const struct history_filter *f) {
    json_t *out = json_array();
    if (f->actor || f->outcome || f->request_id || (f->kind && strcmp(f->kind, "event") != 0)) return out;
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_EVENT, f->namespace);
    cleanup_free struct found *found = xcalloc(all.count + 1, sizeof *found);
    size_t count = 0;
    for (size_t i = 0; i < all.count; i++) {
        char key[128];
        struct history_entry e;
        if (!event_entry(all.items[i]->json, &e, key) || !selected(f, &e)) continue;
        found[count++] = (struct found){e, all.items[i]->name};
    }
    qsort(found, count, sizeof *found, newest_first);
    for (size_t i = 0; i < count && i < (size_t)f->limit; i++)
        json_array_append_new(out, history_event_json(&found[i].entry));
    return out;
}

/* Whether other Routers may know more: they have all Events that we have. */
static bool has_peers(struct request *r, const struct history_filter *f) {
    const char *scope = query_text(r, "scope", NULL);
    return r->router->history && r->router->config->history_peers[0] &&
           (!scope || strcmp(scope, "local") != 0) && (!f->kind || strcmp(f->kind, "action") == 0);
}

static bool ask_peers(struct request *r, const struct history_filter *f, json_t *events, char **cursor,
                      json_t *missing, struct error *err) {
    if (!has_peers(r, f)) return true;
    _Atomic int *questions = &r->router->history_questions;
    bool ok = atomic_fetch_add(questions, 1) < QUESTIONS_MAX;
    if (ok) {
        audit_ask_peers(r, events, f->limit, cursor, missing);
    } else {
        error_set(err, 503, "busy", "other questions to the histories of all replicas are being answered");
        err->retry_after = 1;
    }
    atomic_fetch_sub(questions, 1);
    return ok;
}

void audit_events(struct request *r) {
    cleanup_error struct error err = {0};
    struct history_filter filter = {0};
    struct history *history = r->router->history;
    cleanup_free char *cursor = NULL;
    cleanup_json json_t *events = NULL, *missing = json_array();
    if (read_filter(r, &filter, &err)) {
        /* What was answered before this question was asked is in its answer. */
        if (history) history_flush(history, FLUSH_MS);
        events = history ? history_query(history, &filter, &cursor, &err) : events_of_store(r, &filter);
    }
    if (!events || !ask_peers(r, &filter, events, &cursor, missing, &err)) {
        reply_error(r, &err);
        return;
    }
    json_t *body = json_pack("{s:O}", "events", events);
    if (json_array_size(missing) > 0) json_object_set(body, "missing", missing);
    if (cursor) json_object_set_new(body, "continue", json_string(cursor));
    reply_json(r, 200, body);
}
