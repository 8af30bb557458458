/* Creating, stopping, resuming and deleting many sandboxes by one call, with a result for each
 * (http-api.md 2.7). */
#include "common/log.h"
#include "common/units.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/lifecycle.h"
#include "router/ratelimit.h"
#include "router/router.h"
#include "router/sandbox_create.h"
#include "router/sandbox_lookup.h"

#include <string.h>

#define BULK_MAX 100

/* The list of a body; 400 unless it has 1 to BULK_MAX elements. Charges the caller for all of them: the first
 * was paid for like any request (http-api.md 1.11). */
static json_t *read_list(struct request *r, const char *name, struct error *err) {
    json_t *list = NULL;
    if (!json_get_array(r->body, name, &list, err)) return NULL;
    size_t count = json_array_size(list);
    if (count == 0 || count > BULK_MAX) {
        error_set_field(err, name, "must have 1 to %d elements, not %zu", BULK_MAX, count);
        return NULL;
    }
    if (count > 1 &&
        !ratelimit_user(r->router->rate_limiter, r->identity.sub, (double)(count - 1), NULL, err))
        return NULL;
    return list;
}

/* Adds `error` and `code` of a failure; a policy's text begins with its code, as clients expect. */
static void set_failure(json_t *result, const struct error *err) {
    const json_t *violations = json_object_get(err->details, "violations");
    cleanup_buffer struct buffer text = {0};
    size_t i;
    json_t *violation;
    if (!violations) buffer_append_str(&text, err->message);
    json_array_foreach(violations, i, violation)
        buffer_printf(&text, "%s%s", i > 0 ? "; " : "policy_violation: ", json_str_at(violation, "message"));
    json_object_set_new(result, "status", json_string("error"));
    json_object_set_new(result, "error", json_string_repaired(buffer_slice(&text)));
    json_object_set_new(result, "code", json_string(err->code));
    if (violations) json_object_set(result, "violations", (json_t *)(uintptr_t)violations);
}

/* ---- create ---- */

struct item {
    struct sandbox_request q;
    struct error err; /* what its body has wrong */
    const char *namespace;
    bool agent;
    struct object *before; /* made by an earlier attempt of this very request */
};

struct batch {
    struct item *items;
    size_t count;
    bool replayable;
    struct replay replay;
};

static void batch_free(struct batch *b) {
    for (size_t i = 0; i < b->count; i++) {
        sandbox_request_free(&b->items[i].q);
        error_clear(&b->items[i].err);
        object_unref(b->items[i].before);
    }
    free(b->items);
}

static void read_item(struct request *r, const struct batch *b, size_t i, const json_t *body) {
    struct store *store = r->backend->store;
    struct item *item = &b->items[i];
    const char *named = json_str_at(body, "namespace");
    item->namespace = named[0] ? named : sandbox_namespace(r->router->config);
    if (!json_is_object(body)) {
        error_set(&item->err, 400, ERR_BAD_REQUEST, "the item must be an object as for POST /sandboxes");
        return;
    }
    if (!sandbox_request_parse(body, &item->q, &item->err)) return;
    const char *kind;
    cleanup_object struct object *template =
        sandbox_request_template(store, &item->q, item->namespace, &kind);
    const char *mode = json_str_at(item->q.spec, "mode");
    if (!mode[0] && template) mode = json_str_at(template->json, "spec.mode");
    item->agent = strcmp(mode, "agent") == 0;
    if (!b->replayable) return;
    struct replay part = replay_part(&b->replay, i);
    cleanup_object struct object *there = store->ops->get(store, KIND_SANDBOX, item->namespace, item->q.name);
    if (there && replay_match(there, &part) == REPLAY_SAME) item->before = steal_ptr(there);
}

/* 409 when another request was made with the key. */
static bool check_key(struct request *r, const struct batch *b, struct error *err) {
    if (!b->replayable) return true;
    cleanup_object struct object *other = replay_find(r->backend->store, &b->replay);
    if (!other || replay_is_sibling(other, &b->replay)) return true;
    replay_conflict(other, err);
    return false;
}

static bool seen_before(const struct batch *b, size_t i) {
    for (size_t j = 0; j < i; j++)
        if (strcmp(b->items[j].namespace, b->items[i].namespace) == 0) return true;
    return false;
}

/* The quotas of each namespace against all that is asked for there: all or nothing. */
static bool check_quotas(struct request *r, const struct batch *b, struct error *err) {
    for (size_t i = 0; i < b->count; i++) {
        const char *namespace = b->items[i].namespace;
        if (seen_before(b, i)) continue;
        int64_t count = 0, agents = 0;
        for (size_t j = i; j < b->count; j++) {
            if (strcmp(b->items[j].namespace, namespace) != 0 || b->items[j].before) continue;
            count++;
            if (b->items[j].agent) agents++;
        }
        json_t *violations = sandbox_batch_violations(r->router, &r->identity, namespace, count, agents);
        if (!violations) continue;
        error_set(err, 409, "quota_would_exceed",
                  "creating %lld sandboxes in namespace %s would exceed its quota", (long long)count,
                  namespace);
        err->details = json_pack("{s:o, s:o}", "namespace", json_string_repaired(slice_of(namespace)),
                                 "violations", violations);
        return false;
    }
    return true;
}

