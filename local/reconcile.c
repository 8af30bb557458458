/* One pass over one sandbox: what its object says against what runs (controller.md 2, 9, 21.2). */
#include "local/engine_inside.h"

#include "backend/lifecycle.h"
#include "backend/templates.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "local/launch.h"
#include "local/runtime_client.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESYNC_MS         30000
#define RETRY_MS          500
#define READY_TIMEOUT_MS  10000
#define VERIFY_TIMEOUT_MS 3000
#define UNANSWERED_MAX    5
#define SNAPSHOT_WAIT_MS  50
#define LOG_MAX           (1024 * 1024)

static int64_t after_write(enum write_result r) {
    return r == WRITE_FAILED ? RETRY_MS : PASS_AGAIN;
}

static int64_t ending_delay(const struct entry *s) {
    int64_t left = s->kill_at - monotonic_ms();
    return left > 10 ? left : 10;
}

/* ---- to Error ---------------------------------------------------------------------------------- */

static int64_t to_error(struct engine *e, struct entry *s, const struct object *o, const char *phase,
                        const char *message) {
    enum write_result r =
        sandbox_write_status(e->store, entry_ref(s), phase,
                             json_pack("{s:s, s:n, s:s}", "phase", "Error", "podName", "message", message));
    if (r != WRITE_DONE) return after_write(r);
    events_emit(e->events, o, "Warning", "Error", "%s", message);
    log_warn("sandbox failed", "sandbox", s->name, "why", message, NULL);
    return PASS_AGAIN;
}

/* Process 1 ended by itself, or does not answer: controller.md 9.2. */
static int64_t infrastructure_failure(struct engine *e, struct entry *s, const struct object *o,
                                      const char *reason) {
    int64_t count = json_integer_value(json_at(o->json, "status.restartCount")) + 1;
    char message[SANDBOX_MESSAGE_MAX];
    if (count >= SANDBOX_RESTART_LIMIT) {
        snprintf(message, sizeof message, "Restart limit exceeded (%d attempts): %s", SANDBOX_RESTART_LIMIT,
                 reason);
        enum write_result r =
            sandbox_write_status(e->store, entry_ref(s), "Running",
                                 json_pack("{s:s, s:n, s:s, s:I}", "phase", "Error", "podName", "message",
                                           message, "restartCount", (json_int_t)count));
        if (r == WRITE_DONE) events_emit(e->events, o, "Warning", "Error", "%s", message);
        return after_write(r);
    }
    sandbox_restart_message(message, reason, count);
    enum write_result r =
        sandbox_write_status(e->store, entry_ref(s), "Running",
                             json_pack("{s:s, s:n, s:s, s:I}", "phase", "Error", "podName", "message",
                                       message, "restartCount", (json_int_t)count));
    if (r != WRITE_DONE) return after_write(r);
    s->failed_at = monotonic_ms();
    events_emit(e->events, o, "Warning", "AutoRestarted", "%s; attempt %lld/%d in %llds", reason,
                (long long)count, SANDBOX_RESTART_LIMIT, (long long)sandbox_backoff_s(count));
    log_warn("sandbox failed", "sandbox", s->name, "why", message, NULL);
    return PASS_AGAIN;
}

/* ---- to Stopped -------------------------------------------------------------------------------- */

/* Ends the processes, then says so. The reason is remembered on disk first: a Router that dies between the
 * steps must not take the stop for a crash of the sandbox. */
static int64_t stop(struct engine *e, struct entry *s, const struct object *o, const char *phase,
                    const char *reason) {
    cleanup_error struct error err = {0};
    struct stat st;
    if (!*s->record.stopping && stat(s->dir, &st) == 0) {
        snprintf(s->record.stopping, sizeof s->record.stopping, "%s", reason);
        stop_snapshot_plan(e, s, o, phase);
        if (!record_save(s->dir, &s->record, &err))
            log_warn("record not written", "sandbox", s->name, "why", err.message, NULL);
    }
    if (!end_processes(e, s, true)) return ending_delay(s);
    fill_workspace_end(s);
    int64_t snapshot_ms = *s->record.stopping ? stop_snapshot_take(e, s, o) : 0;
    if (snapshot_ms > 0) return snapshot_ms;
    if (sandbox_action_is(o, "stop")) {
        enum write_result r = sandbox_remove_action(e->store, entry_ref(s), "stop");
        if (r != WRITE_DONE) return after_write(r);
    }
    const char *why = *s->record.stopping ? s->record.stopping : reason;
    enum write_result r = sandbox_write_status(
        e->store, entry_ref(s), phase,
        json_pack("{s:s, s:n, s:n, s:s}", "phase", "Stopped", "podName", "startedAt", "message", why));
    if (r != WRITE_DONE) return after_write(r);
    events_emit(e->events, o, "Normal", "Stopped", "%s", why);
    log_info("sandbox stopped", "sandbox", s->name, "why", why, NULL);
    s->record.stopping[0] = '\0';
    if (stat(s->dir, &st) == 0 && !record_save(s->dir, &s->record, &err))
        log_warn("record not written", "sandbox", s->name, "why", err.message, NULL);
    return PASS_AGAIN;
}

