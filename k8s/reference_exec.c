#include "k8s/reference_exec.h"

#include "backend/runtime_socket.h"
#include "common/http1.h"
#include "common/json.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#define CONNECT_TIMEOUT_MS 3000
#define GRACE_MS           15000       /* past the command's own timeout */
#define ANSWER_MAX         (64u << 20) /* two streams of 8 MiB, escaped as JSON does */
#define PIECE              65536
#define DEFAULT_TIMEOUT_MS 60000
#define MARK               "\n[truncated]"

enum state { CONNECTING, WAITING, GIVING, OVER };

struct reference_exec {
    struct access_stream base;
    uv_loop_t *loop;
    struct access_events events;
    void *ctx;
    char id[72];
    int64_t timeout_ms;
    enum state state;
    int fd, handles;
    bool polling, reached, paused, closed;
    uv_poll_t poll;
    uv_timer_t timer, kick;
    struct buffer request, in, body;
    struct http1_head head; /* its texts are not used: they move with `in` */
    bool has_head;
    size_t used; /* of `in` */
    struct http1_chunked chunks;
    size_t sent;
    json_t *result, *texts[2];
    int giving;
    size_t given;
};

/* ---- Pure parts ---- */

bool reference_exec_fits(const json_t *args) {
    static const char *const beyond[] = {"stdin", "keep", "attach"};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++)
        if (json_is_true(json_object_get(args, beyond[i]))) return false;
    return json_array_size(json_object_get(args, "command")) > 0;
}

static int64_t timeout_of(const json_t *args) {
    int64_t ms = json_integer_value(json_object_get(args, "timeoutMs"));
    return ms > 0 ? ms : DEFAULT_TIMEOUT_MS;
}

void reference_exec_request(const json_t *args, const struct runtime_address *to, struct buffer *out) {
    static const char *const members[] = {"command", "env", "workingDir"};
    cleanup_json json_t *body = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        json_t *value = json_object_get(args, members[i]);
        if (value && !json_is_null(value)) json_object_set(body, members[i], value);
    }
    json_object_set_new(body, "timeoutSeconds", json_integer((timeout_of(args) + 999) / 1000));
    cleanup_free char *text = json_dumps(body, JSON_COMPACT);
    buffer_printf(out,
                  strchr(to->host, ':') ? "POST /exec HTTP/1.1\r\nHost: [%s]:%u\r\n"
                                        : "POST /exec HTTP/1.1\r\nHost: %s:%u\r\n",
                  to->host, to->port);
    if (to->token[0]) buffer_printf(out, "Authorization: Bearer %s\r\n", to->token);
    buffer_printf(out, "Connection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                  strlen(text));
    buffer_append_str(out, text);
}

static bool bad(struct error *err, const char *what) {
    error_set(err, 502, "sandbox_bad_answer", "the sandbox's runtime gave an answer that makes no sense: %s",
              what);
    return false;
}

/* The stream's text, without the mark of a cut one. */
static json_t *text_of(const json_t *answer, const char *name, bool cut, bool *truncated) {
    json_t *text = json_object_get(answer, name);
    size_t len = json_string_length(text), mark = strlen(MARK);
    *truncated = cut && len >= mark && memcmp(json_string_value(text) + len - mark, MARK, mark) == 0;
    return *truncated ? json_stringn(json_string_value(text), len - mark) : json_incref(text);
}

bool reference_exec_answer(int status, struct slice body, const char *id, json_t **result, json_t *texts[2],
                           struct error *err) {
    cleanup_json json_t *answer = json_parse_object(body, NULL);
    if (status != 200) {
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox's runtime refused the command (%d): %.200s",
                  status, answer ? json_str_at(answer, "error") : "");
        return false;
    }
    json_t *code = json_object_get(answer, "exitCode"), *ms = json_object_get(answer, "durationMs");
    if (!json_is_integer(code) || json_integer_value(code) < -1 || json_integer_value(code) > 255 ||
        !json_is_string(json_object_get(answer, "stdout")) ||
        !json_is_string(json_object_get(answer, "stderr")) ||
        (ms && (!json_is_integer(ms) || json_integer_value(ms) < 0)))
        return bad(err, "an outcome of another shape than a command has");
    bool cut = json_is_true(json_object_get(answer, "truncated")), truncated[2];
    bool timed_out = json_is_true(json_object_get(answer, "timedOut"));
    texts[0] = text_of(answer, "stdout", cut, &truncated[0]);
    texts[1] = text_of(answer, "stderr", cut, &truncated[1]);
    *result = json_pack("{s:s, s:I, s:i, s:b, s:b, s:{s:b, s:b}, s:I}", "id", id, "exitCode",
                        timed_out ? (json_int_t)-1 : json_integer_value(code), "signal", 0, "timedOut",
                        timed_out, "killed", timed_out, "truncated", "stdout", truncated[0], "stderr",
                        truncated[1], "durationMs", json_integer_value(ms));
    return *result != NULL;
}

