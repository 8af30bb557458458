#include "k8s/way_stream.h"

#include "backend/runtime_access.h"
#include "common/json.h"
#include "k8s/dial.h"
#include "k8s/exec_access.h"
#include "k8s/reference_exec.h"

#define WATCH_MS   1000 /* how often a stream looks whether its pod is still there */
#define EARLY_MAX  65536
#define ASKING_MAX 4   /* pods that are asked for their runtime at once, by workers */
#define TURN_MS    20  /* how often the others look whether it is their turn */
#define TURN_LOOKS 250 /* then pods/exec is used */

static struct way_stream *way_of(struct access_stream *s) {
    return (struct way_stream *)s;
}

/* ---- Opening ---- */

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

bool way_open(struct way_stream *s, enum way way, struct error *err) {
    struct k8s_access *a = s->access;
    if (way == WAY_RUNTIME || way == WAY_REFERENCE) {
        cleanup_error struct error failed = {0};
        const struct runtime_address *to = &s->found.address;
        s->inner = way == WAY_RUNTIME
                       ? runtime_access_open_at(to, s->loop, s->op, s->args, &way_events, s, &failed)
                       : reference_exec_open(to, s->loop, s->args, &way_events, s, &failed);
        if (!s->inner && strcmp(failed.code, ERR_SANDBOX_UNREACHABLE) == 0) {
            pod_knowledge_lost(a->knowledge, s->place.uid, true);
            return way_open(s, s->op == ACCESS_DIAL ? WAY_DIRECT : WAY_EXEC, err);
        }
        if (!s->inner) error_move(err, &failed);
    } else if (way == WAY_DIRECT) {
        s->inner = pod_dial_open(s->loop, &s->place, s->args, &way_events, s, err);
    } else {
        if (way_begins_once(s) && way_hides_runtime(s)) {
            way_runtime_is_silent(err);
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
        s->inner = exec_access_open(a->config, s->loop, &s->place, s->op, s->args, &way_events, s,
                                    on_exec_gone, count, err);
        if (!s->inner) on_exec_gone(count);
    }
    if (!s->inner) return false;
    s->way = way;
    atomic_fetch_add(&a->opened[way], 1);
    if (s->paused) access_pause(s->inner);
    uv_timer_start(&s->timer, way_look_at_pod, WATCH_MS, WATCH_MS);
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
        way_deny(s);
    else if (!way_open(s, way_for(s), &err))
        way_fail(s, &err);
    else if (s->wants || s->finished)
        way_go_on_writing(s);
}

static void asked(uv_work_t *work, int status) {
    (void)status;
    struct way_stream *s = work->data;
    s->working = false;
    atomic_fetch_sub(&s->access->asking, 1);
    pod_knowledge_put(s->access->knowledge, s->place.uid, s->place.container_id, &s->found);
    if (s->closed || s->done)
        way_release(s);
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

void way_ask(struct way_stream *s) {
    if (!ask_now(s)) uv_timer_start(&s->timer, on_turn, TURN_MS, TURN_MS);
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

static void on_timer_closed(uv_handle_t *handle) {
    struct way_stream *s = handle->data;
    s->timing = false;
    way_release(s);
}

static void way_close(struct access_stream *stream) {
    struct way_stream *s = way_of(stream);
    if (s->closed) return;
    s->closed = true;
    if (!s->done) way_stop(s);
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
        way_ask(s);
        return &s->base;
    }
    if (way_open(s, way_for(s), err)) return &s->base;
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
