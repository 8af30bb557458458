/* One command in a container through pods/exec: a WebSocket to the apiserver on the caller's loop,
 * v5.channel.k8s.io, or v4 where v5 is refused (http-api.md 5.5; lessons 4.3, I6, I11-I16, S23). */
#pragma once

#include "k8s/client.h"
#include "k8s/pod_place.h"

#include <jansson.h>
#include <uv.h>

struct pod_exec;

struct pod_exec_request {
    const char *namespace, *pod, *container;
    const char *const *command; /* argv, NULL-terminated; short: it travels in the URL */
    bool stdin_open, tty;
    /* pods/exec knows a pod by its name only, and what is known of it may be old: before anything is sent or
     * given out the apiserver is asked whether the name is still that of `uid` (O5, S16). `client` NULL: it
     * is not. */
    const char *uid;
    struct k8s_client *client;
};

/* `command` at the place, with input; the place must outlive the request. */
struct pod_exec_request pod_exec_at(const struct pod_place *place, const char *const *command);

struct pod_exec_outcome {
    int exit_code; /* from the status channel */
};

/* Ends with exactly one of on_end and on_error, never from within pod_exec_open; then only
 * pod_exec_close may be called. */
struct pod_exec_events {
    void (*on_open)(void *ctx, bool can_close_stdin); /* false: v4, stdin cannot be ended alone (I12) */
    void (*on_data)(void *ctx, int channel, const char *data, size_t len); /* 1 stdout, 2 stderr */
    void (*on_writable)(void *ctx);
    void (*on_end)(void *ctx, const struct pod_exec_outcome *outcome); /* all output was given before */
    /* 404 sandbox_not_found (no such pod, or another one by now), 403 kubernetes_forbidden, 502
     * sandbox_unreachable, 502 exec_outcome_unknown (the stream ended without a status), 503 unavailable, 504
     * sandbox_timeout */
    void (*on_error)(void *ctx, const struct error *err);
};

struct pod_exec *pod_exec_open(struct k8s_config *config, uv_loop_t *loop,
                               const struct pod_exec_request *request, const struct pod_exec_events *events,
                               void *ctx, struct error *err);
size_t pod_exec_write(struct pod_exec *e, const char *data,
                      size_t len);        /* less than len: on_writable follows */
void pod_exec_finish(struct pod_exec *e); /* end of stdin (v5) */
void pod_exec_resize(struct pod_exec *e, int columns,
                     int rows); /* at any time; of those that could not be sent yet, the last counts */
void pod_exec_pause(struct pod_exec *e);
void pod_exec_resume(struct pod_exec *e);
void pod_exec_close(
    struct pod_exec *e); /* at any time; no event follows. Ends the stream, not the process (I1) */
