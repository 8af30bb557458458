/* The phase Creating: every pass goes through the whole list and makes what is missing, until the pod is
 * ready (controller.md 2.3, 21.2). */
#include "controller/inside.h"

#include "backend/templates.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/pod_state.h"
#include "controller/warmpool_item.h"

#include <stdio.h>
#include <time.h>

#define UNUSUAL_AFTER_S 20 /* a claim that is not bound by then is worth a message */

/* What the pass found out, for the status. */
struct created {
    json_t *resolved;
    char *claim;
    struct object *pod;
};

static void created_clear(struct created *made) {
    json_decref(made->resolved);
    free(made->claim);
    object_unref(made->pod);
}
#define cleanup_created __attribute__((cleanup(created_clear)))

/* Everything up to a pod that is there. */
static enum step make_all(struct pass *p, struct created *made, struct error *err) {
    const struct settings *settings = &p->c->settings;
    made->resolved = template_resolve(p->c->store, p->sandbox->json, err);
    if (!made->resolved) return STEP_FAILED;
    bool runtime = pod_wants_runtime(made->resolved, settings);
    enum step s = pool_take(p, made->resolved, &made->pod, &made->claim, err);
    if (s != STEP_DONE || made->pod) return s;
    s = ensure_claim(p, made->resolved, &made->claim, err);
    if (s == STEP_DONE) s = ensure_policy(p, made->resolved, err);
    /* Only where the pod's environment names it must it be there first. */
    if (s == STEP_DONE && runtime && settings->delivery == DELIVERY_IMAGE) s = ensure_token(p, NULL, err);
    if (s == STEP_DONE) s = ensure_pod(p, made->resolved, made->claim, &made->pod, err);
    if (s == STEP_DONE && runtime) s = ensure_token(p, NULL, err);
    return s;
}

/* ---- status ------------------------------------------------------------------------------------ */

static json_t *status_of(const struct created *made) {
    json_t *status = json_pack("{s:s, s:s}", "podName", made->pod->name, "pvcName", made->claim);
    json_object_set(status, "resolvedTemplate", json_object_get(made->resolved, "templateName"));
    json_object_set(status, "templateResourceVersion",
                    json_object_get(made->resolved, "templateResourceVersion"));
    if (!*json_str_at(status, "resolvedTemplate")) {
        json_object_set_new(status, "resolvedTemplate", json_null());
        json_object_set_new(status, "templateResourceVersion", json_null());
    }
    const json_t *agent = json_at(made->resolved, "harness.agent");
    json_object_set_new(status, "resolvedAgentSpec", agent ? json_deep_copy(agent) : json_null());
    return status;
}

/* Takes out what the status says already. */
static void keep_changes(json_t *patch, const json_t *status) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(patch, next, key, value) {
        const json_t *now = json_object_get(status, key);
        if (now ? json_equal(now, value) : json_is_null(value)) json_object_del(patch, key);
    }
}

/* Writes what is new of `patch` (taken). */
static enum write_result write_creating(struct pass *p, json_t *patch) {
    keep_changes(patch, json_object_get(p->sandbox->json, "status"));
    if (json_object_size(patch) == 0) {
        json_decref(patch);
        return WRITE_DONE;
    }
    return sandbox_write_status(p->c->store, p->who, p->phase, patch);
}

/* Says what it waits for; "" takes an earlier message back, all but the Router's own. */
static int64_t wait_with(struct pass *p, json_t *status, const char *message, int64_t next) {
    json_object_set_new(status, "phase", json_string("Creating"));
    const char *now = json_str_at(p->sandbox->json, "status.message");
    if (*message)
        json_object_set_new(status, "message", json_string_repaired(slice_of(message)));
    else if (strcmp(now, "Resuming") != 0)
        json_object_set_new(status, "message", json_null());
    enum write_result r = write_creating(p, status);
    return r == WRITE_DONE ? next : after_write(r);
}

static int64_t to_running(struct pass *p, const struct created *made) {
    char now[40];
    time_t since;
    sandbox_now(now);
    json_t *status = status_of(made);
    json_object_set_new(status, "phase", json_string("Running"));
    json_object_set_new(status, "startedAt", json_string(now));
    json_object_set_new(status, "lastActivityTimestamp", json_string(now));
    json_object_set_new(status, "message", json_null());
    enum write_result r = sandbox_write_status(p->c->store, p->who, p->phase, status);
    if (r != WRITE_DONE) return after_write(r);
    if (!rfc3339_parse(json_str_at(p->sandbox->json, "metadata.creationTimestamp"), &since))
        since = time(NULL);
    events_emit(p->c->events, p->sandbox, "Normal", "Running",
                "the sandbox is running%s; %llds since it was created",
                pool_made(made->pod, NULL) ? ", from the warm pool" : "", (long long)(time(NULL) - since));
    log_info("sandbox running", "namespace", p->who.namespace, "sandbox", p->who.name, NULL);
    return PASS_AGAIN;
}

/* ---- the pod on its way ------------------------------------------------------------------------ */

static bool claim_unbound(struct pass *p, const char *name) {
    cleanup_object struct object *claim =
        p->c->store->ops->get(p->c->store, KIND_PERSISTENT_VOLUME_CLAIM, p->who.namespace, name);
    return claim && strcmp(json_str_at(claim->json, "status.phase"), "Pending") == 0;
}

