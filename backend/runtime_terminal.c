/* See runtime_terminal.h. One WebSocket to the runtime, driven by a poll handle on the caller's loop. What
 * waits in either direction is bounded, and an idle terminal holds no buffer at all (O10).
 *
 * Events come only from the loop's callbacks, so never from within a call of ours. After every event the
 * stream may be closed: `over()` is looked at before anything else. */
#include "backend/runtime_terminal.h"

#include "backend/runtime_socket.h"
#include "backend/runtime_wire.h"
#include "common/http1.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/terminal_message.h"
#include "common/text.h"
#include "common/websocket.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#define CONNECT_TIMEOUT_MS 3000
#define CONNECT_RETRY_MS   5
#define HANDSHAKE_MS       5000
#define SILENCE_MS         75000 /* the runtime sends a heartbeat every 30 s */
#define WAIT_MAX           65536 /* bytes that wait for the runtime before no more input is taken */
#define PIECE_MAX          16384 /* of input in one message */
#define MESSAGE_MAX        65536 /* of the runtime: it sends 4 KiB of output at a time, escaped */
#define READ_MAX           16384
#define READS_PER_TURN     8 /* then other streams of the loop have their turn */
#define CODE_NORMAL        1000
#define CODE_GOING_AWAY    1001

enum state { CONNECTING, HANDSHAKE, OPEN, DONE };

struct runtime_terminal {
    struct access_stream base;
    uv_loop_t *loop;
    struct access_events events;
    void *ctx;
    struct runtime_address address;

    int fd;
    uv_poll_t poll;
    uv_timer_t timer, kick;
    bool polling; /* `poll` is initialised for fd */
    int handles;  /* not closed yet; the last one frees the stream */

    enum state state;
    bool paused, closed, eof, reached, want_writable;
    bool resized; /* and the runtime was not told yet */
    unsigned cols, rows;
    char accept[WEBSOCKET_ACCEPT_LEN + 1];

    struct buffer out, in;
    struct websocket_reader reader;
};

static struct runtime_terminal *terminal_of(struct access_stream *s) {
    return (struct runtime_terminal *)s;
}

static bool over(const struct runtime_terminal *t) {
    return t->closed || t->state == DONE;
}

/* ---- Ends ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct runtime_terminal *t = handle->data;
    if (--t->handles == 0) free(t);
}

static void stop(struct runtime_terminal *t) {
    /* Before the descriptor: libuv forgets a poll handle by the descriptor's number. */
    if (t->polling) uv_close((uv_handle_t *)&t->poll, on_handle_closed);
    t->polling = false;
    uv_timer_stop(&t->timer);
    uv_timer_stop(&t->kick);
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
    t->state = DONE;
    buffer_free(&t->out);
    buffer_free(&t->in);
    websocket_reader_free(&t->reader);
}

static void fail(struct runtime_terminal *t, const struct error *err) {
    if (over(t)) return;
    stop(t);
    if (t->events.on_error) t->events.on_error(t->ctx, err);
}

static void fail_with(struct runtime_terminal *t, int status, const char *code, const char *text) {
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "%s", text);
    fail(t, &err);
}

static void lost(struct runtime_terminal *t, const char *text) {
    fail_with(t, 502, ERR_SANDBOX_UNREACHABLE, text);
}

static void lied(struct runtime_terminal *t, const char *text) {
    fail_with(t, 502, ERR_SANDBOX_BAD_ANSWER, text);
}

static void succeed(struct runtime_terminal *t) {
    cleanup_json json_t *result = json_object();
    stop(t);
    if (t->events.on_end) t->events.on_end(t->ctx, result);
}

/* ---- Deadlines ---- */

static void on_timer(uv_timer_t *timer) {
    struct runtime_terminal *t = timer->data;
    if (t->state == CONNECTING)
        fail_with(t, 504, ERR_SANDBOX_TIMEOUT, "the sandbox did not accept a connection in time");
    else if (t->state == HANDSHAKE)
        fail_with(t, 504, ERR_SANDBOX_TIMEOUT, "the sandbox's runtime did not answer in time");
    else
        lost(t, "nothing came from the sandbox's terminal for too long");
}

/* Starts the patience anew: at a change of state, and when something came. */
static void rearm(struct runtime_terminal *t) {
    if (over(t)) return;
    if (t->paused && t->state == OPEN)
        uv_timer_stop(&t->timer); /* nothing is read, so nothing can be missed */
    else
        uv_timer_start(&t->timer, on_timer,
                       t->state == CONNECTING  ? CONNECT_TIMEOUT_MS
                       : t->state == HANDSHAKE ? HANDSHAKE_MS
                                               : SILENCE_MS,
                       0);
}

