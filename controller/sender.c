#include "controller/sender.h"

#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/pod_state.h"
#include "controller/token_secret.h"
#include "k8s/pod_exec.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define PARALLEL       16 /* streams at once */
#define ATTEMPT_MS     30000
#define RETRY_FIRST_MS 1000
#define RETRY_MAX_MS   60000
#define ATTEMPTS       8 /* then it rests until somebody asks again */
#define SAID_MAX       300
#define LISTEN_ADDRESS "0.0.0.0:9000"

enum job_state { JOB_WAITING, JOB_TOKEN, JOB_SENDING, JOB_MARKING };

struct job {
    struct job *next;
    struct sender *sender;
    char *namespace, *secret, *owner, *pod, *pod_uid, *container;

    /* the loop's */
    enum job_state state;
    int attempts;
    int64_t due; /* monotonic ms, of the next attempt */
    int64_t asked_at;
    char *token;
    struct pod_exec *exec;
    size_t sent;
    int64_t cut_at; /* of this attempt */
    char size[24];
    char said[SAID_MAX]; /* what the shell or the program complained of */
    size_t said_len;
    uv_work_t work;
    bool marked;
};

struct sender {
    struct k8s_config *config;
    struct k8s_client *client;
    struct store *store;
    struct buffer program;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t timer;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock;
    bool stopping;
    struct job *jobs; /* added by anybody, removed by the loop */

    int active; /* the loop's */
    _Atomic uint64_t delivered, failed, total_ms;
};

/* ---- jobs -------------------------------------------------------------------------------------- */

