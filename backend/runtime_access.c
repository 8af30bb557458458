/* struct access over agenttier-runtime: one connection for each operation, driven by a poll
 * handle on the caller's loop. What is said and what answers mean is in runtime_wire.h; here
 * are the states, the buffers (64 KiB each way, whatever flows) and the deadlines.
 *
 * Events come only from the loop's callbacks, so never from within a call of ours. After
 * every event the stream may be closed: `s->closed` is looked at before anything else. */
#include "backend/runtime_socket.h"
#include "backend/runtime_stream.h"
#include "backend/runtime_terminal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#define OUT_DATA           65536
#define OUT_SPARE          64 /* for the framing around the data and the end of input */
#define CONNECT_TIMEOUT_MS 3000
#define CONNECT_RETRY_MS   5
#define FRAME_TIMEOUT_MS   35000 /* the runtime sends one at least every 10 s */
#define STALL_TIMEOUT_MS   60000 /* of a body that does not move */
#define RESULT_TIMEOUT_MS  30000 /* for a whole JSON body */
#define EXEC_GRACE_MS      15000 /* past the command's own timeout: TERM, KILL, drain */
#define READS_PER_TURN     8     /* then other streams of the loop have their turn */

struct runtime_access {
    struct access base;
    runtime_locate_fn *locate;
    void *ctx;
};

/* ---- Ends ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct runtime_stream *s = handle->data;
    if (--s->handles > 0) return;
    buffer_free(&s->request);
    buffer_free(&s->json);
    error_clear(&s->deferred);
    json_decref(s->args);
    free(s->out);
    free(s);
}

void stream_stop(struct runtime_stream *s) {
    /* Closed before the descriptor: libuv forgets a poll handle by the descriptor's number, which
     * another stream may have by the time this one is closed. */
    if (s->polling) uv_close((uv_handle_t *)&s->poll, on_handle_closed);
    s->polling = false;
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->kick);
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    if (s->passed_fd >= 0) close(s->passed_fd);
    s->passed_fd = -1;
    s->state = STREAM_DONE;
}

void stream_fail(struct runtime_stream *s, const struct error *err) {
    if (stream_over(s)) return;
    stream_stop(s);
    if (s->events.on_error) s->events.on_error(s->ctx, err);
}

void stream_fail_with(struct runtime_stream *s, int status, const char *code, const char *fmt, ...) {
    cleanup_error struct error err = {0};
    va_list ap;
    va_start(ap, fmt);
    char text[256];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    error_set(&err, status, code, "%s", text);
    stream_fail(s, &err);
}

void stream_succeed(struct runtime_stream *s, json_t *result) {
    cleanup_json json_t *owned = result ? result : json_object();
    stream_stop(s);
    if (s->events.on_end) s->events.on_end(s->ctx, owned);
}

/* ---- Deadlines ---- */

static void on_timer(uv_timer_t *timer);

static bool output_pending(const struct runtime_stream *s) {
    return !s->send_off && (s->request_sent < s->request.len || s->out_start < s->out_end);
}

/* How long the present state may last without progress; 0 = as long as it likes. */
static uint64_t patience_ms(const struct runtime_stream *s) {
    switch (s->state) {
    case STREAM_CONNECTING: return CONNECT_TIMEOUT_MS;
    case STREAM_HEAD: {
        if (output_pending(s)) return STALL_TIMEOUT_MS;
        if (s->row->body && !s->finished) return 0; /* the user's input is awaited */
        json_int_t wait = json_integer_value(json_object_get(s->args, "wait"));
        return (uint64_t)s->row->head_timeout_ms + (s->op == ACCESS_EXEC_ATTACH ? (uint64_t)wait : 0);
    }
    case STREAM_BODY:
        if (s->answer.next == WIRE_JSON || s->answer.next == WIRE_ERROR) return RESULT_TIMEOUT_MS;
        if (s->paused) return 0;
        return s->answer.next == WIRE_FRAMES ? FRAME_TIMEOUT_MS : STALL_TIMEOUT_MS;
    case STREAM_DONE: return 0;
    }
    return 0;
}

/* Starts the patience anew: at a change of state and with each progress that counts. */
void stream_rearm(struct runtime_stream *s) {
    if (stream_over(s)) return;
    uint64_t ms = patience_ms(s), now = uv_now(s->loop);
    if (s->hard_until && !s->paused) {
        uint64_t left = s->hard_until > now ? s->hard_until - now : 1;
        if (ms == 0 || left < ms) ms = left;
    }
    if (ms)
        uv_timer_start(&s->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&s->timer);
}

