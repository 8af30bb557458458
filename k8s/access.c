#include "k8s/access.h"

#include "backend/runtime_access.h"
#include "common/json.h"
#include "k8s/dial.h"
#include "k8s/exec_access.h"
#include "k8s/pod_knowledge.h"
#include "k8s/reference_exec.h"
#include "k8s/upgrade.h"

#include <stdatomic.h>

#define WATCH_MS     1000 /* how often a stream looks whether its pod is still there */
#define REASON_MS    100  /* and after it broke, until the cache knows why */
#define REASON_LOOKS 20
#define KILLED_LOOKS 10
#define KILLED_CODE  137 /* SIGKILL: as a shell and container runtimes report it */
#define EARLY_MAX    65536
#define ASKING_MAX   4   /* pods that are asked for their runtime at once, by workers */
#define TURN_MS      20  /* how often the others look whether it is their turn */
#define TURN_LOOKS   250 /* then pods/exec is used */

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
    bool working, timing, closed, done, paused, finished, finish_told, wants, counted;
    struct buffer early; /* what the runtime was given before it accepted the connection */
    size_t early_sent;
    bool replaying;
    bool elsewhere; /* the runtime says that pods/exec has begun the command */
    int looks;
    bool denied[WAY_COUNT]; /* a command is not known there */
    struct error broken;    /* waits for its reason */
    json_t *killed;         /* likewise: an outcome that the end of the pod may have made */
};

static struct way_stream *way_of(struct access_stream *s) {
    return (struct way_stream *)s;
}

/* ---- Ends ---- */

static void release(struct way_stream *s) {
    if (s->working || s->timing) return;
    object_unref(s->sandbox);
    json_decref(s->args);
    buffer_free(&s->early);
    error_clear(&s->broken);
    json_decref(s->killed);
    free(s);
}

static void on_timer_closed(uv_handle_t *handle) {
    struct way_stream *s = handle->data;
    s->timing = false;
    release(s);
}

/* A counted stream of pods/exec. It may live longer than the stream that opened it: a command that was given
 * up before it began is ended when it begins. */
struct exec_count {
    struct pod_knowledge *knowledge;
    bool terminal;
    char uid[64];
};

static void on_exec_gone(void *owner) {
    struct exec_count *count = owner;
    if (count->terminal)
        pod_knowledge_end_terminal(count->knowledge);
    else
        pod_knowledge_end_exec(count->knowledge, count->uid);
    free(count);
}

static void stop(struct way_stream *s) {
    s->done = true;
    uv_timer_stop(&s->timer);
    access_close(steal_ptr(s->inner));
}

static void fail(struct way_stream *s, const struct error *err) {
    if (s->done) return;
    stop(s);
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
    stop(s);
    if (!s->closed && s->events.on_end) s->events.on_end(s->ctx, result);
}

