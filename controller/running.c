/* The phases Running and Stopped, and the way between them (controller.md 2.4, 2.5, 21.2). */
#include "controller/inside.h"

#include "backend/snapshots.h"
#include "backend/templates.h"
#include "common/log.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/pod_state.h"

#include <stdio.h>
#include <time.h>

/* Asked for while the pod still runs, once for each start; a failure does not keep it running. */
static void take_snapshot(struct pass *p) {
    const char *started = json_str_at(p->sandbox->json, "status.startedAt");
    if (strcmp(p->phase, "Running") != 0 || strcmp(p->memory->snapped, started) == 0) return;
    cleanup_json json_t *resolved = template_resolve(p->c->store, p->sandbox->json, NULL);
    if (!snapshot_on_stop_wanted(p->sandbox, resolved ? resolved : json_object_get(p->sandbox->json, "spec")))
        return;
    snprintf(p->memory->snapped, sizeof p->memory->snapped, "%s", started);
    cleanup_free char *name = xasprintf("%s-stopsnap-%lld", p->sandbox->name, (long long)time(NULL));
    cleanup_json json_t *snapshot = snapshot_on_stop(p->sandbox, name);
    cleanup_error struct error err = {0};
    if (p->c->store->ops->create(p->c->store, KIND_VOLUME_SNAPSHOT, snapshot, NULL, &err))
        events_emit(p->c->events, p->sandbox, "Normal", "Snapshotted",
                    "Created VolumeSnapshot %s before stopping", name);
    else
        events_emit(p->c->events, p->sandbox, "Warning", "SnapshotFailed", "SnapshotOnStop failed: %s",
                    err.message);
}

/* Stopped is written first, so that a pod that is gone is never taken for a failure (W1); the annotation goes
 * last, so that no request is lost (W2). What a crash leaves undone, phase_stopped() does. */
int64_t stop(struct pass *p, const char *reason, const char *event, const char *event_message) {
    take_snapshot(p);
    enum write_result r = sandbox_write_status(
        p->c->store, p->who, p->phase,
        json_pack("{s:s, s:n, s:n, s:s}", "phase", "Stopped", "podName", "startedAt", "message", reason));
    if (r != WRITE_DONE) return after_write(r);
    p->memory->swept = p->memory->token_there = false;
    if (event) events_emit(p->c->events, p->sandbox, "Normal", event, "%s", event_message);
    events_emit(p->c->events, p->sandbox, "Normal", "Stopped", "%s", reason);
    log_info("sandbox stopped", "namespace", p->who.namespace, "sandbox", p->who.name, "why", reason, NULL);
    if (!remove_pods(p, false)) return PASS_FAILED;
    if (sandbox_action_is(p->sandbox, "stop"))
        return after_write(sandbox_remove_action(p->c->store, p->who, "stop"));
    return PASS_AGAIN;
}

/* ---- Running ----------------------------------------------------------------------------------- */

bool awaits_runtime(const struct controller *c, const struct object *pod) {
    if (!c->bringer.bring) return false;
    const json_t *annotations = json_at(pod->json, "metadata.annotations");
    const char *delivery = json_string_value(json_object_get(annotations, ANNOTATION_DELIVERY));
    const char *id = pod_container_id(pod);
    return delivery && strcmp(delivery, "exec") == 0 && *id && !pod_has_runtime(pod, id);
}

void bring_runtime(struct pass *p, struct object *pod) {
    struct controller *c = p->c;
    if (!awaits_runtime(c, pod)) return;
    cleanup_error struct error err = {0};
    cleanup_free char *secret = name_of_token(p->sandbox);
    if (ensure_token(p, NULL, &err) == STEP_DONE)
        c->bringer.bring(c->bringer.ctx, pod, secret, p->sandbox->uid);
    else
        p->bring_again = true;
}

/* A pod that runs but is not ready: said, and taken back. */
static enum write_result tell_readiness(struct pass *p, const struct object *pod) {
    const char *now = json_str_at(p->sandbox->json, "status.message");
    static const char unready[] = "The pod is not ready";
    bool is = pod_state(pod) != POD_READY;
    if (is == (*now != '\0')) return WRITE_DONE;
    return sandbox_write_status(p->c->store, p->who, "Running",
                                is ? json_pack("{s:s}", "message", unready) : json_pack("{s:n}", "message"));
}

static enum write_result forget_restarts(struct pass *p) {
    if (json_integer_value(json_at(p->sandbox->json, "status.restartCount")) == 0) return WRITE_DONE;
    int64_t left = sandbox_remaining_ms(p->sandbox, "status.startedAt", (int64_t)SANDBOX_STABLE_S * 1000);
    if (left > 0) return WRITE_DONE;
    enum write_result r =
        sandbox_write_status(p->c->store, p->who, "Running", json_pack("{s:n}", "restartCount"));
    if (r == WRITE_DONE)
        events_emit(p->c->events, p->sandbox, "Normal", "RestartCountReset", "running for %d s",
                    SANDBOX_STABLE_S);
    return r;
}