/* ---- To the runtime ---- */

static void put_frame(struct runtime_terminal *t, enum websocket_opcode opcode, struct slice payload) {
    unsigned char mask[4];
    random_bytes(mask, sizeof mask);
    websocket_put_masked(&t->out, opcode, payload, mask);
}

static void put_resize(struct runtime_terminal *t) {
    cleanup_buffer struct buffer json = {0};
    if (!t->resized || t->state != OPEN || t->out.len >= WAIT_MAX) return;
    t->resized = false;
    terminal_message_put_resize(&json, t->cols, t->rows);
    put_frame(t, WEBSOCKET_TEXT, buffer_slice(&json));
}

static void flush(struct runtime_terminal *t) {
    if (t->state == CONNECTING || t->state == DONE) return;
    put_resize(t);
    while (t->out.len) {
        ssize_t n = send(t->fd, t->out.data, t->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) buffer_clear(&t->out); /* it reads no more */
        if (n <= 0) break;
        buffer_consume(&t->out, (size_t)n);
    }
    if (t->out.len == 0) buffer_free(&t->out);
    put_resize(t);
}

static bool has_room(const struct runtime_terminal *t) {
    return t->state == OPEN && t->out.len <= WAIT_MAX / 2;
}

static void tell_writable(struct runtime_terminal *t) {
    if (over(t) || !t->want_writable || !has_room(t)) return;
    t->want_writable = false;
    if (t->events.on_writable) t->events.on_writable(t->ctx);
}

/* ---- From the runtime ---- */

static void take_message(struct runtime_terminal *t, struct slice bytes) {
    struct terminal_message m;
    terminal_message_parse(bytes, &m);
    if (m.type == TERMINAL_OUTPUT) {
        /* An event carries at most 64 KiB, and so does a message. */
        if (m.text.len && t->events.on_data) t->events.on_data(t->ctx, 1, m.text.ptr, m.text.len);
    } else if (m.type == TERMINAL_ERROR) {
        cleanup_buffer struct buffer text = {0};
        utf8_repair(slice_make(m.text.ptr, m.text.len < 512 ? m.text.len : 512), &text);
        cleanup_error struct error err = {0};
        error_set(&err, 502, ERR_TERMINAL_NOT_STARTED, "%s",
                  text.len ? buffer_cstr(&text) : "the shell could not be started");
        fail(t, &err);
    }
    terminal_message_free(&m);
}

static void take_close(struct runtime_terminal *t, unsigned code) {
    if (code == CODE_NORMAL)
        succeed(t);
    else if (code == CODE_GOING_AWAY)
        fail_with(t, 502, ERR_SANDBOX_STOPPING, "the sandbox stops");
    else
        lost(t, "the sandbox's runtime ended the terminal");
}

/* One message. False: there is none now, or the stream is over. */
static bool step_message(struct runtime_terminal *t) {
    struct websocket_message m;
    int got = websocket_read(&t->reader, &t->in, &m);
    if (got == 0) return false;
    if (got != 1) {
        lied(t, "the sandbox's runtime sent a WebSocket frame that is not well-formed");
        return false;
    }
    switch (m.opcode) {
    case WEBSOCKET_TEXT:
    case WEBSOCKET_BINARY: take_message(t, m.payload); break;
    case WEBSOCKET_PING:
        if (t->out.len < WAIT_MAX) put_frame(t, WEBSOCKET_PONG, m.payload);
        break;
    case WEBSOCKET_CLOSE: take_close(t, m.close_code); break;
    default: break;
    }
    return !over(t);
}

static bool upgraded(const struct runtime_terminal *t, const struct http1_head *head) {
    const struct http1_header *upgrade = http1_find(head, "Upgrade"),
                              *accept = http1_find(head, "Sec-WebSocket-Accept");
    return head->upgrade && upgrade && slice_equal_nocase(upgrade->value, "websocket") && accept &&
           slice_equal_str(accept->value, t->accept);
}

/* What a refusal of the handshake means. */
static void refused(struct runtime_terminal *t, const struct http1_head *head, struct slice body) {
    cleanup_error struct error err = {0};
    wire_error(head->status, body, &err);
    fail(t, &err);
}

