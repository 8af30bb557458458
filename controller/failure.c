#include "controller/inside.h"

#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "controller/pod_state.h"

#include <stdio.h>

static int64_t restart_count(const struct object *sandbox) {
    return json_integer_value(json_at(sandbox->json, "status.restartCount"));
}

/* What others wrote can be of any length, and is cut between characters. */
static json_t *message_text(const char *text) {
    size_t n = strnlen(text, SANDBOX_MESSAGE_MAX - 1);
    return json_string_repaired(slice_make(text, n - utf8_incomplete_tail(slice_make(text, n))));
}

/* `application`: what a command did, told before; NULL = it was none. */
static int64_t become_error(struct pass *p, const char *said, const char *application) {
    cleanup_free char *message = xstrdup(said);
    sandbox_plain_message(message);
    enum write_result r = sandbox_write_status(
        p->c->store, p->who, p->phase,
        json_pack("{s:s, s:n, s:o}", "phase", "Error", "podName", "message", message_text(message)));
    if (r != WRITE_DONE) return after_write(r);
    p->memory->swept = p->memory->token_there = false;
    p->memory->tries = 0;
    p->memory->try_at = monotonic_ms() + TRY_AGAIN_S * 1000;
    if (application) events_emit(p->c->events, p->sandbox, "Warning", "ApplicationError", "%s", application);
    events_emit(p->c->events, p->sandbox, "Warning", "Error", "%s", message);
    log_warn("sandbox failed", "namespace", p->who.namespace, "sandbox", p->who.name, "why", message, NULL);
    return remove_pods(p, false) ? PASS_AGAIN : PASS_FAILED;
}

int64_t to_error(struct pass *p, const char *message) {
    return become_error(p, message, NULL);
}

int64_t infrastructure_failure(struct pass *p, const char *reason) {
    int64_t count = restart_count(p->sandbox) + 1;
    bool spent = count >= SANDBOX_RESTART_LIMIT;
    char message[SANDBOX_MESSAGE_MAX];
    if (spent)
        snprintf(message, sizeof message, "Restart limit exceeded (%d attempts): %.400s",
                 SANDBOX_RESTART_LIMIT, reason);
    else
        sandbox_restart_message(message, reason, count);
    enum write_result r =
        sandbox_write_status(p->c->store, p->who, p->phase,
                             json_pack("{s:s, s:n, s:o, s:I}", "phase", "Error", "podName", "message",
                                       message_text(message), "restartCount", (json_int_t)count));
    if (r != WRITE_DONE) return after_write(r);
    p->memory->failed_at = monotonic_ms();
    p->memory->swept = p->memory->token_there = false;
    atomic_fetch_add(&p->c->restarts, spent ? 0 : 1);
    if (spent)
        events_emit(p->c->events, p->sandbox, "Warning", "Error", "%s", message);
    else
        events_emit(p->c->events, p->sandbox, "Warning", "AutoRestarted", "%.300s; attempt %lld/%d in %llds",
                    reason, (long long)count, SANDBOX_RESTART_LIMIT, (long long)sandbox_backoff_s(count));
    log_warn("sandbox failed", "namespace", p->who.namespace, "sandbox", p->who.name, "why", message, NULL);
    return remove_pods(p, false) ? PASS_AGAIN : PASS_FAILED;
}

int64_t pod_failed(struct pass *p, const struct object *pod) {
    struct pod_failure failure;
    pod_failure(pod, &failure);
    if (failure.infrastructure) return infrastructure_failure(p, failure.reason);
    char message[SANDBOX_MESSAGE_MAX];
    snprintf(message, sizeof message, "Pod failed: %s", failure.reason);
    return become_error(p, message, failure.reason);
}

static int64_t restart(struct pass *p) {
    int64_t count = restart_count(p->sandbox);
    /* From the failure, not from the last start (W8). After a change of leader it is not known: from now. */
    if (p->memory->failed_at == 0) p->memory->failed_at = monotonic_ms();
    int64_t left = p->memory->failed_at + sandbox_backoff_s(count) * 1000 - monotonic_ms();
    if (left > 0) return left;
    p->memory->failed_at = 0;
    enum write_result r = sandbox_write_status(p->c->store, p->who, "Error",
                                               json_pack("{s:s, s:n}", "phase", "Creating", "message"));
    if (r == WRITE_DONE)
        events_emit(p->c->events, p->sandbox, "Normal", "Restarting", "attempt %lld/%d after %llds",
                    (long long)count, SANDBOX_RESTART_LIMIT, (long long)sandbox_backoff_s(count));
    return after_write(r);
}

int64_t phase_error(struct pass *p) {
    if (!sweep(p)) return PASS_FAILED;
    if (sandbox_action_is(p->sandbox, "resume")) {
        enum write_result r =
            sandbox_write_status(p->c->store, p->who, "Error",
                                 json_pack("{s:s, s:s}", "phase", "Creating", "message", "Resuming"));
        return after_write(r == WRITE_DONE ? sandbox_remove_action(p->c->store, p->who, "resume") : r);
    }
    if (sandbox_action_is(p->sandbox, "stop")) return stop(p, "User requested stop", NULL, NULL);
    if (sandbox_restartable(p->sandbox)) return restart(p);
    return try_again(p);
}