static int64_t pending(struct pass *p, const struct created *made) {
    char obstacle[POD_TEXT_MAX], message[SANDBOX_MESSAGE_MAX];
    bool hopeless;
    pod_obstacle(made->pod, &hopeless, obstacle);
    int64_t age_ms = ((int64_t)time(NULL) - pod_created_at(made->pod)) * 1000;
    if (!*obstacle && age_ms >= UNUSUAL_AFTER_S * 1000 && claim_unbound(p, made->claim))
        snprintf(obstacle, sizeof obstacle, "the volume claim %.250s is not bound to a volume yet",
                 made->claim);
    int64_t deadline = p->c->settings.creation_deadline_ms;
    if (hopeless || (deadline > 0 && age_ms >= deadline)) {
        if (hopeless)
            snprintf(message, sizeof message, "Pod failed: %s", obstacle);
        else
            snprintf(message, sizeof message, "Pod failed: not ready after %lld s%s%s",
                     (long long)(deadline / 1000), *obstacle ? ": " : "", obstacle);
        return to_error(p, message);
    }
    int64_t next = age_ms < UNUSUAL_AFTER_S * 1000 ? UNUSUAL_AFTER_S * 1000 - age_ms : RESYNC_MS;
    if (deadline > 0 && deadline - age_ms < next) next = deadline - age_ms;
    return wait_with(p, status_of(made), obstacle, next + 1);
}

static int64_t look_at_pod(struct pass *p, struct created *made) {
    enum pod_state state = pod_state(made->pod);
    /* A dead pod that is not in the status is left from before: its failure has been dealt with (W7). */
    if ((state == POD_FAILED || state == POD_SUCCEEDED) &&
        !*json_str_at(p->sandbox->json, "status.podName")) {
        if (!remove_exactly(p->c, made->pod)) return PASS_FAILED;
        state = POD_ENDING;
    }
    if (state == POD_PENDING) bring_runtime(p, made->pod); /* a ready one is Running first */
    switch (state) {
    case POD_READY: return to_running(p, made);
    case POD_FAILED: return pod_failed(p, made->pod);
    case POD_SUCCEEDED:
        return infrastructure_failure(p, "the sandbox's process ended at once, with exit code 0");
    case POD_ENDING: {
        json_t *status = json_pack("{s:s}", "pvcName", made->claim);
        return wait_with(p, status, "Waiting for the previous pod to end", RESYNC_MS);
    }
    case POD_PENDING: break;
    }
    return pending(p, made);
}

int64_t phase_creating(struct pass *p) {
    if (sandbox_action_is(p->sandbox, "stop")) return stop(p, "User requested stop", NULL, NULL);
    if (*sandbox_action(p->sandbox) &&
        sandbox_remove_action(p->c->store, p->who, sandbox_action(p->sandbox)) == WRITE_FAILED)
        return PASS_FAILED;
    p->memory->swept = false;
    if (!p->memory->seen_creating && !*p->phase) {
        p->memory->seen_creating = true;
        events_emit(p->c->events, p->sandbox, "Normal", "Creating", "the sandbox is being created");
    }
    cleanup_created struct created made = {0};
    cleanup_error struct error err = {0};
    switch (make_all(p, &made, &err)) {
    case STEP_DONE: return look_at_pod(p, &made);
    case STEP_AGAIN: return PASS_AGAIN;
    case STEP_RETRY: return PASS_FAILED;
    case STEP_WAIT: return wait_with(p, json_object(), err.message, p->wait_ms ? p->wait_ms : RESYNC_MS);
    case STEP_FAILED: break;
    }
    return to_error(p, err.message);
}

/* Messages of steps that can be done again without anybody noticing. */
static bool worth_trying(const char *message) {
    static const char *const heads[] = {"Template resolution failed", "PVC creation failed",
                                        "NetworkPolicy creation failed", "Pod creation failed",
                                        "Runtime-token secret failed"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strncmp(message, heads[i], strlen(heads[i])) == 0) return true;
    return false;
}

int64_t try_again(struct pass *p) {
    const char *message = json_str_at(p->sandbox->json, "status.message");
    if (!worth_trying(message)) return RESYNC_MS;
    /* Templates are looked up in memory, at every pass; what asks the apiserver has its time. */
    bool costly = strncmp(message, "Template", 8) != 0;
    int64_t left = p->memory->try_at - monotonic_ms();
    if (costly && left > 0) return left;
    cleanup_created struct created made = {0};
    cleanup_error struct error err = {0};
    enum step s = make_all(p, &made, &err);
    if (s == STEP_RETRY) return PASS_FAILED;
    if (s == STEP_FAILED) {
        int64_t pause = (int64_t)TRY_AGAIN_S * 1000 << p->memory->tries;
        if (p->memory->tries < TRIES_SLOWER) p->memory->tries++;
        p->memory->try_at = monotonic_ms() + pause;
        return pause;
    }
    return after_write(sandbox_write_status(p->c->store, p->who, "Error",
                                            json_pack("{s:s, s:n}", "phase", "Creating", "message")));
}