/* ---- Creating ---------------------------------------------------------------------------------- */

static void warn_of_ignored(struct engine *e, const struct object *o, const json_t *spec) {
    static const char *const members[] = {"credentials", "sidecars", "initContainers", "runtimeClass",
                                          "serviceAccount"};
    cleanup_buffer struct buffer list = {0};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (json_object_get(spec, members[i])) buffer_printf(&list, "%s%s", list.len ? ", " : "", members[i]);
    if (json_array_size(json_at(spec, "harness.command")) > 0)
        buffer_printf(&list, "%sharness.command", list.len ? ", " : "");
    if (list.len)
        events_emit(e->events, o, "Warning", "Unsupported", "without effect on the local backend: %s",
                    buffer_cstr(&list));
}

/* The status of a sandbox whose processes are there; `resolved` may be NULL. */
static json_t *pod_status(const struct entry *s, const json_t *resolved) {
    char name[300], claim[300];
    snprintf(name, sizeof name, "%s-pod", s->name);
    snprintf(claim, sizeof claim, "%s-workspace", s->name);
    json_t *status = json_pack("{s:s, s:s}", "podName", name, "pvcName", claim);
    if (resolved) {
        json_object_set_new(status, "resolvedTemplate", json_string(json_str_at(resolved, "templateName")));
        json_object_set_new(status, "templateResourceVersion",
                            json_string(json_str_at(resolved, "templateResourceVersion")));
        json_t *agent = json_at(resolved, "harness.agent");
        if (agent) json_object_set_new(status, "resolvedAgentSpec", json_deep_copy(agent));
    }
    return status;
}

static bool wait_ready(struct engine *e, struct entry *s, int timeout_ms, struct error *err) {
    if (s->verified) return true;
    struct runtime_peer peer = {
        .socket_path = s->socket_path, .death_fd = s->pidfd, .cancel_fd = e->cancel_fd};
    s->verified = runtime_healthy(&peer, timeout_ms, err);
    return s->verified;
}

static bool stopping(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    bool is = e->stopping;
    pthread_mutex_unlock(&e->lock);
    return is;
}

/* "Pod failed: "; when process 1 never answered, with the last that it said. */
static int64_t not_ready(struct engine *e, struct entry *s, const struct object *o, const struct error *err) {
    if (stopping(e)) return PASS_NONE; /* the next Router adopts it */
    char log[200] = "", message[SANDBOX_MESSAGE_MAX];
    if (!s->verified) launch_read_log(s->dir, log, sizeof log);
    snprintf(message, sizeof message, "Pod failed: %.380s%s%s", err->message, *log ? ": " : "", log);
    return to_error(e, s, o, "Creating", message);
}

static int64_t to_running(struct engine *e, struct entry *s, const struct object *o) {
    char now[40];
    sandbox_now(now);
    cleanup_json json_t *resolved = NULL;
    if (!*json_str_at(o->json, "status.resolvedTemplate") || !*json_str_at(o->json, "status.podName"))
        resolved = template_resolve(e->store, o->json, NULL);
    json_t *status = pod_status(s, resolved);
    json_object_set_new(status, "phase", json_string("Running"));
    json_object_set_new(status, "startedAt", json_string(now));
    json_object_set_new(status, "lastActivityTimestamp", json_string(now));
    json_object_set_new(status, "message", json_null());
    storage_forget(e, s);
    /* Whoever reads Running must be let in. */
    locations_put(e->locations, s->uid, s->socket_path);
    enum write_result r = sandbox_write_status(e->store, entry_ref(s), "Creating", status);
    if (r != WRITE_DONE) {
        locations_remove(e->locations, s->uid);
        return after_write(r);
    }
    events_emit(e->events, o, "Normal", "Running", "the sandbox is running");
    log_info("sandbox running", "sandbox", s->name, NULL);
    return PASS_AGAIN;
}