static void on_timer(uv_timer_t *timer) {
    struct runtime_stream *s = timer->data;
    if (s->hard_until && uv_now(s->loop) >= s->hard_until)
        stream_fail_with(s, 504, ERR_SANDBOX_TIMEOUT,
                         "the sandbox did not end the command after its timeout");
    else if (s->state == STREAM_CONNECTING)
        stream_fail_with(s, 504, ERR_SANDBOX_TIMEOUT, "the sandbox did not accept a connection within %d s",
                         CONNECT_TIMEOUT_MS / 1000);
    else
        stream_fail_with(s, 504, ERR_SANDBOX_TIMEOUT, "the sandbox's runtime did not answer in time");
}

/* ---- Output ---- */

static ssize_t send_some(struct runtime_stream *s, const char *data, size_t len) {
    ssize_t n;
    do
        n = send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    /* The peer no longer reads. It may have answered before: what it said is still read. */
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) s->send_off = true;
    return n;
}

static void flush_output(struct runtime_stream *s) {
    if (s->state == STREAM_CONNECTING || s->state == STREAM_DONE) return;
    bool moved = false;
    while (output_pending(s)) {
        bool head = s->request_sent < s->request.len;
        const char *from = head ? s->request.data + s->request_sent : s->out + s->out_start;
        size_t len = head ? s->request.len - s->request_sent : s->out_end - s->out_start;
        ssize_t n = send_some(s, from, len);
        if (n <= 0) break;
        moved = true;
        if (head)
            s->request_sent += (size_t)n;
        else
            s->out_start += (size_t)n;
    }
    if (s->request.len && s->request_sent == s->request.len) {
        buffer_free(&s->request);
        s->request_sent = 0;
    }
    if (s->send_off || s->out_start == s->out_end) s->out_start = s->out_end = 0;
    if (moved && s->state == STREAM_HEAD) stream_rearm(s);
}

/* Whether a user who waits for room can be told that there is some. */
static bool writer_can_go_on(const struct runtime_stream *s) {
    if (!s->want_writable || stream_over(s)) return false;
    if (s->send_off) return true;
    if (s->finished) return s->state != STREAM_CONNECTING && !output_pending(s);
    return s->state != STREAM_CONNECTING && s->out_end - s->out_start <= OUT_DATA / 2 &&
           (s->op != ACCESS_EXEC || s->credit > 0);
}

void stream_tell_writable(struct runtime_stream *s) {
    if (!writer_can_go_on(s)) return;
    s->want_writable = false;
    if (s->events.on_writable) s->events.on_writable(s->ctx);
}

/* ---- The loop's callbacks ---- */

static void on_poll(uv_poll_t *poll, int status, int events);

static void update_interest(struct runtime_stream *s) {
    if (stream_over(s) || !s->polling) return;
    int events = 0;
    if (s->state == STREAM_CONNECTING || output_pending(s) || writer_can_go_on(s)) events |= UV_WRITABLE;
    if (!s->eof && (s->state == STREAM_HEAD || (s->state == STREAM_BODY && !s->paused)))
        events |= UV_READABLE;
    if (events)
        uv_poll_start(&s->poll, events, on_poll);
    else
        uv_poll_stop(&s->poll);
}

static bool connected(struct runtime_stream *s) {
    int errnum = 0;
    socklen_t len = sizeof errnum;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0) errnum = errno;
    if (errnum == 0) {
        s->state = STREAM_HEAD;
        s->reached = true;
        stream_rearm(s);
        return true;
    }
    stream_fail_with(s, 502, ERR_SANDBOX_UNREACHABLE, "cannot connect to the sandbox: %s", strerror(errnum));
    return false;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct runtime_stream *s = poll->data;
    /* libuv reports a reset as an error; what came before it can still be read. */
    if (status < 0) events = UV_READABLE | UV_WRITABLE;
    if (s->state == STREAM_CONNECTING && !connected(s)) return;
    if (events & UV_WRITABLE) {
        flush_output(s);
        stream_tell_writable(s);
    }
    if (events & UV_READABLE)
        for (int turn = 0; turn < READS_PER_TURN && !stream_over(s); turn++) {
            if (s->state == STREAM_BODY && s->paused) break;
            if (!stream_receive(s)) break;
            stream_process(s);
        }
    update_interest(s);
}