/* The answer to the handshake. False: it is not there yet, or the stream is over. */
static bool step_handshake(struct runtime_terminal *t) {
    struct http1_head head;
    ssize_t len = http1_parse_response(buffer_slice(&t->in), "GET", &head, NULL);
    if (len < 0 || (len == 0 && t->in.len > HTTP1_MAX_HEAD)) {
        lied(t, "the sandbox's runtime sent a head that is not well-formed");
        return false;
    }
    if (len == 0) return false;
    if (head.status != 101) {
        /* A refusal is short: its text is awaited until the runtime closes the connection. */
        size_t have = t->in.len - (size_t)len;
        bool whole = t->eof || have >= MESSAGE_MAX ||
                     (head.framing == HTTP1_BODY_LENGTH && have >= head.content_length);
        if (whole) refused(t, &head, slice_make(t->in.data + len, have));
        return false;
    }
    if (!upgraded(t, &head)) {
        lied(t, "the sandbox's runtime sent an upgrade that nobody asked for");
        return false;
    }
    buffer_consume(&t->in, (size_t)len);
    t->state = OPEN;
    rearm(t);
    if (t->events.on_started) t->events.on_started(t->ctx);
    return !over(t);
}

/* Acts on what has been read, as far as it goes. */
static void process(struct runtime_terminal *t) {
    bool more = true;
    while (more && !over(t)) {
        if (t->state == HANDSHAKE)
            more = step_handshake(t);
        else if (t->paused)
            return;
        else
            more = step_message(t);
    }
    if (over(t)) return;
    if (t->in.len == 0) buffer_free(&t->in);
    if (!t->reader.in_message) websocket_reader_free(&t->reader);
    if (t->eof) lost(t, "the connection to the sandbox's terminal was lost");
}

/* False: nothing more to read now. */
static bool receive(struct runtime_terminal *t) {
    char bytes[READ_MAX];
    int passed = -1;
    bool surplus = false;
    ssize_t n;
    do
        n = runtime_socket_recv(t->fd, bytes, sizeof bytes, &passed, &surplus);
    while (n < 0 && errno == EINTR);
    if (passed >= 0) close(passed); /* nobody asked for one */
    if (n > 0) {
        buffer_append(&t->in, bytes, (size_t)n);
        rearm(t);
        return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) t->eof = true;
    return t->eof;
}

/* ---- The loop's callbacks ---- */

static void on_poll(uv_poll_t *poll, int status, int events);

static void update_interest(struct runtime_terminal *t) {
    if (over(t) || !t->polling) return;
    int events = 0;
    if (t->state == CONNECTING || t->out.len || (t->want_writable && has_room(t))) events |= UV_WRITABLE;
    if (!t->eof && (t->state == HANDSHAKE || (t->state == OPEN && !t->paused))) events |= UV_READABLE;
    if (events)
        uv_poll_start(&t->poll, events, on_poll);
    else
        uv_poll_stop(&t->poll);
}

static bool connected(struct runtime_terminal *t) {
    int errnum = 0;
    socklen_t len = sizeof errnum;
    if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0) errnum = errno;
    if (errnum == 0) {
        t->state = HANDSHAKE;
        t->reached = true;
        rearm(t);
        return true;
    }
    cleanup_error struct error err = {0};
    error_set(&err, 502, ERR_SANDBOX_UNREACHABLE, "cannot connect to the sandbox: %s", strerror(errnum));
    fail(t, &err);
    return false;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct runtime_terminal *t = poll->data;
    /* libuv reports a reset as an error; what came before it can still be read. */
    if (status < 0) events = UV_READABLE | UV_WRITABLE;
    if (t->state == CONNECTING && !connected(t)) return;
    if (events & UV_WRITABLE) {
        flush(t);
        tell_writable(t);
    }
    if (events & UV_READABLE)
        for (int turn = 0; turn < READS_PER_TURN && !over(t); turn++) {
            if ((t->state == OPEN && t->paused) || !receive(t)) break;
            process(t);
        }
    if (!over(t)) flush(t);
    update_interest(t);
}

static void on_kick(uv_timer_t *timer);

static bool start_connection(struct runtime_terminal *t, struct error *err) {
    bool again;
    t->fd = runtime_socket_connect(&t->address, &again, err);
    if (t->fd < 0 && again) {
        uv_timer_start(&t->kick, on_kick, CONNECT_RETRY_MS, 0);
        return true;
    }
    if (t->fd < 0) return false;
    int rc = uv_poll_init(t->loop, &t->poll, t->fd);
    if (rc != 0) {
        error_set(err, 500, ERR_INTERNAL, "cannot watch the sandbox's socket: %s", uv_strerror(rc));
        return false;
    }
    t->poll.data = t;
    t->polling = true;
    t->handles++;
    return uv_poll_start(&t->poll, UV_WRITABLE, on_poll) == 0;
}

static void on_kick(uv_timer_t *timer) {
    struct runtime_terminal *t = timer->data;
    cleanup_error struct error err = {0};
    if (over(t)) return;
    if (t->fd < 0) {
        if (!start_connection(t, &err)) fail(t, &err);
        return;
    }
    tell_writable(t);
    if (!over(t) && t->state == OPEN) process(t);
    if (!over(t)) flush(t);
    update_interest(t);
}