static int64_t start(struct engine *e, struct entry *s, const struct object *o) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *resolved = NULL;
    switch (fill_workspace(e, s, o, &err)) {
    case FILL_GOING: return PASS_NONE;
    case FILL_FAILED: return err.status == 503 ? RETRY_MS : to_error(e, s, o, "Creating", err.message);
    case FILL_DONE: break;
    }
    int64_t begun = monotonic_ms();
    if (!start_sandbox(e, s, o, &resolved, &err)) {
        /* A store that cannot answer, or processes that still end, are no verdict on the sandbox. */
        if (err.status == 503) return RETRY_MS;
        return to_error(e, s, o, "Creating", err.message);
    }
    engine_watch_process(e, s);
    log_debug("processes started", "sandbox", s->name, "ms", log_int(monotonic_ms() - begun), NULL);
    warn_of_ignored(e, o, resolved);
    return PASS_AGAIN;
}

static int64_t creating(struct engine *e, struct entry *s, const struct object *o) {
    if (sandbox_action_is(o, "stop")) return stop(e, s, o, "Creating", "User requested stop");
    if (s->kill_at != 0) return end_processes(e, s, true) ? PASS_AGAIN : ending_delay(s);
    s->record.stopping[0] = '\0'; /* a stop that is over */
    if (s->pidfd < 0) {
        int64_t next = start(e, s, o);
        if (next != PASS_AGAIN || s->pidfd < 0) return next;
    }
    cleanup_error struct error err = {0};
    if (!wait_ready(e, s, READY_TIMEOUT_MS, &err)) return not_ready(e, s, o, &err);
    if (!limit_processes(e, s, o, &err)) return not_ready(e, s, o, &err);
    switch (first_run(e, s, o, &err)) {
    case FIRST_RUN_GOING: return PASS_NONE;
    case FIRST_RUN_FAILED: return not_ready(e, s, o, &err);
    case FIRST_RUN_DONE: break;
    }
    return to_running(e, s, o);
}

/* ---- Running ----------------------------------------------------------------------------------- */

static void bound_log(const struct entry *s) {
    cleanup_free char *path = xasprintf("%s/log", s->dir);
    struct stat st;
    /* It is opened for appending, so what follows starts at the front again. */
    if (stat(path, &st) == 0 && st.st_size > LOG_MAX && truncate(path, 0) != 0)
        log_warn("log of a sandbox cannot be cut", "path", path, NULL);
}

/* Whether the workspace was measured to hold more than it may; then `why` says so. */
static bool too_large(struct engine *e, struct entry *s, const json_t *spec,
                      char why[sizeof((struct record *)0)->stopping]) {
    const char *size = json_str_at(spec, "storage.size");
    struct quantity limit = {0};
    int64_t used;
    bool limited = *size && quantity_parse(size, &limit) && limit.nano > 0;
    if (!storage_exceeded(e, s, limited ? quantity_ceil(limit) : 0, &used)) return false;
    bool small = used < (int64_t)16 << 20;
    snprintf(why, sizeof((struct record *)0)->stopping,
             "Storage limit exceeded: the workspace holds %lld %s of %.24s",
             (long long)(used >> (small ? 10 : 20)), small ? "KiB" : "MiB", size);
    return true;
}

