#include "k8s/pod_exec.h"

#include "common/json.h"
#include "common/text.h"
#include "k8s/exec_channels.h"
#include "k8s/paths.h"
#include "k8s/upgrade.h"
#include "k8s/websocket_client.h"

#include <stdio.h>

/* After the status and what came behind it, for more output and for the peer's close: the streams of a
 * command are copied one beside the other on the way, so its output may be behind (lessons I11). */
#define LINGER_MS 10000

/* Both are offered at once: an apiserver that has no v5 passes the request on to the node, which
 * takes the first that it knows. Alone, v4 is for those that refuse whatever names v5. */
static const char *const protocols[] = {"v5.channel.k8s.io", "v4.channel.k8s.io", NULL};

/* The question whether the pod is still the one that is meant. It may outlive who wants to know. */
struct question {
    uv_work_t work;
    struct pod_exec *of; /* NULL: nobody wants to know any more */
    struct k8s_client *client;
    char *namespace, *pod, *uid;
    struct error err; /* the answer */
};

struct pod_exec {
    uv_loop_t *loop;
    struct k8s_config *config;
    struct pod_exec_events events;
    void *ctx;
    char *pod, *path;
    bool old; /* v4 only was offered */
    struct websocket *socket;
    uv_timer_t linger;
    struct exec_channels channels;
    bool open, v5, finish, finish_sent, over, closed, told_status;
    bool wants_room, paused;
    int columns, rows;
    bool resize_due;           /* the last size was not taken yet */
    struct question *question; /* NULL: answered, or not to be asked */
};

static void free_question(struct question *q) {
    if (!q) return;
    error_clear(&q->err);
    free(q->namespace);
    free(q->pod);
    free(q->uid);
    free(q);
}

static void on_linger_closed(uv_handle_t *handle) {
    struct pod_exec *e = handle->data;
    exec_channels_free(&e->channels);
    free(e->pod);
    free(e->path);
    free(e);
}

static void stop(struct pod_exec *e) {
    e->over = true;
    if (e->question && e->question->work.data)
        e->question->of = NULL; /* it is under way, and frees itself */
    else
        free_question(e->question);
    e->question = NULL;
    uv_timer_stop(&e->linger);
    websocket_close(steal_ptr(e->socket));
}

static void fail(struct pod_exec *e, const struct error *err) {
    if (e->over) return;
    stop(e);
    e->events.on_error(e->ctx, err);
}

/* No more comes: what the status says is the outcome. */
static void conclude(struct pod_exec *e) {
    if (e->over) return;
    cleanup_error struct error err = {0};
    struct pod_exec_outcome outcome = {exec_channels_outcome(&e->channels, &err)};
    if (outcome.exit_code < 0) {
        fail(e, &err);
        return;
    }
    stop(e);
    e->events.on_end(e->ctx, &outcome);
}

static void on_linger(uv_timer_t *timer) {
    struct pod_exec *e = timer->data;
    if (!e->paused) conclude(e); /* what a paused user does not take has not come yet */
}

static void send_finish(struct pod_exec *e) {
    static const char stdin_channel = EXEC_CHANNEL_STDIN;
    if (!e->finish || e->finish_sent || !e->v5 || !e->socket) return;
    e->finish_sent = websocket_send(e->socket, EXEC_CHANNEL_CLOSE, &stdin_channel, 1);
}

static void send_resize(struct pod_exec *e) {
    char size[64];
    if (!e->resize_due || !e->open || !e->socket) return;
    int n = snprintf(size, sizeof size, "{\"Width\":%d,\"Height\":%d}", e->columns, e->rows);
    e->resize_due = !websocket_send(e->socket, EXEC_CHANNEL_RESIZE, size, (size_t)n);
}

static void opened(struct pod_exec *e) {
    e->open = true;
    if (e->events.on_open) e->events.on_open(e->ctx, e->v5);
    if (e->over || e->closed) return;
    send_resize(e);
    send_finish(e);
    if (e->wants_room) {
        e->wants_room = false;
        if (e->events.on_writable) e->events.on_writable(e->ctx);
    }
}