static void wipe(char **text) {
    if (*text) explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

static void job_free(struct job *j) {
    wipe(&j->token);
    free(j->namespace);
    free(j->secret);
    free(j->owner);
    free(j->pod);
    free(j->pod_uid);
    free(j->container);
    free(j);
}

static void drop(struct job *j) {
    struct sender *s = j->sender;
    pthread_mutex_lock(&s->lock);
    struct job **at = &s->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    pthread_mutex_unlock(&s->lock);
    job_free(j);
}

static void bring(void *ctx, struct object *pod, const char *secret, const char *owner) {
    struct sender *s = ctx;
    const char *container = pod_container_id(pod);
    pthread_mutex_lock(&s->lock);
    struct job *j = s->jobs;
    while (j && (strcmp(j->pod_uid, pod->uid) != 0 || strcmp(j->container, container) != 0))
        j = j->next;
    if (!j && !s->stopping) {
        j = xcalloc(1, sizeof *j);
        *j = (struct job){.next = s->jobs,
                          .sender = s,
                          .namespace = xstrdup(pod->namespace),
                          .secret = xstrdup(secret),
                          .owner = xstrdup(owner),
                          .pod = xstrdup(pod->name),
                          .pod_uid = xstrdup(pod->uid),
                          .container = xstrdup(container),
                          .asked_at = monotonic_ms()};
        j->work.data = j;
        s->jobs = j;
        uv_async_send(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

static bool is_stopping(struct sender *s) {
    pthread_mutex_lock(&s->lock);
    bool stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

/* ---- one attempt ------------------------------------------------------------------------------- */

static void look_at_jobs(struct sender *s);

static void end_attempt(struct job *j) {
    if (j->exec) pod_exec_close(j->exec);
    j->exec = NULL;
    wipe(&j->token);
    if (j->state != JOB_WAITING) j->sender->active--;
    j->state = JOB_WAITING;
}

static void attempt_failed(struct job *j, const char *why, bool for_good) {
    struct sender *s = j->sender;
    end_attempt(j);
    j->attempts++;
    s->failed++;
    if (for_good || j->attempts >= ATTEMPTS) {
        log_warn("the runtime could not be brought into a pod", "namespace", j->namespace, "pod", j->pod,
                 "why", why, NULL);
        drop(j);
        look_at_jobs(s);
        return;
    }
    int64_t pause = RETRY_FIRST_MS;
    for (int i = 1; i < j->attempts && pause < RETRY_MAX_MS; i++)
        pause *= 2;
    j->due = monotonic_ms() + (pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS);
    log_info("bringing the runtime into a pod is tried again", "namespace", j->namespace, "pod", j->pod,
             "why", why, "attempts", log_int(j->attempts), NULL);
    look_at_jobs(s);
}

/* Marked: where it runs, for the Router and for us. On libuv's pool, as a write waits. */
static void mark(uv_work_t *work) {
    struct job *j = work->data;
    struct store *store = j->sender->store;
    cleanup_json json_t *patch =
        json_pack("{s:{s:{s:s}}}", "metadata", "annotations", ANNOTATION_RUNTIME_READY, j->container);
    struct store_preconditions same = {.uid = j->pod_uid};
    cleanup_error struct error err = {0};
    j->marked =
        store->ops->patch(store, KIND_POD, STORE_MAIN, j->namespace, j->pod, patch, &same, NULL, &err);
    if (!j->marked) snprintf(j->said, sizeof j->said, "%.200s", err.message);
}

static void marked(uv_work_t *work, int status) {
    (void)status;
    struct job *j = work->data;
    struct sender *s = j->sender;
    if (is_stopping(s)) return;
    if (!j->marked) {
        attempt_failed(j, j->said, false);
        return;
    }
    int64_t took = monotonic_ms() - j->asked_at;
    s->delivered++;
    s->total_ms += (uint64_t)took;
    log_info("runtime started in a pod", "namespace", j->namespace, "pod", j->pod, "ms", log_int(took), NULL);
    end_attempt(j);
    drop(j);
    look_at_jobs(s);
}

static void send_more(struct job *j) {
    size_t head = strlen(j->token) + 1;
    while (j->sent < head + j->sender->program.len) {
        struct slice rest;
        if (j->sent < head) /* The newline stands where the NUL is. */
            rest =
                j->sent < head - 1 ? slice_make(j->token + j->sent, head - 1 - j->sent) : slice_make("\n", 1);
        else
            rest = slice_make(j->sender->program.data + (j->sent - head),
                              j->sender->program.len - (j->sent - head));
        size_t taken = pod_exec_write(j->exec, rest.ptr, rest.len);
        j->sent += taken;
        if (taken < rest.len) return;
    }
    pod_exec_finish(j->exec);
}

static void on_open(void *ctx, bool can_close_stdin) {
    (void)can_close_stdin;
    send_more(ctx);
}
static void on_writable(void *ctx) {
    struct job *j = ctx;
    if (j->sent < strlen(j->token) + 1 + j->sender->program.len) send_more(j);
}
static void on_data(void *ctx, int channel, const char *data, size_t len) {
    (void)channel;
    struct job *j = ctx;
    size_t room = sizeof j->said - 1 - j->said_len;
    if (len > room) len = room;
    memcpy(j->said + j->said_len, data, len);
    j->said_len += len;
}
static void on_end(void *ctx, const struct pod_exec_outcome *outcome) {
    struct job *j = ctx;
    if (outcome->exit_code == 0) {
        pod_exec_close(j->exec);
        j->exec = NULL;
        j->state = JOB_MARKING;
        j->cut_at = 0;
        uv_queue_work(&j->sender->loop, &j->work, mark, marked);
        return;
    }
    char why[SAID_MAX + 64];
    j->said[j->said_len] = '\0';
    snprintf(why, sizeof why, "exit code %d: %s", outcome->exit_code,
             outcome->exit_code == 3 ? "port 9000 is taken in the pod" : j->said);
    /* 126 and 127: there is no shell, or it cannot run the program. */
    attempt_failed(j, why, outcome->exit_code == 126 || outcome->exit_code == 127);
}
static void on_error(void *ctx, const struct error *err) {
    struct job *j = ctx;
    if (err->status != 404) {
        attempt_failed(j, err->message, false);
        return;
    }
    /* The pod is gone, and whoever asked will ask for the next one. */
    struct sender *s = j->sender;
    log_debug("a pod is gone before it got the runtime", "namespace", j->namespace, "pod", j->pod, NULL);
    end_attempt(j);
    drop(j);
    look_at_jobs(s);
}

static const struct pod_exec_events events = {.on_open = on_open,
                                              .on_data = on_data,
                                              .on_writable = on_writable,
                                              .on_end = on_end,
                                              .on_error = on_error};

/* Whoever asked may have looked at the pod before an earlier job marked it. */
static bool is_marked(const struct job *j) {
    struct store *store = j->sender->store;
    cleanup_object struct object *pod = store->ops->get(store, KIND_POD, j->namespace, j->pod);
    return pod && strcmp(pod->uid, j->pod_uid) == 0 && pod_has_runtime(pod, j->container);
}

/* The token is read by name each time: it may have been made anew. */
static void read_token(uv_work_t *work) {
    struct job *j = work->data;
    struct store *store = j->sender->store;
    if ((j->marked = is_marked(j))) return;
    cleanup_json json_t *nothing = json_object();
    cleanup_error struct error err = {0};
    cleanup_object struct object *secret = NULL;
    if (!store->ops->patch(store, KIND_SECRET, STORE_MAIN, j->namespace, j->secret, nothing, NULL, &secret,
                           &err)) {
        snprintf(j->said, sizeof j->said, "%.200s", err.message);
        return;
    }
    if (is_controlled_by(secret, j->owner)) j->token = token_secret_read(secret);
    if (!j->token) snprintf(j->said, sizeof j->said, "the Secret %.200s is not this sandbox's", j->secret);
}

static void open_stream(uv_work_t *work, int status) {
    (void)status;
    struct job *j = work->data;
    struct sender *s = j->sender;
    if (is_stopping(s)) return;
    if (j->marked) {
        end_attempt(j);
        drop(j);
        look_at_jobs(s);
        return;
    }
    if (!j->token) {
        attempt_failed(j, j->said, false);
        return;
    }
    snprintf(j->size, sizeof j->size, "%zu", j->sender->program.len);
    const char *const command[] = {"/bin/sh",     "-c",    sender_script,  "agenttier",
                                   RUNTIME_MOUNT, j->size, LISTEN_ADDRESS, NULL};
    struct pod_exec_request request = {.namespace = j->namespace,
                                       .pod = j->pod,
                                       .container = MAIN_CONTAINER,
                                       .command = command,
                                       .stdin_open = true,
                                       .uid = j->pod_uid,
                                       .client = j->sender->client};
    cleanup_error struct error err = {0};
    j->state = JOB_SENDING;
    j->sent = j->said_len = 0;
    j->cut_at = monotonic_ms() + ATTEMPT_MS;
    j->exec = pod_exec_open(j->sender->config, &j->sender->loop, &request, &events, j, &err);
    if (!j->exec) attempt_failed(j, err.message, false);
}

/* ---- the loop ---------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer) {
    look_at_jobs(timer->data);
}

static void start_attempt(struct job *j) {
    j->state = JOB_TOKEN;
    j->sender->active++;
    uv_queue_work(&j->sender->loop, &j->work, read_token, open_stream);
}

/* An attempt whose time is up; NULL when there is none. */
static struct job *overdue(struct sender *s, int64_t now) {
    pthread_mutex_lock(&s->lock);
    struct job *j = s->jobs;
    while (j && !(j->state == JOB_SENDING && j->cut_at <= now))
        j = j->next;
    pthread_mutex_unlock(&s->lock);
    return j;
}

/* Starts what is due and sets the clock for what is not. Only the loop removes jobs, so they can be looked at
 * without the lock once their list was read under it. */
static void look_at_jobs(struct sender *s) {
    int64_t now = monotonic_ms(), next = INT64_MAX;
    struct job *late = overdue(s, now);
    if (late) {
        attempt_failed(late, "it took too long", false); /* which looks again */
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (s->stopping) {
        pthread_mutex_unlock(&s->lock);
        return;
    }
    for (struct job *j = s->jobs; j; j = j->next) {
        int64_t at = j->state == JOB_WAITING ? j->due : j->state == JOB_SENDING ? j->cut_at : INT64_MAX;
        if (j->state == JOB_WAITING && at <= now) {
            if (s->active >= PARALLEL) continue; /* the end of another one looks again */
            start_attempt(j);
        } else if (at < next) {
            next = at;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (next != INT64_MAX)
        uv_timer_start(&s->timer, on_timer, next > now ? (uint64_t)(next - now) : 1, 0);
    else
        uv_timer_stop(&s->timer);
}

/* Cuts what is under way; the loop ends when the last of it is gone. */
static void shut_down(struct sender *s) {
    for (struct job *j = s->jobs; j; j = j->next) {
        if (j->exec) pod_exec_close(j->exec);
        j->exec = NULL;
        if (j->state == JOB_TOKEN) uv_cancel((uv_req_t *)&j->work);
    }
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
}

static void on_wake(uv_async_t *wake) {
    struct sender *s = wake->data;
    if (is_stopping(s))
        shut_down(s);
    else
        look_at_jobs(s);
}

static void *run(void *arg) {
    struct sender *s = arg;
    uv_run(&s->loop, UV_RUN_DEFAULT);
    return NULL;
}

struct sender *sender_start(struct k8s_config *config, struct k8s_client *client, struct store *store,
                            struct buffer *program, struct error *err) {
    struct sender *s = xcalloc(1, sizeof *s);
    s->config = config;
    s->client = client;
    s->store = store;
    s->program = *program;
    *program = (struct buffer){0};
    pthread_mutex_init(&s->lock, NULL);
    if (uv_loop_init(&s->loop) != 0 || uv_async_init(&s->loop, &s->wake, on_wake) != 0) abort();
    uv_timer_init(&s->loop, &s->timer);
    s->wake.data = s->timer.data = s;
    int rc = pthread_create(&s->thread, NULL, run, s);
    s->started = rc == 0;
    if (s->started) return s;
    error_set_errno(err, rc, "starting the thread that sends the runtime");
    sender_stop(s);
    return NULL;
}

struct runtime_bringer sender_bringer(struct sender *s) {
    return (struct runtime_bringer){.bring = bring, .ctx = s};
}

void sender_stop(struct sender *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    if (s->started) {
        uv_async_send(&s->wake);
        pthread_join(s->thread, NULL);
    } else {
        shut_down(s);
        uv_run(&s->loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&s->loop);
    for (struct job *j = s->jobs, *next; j; j = next) {
        next = j->next;
        job_free(j);
    }
    pthread_mutex_destroy(&s->lock);
    buffer_free(&s->program);
    free(s);
}

void sender_metrics(struct sender *s, struct buffer *out) {
    buffer_printf(
        out,
        "# HELP agenttier_controller_runtime_deliveries_total Runtimes started in pods, and attempts that "
        "failed.\n# TYPE agenttier_controller_runtime_deliveries_total counter\n"
        "agenttier_controller_runtime_deliveries_total{result=\"started\"} %llu\n"
        "agenttier_controller_runtime_deliveries_total{result=\"failed\"} %llu\n"
        "# HELP agenttier_controller_runtime_delivery_seconds_total From the running container to the "
        "listening runtime.\n# TYPE agenttier_controller_runtime_delivery_seconds_total counter\n"
        "agenttier_controller_runtime_delivery_seconds_total %.3f\n",
        (unsigned long long)s->delivered, (unsigned long long)s->failed, (double)s->total_ms / 1000);
}