static json_t *create_one(struct request *r, const struct batch *b, size_t i, size_t *replays) {
    struct item *item = &b->items[i];
    cleanup_object struct object *created = item->before ? object_ref(item->before) : NULL;
    bool replayed = created != NULL;
    struct replay part = replay_part(&b->replay, i);
    json_t *result = json_pack("{s:I}", "index", (json_int_t)i);
    if (!created && item->err.status == 0)
        sandbox_create(r->router, &r->identity, &item->q, b->replayable ? &part : NULL, &created, &replayed,
                       &item->err);
    if (!created) {
        set_failure(result, &item->err);
        return result;
    }
    json_object_set_new(result, "status", json_string("created"));
    json_object_set_new(result, "sandboxId", json_string(created->name));
    json_object_set_new(result, "namespace", json_string(created->namespace));
    if (replayed) {
        json_object_set_new(result, "replayed", json_true());
        ++*replays;
    } else {
        log_info("sandbox created", "sandbox", created->name, "namespace", created->namespace, "user",
                 r->identity.sub, "request_id", r->request_id, NULL);
    }
    return result;
}

/* For the history: what was made, and what was not and why. */
static void note_results(struct request *r, const struct batch *b, const json_t *results) {
    json_t *made = json_array(), *refused = json_array();
    for (size_t i = 0; i < b->count; i++) {
        const json_t *result = json_array_get(results, i);
        const char *name = b->items[i].q.name;
        if (json_object_get(result, "sandboxId"))
            json_array_append_new(made, json_pack("[s, s]", json_str_at(result, "namespace"),
                                                  json_str_at(result, "sandboxId")));
        else
            json_array_append_new(refused,
                                  json_pack("[o, o, s]", audit_string(b->items[i].namespace),
                                            audit_string(name ? name : ""), json_str_at(result, "code")));
    }
    audit_detail(r, "created", made);
    if (json_array_size(refused) > 0)
        audit_detail(r, "notCreated", refused);
    else
        json_decref(refused);
}

void bulk_create(struct request *r) {
    cleanup_error struct error err = {0};
    __attribute__((cleanup(batch_free))) struct batch b = {0};
    json_t *items = read_list(r, "items", &err);
    if (!items || !replay_read(r, &b.replay, &b.replayable, &err) || !check_key(r, &b, &err)) {
        reply_error(r, &err);
        return;
    }
    size_t replays = 0;
    b.items = xcalloc(json_array_size(items), sizeof *b.items);
    for (b.count = 0; b.count < json_array_size(items); b.count++)
        read_item(r, &b, b.count, json_array_get(items, b.count));
    if (!check_quotas(r, &b, &err)) {
        reply_error(r, &err);
        return;
    }
    json_t *results = json_array();
    for (size_t i = 0; i < b.count; i++)
        json_array_append_new(results, create_one(r, &b, i, &replays));
    note_results(r, &b, results);
    if (replays > 0) reply_header(r, "Idempotency-Replayed", "true");
    reply_json(r, 200, json_pack("{s:o}", "results", results));
}

/* ---- stop, resume, delete ---- */

enum action { ACTION_STOP, ACTION_RESUME, ACTION_DELETE, ACTION_COUNT };
static const char *const action_names[ACTION_COUNT] = {"stop", "resume", "delete"};
static const char *const audit_actions[ACTION_COUNT] = {"bulk.stop", "bulk.resume", "bulk.delete"};

static bool read_action(struct request *r, enum action *out, struct error *err) {
    const char *name = NULL;
    if (!json_get_string(r->body, "action", &name, err)) return false;
    for (int i = 0; name && i < ACTION_COUNT; i++)
        if (strcmp(name, action_names[i]) == 0) return *out = (enum action)i, true;
    error_set_field(err, "action", "must be stop, resume or delete");
    return false;
}

static bool act(struct request *r, enum action action, const char *id, const char *namespace,
                int64_t deadline_ms, struct error *err) {
    struct store *store = r->backend->store;
    cleanup_object struct object *sandbox = sandbox_lookup(
        store, &r->identity, sandbox_namespace(r->router->config), namespace, id, ACCESS_LEVEL_OWNER, err);
    if (!sandbox) return false;
    bool done = false;
    switch (action) {
    case ACTION_STOP: done = lifecycle_stop(r->router, sandbox, err); break;
    case ACTION_RESUME: done = lifecycle_resume(r->router, sandbox, deadline_ms, err); break;
    case ACTION_DELETE: done = lifecycle_delete(r->router, sandbox, err); break;
    case ACTION_COUNT: break;
    }
    if (done)
        log_info("bulk action", "action", action_names[action], "sandbox", sandbox->name, "namespace",
                 sandbox->namespace, "user", r->identity.sub, "request_id", r->request_id, NULL);
    return done;
}

void bulk_action(struct request *r) {
    cleanup_error struct error err = {0};
    enum action action = ACTION_COUNT;
    size_t i;
    json_t *id;
    json_t *ids = read_action(r, &action, &err) ? read_list(r, "ids", &err) : NULL;
    json_array_foreach(ids, i, id) {
        if (json_is_string(id)) continue;
        error_set_field(&err, "ids", "must be names of sandboxes");
        break;
    }
    if (err.status != 0) {
        reply_error(r, &err);
        return;
    }
    const char *namespace = request_query(r, "namespace");
    /* For all of them together: this holds a worker. */
    int64_t deadline = monotonic_ms() + LIFECYCLE_STOP_WAIT_MS;
    audit_action(r, audit_actions[action]);
    json_t *results = json_array(), *done = json_array(), *not_done = json_array();
    json_array_foreach(ids, i, id) {
        cleanup_error struct error failed = {0};
        json_t *result = json_pack("{s:O, s:s}", "id", id, "status", "ok");
        bool ok = act(r, action, json_string_value(id), namespace, deadline, &failed);
        if (!ok) set_failure(result, &failed);
        json_array_append_new(ok ? done : not_done, audit_string(json_string_value(id)));
        json_array_append_new(results, result);
    }
    audit_detail(r, "done", done);
    audit_detail(r, "notDone", not_done);
    reply_json(r, 200, json_pack("{s:o}", "results", results));
}
