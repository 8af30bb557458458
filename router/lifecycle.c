/* Stop, resume and delete (http-api.md 2.4). The Router only asks: stop by an annotation, resume by
 * the phase; whoever runs the sandboxes acts on it. */
#include "router/lifecycle.h"

#include "common/log.h"
#include "common/units.h"
#include "router/handlers.h"
#include "router/keys.h"
#include "router/quota.h"
#include "router/router.h"
#include "router/sandbox_create.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_view.h"
#include "router/second_look.h"

#include <string.h>

#define STOP_POLL_MS 25
#define CONFLICT_MAX 8

static struct object *current(struct store *store, const struct object *sandbox, struct error *err) {
    struct object *o = store->ops->get(store, KIND_SANDBOX, sandbox->namespace, sandbox->name);
    if (o && strcmp(o->uid, sandbox->uid) == 0) return o;
    object_unref(o);
    error_set(err, 404, "sandbox_not_found", "sandbox %s not found", sandbox->name);
    return NULL;
}

static void wrong_phase(struct error *err, const struct object *o, const char *verb, const char *needs) {
    error_set(err, 409, "wrong_phase", "cannot %s sandbox %s: it is %s, not %s", verb, o->name,
              sandbox_status(o->json), needs);
}

/* Before a sandbox is refused for its phase: another Router may know a newer one, which current() finds then.
 * Whoever asks may see the sandbox: the looks at each one are bounded together. False: 503, nobody knows. */
static bool look_again(struct router *router, const struct object *sandbox, struct error *err) {
    struct second_look look = {0};
    if (second_look_need(router, sandbox->uid, KIND_SANDBOX, sandbox->namespace, sandbox->name, true,
                         &look) != LOOK_WANTED)
        return true;
    bool learnt = second_look_run(&look, err);
    second_look_free(&look);
    return learnt;
}

static void answer(struct request *r, const char *status, const char *event) {
    log_info(event, "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "user", r->identity.sub,
             "request_id", r->request_id, NULL);
    reply_json(r, 200, json_pack("{s:s}", "status", status));
}

/* ---- stop ---- */

static bool is_running(const struct object *sandbox) {
    return strcmp(sandbox_status(sandbox->json), "Running") == 0;
}

bool lifecycle_stop(struct router *router, const struct object *sandbox, struct error *err) {
    struct store *store = router->backend->store;
    cleanup_object struct object *o = current(store, sandbox, err);
    if (o && !is_running(o)) {
        object_unref(steal_ptr(o));
        if (look_again(router, sandbox, err)) o = current(store, sandbox, err);
    }
    if (!o) return false;
    if (!is_running(o)) {
        wrong_phase(err, o, "stop", "Running");
        return false;
    }
    if (sandbox_is_stopping(o->json)) return true;
    char now[RFC3339_MAX];
    rfc3339_format(time(NULL), now);
    cleanup_json json_t *patch = json_pack("{s:{s:{s:s, s:s}}}", "metadata", "annotations", ANNOTATION_ACTION,
                                           "stop", ANNOTATION_STOPPED_AT, now);
    struct store_preconditions same = {.uid = o->uid};
    return store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, o->namespace, o->name, patch, &same, NULL, err);
}

void sandbox_stop(struct request *r) {
    cleanup_error struct error err = {0};
    if (lifecycle_stop(r->router, r->sandbox, &err))
        answer(r, "stopping", "sandbox stop requested");
    else
        reply_error(r, &err);
}

/* ---- resume ---- */