static void ask(uv_work_t *work) {
    struct question *q = work->data;
    cleanup_buffer struct buffer path = {0};
    cleanup_json json_t *pod = NULL;
    k8s_path(KIND_POD, q->namespace, q->pod, NULL, &path);
    if (!k8s_call(q->client, "GET", buffer_cstr(&path), NULL, NULL, &pod, &q->err)) {
        if (q->err.status == 404) q->err.code = "sandbox_not_found";
    } else if (strcmp(json_str_at(pod, "metadata.uid"), q->uid) != 0) {
        error_set(&q->err, 404, "sandbox_not_found",
                  "the sandbox's pod \"%s\" is not there: another one has its name", q->pod);
    }
}

static void answered(uv_work_t *work, int status) {
    (void)status;
    struct question *q = work->data;
    struct pod_exec *e = q->of;
    if (e) {
        e->question = NULL;
        if (!e->paused) websocket_resume(e->socket);
        if (q->err.status)
            fail(e, &q->err);
        else
            opened(e);
    }
    free_question(q);
}

static void on_open(void *ctx, int protocol) {
    struct pod_exec *e = ctx;
    e->v5 = !e->old && protocol == 0;
    e->channels.v5 = e->v5;
    if (e->paused || e->question) websocket_pause(e->socket);
    if (!e->question) {
        opened(e);
        return;
    }
    e->question->work.data = e->question;
    if (uv_queue_work(e->loop, &e->question->work, ask, answered) == 0) return;
    cleanup_error struct error err = {0};
    e->question->work.data = NULL;
    error_set(&err, 503, ERR_UNAVAILABLE, "there is no thread to ask for the sandbox's pod");
    fail(e, &err);
}

static void on_piece(void *ctx, struct slice piece, bool last) {
    struct pod_exec *e = ctx;
    cleanup_error struct error err = {0};
    int channel;
    struct slice out;
    if (!exec_channels_take(&e->channels, piece, last, &channel, &out, &err)) {
        fail(e, &err);
        return;
    }
    if (exec_channels_has_status(&e->channels)) uv_timer_start(&e->linger, on_linger, LINGER_MS, 0);
    if (channel > 0 && out.len && e->events.on_data) e->events.on_data(e->ctx, channel, out.ptr, out.len);
}

static void on_room(void *ctx) {
    struct pod_exec *e = ctx;
    send_resize(e);
    send_finish(e);
    if (e->wants_room && !e->finish) {
        e->wants_room = false;
        if (e->events.on_writable) e->events.on_writable(e->ctx);
    }
}

static bool connect_socket(struct pod_exec *e, struct error *err);

static void on_refused(void *ctx, int status, struct slice body) {
    struct pod_exec *e = ctx;
    cleanup_error struct error err = {0};
    if (!e->old && upgrade_refuses_protocol(status, body)) {
        e->old = true;
        websocket_close(steal_ptr(e->socket));
        if (connect_socket(e, &err)) return;
    } else {
        upgrade_refusal(status, body, e->pod, &err);
    }
    fail(e, &err);
}

static void on_end(void *ctx, int code) {
    (void)code;
    conclude(ctx);
}

static void on_error(void *ctx, const struct error *err) {
    struct pod_exec *e = ctx;
    /* Whatever happened to the connection afterwards: the command has ended, and this is how. */
    if (exec_channels_has_status(&e->channels))
        conclude(e);
    else
        fail(e, err);
}

static bool connect_socket(struct pod_exec *e, struct error *err) {
    static const struct websocket_events events = {.on_open = on_open,
                                                   .on_piece = on_piece,
                                                   .on_writable = on_room,
                                                   .on_refused = on_refused,
                                                   .on_end = on_end,
                                                   .on_error = on_error};
    SSL_CTX *tls = k8s_config_ssl_ctx(e->config);
    cleanup_free char *authorization = k8s_config_authorization(e->config);
    struct websocket_target target = {.host = k8s_config_host(e->config),
                                      .port = k8s_config_port(e->config),
                                      .tls = tls,
                                      .tls_name = k8s_config_tls_name(e->config),
                                      .path = e->path,
                                      .authorization = authorization,
                                      .protocols = protocols + e->old};
    if (k8s_config_tls(e->config) && !tls)
        error_set(err, 503, ERR_UNAVAILABLE, "the TLS settings for the Kubernetes API cannot be used");
    else
        e->socket = websocket_open(e->loop, &target, &events, e, err);
    if (tls) SSL_CTX_free(tls);
    return e->socket != NULL;
}