/* ---- Ends ---- */

static struct reference_exec *exec_of(struct access_stream *s) {
    return (struct reference_exec *)s;
}

static void on_handle_closed(uv_handle_t *handle) {
    struct reference_exec *e = handle->data;
    if (--e->handles > 0) return;
    buffer_free(&e->request);
    buffer_free(&e->in);
    buffer_free(&e->body);
    json_decref(e->result);
    json_decref(e->texts[0]);
    json_decref(e->texts[1]);
    free(e);
}

static void disconnect(struct reference_exec *e) {
    if (e->polling) uv_close((uv_handle_t *)&e->poll, on_handle_closed);
    e->polling = false;
    if (e->fd >= 0) close(steal_fd(e->fd));
}

static void stop(struct reference_exec *e) {
    disconnect(e);
    uv_timer_stop(&e->timer);
    uv_timer_stop(&e->kick);
    e->state = OVER;
}

static void fail(struct reference_exec *e, const struct error *err) {
    if (e->state == OVER) return;
    stop(e);
    if (e->events.on_error) e->events.on_error(e->ctx, err);
}

static void fail_with(struct reference_exec *e, int status, const char *code, const char *text) {
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "%s", text);
    fail(e, &err);
}

/* ---- The answer ---- */

static void give(struct reference_exec *e) {
    while (e->state == GIVING && !e->closed && !e->paused) {
        if (e->giving == 2) {
            json_t *result = e->result;
            stop(e);
            if (e->events.on_end) e->events.on_end(e->ctx, result);
            return;
        }
        const json_t *text = e->texts[e->giving];
        size_t left = json_string_length(text) - e->given, n = left < PIECE ? left : PIECE;
        const char *at = json_string_value(text) + e->given;
        int channel = 1 + e->giving;
        e->given += n;
        if (n == left) {
            e->giving++;
            e->given = 0;
        }
        if (n && e->events.on_data) e->events.on_data(e->ctx, channel, at, n);
    }
}

/* Whether the answer is here as a whole: 1; -1: it makes no sense; 0: not yet. Each byte is looked at once,
 * however small the pieces are that a sandbox sends. */
static int whole(struct reference_exec *e, bool eof, struct error *err) {
    if (!e->has_head) {
        ssize_t used = http1_parse_response(buffer_slice(&e->in), "POST", &e->head, err);
        if (used <= 0) return used < 0 ? -1 : 0;
        e->has_head = true;
        e->used = (size_t)used;
    }
    int rc = 0;
    while (rc == 0 && e->used < e->in.len) {
        struct slice rest = {e->in.data + e->used, e->in.len - e->used}, piece = rest;
        size_t eaten = rest.len;
        if (e->head.framing == HTTP1_BODY_CHUNKED)
            rc = http1_chunked_decode(&e->chunks, rest, &eaten, &piece);
        if (rc < 0 || !buffer_append(&e->body, piece.ptr, piece.len)) return -1;
        e->used += eaten;
        if (eaten == 0) break;
    }
    buffer_consume(&e->in, e->used);
    e->used = 0;
    switch (e->head.framing) {
    case HTTP1_BODY_NONE: return 1;
    case HTTP1_BODY_LENGTH:
        if (e->body.len < e->head.content_length) return 0;
        e->body.len = (size_t)e->head.content_length;
        return 1;
    case HTTP1_BODY_CHUNKED: return rc;
    case HTTP1_BODY_UNTIL_CLOSE: return eof ? 1 : 0;
    }
    return -1;
}

static void look(struct reference_exec *e, bool eof) {
    cleanup_error struct error err = {0};
    int rc = whole(e, eof, &err);
    if (rc == 0 && !eof) return;
    disconnect(e);
    if (rc == 0) {
        fail_with(e, 502, "exec_outcome_unknown",
                  "the connection to the sandbox ended before the command's outcome came; the command may "
                  "have run");
    } else if (rc < 0) {
        fail_with(e, 502, "sandbox_bad_answer", "the sandbox's runtime does not speak HTTP correctly");
    } else if (!reference_exec_answer(e->head.status, buffer_slice(&e->body), e->id, &e->result, e->texts,
                                      &err)) {
        fail(e, &err);
    } else {
        e->state = GIVING;
        uv_timer_stop(&e->timer);
        buffer_free(&e->in);
        buffer_free(&e->body);
        give(e);
    }
}

/* ---- The connection ---- */

static void on_poll(uv_poll_t *poll, int status, int events);

