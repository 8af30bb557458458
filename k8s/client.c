#include "k8s/client.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "k8s/status.h"
#include "k8s/transfer.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#define REFRESH_SECONDS   60
#define MAX_ANSWER        (16 * 1024 * 1024) /* etcd takes 1.5 MiB; a list of few may be more */
#define MAX_IDLE_HANDLES  16
#define BUSY_ATTEMPTS     3 /* of calls that are answered 429 with a short Retry-After */
#define BUSY_WAIT_SECONDS 2
#define JUST_BACK_MS      10000

struct k8s_client {
    struct k8s_config *config;
    pthread_mutex_t lock;
    struct transfer *idle[MAX_IDLE_HANDLES]; /* with their connections */
    size_t idle_count;
    /* The thread that refreshes the credentials. */
    pthread_t thread;
    pthread_cond_t wake;
    bool stopping, refused; /* under `lock` */
    _Atomic uint64_t calls, failures;
    _Atomic int64_t unanswered_at; /* 0: never */
    _Atomic int64_t stop_at;       /* likewise */
};

/* ---- handles ---- */

static struct transfer *take_handle(struct k8s_client *client) {
    struct transfer *t = NULL;
    pthread_mutex_lock(&client->lock);
    if (client->idle_count > 0) t = client->idle[--client->idle_count];
    pthread_mutex_unlock(&client->lock);
    if (t) return t;
    t = xcalloc(1, sizeof *t);
    t->easy = curl_easy_init();
    if (t->easy) return t;
    free(t);
    return NULL;
}

static void free_handle(struct transfer *t) {
    curl_easy_cleanup(t->easy);
    free(t);
}

static void give_back(struct k8s_client *client, struct transfer *t) {
    pthread_mutex_lock(&client->lock);
    bool keep = client->idle_count < MAX_IDLE_HANDLES;
    if (keep) client->idle[client->idle_count++] = t;
    pthread_mutex_unlock(&client->lock);
    if (!keep) free_handle(t);
}

/* ---- credentials ---- */

static void refresh(struct k8s_client *client, bool refused) {
    cleanup_error struct error err = {0};
    if (!k8s_config_refresh(client->config, refused, &err))
        log_warn("credentials for the Kubernetes API were not renewed; going on with the last ones", "error",
                 err.message, NULL);
}

static void *refresh_regularly(void *ctx) {
    struct k8s_client *client = ctx;
    pthread_mutex_lock(&client->lock);
    while (!client->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += REFRESH_SECONDS;
        while (!client->stopping && !client->refused &&
               pthread_cond_timedwait(&client->wake, &client->lock, &until) == 0) {
        }
        if (client->stopping) break;
        bool refused = client->refused;
        client->refused = false;
        pthread_mutex_unlock(&client->lock);
        refresh(client, refused);
        pthread_mutex_lock(&client->lock);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

void k8s_client_refused(struct k8s_client *client) {
    pthread_mutex_lock(&client->lock);
    client->refused = true;
    pthread_cond_signal(&client->wake);
    pthread_mutex_unlock(&client->lock);
}

struct k8s_client *k8s_client_new(struct k8s_config *config, struct error *err) {
    struct k8s_client *client = xcalloc(1, sizeof *client);
    client->config = config;
    pthread_mutex_init(&client->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&client->wake, &attr);
    pthread_condattr_destroy(&attr);
    int failed = curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK
                     ? ENOMEM
                     : pthread_create(&client->thread, NULL, refresh_regularly, client);
    if (!failed) return client;
    error_set_errno(err, failed, "the Kubernetes client cannot start");
    pthread_cond_destroy(&client->wake);
    pthread_mutex_destroy(&client->lock);
    free(client);
    return NULL;
}

void k8s_client_stop_in(struct k8s_client *client, int64_t ms) {
    atomic_store(&client->stop_at, monotonic_ms() + ms);
}

void k8s_client_free(struct k8s_client *client) {
    if (!client) return;
    pthread_mutex_lock(&client->lock);
    client->stopping = true;
    pthread_cond_signal(&client->wake);
    pthread_mutex_unlock(&client->lock);
    pthread_join(client->thread, NULL);
    while (client->idle_count > 0)
        free_handle(client->idle[--client->idle_count]);
    pthread_cond_destroy(&client->wake);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

struct k8s_config *k8s_client_config(struct k8s_client *client) {
    return client->config;
}

/* ---- an apiserver that was away ---- */

void k8s_client_unanswered(struct k8s_client *client) {
    atomic_store_explicit(&client->unanswered_at, monotonic_ms(), memory_order_relaxed);
}

bool k8s_client_just_back(struct k8s_client *client) {
    int64_t at = atomic_load_explicit(&client->unanswered_at, memory_order_relaxed);
    return at && monotonic_ms() - at < JUST_BACK_MS;
}

void k8s_client_doubt(struct k8s_client *client, struct error *err) {
    if (!err->code || strcmp(err->code, ERR_KUBERNETES_FORBIDDEN) != 0 || !k8s_client_just_back(client))
        return;
    cleanup_error struct error refused = {0};
    error_move(&refused, err);
    error_set(err, 503, ERR_UNAVAILABLE,
              "the Kubernetes API is just back and may not know yet what is allowed: %s", refused.message);
    err->retry_after = 1;
}

void k8s_client_counts(struct k8s_client *client, uint64_t *calls, uint64_t *failures) {
    *calls = atomic_load(&client->calls);
    *failures = atomic_load(&client->failures);
}

/* ---- calls ---- */

struct call {
    const char *method, *path, *content_type, *body, *what;
    size_t sent; /* of the body */
    struct buffer answer;
    long status;
    int retry_after;
    char why[CURL_ERROR_SIZE];
};

/* A function and not the text itself: libcurl repeats a request on a new connection when a kept one is closed
 * without an answer, but not one whose body it cannot have again. What was sent may have been done. */
static size_t give_body(char *out, size_t size, size_t count, void *ctx) {
    struct call *call = ctx;
    size_t left = strlen(call->body + call->sent), n = size * count < left ? size * count : left;
    memcpy(out, call->body + call->sent, n);
    call->sent += n;
    return n;
}

static size_t on_data(char *data, size_t size, size_t count, void *ctx) {
    struct call *call = ctx;
    return buffer_append(&call->answer, data, size * count) ? size * count : 0;
}

/* libcurl asks at least once a second. */
static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    const struct k8s_client *client = ctx;
    int64_t at = atomic_load_explicit(&client->stop_at, memory_order_relaxed);
    return at && monotonic_ms() >= at;
}

/* One exchange. False: no answer; call->why says why. */
static bool exchange(struct k8s_client *client, struct call *call) {
    struct transfer *t = take_handle(client);
    if (!t) {
        snprintf(call->why, sizeof call->why, "out of memory");
        return false;
    }
    transfer_prepare(t, client->config, call->method, call->path,
                     call->body ? call->content_type ? call->content_type : "application/json" : NULL);
    buffer_clear(&call->answer);
    call->answer.limit = MAX_ANSWER;
    curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, (long)K8S_CALL_TIMEOUT_MS);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(t->easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->easy, CURLOPT_XFERINFODATA, client);
    curl_easy_setopt(t->easy, CURLOPT_NOPROGRESS, 0L);
    if (call->body) {
        call->sent = 0;
        curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, call->method);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(call->body));
        curl_easy_setopt(t->easy, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(t->easy, CURLOPT_READDATA, call);
    }
    CURLcode code = curl_easy_perform(t->easy);
    call->status = t->status;
    call->retry_after = t->retry_after;
    snprintf(call->why, sizeof call->why, "%s",
             code == CURLE_ABORTED_BY_CALLBACK ? "this program ends"
             : code == CURLE_WRITE_ERROR       ? "its answer is above 16 MiB"
             : code == CURLE_SEND_FAIL_REWIND
                 ? "the connection was closed before the answer; it may have been done"
                 : transfer_why(t, code));
    transfer_done(t);
    /* A handle that failed is not used again: libcurl 7.88 keeps in it that the body is to be rewound before
     * the next request, and so fails that one, which was not sent yet. */
    if (code == CURLE_OK)
        give_back(client, t);
    else
        free_handle(t);
    return code == CURLE_OK;
}