/* Milliseconds to the first of the limits; 0: one is reached, and *why, *event say which. */
static int64_t to_limit(struct pass *p, const json_t *spec, const char **why, const char **event,
                        char text[128]) {
    int64_t idle = sandbox_remaining_ms(p->sandbox, "status.lastActivityTimestamp",
                                        sandbox_limit_ms(spec, "idleTimeout"));
    int64_t run = sandbox_remaining_ms(p->sandbox, "status.startedAt", sandbox_limit_ms(spec, "timeout"));
    if (idle == 0) {
        *why = "Idle timeout exceeded";
        *event = "IdleTimeout";
        snprintf(text, 128, "no activity for %.64s", json_str_at(spec, "idleTimeout"));
        return 0;
    }
    *why = "Max runtime exceeded";
    *event = "MaxRuntimeReached";
    snprintf(text, 128, "running for %.64s", json_str_at(spec, "timeout"));
    return idle < run ? idle : run;
}

static int64_t next_time(struct pass *p, int64_t limit) {
    int64_t next = limit < RESYNC_MS ? limit + 1 : RESYNC_MS;
    if (json_integer_value(json_at(p->sandbox->json, "status.restartCount")) > 0) {
        int64_t stable =
            sandbox_remaining_ms(p->sandbox, "status.startedAt", (int64_t)SANDBOX_STABLE_S * 1000);
        if (stable < next) next = stable + 1;
    }
    return next;
}

/* The pod is there and runs. */
static int64_t keep_running(struct pass *p, struct object *pod) {
    if (*sandbox_action(p->sandbox) &&
        sandbox_remove_action(p->c->store, p->who, sandbox_action(p->sandbox)) == WRITE_FAILED)
        return PASS_FAILED;
    bring_runtime(p, pod);
    cleanup_json json_t *resolved = template_resolve(p->c->store, p->sandbox->json, NULL);
    /* Without its template a sandbox goes on by its own limits. */
    const char *why, *event;
    char text[128];
    int64_t limit =
        to_limit(p, resolved ? resolved : json_object_get(p->sandbox->json, "spec"), &why, &event, text);
    if (limit == 0) return stop(p, why, event, text);
    cleanup_error struct error err = {0};
    if (resolved) {
        enum step s = ensure_policy(p, resolved, &err);
        if (s == STEP_AGAIN) return PASS_AGAIN;
        if (s == STEP_RETRY) return PASS_FAILED;
        if (s != STEP_DONE)
            log_warn("the network policy of a running sandbox cannot be kept", "sandbox", p->who.name, "why",
                     err.message, NULL);
    }
    enum write_result r = tell_readiness(p, pod);
    if (r == WRITE_DONE) r = forget_restarts(p);
    return r == WRITE_DONE ? next_time(p, limit) : after_write(r);
}

int64_t phase_running(struct pass *p) {
    if (sandbox_action_is(p->sandbox, "stop")) return stop(p, "User requested stop", NULL, NULL);
    cleanup_object struct object *pod = own_pod(p);
    if (!pod) {
        bool known;
        pod = look_for_pod(p, &known);
        if (!known) return PASS_FAILED;
    }
    if (!pod)
        return infrastructure_failure(p, *json_str_at(p->sandbox->json, "status.podName")
                                             ? "Pod disappeared unexpectedly"
                                             : "Pod name not set in Running state");
    switch (pod_state(pod)) {
    case POD_FAILED: return pod_failed(p, pod);
    case POD_SUCCEEDED: return stop(p, "The sandbox's process completed with exit code 0", NULL, NULL);
    /* Somebody deletes it, or its node is lost: what runs in it ends (W10). */
    case POD_ENDING: return infrastructure_failure(p, "Pod was deleted");
    case POD_READY:
    case POD_PENDING: break;
    }
    return keep_running(p, pod);
}

/* ---- Stopped ----------------------------------------------------------------------------------- */

int64_t phase_stopped(struct pass *p) {
    if (!sweep(p)) return PASS_FAILED;
    if (sandbox_action_is(p->sandbox, "resume")) {
        enum write_result r =
            sandbox_write_status(p->c->store, p->who, "Stopped",
                                 json_pack("{s:s, s:s}", "phase", "Creating", "message", "Resuming"));
        return after_write(r == WRITE_DONE ? sandbox_remove_action(p->c->store, p->who, "resume") : r);
    }
    if (*sandbox_action(p->sandbox))
        return after_write(sandbox_remove_action(p->c->store, p->who, sandbox_action(p->sandbox)));
    return RESYNC_MS;
}