static void on_timer(uv_timer_t *timer) {
    struct reference_exec *e = timer->data;
    fail_with(e, 504, "sandbox_timeout",
              e->reached ? "the sandbox did not end the command after its timeout"
                         : "the sandbox did not accept a connection in time");
}

static void receive(struct reference_exec *e) {
    for (int turn = 0; turn < 8 && e->state == WAITING && e->fd >= 0; turn++) {
        char piece[PIECE];
        ssize_t n = recv(e->fd, piece, sizeof piece, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n > 0 && !buffer_append(&e->in, piece, (size_t)n)) {
            fail_with(e, 502, "sandbox_bad_answer", "the sandbox's runtime gave an answer without an end");
            return;
        }
        look(e, n <= 0);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct reference_exec *e = poll->data;
    if (status < 0) events = UV_READABLE | UV_WRITABLE;
    if (e->state == CONNECTING) {
        int errnum = 0;
        socklen_t len = sizeof errnum;
        if (getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0) errnum = errno;
        if (errnum) {
            fail_with(e, 502, ERR_SANDBOX_UNREACHABLE, "cannot connect to the sandbox");
            return;
        }
        e->state = WAITING;
        e->reached = true;
        uv_timer_start(&e->timer, on_timer, (uint64_t)(e->timeout_ms + GRACE_MS), 0);
        if (e->events.on_started) e->events.on_started(e->ctx);
        if (e->state == OVER || e->closed) return;
    }
    if ((events & UV_WRITABLE) && e->sent < e->request.len) {
        ssize_t n =
            send(e->fd, e->request.data + e->sent, e->request.len - e->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) e->sent += (size_t)n;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) e->sent = e->request.len;
    }
    if (events & UV_READABLE) receive(e);
    if (e->polling)
        uv_poll_start(&e->poll, UV_READABLE | (e->sent < e->request.len ? UV_WRITABLE : 0), on_poll);
}

static void on_kick(uv_timer_t *kick) {
    give(kick->data);
}

/* ---- The interface ---- */

static size_t exec_write(struct access_stream *s, const char *data, size_t len) {
    (void)s;
    (void)data;
    return len;
}
static void exec_finish(struct access_stream *s) {
    (void)s;
}
static void exec_pause(struct access_stream *s) {
    exec_of(s)->paused = true;
}
static void exec_resume(struct access_stream *s) {
    struct reference_exec *e = exec_of(s);
    e->paused = false;
    if (e->state == GIVING) uv_timer_start(&e->kick, on_kick, 0, 0);
}
static void exec_close(struct access_stream *s) {
    struct reference_exec *e = exec_of(s);
    if (e->closed) return;
    e->closed = true;
    stop(e);
    uv_close((uv_handle_t *)&e->timer, on_handle_closed);
    uv_close((uv_handle_t *)&e->kick, on_handle_closed);
}

static const struct access_stream_ops ops = {.write = exec_write,
                                             .finish = exec_finish,
                                             .pause = exec_pause,
                                             .resume = exec_resume,
                                             .close = exec_close};

bool reference_exec_reached(const struct access_stream *stream) {
    return ((const struct reference_exec *)stream)->reached;
}

struct access_stream *reference_exec_open(const struct runtime_address *to, uv_loop_t *loop,
                                          const json_t *args, const struct access_events *events, void *ctx,
                                          struct error *err) {
    bool again;
    int fd = runtime_socket_connect(to, &again, err);
    if (fd < 0) {
        if (again) error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox takes no connection now");
        return NULL;
    }
    struct reference_exec *e = xcalloc(1, sizeof *e);
    *e = (struct reference_exec){.base.ops = &ops,
                                 .loop = loop,
                                 .events = *events,
                                 .ctx = ctx,
                                 .timeout_ms = timeout_of(args),
                                 .fd = fd,
                                 .in = {.limit = ANSWER_MAX},
                                 .body = {.limit = ANSWER_MAX}};
    const char *id = json_string_value(json_object_get(args, "id"));
    snprintf(e->id, sizeof e->id, "%s", id ? id : "");
    reference_exec_request(args, to, &e->request);
    uv_timer_init(loop, &e->timer);
    uv_timer_init(loop, &e->kick);
    e->timer.data = e->kick.data = e->poll.data = e;
    e->handles = 2;
    if (uv_poll_init(loop, &e->poll, fd) != 0) {
        error_set(err, 500, ERR_INTERNAL, "cannot watch the sandbox's socket");
        exec_close(&e->base);
        return NULL;
    }
    e->polling = true;
    e->handles++;
    uv_poll_start(&e->poll, UV_WRITABLE, on_poll);
    uv_timer_start(&e->timer, on_timer, CONNECT_TIMEOUT_MS, 0);
    return &e->base;
}