static int64_t running(struct engine *e, struct entry *s, const struct object *o) {
    if (*s->record.stopping) return stop(e, s, o, "Running", s->record.stopping);
    if (sandbox_action_is(o, "stop")) return stop(e, s, o, "Running", "User requested stop");
    if (s->kill_at != 0 && !end_processes(e, s, true)) return ending_delay(s);
    if (processes_gone(e, s)) return infrastructure_failure(e, s, o, "Pod disappeared unexpectedly");
    cleanup_error struct error err = {0};
    if (!wait_ready(e, s, VERIFY_TIMEOUT_MS, &err)) {
        if (stopping(e)) return PASS_NONE;
        log_warn("a sandbox's runtime does not answer", "sandbox", s->name, "why", err.message, NULL);
        /* A machine may be busy, and all that runs in the sandbox is at stake. */
        if (++s->unanswered < UNANSWERED_MAX) return RETRY_MS;
        s->unanswered = 0;
        return end_processes(e, s, false) ? PASS_AGAIN : ending_delay(s);
    }
    s->unanswered = 0;
    locations_put(e->locations, s->uid, s->socket_path);
    if (*sandbox_action(o) &&
        sandbox_remove_action(e->store, entry_ref(s), sandbox_action(o)) == WRITE_FAILED)
        return RETRY_MS;
    bound_log(s);

    if (json_integer_value(json_at(o->json, "status.restartCount")) > 0 &&
        sandbox_remaining_ms(o, "status.startedAt", (int64_t)SANDBOX_STABLE_S * 1000) == 0) {
        enum write_result r =
            sandbox_write_status(e->store, entry_ref(s), "Running", json_pack("{s:n}", "restartCount"));
        if (r == WRITE_DONE)
            events_emit(e->events, o, "Normal", "RestartCountReset", "running for %d s", SANDBOX_STABLE_S);
        return after_write(r);
    }
    cleanup_json json_t *resolved = template_resolve(e->store, o->json, NULL);
    const json_t *spec = resolved ? resolved : json_object_get(o->json, "spec");
    int64_t idle =
        sandbox_remaining_ms(o, "status.lastActivityTimestamp", sandbox_limit_ms(spec, "idleTimeout"));
    if (idle == 0) {
        events_emit(e->events, o, "Normal", "IdleTimeout", "no activity for %s",
                    json_str_at(spec, "idleTimeout"));
        return stop(e, s, o, "Running", "Idle timeout exceeded");
    }
    int64_t run = sandbox_remaining_ms(o, "status.startedAt", sandbox_limit_ms(spec, "timeout"));
    if (run == 0) {
        events_emit(e->events, o, "Normal", "MaxRuntimeReached", "running for %s",
                    json_str_at(spec, "timeout"));
        return stop(e, s, o, "Running", "Max runtime exceeded");
    }
    char why[sizeof s->record.stopping];
    if (too_large(e, s, spec, why)) {
        events_emit(e->events, o, "Warning", "StorageExceeded", "%s", why);
        return stop(e, s, o, "Running", why);
    }
    int64_t next = idle < run ? idle : run;
    return next < RESYNC_MS ? next + 1 : RESYNC_MS;
}

/* ---- Stopped, Error, deletion ------------------------------------------------------------------- */

static int64_t resume(struct engine *e, struct entry *s, const char *phase, const char *message) {
    if (sandbox_remove_action(e->store, entry_ref(s), "resume") == WRITE_FAILED) return RETRY_MS;
    return after_write(sandbox_write_status(
        e->store, entry_ref(s), phase, json_pack("{s:s, s:s}", "phase", "Creating", "message", message)));
}

static int64_t stopped(struct engine *e, struct entry *s, const struct object *o) {
    s->record.stopping[0] = '\0';
    storage_forget(e, s);
    if (!end_processes(e, s, true)) return ending_delay(s);
    if (sandbox_action_is(o, "resume")) return resume(e, s, "Stopped", "Resuming");
    if (sandbox_action_is(o, "stop"))
        return after_write(sandbox_remove_action(e->store, entry_ref(s), "stop"));
    return PASS_NONE;
}

static int64_t in_error(struct engine *e, struct entry *s, const struct object *o) {
    storage_forget(e, s);
    if (!end_processes(e, s, false)) return ending_delay(s);
    if (sandbox_action_is(o, "resume")) return resume(e, s, "Error", "Resuming");
    if (sandbox_action_is(o, "stop")) return stop(e, s, o, "Error", "User requested stop");
    const char *message = json_str_at(o->json, "status.message");
    if (sandbox_restartable(o)) {
        int64_t count = json_integer_value(json_at(o->json, "status.restartCount"));
        if (s->failed_at == 0) s->failed_at = monotonic_ms(); /* after a restart of the Router */
        int64_t left = s->failed_at + sandbox_backoff_s(count) * 1000 - monotonic_ms();
        if (left > 0) return left;
        s->failed_at = 0;
        enum write_result r = sandbox_write_status(e->store, entry_ref(s), "Error",
                                                   json_pack("{s:s, s:n}", "phase", "Creating", "message"));
        if (r == WRITE_DONE)
            events_emit(e->events, o, "Normal", "Restarting", "attempt %lld/%d", (long long)count,
                        SANDBOX_RESTART_LIMIT);
        return after_write(r);
    }
    /* What was missing may have come: a template, an image. */
    bool missing =
        strncmp(message, "Template resolution failed", 26) == 0 || strncmp(message, "rootfs ", 7) == 0;
    if (!missing) return PASS_NONE;
    if (!start_possible(e, o)) return RESYNC_MS;
    return after_write(sandbox_write_status(e->store, entry_ref(s), "Error",
                                            json_pack("{s:s, s:n}", "phase", "Creating", "message")));
}