/* A value in the query, as short as may be: some servers take 8 KiB of request line only. */
static void append_value(struct slice value, struct buffer *path) {
    while (value.len) {
        const char *blank = memchr(value.ptr, ' ', value.len);
        size_t n = blank ? (size_t)(blank - value.ptr) : value.len;
        percent_encode(slice_make(value.ptr, n), "/:@!$'()*,?", path);
        if (blank) buffer_append_char(path, '+');
        value = slice_make(value.ptr + n + (blank != NULL), value.len - n - (blank != NULL));
    }
}

static char *make_path(struct k8s_config *config, const struct pod_exec_request *r) {
    cleanup_buffer struct buffer path = {0};
    buffer_append_str(&path, k8s_config_path_prefix(config));
    buffer_append_str(&path, "/api/v1/namespaces/");
    percent_encode(slice_of(r->namespace), "", &path);
    buffer_append_str(&path, "/pods/");
    percent_encode(slice_of(r->pod), "", &path);
    buffer_append_str(&path, "/exec?container=");
    percent_encode(slice_of(r->container), "", &path);
    for (const char *const *word = r->command; *word; word++) {
        buffer_append_str(&path, "&command=");
        append_value(slice_of(*word), &path);
    }
    buffer_printf(&path, "&stdin=%s&stdout=true&stderr=%s&tty=%s", r->stdin_open ? "true" : "false",
                  r->tty ? "false" : "true", r->tty ? "true" : "false");
    return buffer_steal(&path, NULL);
}

struct pod_exec_request pod_exec_at(const struct pod_place *place, const char *const *command) {
    return (struct pod_exec_request){.namespace = place->namespace,
                                     .pod = place->pod,
                                     .container = place->container,
                                     .command = command,
                                     .stdin_open = true,
                                     .uid = place->uid,
                                     .client = place->client};
}

struct pod_exec *pod_exec_open(struct k8s_config *config, uv_loop_t *loop,
                               const struct pod_exec_request *request, const struct pod_exec_events *events,
                               void *ctx, struct error *err) {
    struct pod_exec *e = xcalloc(1, sizeof *e);
    *e = (struct pod_exec){.loop = loop, .config = config, .events = *events, .ctx = ctx};
    e->pod = xstrdup(request->pod);
    e->path = make_path(config, request);
    if (request->client) {
        e->question = xcalloc(1, sizeof *e->question);
        *e->question = (struct question){.of = e,
                                         .client = request->client,
                                         .namespace = xstrdup(request->namespace),
                                         .pod = xstrdup(request->pod),
                                         .uid = xstrdup(request->uid)};
    }
    e->finish = !request->stdin_open;
    e->finish_sent = e->finish;
    exec_channels_init(&e->channels, true);
    uv_timer_init(loop, &e->linger);
    e->linger.data = e;
    if (connect_socket(e, err)) return e;
    stop(e);
    e->closed = true;
    uv_close((uv_handle_t *)&e->linger, on_linger_closed);
    return NULL;
}

size_t pod_exec_write(struct pod_exec *e, const char *data, size_t len) {
    if (e->over || e->finish) return len;
    size_t taken = 0;
    while (e->open && e->socket && taken < len) {
        size_t n = len - taken < WEBSOCKET_MESSAGE_MAX ? len - taken : WEBSOCKET_MESSAGE_MAX;
        if (!websocket_send(e->socket, EXEC_CHANNEL_STDIN, data + taken, n)) break;
        taken += n;
        if (e->over) return len;
    }
    if (taken < len) e->wants_room = true;
    return taken;
}

void pod_exec_finish(struct pod_exec *e) {
    if (e->over || e->finish) return;
    e->finish = true;
    if (e->open) send_finish(e);
}

void pod_exec_resize(struct pod_exec *e, int columns, int rows) {
    if (e->over) return;
    e->columns = columns;
    e->rows = rows;
    e->resize_due = true;
    send_resize(e);
}

void pod_exec_pause(struct pod_exec *e) {
    e->paused = true;
    if (!e->over && e->open) websocket_pause(e->socket);
}

void pod_exec_resume(struct pod_exec *e) {
    e->paused = false;
    if (e->over || !e->open) return;
    websocket_resume(e->socket);
    if (exec_channels_has_status(&e->channels)) uv_timer_start(&e->linger, on_linger, LINGER_MS, 0);
}

void pod_exec_close(struct pod_exec *e) {
    if (!e || e->closed) return;
    if (!e->over) stop(e);
    e->closed = true;
    uv_close((uv_handle_t *)&e->linger, on_linger_closed);
}