static void on_kick(uv_timer_t *timer);

static void kick(struct runtime_stream *s, uint64_t ms) {
    uv_timer_start(&s->kick, on_kick, ms, 0);
}

/* For a failure found within a call of the user: raised from the loop. */
static void fail_later(struct runtime_stream *s, int status, const char *code, const char *text) {
    if (s->deferred.status) return;
    error_set(&s->deferred, status, code, "%s", text);
    kick(s, 0);
}

static bool start_connection(struct runtime_stream *s, struct error *err) {
    bool again;
    s->fd = runtime_socket_connect(&s->address, &again, err);
    if (s->fd < 0 && again) {
        kick(s, CONNECT_RETRY_MS);
        return true;
    }
    if (s->fd < 0) return false;
    int rc = uv_poll_init(s->loop, &s->poll, s->fd);
    if (rc != 0) {
        error_set(err, 500, ERR_INTERNAL, "cannot watch the sandbox's socket: %s", uv_strerror(rc));
        return false;
    }
    s->poll.data = s;
    s->polling = true;
    s->handles++;
    return uv_poll_start(&s->poll, UV_WRITABLE, on_poll) == 0;
}

static void on_kick(uv_timer_t *timer) {
    struct runtime_stream *s = timer->data;
    if (stream_over(s)) return;
    if (s->deferred.status) {
        stream_fail(s, &s->deferred);
        return;
    }
    if (s->fd < 0) {
        cleanup_error struct error err = {0};
        if (!start_connection(s, &err)) stream_fail(s, &err);
        return;
    }
    stream_tell_writable(s);
    if (s->state == STREAM_BODY) stream_process(s);
    update_interest(s);
}

/* ---- The interface ---- */

static struct runtime_stream *stream_of(struct access_stream *s) {
    return (struct runtime_stream *)s;
}

static void stream_close(struct access_stream *stream) {
    struct runtime_stream *s = stream_of(stream);
    if (s->closed) return;
    stream_stop(s);
    s->closed = true;
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->kick, on_handle_closed);
}

static size_t stream_write(struct access_stream *stream, const char *data, size_t len) {
    struct runtime_stream *s = stream_of(stream);
    if (stream_over(s) || s->send_off) return len;
    if (s->has_size && len > s->declared - s->written) {
        fail_later(s, 400, ERR_BAD_REQUEST, "the input is longer than was declared");
        return len;
    }
    if (!s->out) s->out = xcalloc(1, OUT_DATA + OUT_SPARE);
    if (s->out_start) {
        memmove(s->out, s->out + s->out_start, s->out_end - s->out_start);
        s->out_end -= s->out_start;
        s->out_start = 0;
    }
    size_t room = s->out_end < OUT_DATA - OUT_SPARE ? OUT_DATA - OUT_SPARE - s->out_end : 0;
    if (s->op == ACCESS_EXEC && s->credit < room) room = (size_t)s->credit;
    size_t n = len < room ? len : room;
    if (n < len) s->want_writable = true;
    if (n == 0) return 0;
    char *at = s->out + s->out_end;
    size_t header = 0, trailer = 0;
    if (s->op == ACCESS_EXEC) {
        frame_put_header(at, FRAME_STDIN, (uint32_t)n);
        header = FRAME_HEADER_LEN;
        s->credit -= n;
    } else if (!s->has_size) {
        header = (size_t)sprintf(at, "%zx\r\n", n);
        trailer = 2;
    }
    memcpy(at + header, data, n);
    if (trailer) memcpy(at + header + n, "\r\n", 2);
    s->out_end += header + n + trailer;
    s->written += n;
    flush_output(s);
    update_interest(s);
    return n;
}