/* Everything of it goes; only then may the name be used again. */
static int64_t erase(struct engine *e, struct entry *s) {
    if (!end_processes(e, s, false)) return ending_delay(s);
    first_run_end(s);
    fill_workspace_end(s);
    cleanup_error struct error err = {0};
    unlink(s->socket_path);
    if (trash_take(e->trash, "sandboxes", s->uid, &err)) return PASS_AGAIN;
    log_warn("files of a deleted sandbox are still in place", "sandbox", s->name, "why", err.message, NULL);
    return RETRY_MS * 10;
}

static int64_t deleting(struct engine *e, struct entry *s, const struct object *o) {
    bool ours = sandbox_has_finalizer(o);
    if (!end_processes(e, s, false)) return ending_delay(s);
    if (stop_snapshot_going(e, s)) return SNAPSHOT_WAIT_MS; /* it was asked for to outlive the sandbox */
    int64_t next = erase(e, s);
    if (next != PASS_AGAIN || !ours) return next == PASS_AGAIN ? PASS_NONE : next;
    enum write_result r = sandbox_remove_finalizer(e->store, entry_ref(s));
    if (r == WRITE_DONE) {
        events_emit(e->events, o, "Normal", "Deleted", "the sandbox and its workspace are gone");
        log_info("sandbox deleted", "sandbox", s->name, NULL);
    }
    return r == WRITE_FAILED ? RETRY_MS : PASS_AGAIN;
}

/* The object went without us, by force or because the finalizer is off. */
static int64_t vanished(struct engine *e, struct entry *s) {
    int64_t next = erase(e, s);
    if (next != PASS_AGAIN) return next;
    pthread_mutex_lock(&e->lock);
    s->gone = true;
    pthread_mutex_unlock(&e->lock);
    return PASS_NONE;
}

int64_t reconcile(struct engine *e, struct entry *s) {
    cleanup_object struct object *o = e->store->ops->get(e->store, KIND_SANDBOX, s->namespace, s->name);
    bool here = o && strcmp(o->uid, s->uid) == 0;
    cleanup_error struct error err = {0};
    if (!s->loaded && !adopt_entry(e, s, here ? o : NULL, &err)) {
        log_warn("a sandbox cannot be taken up yet", "sandbox", s->name, "why", err.message, NULL);
        return RETRY_MS * 4;
    }
    if (!here) return vanished(e, s);
    if (*json_str_at(o->json, "metadata.deletionTimestamp")) return deleting(e, s, o);
    if (!sandbox_has_finalizer(o)) {
        enum write_result r = sandbox_add_finalizer(e->store, entry_ref(s));
        if (r != WRITE_DONE) return after_write(r);
    }
    const char *phase = json_str_at(o->json, "status.phase");
    if (!*phase) {
        enum write_result r =
            sandbox_write_status(e->store, entry_ref(s), "", json_pack("{s:s}", "phase", "Creating"));
        if (r == WRITE_DONE) events_emit(e->events, o, "Normal", "Creating", "the sandbox is being created");
        return after_write(r);
    }
    if (strcmp(phase, "Creating") == 0) return creating(e, s, o);
    if (strcmp(phase, "Running") == 0) return running(e, s, o);
    if (strcmp(phase, "Stopped") == 0) return stopped(e, s, o);
    if (strcmp(phase, "Error") == 0) return in_error(e, s, o);
    log_warn("a sandbox is in an unknown phase", "sandbox", s->name, "phase", phase, NULL);
    return PASS_NONE;
}