/* The exchange with its repetitions: new credentials after a 401, patience after a 429. */
static bool exchange_patiently(struct k8s_client *client, struct call *call) {
    bool renewed = false;
    for (int busy = 1;;) {
        if (!exchange(client, call)) return false;
        if (call->status == 401 && !renewed) {
            renewed = true;
            refresh(client, true);
        } else if (call->status == 429 && busy < BUSY_ATTEMPTS && call->retry_after <= BUSY_WAIT_SECONDS) {
            busy++;
            nanosleep(&(struct timespec){call->retry_after ? call->retry_after : 1, 0}, NULL);
        } else {
            return true;
        }
    }
}

static bool finish(struct call *call, json_t **answer, struct error *err) {
    json_error_t why;
    /* Strings of objects may hold NUL; that must not make an object unreadable. */
    cleanup_json json_t *body = json_loadb(call->answer.len ? call->answer.data : "", call->answer.len,
                                           JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    if (call->status < 200 || call->status >= 300) {
        k8s_status_error(call->status, body, call->what, call->retry_after, err);
        return false;
    }
    if (!json_is_object(body)) {
        k8s_no_answer(call->what, "its answer is not a JSON object", err);
        return false;
    }
    if (answer) *answer = steal_ptr(body);
    return true;
}

/* "create sandboxes": for messages. */
static void describe(const char *method, const char *path, char out[160]) {
    const char *verb = strcmp(method, "POST") == 0     ? "create"
                       : strcmp(method, "PUT") == 0    ? "update"
                       : strcmp(method, "PATCH") == 0  ? "patch"
                       : strcmp(method, "DELETE") == 0 ? "delete"
                                                       : "read";
    const char *from = strncmp(path, "/apis/", 6) == 0 ? path + 6 : path;
    snprintf(out, 160, "%s %.*s", verb, (int)strcspn(from, "?"), from);
}

bool k8s_call(struct k8s_client *client, const char *method, const char *path, const char *content_type,
              const json_t *body, json_t **answer, struct error *err) {
    char what[160];
    describe(method, path, what);
    cleanup_free char *text = NULL;
    if (body && !(text = json_dumps(body, JSON_COMPACT))) {
        error_set(err, 500, ERR_INTERNAL, "the body to %s cannot be rendered", what);
        return false;
    }
    struct call call = {
        .method = method, .path = path, .content_type = content_type, .body = text, .what = what};
    cleanup_error struct error failed = {0};
    bool ok = exchange_patiently(client, &call);
    if (!ok) k8s_client_unanswered(client);
    if (!ok) { /* where it is and why is for the operator, not for the client */
        log_warn("the Kubernetes API did not answer a call", "call", what, "error", call.why, NULL);
        k8s_no_answer(what, "it did not answer", &failed);
    }
    if (ok && !finish(&call, answer, &failed)) {
        ok = false;
        k8s_client_doubt(client, &failed);
    }
    buffer_free(&call.answer);
    atomic_fetch_add_explicit(&client->calls, 1, memory_order_relaxed);
    if (!ok && failed.status >= 500) atomic_fetch_add_explicit(&client->failures, 1, memory_order_relaxed);
    if (!ok) error_move(err, &failed);
    return ok;
}