/* ---- The interface ---- */

static size_t terminal_write(struct access_stream *stream, const char *data, size_t len) {
    struct runtime_terminal *t = terminal_of(stream);
    size_t taken = 0;
    if (over(t)) return len;
    while (taken < len && t->state == OPEN && t->out.len < WAIT_MAX) {
        cleanup_buffer struct buffer json = {0};
        struct slice piece = slice_make(data + taken, len - taken < PIECE_MAX ? len - taken : PIECE_MAX);
        size_t incomplete = utf8_incomplete_tail(piece);
        if (incomplete < piece.len && taken + piece.len < len) piece.len -= incomplete;
        terminal_message_put_input(&json, piece);
        put_frame(t, WEBSOCKET_TEXT, buffer_slice(&json));
        taken += piece.len;
        flush(t);
    }
    if (taken < len) t->want_writable = true;
    update_interest(t);
    return taken;
}

static void terminal_finish(struct access_stream *stream) {
    (void)stream;
}

static void terminal_pause(struct access_stream *stream) {
    struct runtime_terminal *t = terminal_of(stream);
    if (over(t) || t->paused) return;
    t->paused = true;
    rearm(t);
    update_interest(t);
}

static void terminal_resume(struct access_stream *stream) {
    struct runtime_terminal *t = terminal_of(stream);
    if (over(t) || !t->paused) return;
    t->paused = false;
    rearm(t);
    uv_timer_start(&t->kick, on_kick, 0, 0);
}

static void terminal_resize(struct access_stream *stream, unsigned cols, unsigned rows) {
    struct runtime_terminal *t = terminal_of(stream);
    if (over(t)) return;
    t->cols = cols;
    t->rows = rows;
    t->resized = true;
    flush(t);
    update_interest(t);
}

static void terminal_close(struct access_stream *stream) {
    struct runtime_terminal *t = terminal_of(stream);
    if (t->closed) return;
    /* The runtime takes the end of the connection for the end of the terminal. */
    stop(t);
    t->closed = true;
    uv_close((uv_handle_t *)&t->timer, on_handle_closed);
    uv_close((uv_handle_t *)&t->kick, on_handle_closed);
}

static const struct access_stream_ops ops = {.write = terminal_write,
                                             .finish = terminal_finish,
                                             .pause = terminal_pause,
                                             .resume = terminal_resume,
                                             .resize = terminal_resize,
                                             .close = terminal_close};

bool runtime_terminal_is(const struct access_stream *stream) {
    return stream->ops == &ops;
}

bool runtime_terminal_reached(const struct access_stream *stream) {
    return ((const struct runtime_terminal *)stream)->reached;
}

/* ---- The request ---- */

static void put_request(struct runtime_terminal *t, const struct access_terminal *wish) {
    struct buffer *out = &t->out;
    unsigned char nonce[16];
    cleanup_buffer struct buffer key = {0};
    random_bytes(nonce, sizeof nonce);
    base64_encode(slice_make((const char *)nonce, sizeof nonce), &key);
    websocket_accept(buffer_slice(&key), t->accept);
    buffer_append_str(out, "GET /pty?shell=");
    percent_encode(slice_of(wish->shell), "/", out);
    buffer_printf(out, "&cols=%u&rows=%u&session=%s", wish->cols, wish->rows, wish->session);
    if (wish->dir) {
        buffer_append_str(out, "&cwd=");
        percent_encode(slice_of(wish->dir), "/", out);
    }
    buffer_append_str(out, " HTTP/1.1\r\n");
    wire_put_host(&t->address, out);
    buffer_printf(out,
                  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: %s\r\n\r\n",
                  buffer_cstr(&key));
}

struct access_stream *runtime_terminal_open(const struct runtime_address *address, uv_loop_t *loop,
                                            const json_t *args, const struct access_events *events, void *ctx,
                                            struct error *err) {
    struct access_terminal wish;
    if (!access_terminal_read(args, &wish, err)) return NULL;
    struct runtime_terminal *t = xcalloc(1, sizeof *t);
    *t = (struct runtime_terminal){.base.ops = &ops,
                                   .loop = loop,
                                   .events = *events,
                                   .ctx = ctx,
                                   .address = *address,
                                   .fd = -1,
                                   .handles = 2,
                                   .reader = {.limit = MESSAGE_MAX, .of_server = true}};
    put_request(t, &wish);
    uv_timer_init(loop, &t->timer);
    uv_timer_init(loop, &t->kick);
    t->timer.data = t->kick.data = t;
    if (!start_connection(t, err)) {
        terminal_close(&t->base);
        return NULL;
    }
    rearm(t);
    return &t->base;
}