static void stream_finish(struct access_stream *stream) {
    struct runtime_stream *s = stream_of(stream);
    if (stream_over(s) || s->finished) return;
    if (s->has_size && s->written != s->declared && !s->send_off) {
        fail_later(s, 400, ERR_BAD_REQUEST, "the input ended before its declared length");
        return;
    }
    s->finished = s->want_writable = true;
    if (!s->send_off && !s->has_size && (s->op == ACCESS_EXEC || s->row->body)) {
        if (!s->out) s->out = xcalloc(1, OUT_DATA + OUT_SPARE);
        /* OUT_SPARE keeps room for this at any time. */
        if (s->op == ACCESS_EXEC) {
            frame_put_header(s->out + s->out_end, FRAME_STDIN_END, 0);
            s->out_end += FRAME_HEADER_LEN;
        } else {
            memcpy(s->out + s->out_end, "0\r\n\r\n", 5);
            s->out_end += 5;
        }
    }
    flush_output(s);
    if (s->state == STREAM_HEAD) stream_rearm(s);
    update_interest(s);
}

static void stream_pause(struct access_stream *stream) {
    struct runtime_stream *s = stream_of(stream);
    if (stream_over(s) || s->paused) return;
    s->paused = true;
    s->paused_at = uv_now(s->loop);
    stream_rearm(s);
    update_interest(s);
}

static void stream_resume(struct access_stream *stream) {
    struct runtime_stream *s = stream_of(stream);
    if (stream_over(s) || !s->paused) return;
    s->paused = false;
    /* The time that the user took is not the sandbox's. */
    if (s->hard_until) s->hard_until += uv_now(s->loop) - s->paused_at;
    stream_rearm(s);
    kick(s, 0);
}

static int stream_take_fd(struct access_stream *stream) {
    struct runtime_stream *s = stream_of(stream);
    s->answer.file.fd = -1;
    return steal_fd(s->passed_fd);
}

static const struct access_stream_ops stream_ops = {.write = stream_write,
                                                    .finish = stream_finish,
                                                    .pause = stream_pause,
                                                    .resume = stream_resume,
                                                    .take_fd = stream_take_fd,
                                                    .close = stream_close};

struct access_stream *runtime_access_open_at(const struct runtime_address *to, uv_loop_t *loop,
                                             enum access_op op, const json_t *args,
                                             const struct access_events *events, void *ctx,
                                             struct error *err) {
    if (op == ACCESS_TERMINAL) return runtime_terminal_open(to, loop, args, events, ctx, err);
    struct runtime_address address = *to;
    cleanup_buffer struct buffer request = {0};
    if (!wire_request(op, args, &address, &request, err)) return NULL;

    struct runtime_stream *s = xcalloc(1, sizeof *s);
    *s = (struct runtime_stream){
        .base.ops = &stream_ops, .loop = loop, .op = op, .row = wire_op(op), .events = *events, .ctx = ctx};
    s->args = json_copy((json_t *)args);
    s->address = address;
    s->fd = s->passed_fd = -1;
    s->with_fd = s->row->pass_fd && address.unix_path[0];
    s->credit = FRAME_INITIAL_CREDIT;
    const json_t *size = json_object_get(args, "size");
    s->has_size = s->row->body && json_is_integer(size);
    s->declared = s->has_size ? (uint64_t)json_integer_value(size) : 0;
    s->request.data = buffer_steal(&request, &s->request.len);
    json_int_t timeout = json_integer_value(json_object_get(args, "timeoutMs"));
    if (op == ACCESS_EXEC && timeout > 0) s->hard_until = uv_now(loop) + (uint64_t)timeout + EXEC_GRACE_MS;
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->kick);
    s->timer.data = s->kick.data = s;
    s->handles = 2;
    if (!start_connection(s, err)) {
        stream_close(&s->base);
        return NULL;
    }
    stream_rearm(s);
    return &s->base;
}

bool runtime_access_reached(const struct access_stream *stream) {
    if (runtime_terminal_is(stream)) return runtime_terminal_reached(stream);
    return ((const struct runtime_stream *)stream)->reached;
}

static struct access_stream *stream_open(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                         enum access_op op, const json_t *args,
                                         const struct access_events *events, void *ctx, struct error *err) {
    struct runtime_access *a = (struct runtime_access *)access;
    struct runtime_address address = {0};
    if (!a->locate(a->ctx, sandbox, &address, err)) return NULL;
    return runtime_access_open_at(&address, loop, op, args, events, ctx, err);
}

struct access *runtime_access_new(runtime_locate_fn *locate, void *ctx) {
    struct runtime_access *a = xcalloc(1, sizeof *a);
    *a = (struct runtime_access){{stream_open}, locate, ctx};
    return &a->base;
}

void runtime_access_free(struct access *a) {
    free(a);
}
