/* See way_stream.h. */
#include "k8s/way_stream.h"

#include "backend/runtime_access.h"
#include "common/json.h"
#include "k8s/reference_exec.h"
#include "k8s/upgrade.h"

#define REASON_MS    100 /* how often a stream that broke looks for the reason, until the cache knows it */
#define REASON_LOOKS 20
#define KILLED_LOOKS 10
#define KILLED_CODE  137 /* SIGKILL: as a shell and container runtimes report it */

/* ---- Ends ---- */

void way_release(struct way_stream *s) {
    if (s->working || s->timing) return;
    object_unref(s->sandbox);
    json_decref(s->args);
    buffer_free(&s->early);
    error_clear(&s->broken);
    json_decref(s->killed);
    free(s);
}

void way_stop(struct way_stream *s) {
    s->done = true;
    uv_timer_stop(&s->timer);
    access_close(steal_ptr(s->inner));
}

void way_fail(struct way_stream *s, const struct error *err) {
    if (s->done) return;
    way_stop(s);
    if (!s->closed && s->events.on_error) s->events.on_error(s->ctx, err);
}

/* ---- The pod ---- */

static struct object *pod_now(const struct way_stream *s) {
    struct store *store = s->access->store;
    return store->ops->get(store, KIND_POD, s->place.namespace, s->place.pod);
}

static bool pod_gone(struct way_stream *s, struct error *err) {
    cleanup_object struct object *pod = pod_now(s);
    if (pod_place_gone(&s->place, pod, err)) return true;
    /* What was killed or broke, did so with its pod. */
    return (s->killed || s->broken.status) && pod_place_ending(pod, err);
}

static void succeed(struct way_stream *s, const json_t *result) {
    way_stop(s);
    if (!s->closed && s->events.on_end) s->events.on_end(s->ctx, result);
}

void way_look_at_pod(uv_timer_t *timer) {
    struct way_stream *s = timer->data;
    cleanup_error struct error err = {0};
    if (s->done || s->closed) return;
    if (pod_gone(s, &err)) {
        way_fail(s, &err);
    } else if (s->killed && ++s->looks >= KILLED_LOOKS) {
        succeed(s, s->killed);
    } else if (s->broken.status && ++s->looks >= REASON_LOOKS) {
        way_fail(s, &s->broken);
    }
}

/* Whether a pod that went away may be the reason. */
static bool may_have_reason(const struct error *err) {
    static const char *const codes[] = {ERR_SANDBOX_UNREACHABLE, "exec_outcome_unknown", "sandbox_not_found",
                                        "terminal_not_started"};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(err->code, codes[i]) == 0) return true;
    return false;
}

/* ---- Events of the inner stream ---- */

static void on_head(void *ctx, const struct access_head *head) {
    struct way_stream *s = ctx;
    if (s->events.on_head) s->events.on_head(s->ctx, head);
}

static void on_started(void *ctx) {
    struct way_stream *s = ctx;
    if (s->events.on_started) s->events.on_started(s->ctx);
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct way_stream *s = ctx;
    if (s->events.on_data) s->events.on_data(s->ctx, channel, data, len);
}

/* Gives what the first way was given to the second one. True: all of it. */
static bool replay(struct way_stream *s) {
    if (!s->replaying) return true;
    while (s->early_sent < s->early.len) {
        size_t n = access_write(s->inner, s->early.data + s->early_sent, s->early.len - s->early_sent);
        s->early_sent += n;
        if (n == 0) return false;
    }
    s->replaying = false;
    buffer_free(&s->early);
    return true;
}

void way_go_on_writing(void *ctx) {
    struct way_stream *s = ctx;
    if (!replay(s)) return;
    if (s->finished && !s->finish_told) {
        s->finish_told = true;
        access_finish(s->inner);
        return;
    }
    if (!s->wants && !s->finish_told) return;
    s->wants = false;
    if (s->events.on_writable) s->events.on_writable(s->ctx);
}

static void on_connected(void *ctx, int fd) {
    struct way_stream *s = ctx;
    way_stop(s);
    if (!s->closed && s->events.on_connected)
        s->events.on_connected(s->ctx, fd);
    else
        close(fd);
}

static void on_end(void *ctx, const json_t *result) {
    struct way_stream *s = ctx;
    cleanup_error struct error why = {0};
    json_int_t code = json_integer_value(json_object_get(result, "exitCode"));
    bool runs = s->op == ACCESS_EXEC || s->op == ACCESS_TERMINAL;
    if (s->way != WAY_EXEC || !runs || code != KILLED_CODE) {
        succeed(s, result);
        return;
    }
    /* The status of a command says the same when its whole pod was killed: the cache tells soon. */
    s->killed = json_incref((json_t *)result);
    access_close(steal_ptr(s->inner));
    if (pod_gone(s, &why))
        way_fail(s, &why);
    else
        uv_timer_start(&s->timer, way_look_at_pod, REASON_MS, REASON_MS);
}

/* Whether the runtime, if that is the way, took the connection. */
static bool reached(const struct way_stream *s) {
    if (s->way == WAY_RUNTIME) return runtime_access_reached(s->inner);
    return s->way != WAY_REFERENCE || reference_exec_reached(s->inner);
}

/* Nothing was begun at the runtime: the same by another way (http-api.md 5.2). */
static bool fall_back(struct way_stream *s) {
    cleanup_error struct error err = {0};
    pod_knowledge_lost(s->access->knowledge, s->place.uid, true);
    atomic_fetch_add(&s->access->fallbacks, 1);
    access_close(steal_ptr(s->inner));
    s->replaying = s->early.len > 0;
    s->early_sent = 0;
    s->finish_told = false;
    if (!way_open(s, s->op == ACCESS_DIAL ? WAY_DIRECT : WAY_EXEC, &err))
        way_fail(s, &err);
    else if (s->replaying || s->wants || s->finished)
        way_go_on_writing(s);
    return true;
}