static void on_watch(uv_timer_t *timer) {
    struct way_stream *s = timer->data;
    cleanup_error struct error err = {0};
    if (s->done || s->closed) return;
    if (pod_gone(s, &err)) {
        fail(s, &err);
    } else if (s->killed && ++s->looks >= KILLED_LOOKS) {
        succeed(s, s->killed);
    } else if (s->broken.status && ++s->looks >= REASON_LOOKS) {
        fail(s, &s->broken);
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

static bool open_inner(struct way_stream *s, enum way way, struct error *err);

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

static void on_writable(void *ctx) {
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
    stop(s);
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
        fail(s, &why);
    else
        uv_timer_start(&s->timer, on_watch, REASON_MS, REASON_MS);
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
    if (!open_inner(s, s->op == ACCESS_DIAL ? WAY_DIRECT : WAY_EXEC, &err))
        fail(s, &err);
    else if (s->replaying || s->wants || s->finished)
        on_writable(s);
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

/* Whether a runtime that keeps commands may be there although it does not answer. */
static bool hides_runtime(const struct way_stream *s) {
    if (s->runtime == POD_RUNTIME_COMING) return false;
    if (s->found.there) return (s->found.features & RUNTIME_EXEC_ATTACH) != 0;
    return s->runtime == POD_RUNTIME_READY || s->found.address.token[0] != '\0';
}

static void runtime_is_silent(struct error *err) {
    error_set(
        err, 503, ERR_UNAVAILABLE,
        "agenttier-runtime in the sandbox, which may know this command, does not answer now; try again");
    err->retry_after = 2;
}

/* Nobody who could be asked knows it. */
static void deny(struct way_stream *s) {
    cleanup_error struct error err = {0};
    if (s->elsewhere) { /* its record has just become too old */
        error_set(&err, 503, ERR_UNAVAILABLE, "what was known of this command is gone; try again");
        err.retry_after = 1;
    } else if (!s->denied[WAY_RUNTIME] && hides_runtime(s))
        runtime_is_silent(&err);
    else
        error_set(&err, 404, "exec_not_found", "no command with this id is known");
    fail(s, &err);
}

static bool ask_now(struct way_stream *s);
static void on_turn(uv_timer_t *timer);

/* One of the two does not know it: what says the other? */
static void denied(struct way_stream *s, const struct error *its) {
    cleanup_error struct error err = {0};
    s->denied[s->way] = true;
    if (s->denied[WAY_RUNTIME] && s->denied[WAY_EXEC]) {
        deny(s);
    } else if (s->way == WAY_EXEC && (s->asked_again || s->runtime == POD_RUNTIME_COMING)) {
        deny(s);
    } else if (s->way == WAY_REFERENCE) {
        fail(s, its);
    } else {
        uv_timer_stop(&s->timer);
        access_close(steal_ptr(s->inner));
        s->finish_told = false;
        if (s->way == WAY_RUNTIME) {
            if (!open_inner(s, WAY_EXEC, &err)) fail(s, &err);
            return;
        }
        s->asked_again = true;
        pod_knowledge_lost(s->access->knowledge, s->place.uid, false);
        if (!ask_now(s)) uv_timer_start(&s->timer, on_turn, TURN_MS, TURN_MS);
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
    if (!open_inner(s, WAY_EXEC, &err))
        fail(s, &err);
    else if (s->wants || s->finished)
        on_writable(s);
}

/* A command that shall run once, however often it is asked for, must not be begun elsewhere. */
static bool begins_once(const struct way_stream *s) {
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
    if (s->way == WAY_RUNTIME && begins_once(s) && strcmp(err->code, "exec_elsewhere") == 0) {
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
        fail(s, &why);
    } else if (!may_have_reason(err)) {
        fail(s, err);
    } else {
        error_move(&s->broken, err);
        access_close(steal_ptr(s->inner));
        if (pod_gone(s, &why))
            fail(s, &why);
        else
            uv_timer_start(&s->timer, on_watch, REASON_MS, REASON_MS);
    }
}

/* ---- Opening ---- */

static bool open_inner(struct way_stream *s, enum way way, struct error *err) {
    static const struct access_events events = {.on_head = on_head,
                                                .on_started = on_started,
                                                .on_data = on_data,
                                                .on_writable = on_writable,
                                                .on_connected = on_connected,
                                                .on_end = on_end,
                                                .on_error = on_error};
    struct k8s_access *a = s->access;
    if (way == WAY_RUNTIME || way == WAY_REFERENCE) {
        cleanup_error struct error failed = {0};
        const struct runtime_address *to = &s->found.address;
        s->inner = way == WAY_RUNTIME
                       ? runtime_access_open_at(to, s->loop, s->op, s->args, &events, s, &failed)
                       : reference_exec_open(to, s->loop, s->args, &events, s, &failed);
        if (!s->inner && strcmp(failed.code, ERR_SANDBOX_UNREACHABLE) == 0) {
            pod_knowledge_lost(a->knowledge, s->place.uid, true);
            return open_inner(s, s->op == ACCESS_DIAL ? WAY_DIRECT : WAY_EXEC, err);
        }
        if (!s->inner) error_move(err, &failed);
    } else if (way == WAY_DIRECT) {
        s->inner = pod_dial_open(s->loop, &s->place, s->args, &events, s, err);
    } else {
        if (begins_once(s) && hides_runtime(s)) {
            runtime_is_silent(err);
            return false;
        }
        bool terminal = s->op == ACCESS_TERMINAL;
        if (!(terminal ? pod_knowledge_begin_terminal(a->knowledge, err)
                       : pod_knowledge_begin_exec(a->knowledge, s->place.uid, err)))
            return false;
        struct exec_count *count = xcalloc(1, sizeof *count);
        count->terminal = terminal;
        count->knowledge = a->knowledge;
        memcpy(count->uid, s->place.uid, sizeof count->uid);
        s->inner = exec_access_open(a->config, s->loop, &s->place, s->op, s->args, &events, s, on_exec_gone,
                                    count, err);
        if (!s->inner) on_exec_gone(count);
    }
    if (!s->inner) return false;
    s->way = way;
    atomic_fetch_add(&a->opened[way], 1);
    if (s->paused) access_pause(s->inner);
    uv_timer_start(&s->timer, on_watch, WATCH_MS, WATCH_MS);
    return true;
}

/* Which way the operation takes through a runtime with these features. */
static enum way way_for(const struct way_stream *s) {
    static const unsigned needs[] = {
        [ACCESS_EXEC] = RUNTIME_EXEC_STREAM,
        [ACCESS_EXEC_ATTACH] = RUNTIME_EXEC_ATTACH,
        [ACCESS_EXEC_KILL] = RUNTIME_EXEC_ATTACH,
        [ACCESS_STAT] = RUNTIME_STAT,
        [ACCESS_LIST] = RUNTIME_DIR,
        [ACCESS_READ] = RUNTIME_FILES,
        [ACCESS_WRITE] = RUNTIME_FILES,
        [ACCESS_MKDIR] = RUNTIME_FILES,
        [ACCESS_REMOVE] = RUNTIME_FILES,
        [ACCESS_ARCHIVE_READ] = RUNTIME_ARCHIVE,
        [ACCESS_ARCHIVE_WRITE] = RUNTIME_ARCHIVE,
        [ACCESS_DIAL] = RUNTIME_DIAL,
        [ACCESS_TERMINAL] = 0, /* the reference's has it too */
    };
    if (s->found.there && (s->found.features & needs[s->op]) == needs[s->op]) return WAY_RUNTIME;
    if (s->found.there && s->op == ACCESS_EXEC && reference_exec_fits(s->args)) return WAY_REFERENCE;
    return s->op == ACCESS_DIAL ? WAY_DIRECT : WAY_EXEC;
}

/* ---- Asking for the runtime ---- */

static void ask(uv_work_t *work) {
    struct way_stream *s = work->data;
    runtime_probe(s->access->client, &s->place, s->sandbox, &s->found);
}

/* What is to be known is known. */
static void go(struct way_stream *s) {
    cleanup_error struct error err = {0};
    if (s->asked_again && way_for(s) == WAY_EXEC)
        deny(s);
    else if (!open_inner(s, way_for(s), &err))
        fail(s, &err);
    else if (s->wants || s->finished)
        on_writable(s);
}

static void asked(uv_work_t *work, int status) {
    (void)status;
    struct way_stream *s = work->data;
    s->working = false;
    atomic_fetch_sub(&s->access->asking, 1);
    pod_knowledge_put(s->access->knowledge, s->place.uid, s->place.container_id, &s->found);
    if (s->closed || s->done)
        release(s);
    else
        go(s);
}

/* False: not now. A pod may let a question wait for seconds, and the workers are everybody's. */
static bool ask_now(struct way_stream *s) {
    struct k8s_access *a = s->access;
    s->working =
        atomic_fetch_add(&a->asking, 1) < ASKING_MAX && uv_queue_work(s->loop, &s->work, ask, asked) == 0;
    if (!s->working) atomic_fetch_sub(&a->asking, 1);
    return s->working;
}

static void on_turn(uv_timer_t *timer) {
    struct way_stream *s = timer->data;
    if (s->done || s->closed) return;
    enum knows knows =
        pod_knowledge_get(s->access->knowledge, s->place.uid, s->place.container_id, &s->found);
    bool known = knows != KNOWS_NOTHING || ++s->looks >= TURN_LOOKS;
    if (!known && !ask_now(s)) return;
    uv_timer_stop(&s->timer);
    s->looks = 0;
    if (known) go(s);
}

static bool find_place(struct k8s_access *a, const struct object *sandbox, struct pod_place *place,
                       enum pod_runtime *runtime, struct error *err) {
    const char *name = json_str_at(sandbox->json, "status.podName");
    cleanup_object struct object *pod =
        name[0] ? a->store->ops->get(a->store, KIND_POD, sandbox->namespace, name) : NULL;
    if (!pod_place_find(sandbox, pod, place, err)) return false;
    place->client = a->client;
    *runtime = pod_runtime_of(pod, place);
    return true;
}

static size_t way_write(struct access_stream *stream, const char *data, size_t len) {
    struct way_stream *s = way_of(stream);
    if (s->done || s->closed || s->broken.status || s->killed || s->elsewhere) return len;
    if (!s->inner || s->replaying) {
        s->wants = true;
        return 0;
    }
    bool early = s->way == WAY_RUNTIME && !runtime_access_reached(s->inner);
    size_t room = early ? EARLY_MAX - s->early.len : len;
    size_t n = access_write(s->inner, data, len < room ? len : room);
    if (early) buffer_append(&s->early, data, n);
    if (n < len) s->wants = true;
    return n;
}

static void way_finish(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    if (s->done || s->closed || s->finished || s->broken.status || s->killed) return;
    s->finished = true;
    if (!s->inner || s->replaying) return;
    s->finish_told = true;
    access_finish(s->inner);
}

static void way_pause(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    s->paused = true;
    if (s->inner) access_pause(s->inner);
}

static void way_resume(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    s->paused = false;
    if (s->inner) access_resume(s->inner);
}

static int way_take_fd(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    return s->inner ? access_take_fd(s->inner) : -1;
}

static void way_resize(struct access_stream *stream, unsigned cols, unsigned rows) {
    struct way_stream *s = way_of(stream);
    /* For the way that is still to be opened, or opened anew. */
    json_object_set_new(s->args, "cols", json_integer(cols));
    json_object_set_new(s->args, "rows", json_integer(rows));
    if (s->inner) access_resize(s->inner, cols, rows);
}

static void way_close(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    if (s->closed) return;
    s->closed = true;
    if (!s->done) stop(s);
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}

static const struct access_stream_ops ops = {.write = way_write,
                                             .finish = way_finish,
                                             .pause = way_pause,
                                             .resume = way_resume,
                                             .take_fd = way_take_fd,
                                             .resize = way_resize,
                                             .close = way_close};

static struct access_stream *open_stream(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                         enum access_op op, const json_t *args,
                                         const struct access_events *events, void *ctx, struct error *err) {
    struct k8s_access *a = (struct k8s_access *)access;
    struct pod_place place;
    enum pod_runtime runtime;
    if (!find_place(a, sandbox, &place, &runtime, err)) return NULL;
    struct way_stream *s = xcalloc(1, sizeof *s);
    *s = (struct way_stream){.base.ops = &ops,
                             .access = a,
                             .loop = loop,
                             .sandbox = object_ref(sandbox),
                             .op = op,
                             .args = json_copy((json_t *)args),
                             .events = *events,
                             .ctx = ctx,
                             .place = place,
                             .runtime = runtime,
                             .timing = true};
    uv_timer_init(loop, &s->timer);
    s->timer.data = s->work.data = s;
    enum knows knows = runtime == POD_RUNTIME_COMING
                           ? KNOWS_NO_RUNTIME
                           : pod_knowledge_get(a->knowledge, place.uid, place.container_id, &s->found);
    if (knows == KNOWS_NOTHING) {
        if (!ask_now(s)) uv_timer_start(&s->timer, on_turn, TURN_MS, TURN_MS);
        return &s->base;
    }
    if (open_inner(s, way_for(s), err)) return &s->base;
    way_close(&s->base);
    return NULL;
}

struct access *k8s_access_new(struct k8s_client *client, struct store *store) {
    struct k8s_access *a = xcalloc(1, sizeof *a);
    *a = (struct k8s_access){.base.open = open_stream,
                             .client = client,
                             .config = k8s_client_config(client),
                             .store = store,
                             .knowledge = pod_knowledge_new()};
    return &a->base;
}

void k8s_access_free(struct access *access) {
    if (!access) return;
    pod_knowledge_free(((struct k8s_access *)access)->knowledge);
    free(access);
}

void k8s_access_metrics(struct access *access, struct buffer *out) {
    static const char *const names[] = {[WAY_RUNTIME] = "runtime",
                                        [WAY_REFERENCE] = "reference",
                                        [WAY_EXEC] = "exec",
                                        [WAY_DIRECT] = "direct"};
    struct k8s_access *a = (struct k8s_access *)access;
    buffer_append_str(out,
                      "# HELP agenttier_access_streams_total Streams into sandboxes, by the way they took.\n"
                      "# TYPE agenttier_access_streams_total counter\n");
    for (int i = 0; i < WAY_COUNT; i++)
        buffer_printf(out, "agenttier_access_streams_total{way=\"%s\"} %llu\n", names[i],
                      (unsigned long long)atomic_load(&a->opened[i]));
    buffer_append_str(
        out, "# HELP agenttier_access_failures_total Streams that ended with an error of their way.\n"
             "# TYPE agenttier_access_failures_total counter\n");
    for (int i = 0; i < WAY_COUNT; i++)
        buffer_printf(out, "agenttier_access_failures_total{way=\"%s\"} %llu\n", names[i],
                      (unsigned long long)atomic_load(&a->lost[i]));
    buffer_printf(
        out,
        "# HELP agenttier_access_fallbacks_total Streams that left a runtime which took no connection.\n"
        "# TYPE agenttier_access_fallbacks_total counter\nagenttier_access_fallbacks_total %llu\n"
        "# HELP agenttier_pod_exec_streams Streams of pods/exec that are open.\n"
        "# TYPE agenttier_pod_exec_streams gauge\nagenttier_pod_exec_streams %d\n",
        (unsigned long long)atomic_load(&a->fallbacks), pod_knowledge_execs(a->knowledge));
}
