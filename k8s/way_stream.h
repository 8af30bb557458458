/* A stream into a pod and the way that it takes. k8s/access.c finds the way and opens it, k8s/way_stream.c is
 * what becomes of it: events are passed on, another way is taken where nothing was begun, the end gets its
 * reason. */
#pragma once

#include "backend/access.h"
#include "k8s/access.h"
#include "k8s/pod_knowledge.h"
#include "k8s/pod_place.h"
#include "k8s/runtime_probe.h"

#include <stdatomic.h>
#include <uv.h>

/* WAY_REFERENCE: a runtime that knows nothing but POST /exec. */
enum way { WAY_RUNTIME, WAY_REFERENCE, WAY_EXEC, WAY_DIRECT, WAY_COUNT };

struct k8s_access {
    struct access base;
    struct k8s_client *client;
    struct k8s_config *config;
    struct store *store;
    struct pod_knowledge *knowledge;
    _Atomic int asking;
    _Atomic uint64_t opened[WAY_COUNT], lost[WAY_COUNT], fallbacks;
};

/* What the user holds. The stream that does the work is made when it is known which way it takes, and
 * made anew over pods/exec when the runtime did not accept the connection. */
struct way_stream {
    struct access_stream base;
    struct k8s_access *access;
    uv_loop_t *loop;
    struct object *sandbox;
    enum access_op op;
    json_t *args;
    struct access_events events;
    void *ctx;

    struct pod_place place;
    enum pod_runtime runtime;
    enum way way;
    struct access_stream *inner;
    uv_timer_t timer;
    uv_work_t work;
    struct runtime_found found;
    bool asked_again; /* for the runtime, after pods/exec did not know a command */
    bool working, timing, closed, done, paused, finished, finish_told, wants;
    struct buffer early; /* what the runtime was given before it accepted the connection */
    size_t early_sent;
    bool replaying;
    bool elsewhere; /* the runtime says that pods/exec has begun the command */
    int looks;
    bool denied[WAY_COUNT]; /* a command is not known there */
    struct error broken;    /* waits for its reason */
    json_t *killed;         /* likewise: an outcome that the end of the pod may have made */
};

/* ---- access.c ---- */

/* Opens the inner stream; false with err, and the stream has none. */
bool way_open(struct way_stream *s, enum way way, struct error *err);
/* Looks for the runtime in the pod, then goes on by the way that is found. */
void way_ask(struct way_stream *s);

/* ---- way_stream.c ---- */

/* Of the inner stream; their context is the way_stream. */
extern const struct access_events way_events;
/* The inner stream has room: gives it what waits, then tells the user. */
void way_go_on_writing(void *ctx);
/* The timer's callback: whether the pod is still there, and the reason for what broke. */
void way_look_at_pod(uv_timer_t *timer);

void way_stop(struct way_stream *s);
void way_fail(struct way_stream *s, const struct error *err);
/* Frees it once neither the timer nor a worker needs it. */
void way_release(struct way_stream *s);

/* A command that shall run once, however often it is asked for, must not be begun elsewhere. */
bool way_begins_once(const struct way_stream *s);
/* Whether a runtime that keeps commands may be there although it does not answer. */
bool way_hides_runtime(const struct way_stream *s);
void way_runtime_is_silent(struct error *err);
/* Fails: nobody who could be asked knows the command. */
void way_deny(struct way_stream *s);