/* ---- Commands that are kept ---- */

/* They are known where they were begun: to the runtime, or to what pods/exec has left in the pod because the
 * runtime was not there at that moment. */
static bool is_lookup(const struct way_stream *s) {
    return s->op == ACCESS_EXEC_ATTACH || s->op == ACCESS_EXEC_KILL ||
           (s->op == ACCESS_EXEC && json_is_true(json_object_get(s->args, "attach")));
}

/* An image without what keeping takes has kept nothing, once the runtime has said no. */
static bool is_denial(const struct way_stream *s, const struct error *err) {
    return strcmp(err->code, "exec_not_found") == 0 ||
           (s->way == WAY_EXEC && s->denied[WAY_RUNTIME] && err->status == 501);
}

bool way_hides_runtime(const struct way_stream *s) {
    if (s->runtime == POD_RUNTIME_COMING) return false;
    if (s->found.there) return (s->found.features & RUNTIME_EXEC_ATTACH) != 0;
    return s->runtime == POD_RUNTIME_READY || s->found.address.token[0] != '\0';
}

void way_runtime_is_silent(struct error *err) {
    error_set(
        err, 503, ERR_UNAVAILABLE,
        "agenttier-runtime in the sandbox, which may know this command, does not answer now; try again");
    err->retry_after = 2;
}

void way_deny(struct way_stream *s) {
    cleanup_error struct error err = {0};
    if (s->elsewhere) { /* its record has just become too old */
        error_set(&err, 503, ERR_UNAVAILABLE, "what was known of this command is gone; try again");
        err.retry_after = 1;
    } else if (!s->denied[WAY_RUNTIME] && way_hides_runtime(s)) {
        way_runtime_is_silent(&err);
    } else {
        error_set(&err, 404, "exec_not_found", "no command with this id is known");
    }
    way_fail(s, &err);
}

/* One of the two does not know it: what says the other? */
static void denied(struct way_stream *s, const struct error *its) {
    cleanup_error struct error err = {0};
    s->denied[s->way] = true;
    if (s->denied[WAY_RUNTIME] && s->denied[WAY_EXEC]) {
        way_deny(s);
    } else if (s->way == WAY_EXEC && (s->asked_again || s->runtime == POD_RUNTIME_COMING)) {
        way_deny(s);
    } else if (s->way == WAY_REFERENCE) {
        way_fail(s, its);
    } else {
        uv_timer_stop(&s->timer);
        access_close(steal_ptr(s->inner));
        s->finish_told = false;
        if (s->way == WAY_RUNTIME) {
            if (!way_open(s, WAY_EXEC, &err)) way_fail(s, &err);
            return;
        }
        s->asked_again = true;
        pod_knowledge_lost(s->access->knowledge, s->place.uid, false);
        way_ask(s);
    }
}

/* A command that shall run once was begun over pods/exec, in the moment before the runtime was there: it is
 * attached to, if it is the same one. Its input it has got then. */
static void attach_elsewhere(struct way_stream *s) {
    cleanup_error struct error err = {0};
    s->elsewhere = s->denied[WAY_RUNTIME] = true;
    json_object_set_new(s->args, "attach", json_true());
    access_close(steal_ptr(s->inner));
    s->replaying = s->finish_told = false;
    buffer_free(&s->early);
    if (!way_open(s, WAY_EXEC, &err))
        way_fail(s, &err);
    else if (s->wants || s->finished)
        way_go_on_writing(s);
}

bool way_begins_once(const struct way_stream *s) {
    return s->op == ACCESS_EXEC && !is_lookup(s) && json_object_get(s->args, "digest");
}

static void on_error(void *ctx, const struct error *its) {
    struct way_stream *s = ctx;
    cleanup_error struct error why = {0};
    cleanup_error struct error known = *its;
    struct error *err = &known;
    json_incref(known.details);
    k8s_client_doubt(s->access->client, err);
    if (!reached(s) && !pod_gone(s, &why) && fall_back(s)) return;
    if (s->way == WAY_RUNTIME && way_begins_once(s) && strcmp(err->code, "exec_elsewhere") == 0) {
        attach_elsewhere(s);
        return;
    }
    if (is_lookup(s) && is_denial(s, err)) {
        denied(s, err);
        return;
    }
    if ((s->way == WAY_RUNTIME || s->way == WAY_REFERENCE) && err->status >= 500 &&
        strcmp(err->code, "port_closed") != 0 && strcmp(err->code, "disk_full") != 0)
        pod_knowledge_lost(s->access->knowledge, s->place.uid, false);
    if (strcmp(err->code, ERR_KUBERNETES_UNAUTHORIZED) == 0) k8s_client_refused(s->access->client);
    if (err->status >= 500) atomic_fetch_add(&s->access->lost[s->way], 1);
    if (why.status) {
        way_fail(s, &why);
    } else if (!may_have_reason(err)) {
        way_fail(s, err);
    } else {
        error_move(&s->broken, err);
        access_close(steal_ptr(s->inner));
        if (pod_gone(s, &why))
            way_fail(s, &why);
        else
            uv_timer_start(&s->timer, way_look_at_pod, REASON_MS, REASON_MS);
    }
}

const struct access_events way_events = {.on_head = on_head,
                                         .on_started = on_started,
                                         .on_data = on_data,
                                         .on_writable = way_go_on_writing,
                                         .on_connected = on_connected,
                                         .on_end = on_end,
                                         .on_error = on_error};