static bool wait_for_stop(struct store *store, const struct object *sandbox, int64_t deadline_ms,
                          struct error *err) {
    for (;;) {
        cleanup_object struct object *o = current(store, sandbox, err);
        if (!o) return false;
        if (!sandbox_is_stopping(o->json)) return true;
        if (monotonic_ms() >= deadline_ms) {
            error_set(err, 409, "wrong_phase", "sandbox %s is still stopping; retry", o->name);
            err->retry_after = 1;
            return false;
        }
        struct timespec pause = {0, STOP_POLL_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
}

/* A stop that nobody carried out would stop the sandbox again right after its start (W-79). `*o` becomes the
 * newer object. */
static bool clear_stop(struct store *store, struct object **o, struct error *err) {
    if (!sandbox_annotation((*o)->json, ANNOTATION_ACTION)[0] &&
        !sandbox_annotation((*o)->json, ANNOTATION_STOPPED_AT)[0])
        return true;
    cleanup_json json_t *patch =
        json_pack("{s:{s:{s:n, s:n}}}", "metadata", "annotations", ANNOTATION_ACTION, ANNOTATION_STOPPED_AT);
    struct store_preconditions same = {.uid = (*o)->uid, .resource_version = (*o)->resource_version};
    struct object *newer = NULL;
    if (!store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, (*o)->namespace, (*o)->name, patch, &same, &newer,
                           err))
        return false;
    object_unref(*o);
    *o = newer;
    return true;
}

/* One attempt. 409 conflict: somebody else wrote; look again. */
static bool try_resume(struct router *router, const struct object *sandbox, struct error *err) {
    struct store *store = router->backend->store;
    cleanup_object struct object *o = current(store, sandbox, err);
    if (!o) return false;
    bool stopped = strcmp(sandbox_status(o->json), "Stopped") == 0;
    if (!stopped && strcmp(sandbox_status(o->json), "Error") != 0) {
        wrong_phase(err, o, "resume", "Stopped or Error");
        return false;
    }
    char claim[QUOTA_CLAIM_LEN + 1] = "";
    if (!clear_stop(store, &o, err) || (!stopped && !sandbox_readmit(router, o, claim, err))) return false;
    cleanup_json json_t *patch = json_pack("{s:{s:s, s:s, s:n}}", "status", "phase", "Creating", "message",
                                           "Resuming", "restartCount");
    /* Against the version that was looked at: the phase is still the one that permits it (W-80). */
    struct store_preconditions same = {.uid = o->uid, .resource_version = o->resource_version};
    bool done =
        store->ops->patch(store, KIND_SANDBOX, STORE_STATUS, o->namespace, o->name, patch, &same, NULL, err);
    sandbox_readmitted(router, o, claim, done ? NULL : err);
    return done;
}

bool lifecycle_resume(struct router *router, const struct object *sandbox, int64_t deadline_ms,
                      struct error *err) {
    if (!wait_for_stop(router->backend->store, sandbox, deadline_ms, err)) return false;
    bool done = try_resume(router, sandbox, err);
    if (!done && strcmp(err->code, "wrong_phase") == 0) {
        /* A stop that another Router accepted may not be known here. */
        error_clear(err);
        if (!look_again(router, sandbox, err) ||
            !wait_for_stop(router->backend->store, sandbox, deadline_ms, err))
            return false;
        done = try_resume(router, sandbox, err);
    }
    for (int i = 1; !done && i < CONFLICT_MAX && strcmp(err->code, ERR_CONFLICT) == 0; i++) {
        error_clear(err);
        done = try_resume(router, sandbox, err);
    }
    return done;
}

void sandbox_resume(struct request *r) {
    cleanup_error struct error err = {0};
    int64_t deadline = monotonic_ms() + LIFECYCLE_STOP_WAIT_MS;
    if (lifecycle_resume(r->router, r->sandbox, deadline, &err))
        answer(r, "resuming", "sandbox resume requested");
    else
        reply_error(r, &err);
}

/* ---- delete ---- */

bool lifecycle_delete(struct router *router, const struct object *sandbox, struct error *err) {
    struct store *store = router->backend->store;
    struct store_preconditions same = {.uid = sandbox->uid};
    if (!sandbox_is_deleting(sandbox->json) &&
        !store->ops->remove(store, KIND_SANDBOX, sandbox->namespace, sandbox->name, &same, err)) {
        /* Gone meanwhile, or another one has the name now: this one is deleted. */
        if (err->status != 404 && err->status != 409) return false;
        error_clear(err);
    }
    cleanup_error struct error left = {0};
    if (!keys_revoke_sandbox(router->keys, sandbox->uid, &left))
        log_warn("keys of a deleted sandbox stay until they expire; they open nothing", "sandbox",
                 sandbox->name, "error", left.message, NULL);
    return true;
}

void sandbox_delete(struct request *r) {
    cleanup_error struct error err = {0};
    if (!lifecycle_delete(r->router, r->sandbox, &err)) {
        reply_error(r, &err);
        return;
    }
    log_info("sandbox deleted", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "user",
             r->identity.sub, "request_id", r->request_id, NULL);
    reply_empty(r, 204);
}
