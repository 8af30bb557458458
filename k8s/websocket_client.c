#include "k8s/websocket_client.h"

#include "common/secret.h"
#include "common/text.h"
#include "k8s/upgrade.h"

#include <stdio.h>
#include <wslay/wslay.h>

#define HEAD_TIMEOUT_MS 30000 /* the node starts the command before the upgrade is answered */
#define BODY_MAX        65536
#define BODY_TIMEOUT_MS 5000
#define PING_MS         5000
#define SILENCE_MS      61000
#define SILENCE_FED_MS  300000 /* a peer that waits for its command to read input does not answer pings */
#define UNREAD_MAX      4096   /* PIPE_BUF: so much input fits a pipe that nobody reads, and nobody waits */
#define TURN_BYTES      (256 * 1024)

enum state { CONNECTING, HEAD, REFUSED, OPEN, OVER };

struct websocket {
    uv_loop_t *loop;
    struct websocket_events events;
    void *ctx;
    const char *const *protocols;
    char key[32];
    struct tls_stream *stream;
    enum state state;
    uv_timer_t timer, kick;
    int handles;

    struct buffer request;
    size_t request_sent;
    struct buffer head; /* the answer's; then what came behind it */
    size_t head_used;
    int status;
    struct http1_chunked chunked;
    enum http1_framing framing;
    uint64_t body_left;
    struct buffer body;

    wslay_event_context_ptr frames;
    struct buffer held; /* pieces that came in the turn that was paused */
    size_t held_start;
    size_t turn;
    uint64_t heard_at;
    unsigned char opcode;
    size_t sent; /* in all; what is above UNREAD_MAX is not counted */
    bool fed;    /* sent since the peer was last heard, so that it may be waiting */
    bool eof, closed_by_peer, paused, closed, reading, wants_room;
    int close_code;
    bool bad_message;
};

/* ---- Ends ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct websocket *w = handle->data;
    if (--w->handles > 0) return;
    if (w->frames) wslay_event_context_free(w->frames);
    buffer_free(&w->request);
    buffer_free(&w->head);
    buffer_free(&w->body);
    buffer_free(&w->held);
    free(w);
}

static void end(struct websocket *w) {
    w->state = OVER;
    uv_timer_stop(&w->timer);
    uv_timer_stop(&w->kick);
    tls_stream_close(steal_ptr(w->stream));
}

static void fail(struct websocket *w, int status, const char *code, const char *text) {
    if (w->state == OVER) return;
    end(w);
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "%s", text);
    w->events.on_error(w->ctx, &err);
}

/* ---- Frames ---- */

static ssize_t read_bytes(wslay_event_context_ptr frames, uint8_t *buf, size_t len, int flags, void *ctx) {
    (void)flags;
    struct websocket *w = ctx;
    ssize_t n = 0;
    if (w->state == OPEN && !w->paused && w->head_used < w->head.len) {
        n = (ssize_t)(len < w->head.len - w->head_used ? len : w->head.len - w->head_used);
        memcpy(buf, w->head.data + w->head_used, (size_t)n);
        w->head_used += (size_t)n;
        return n;
    }
    if (w->state == OPEN && !w->paused && w->turn < TURN_BYTES)
        n = tls_stream_read(w->stream, (char *)buf, len);
    if (n > 0) {
        w->turn += (size_t)n;
        w->heard_at = uv_now(w->loop);
        w->fed = false;
        return n;
    }
    if (n < 0) w->eof = true;
    wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
    return -1;
}

static ssize_t send_bytes(wslay_event_context_ptr frames, const uint8_t *data, size_t len, int flags,
                          void *ctx) {
    (void)flags;
    struct websocket *w = ctx;
    size_t n = w->state == OPEN ? tls_stream_write(w->stream, (const char *)data, len) : len;
    if (n > 0) return (ssize_t)n;
    wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
    return -1;
}

static int make_mask(wslay_event_context_ptr frames, uint8_t *buf, size_t len, void *ctx) {
    (void)frames;
    (void)ctx;
    random_bytes(buf, len);
    return 0;
}

static void give_piece(struct websocket *w, struct slice piece, bool last) {
    if (w->state != OPEN || w->closed_by_peer) return;
    if (!w->paused) {
        w->events.on_piece(w->ctx, piece, last);
        return;
    }
    uint16_t len = (uint16_t)piece.len;
    char mark[3] = {(char)last, (char)(len >> 8), (char)len};
    buffer_append(&w->held, mark, sizeof mark);
    buffer_append(&w->held, piece.ptr, piece.len);
}

static void on_frame_start(wslay_event_context_ptr frames,
                           const struct wslay_event_on_frame_recv_start_arg *arg, void *ctx) {
    (void)frames;
    struct websocket *w = ctx;
    w->opcode = arg->opcode;
    if (arg->opcode == WSLAY_TEXT_FRAME) w->bad_message = true;
}

static void on_frame_piece(wslay_event_context_ptr frames,
                           const struct wslay_event_on_frame_recv_chunk_arg *arg, void *ctx) {
    (void)frames;
    struct websocket *w = ctx;
    if (wslay_is_ctrl_frame(w->opcode) || w->bad_message || arg->data_length == 0) return;
    give_piece(w, slice_make((const char *)arg->data, arg->data_length), false);
}

/* A whole message: the last of its frames has ended. */
static void on_message(wslay_event_context_ptr frames, const struct wslay_event_on_msg_recv_arg *arg,
                       void *ctx) {
    (void)frames;
    struct websocket *w = ctx;
    if (arg->opcode == WSLAY_CONNECTION_CLOSE) {
        w->closed_by_peer = true;
        w->close_code = arg->status_code;
    } else if (!wslay_is_ctrl_frame(arg->opcode) && !w->bad_message) {
        give_piece(w, (struct slice){0}, true);
    }
}

static bool start_frames(struct websocket *w) {
    static const struct wslay_event_callbacks callbacks = {.recv_callback = read_bytes,
                                                           .send_callback = send_bytes,
                                                           .genmask_callback = make_mask,
                                                           .on_frame_recv_start_callback = on_frame_start,
                                                           .on_frame_recv_chunk_callback = on_frame_piece,
                                                           .on_msg_recv_callback = on_message};
    if (wslay_event_context_client_init(&w->frames, &callbacks, w) != 0) return false;
    wslay_event_config_set_no_buffering(w->frames, 1);
    wslay_event_config_set_max_recv_msg_length(w->frames, 1u << 30);
    return true;
}

static void on_kick(uv_timer_t *kick);

static void flush(struct websocket *w) {
    if (w->state == OPEN && wslay_event_want_write(w->frames) && wslay_event_send(w->frames) != 0)
        fail(w, 502, ERR_SANDBOX_UNREACHABLE, "the stream to the Kubernetes API cannot be written");
}

static bool has_room(const struct websocket *w) {
    return wslay_event_get_queued_msg_count(w->frames) == 0 && tls_stream_room(w->stream) > 0;
}

static void tell_room(struct websocket *w) {
    if (w->state != OPEN || !w->wants_room || !has_room(w)) return;
    w->wants_room = false;
    w->events.on_writable(w->ctx);
}

/* Gives what is held, in order, until the user pauses again. */
static void give_held(struct websocket *w) {
    while (w->state == OPEN && !w->paused && w->held_start < w->held.len) {
        const unsigned char *mark = (const unsigned char *)w->held.data + w->held_start;
        struct slice piece = {(const char *)mark + 3, (size_t)(mark[1] << 8 | mark[2])};
        w->held_start += 3 + piece.len;
        w->events.on_piece(w->ctx, piece, mark[0]);
    }
    if (w->held_start < w->held.len) return;
    buffer_clear(&w->held);
    w->held_start = 0;
}

static void pump(struct websocket *w) {
    if (w->reading) return; /* from within an event: the caller's loop goes on */
    w->reading = true;
    give_held(w);
    if (w->state == OPEN && !w->paused && !w->closed_by_peer) {
        w->turn = 0;
        int rc = wslay_event_recv(w->frames);
        if (w->state == OPEN && (rc != 0 || w->bad_message)) {
            fail(w, 502, ERR_SANDBOX_UNREACHABLE, "the Kubernetes API does not speak WebSocket correctly");
        } else if (w->state == OPEN && !wslay_event_get_read_enabled(w->frames) && !w->closed_by_peer) {
            fail(w, 502, ERR_SANDBOX_UNREACHABLE, "the Kubernetes API broke the rules of WebSocket");
        }
        flush(w);
        if (w->state == OPEN && w->turn >= TURN_BYTES) uv_timer_start(&w->kick, on_kick, 0, 0);
    }
    w->reading = false;
    if (w->state == OPEN && !w->paused && w->held.len == 0 && (w->closed_by_peer || w->eof)) {
        int code = w->closed_by_peer ? w->close_code : 0;
        end(w);
        w->events.on_end(w->ctx, code);
        return;
    }
    if (w->state == OPEN) tell_room(w);
}

static void on_kick(uv_timer_t *kick) {
    struct websocket *w = kick->data;
    if (w->state == OPEN) pump(w);
}

static void on_ping(uv_timer_t *timer) {
    struct websocket *w = timer->data;
    uint64_t silent = uv_now(w->loop) - w->heard_at;
    if (w->paused)
        w->heard_at = uv_now(w->loop); /* nobody listens: the silence is ours */
    else if (silent > (w->fed ? SILENCE_FED_MS : SILENCE_MS)) {
        fail(w, 504, "sandbox_timeout", "the stream to the sandbox's pod is stalled: no sign of life");
        return;
    }
    if (wslay_event_get_queued_msg_count(w->frames) < 4) {
        struct wslay_event_msg ping = {.opcode = WSLAY_PING};
        wslay_event_queue_msg(w->frames, &ping);
    }
    flush(w);
    tell_room(w);
}

/* ---- The upgrade ---- */

static void on_head_timeout(uv_timer_t *timer) {
    struct websocket *w = timer->data;
    if (w->state == REFUSED) { /* the status says enough */
        int status = w->status;
        end(w);
        w->events.on_refused(w->ctx, status, buffer_slice(&w->body));
        return;
    }
    fail(w, 504, "sandbox_timeout", "the Kubernetes API did not start the command in time");
}

static void take_refusal(struct websocket *w, bool at_end) {
    bool done = at_end || w->framing == HTTP1_BODY_NONE;
    while (!done && w->head_used < w->head.len) {
        struct slice in = {w->head.data + w->head_used, w->head.len - w->head_used}, out = in;
        size_t used = in.len;
        if (w->framing == HTTP1_BODY_CHUNKED) {
            int rc = http1_chunked_decode(&w->chunked, in, &used, &out);
            if (rc != 0) done = true;
            if (rc < 0) out.len = 0;
        } else if (w->framing == HTTP1_BODY_LENGTH && used > w->body_left) {
            used = out.len = (size_t)w->body_left;
        }
        w->head_used += used;
        w->body_left -= w->framing == HTTP1_BODY_LENGTH ? used : 0;
        if (!buffer_append(&w->body, out.ptr, out.len)) done = true;
        if (w->framing == HTTP1_BODY_LENGTH && w->body_left == 0) done = true;
        if (used == 0 && out.len == 0) break;
    }
    if (w->framing == HTTP1_BODY_LENGTH && w->body_left == 0) done = true;
    if (!done) return;
    int status = w->status;
    end(w);
    w->events.on_refused(w->ctx, status, buffer_slice(&w->body));
}

static void take_head(struct websocket *w) {
    cleanup_error struct error err = {0};
    struct http1_head head;
    ssize_t len = http1_parse_response(buffer_slice(&w->head), "GET", &head, &err);
    if (len == 0) return;
    if (len < 0) {
        fail(w, 502, ERR_SANDBOX_UNREACHABLE, "the Kubernetes API gave an answer that is not HTTP");
        return;
    }
    w->head_used = (size_t)len;
    if (head.status != 101) {
        w->state = REFUSED;
        w->status = head.status;
        w->framing = head.framing;
        w->body_left = head.content_length;
        uv_timer_start(&w->timer, on_head_timeout, BODY_TIMEOUT_MS, 0);
        take_refusal(w, false);
        return;
    }
    int chosen = upgrade_check(&head, w->key, w->protocols, &err);
    if (chosen < 0 || !start_frames(w)) {
        fail(w, 502, ERR_SANDBOX_UNREACHABLE, err.status ? err.message : "out of memory");
        return;
    }
    w->state = OPEN;
    w->heard_at = uv_now(w->loop);
    uv_timer_start(&w->timer, on_ping, PING_MS, PING_MS);
    w->reading = true; /* on_open may send, but pieces come after it */
    w->events.on_open(w->ctx, chosen);
    w->reading = false;
    if (w->state == OPEN) pump(w);
}

static void send_request(struct websocket *w) {
    w->request_sent +=
        tls_stream_write(w->stream, w->request.data + w->request_sent, w->request.len - w->request_sent);
}

static void on_connected(void *ctx) {
    struct websocket *w = ctx;
    w->state = HEAD;
    uv_timer_start(&w->timer, on_head_timeout, HEAD_TIMEOUT_MS, 0);
    send_request(w);
}

static void on_readable(void *ctx) {
    struct websocket *w = ctx;
    if (w->state == OPEN) {
        pump(w);
        return;
    }
    while (w->state == HEAD || w->state == REFUSED) {
        if (w->state == REFUSED && w->head_used == w->head.len) {
            buffer_clear(&w->head);
            w->head_used = 0;
        }
        char piece[4096];
        ssize_t n = tls_stream_read(w->stream, piece, sizeof piece);
        if (n == 0) return;
        if (n < 0 && w->state == REFUSED)
            take_refusal(w, true);
        else if (n < 0 || !buffer_append(&w->head, piece, (size_t)n))
            fail(w, 502, ERR_SANDBOX_UNREACHABLE,
                 "the Kubernetes API ended the connection without an answer");
        else if (w->state == HEAD)
            take_head(w);
        else
            take_refusal(w, false);
    }
}

static void on_room(void *ctx) {
    struct websocket *w = ctx;
    if (w->state == HEAD) send_request(w);
    if (w->state != OPEN) return;
    flush(w);
    tell_room(w);
}

static void on_stream_error(void *ctx, const struct error *err) {
    struct websocket *w = ctx;
    end(w);
    w->events.on_error(w->ctx, err);
}

/* ---- The interface ---- */

struct websocket *websocket_open(uv_loop_t *loop, const struct websocket_target *target,
                                 const struct websocket_events *events, void *ctx, struct error *err) {
    static const struct tls_stream_events stream_events = {.on_connected = on_connected,
                                                           .on_readable = on_readable,
                                                           .on_writable = on_room,
                                                           .on_error = on_stream_error};
    struct websocket *w = xcalloc(1, sizeof *w);
    *w = (struct websocket){.loop = loop,
                            .events = *events,
                            .ctx = ctx,
                            .protocols = target->protocols,
                            .head = {.limit = HTTP1_MAX_HEAD + BODY_MAX},
                            .body = {.limit = BODY_MAX}};
    unsigned char random[16];
    random_bytes(random, sizeof random);
    cleanup_buffer struct buffer key = {0};
    base64_encode(slice_make((const char *)random, sizeof random), &key);
    snprintf(w->key, sizeof w->key, "%s", buffer_cstr(&key));
    if (!upgrade_request(target->host, target->port, slice_of(target->path), target->authorization,
                         target->protocols, w->key, &w->request, err)) {
        buffer_free(&w->request);
        free(w);
        return NULL;
    }
    uv_timer_init(loop, &w->timer);
    uv_timer_init(loop, &w->kick);
    w->timer.data = w->kick.data = w;
    w->handles = 2;
    w->stream =
        tls_stream_open(loop, target->host, target->port, target->tls, target->tls_name, &stream_events, w);
    return w;
}

bool websocket_send(struct websocket *w, unsigned char first, const char *data, size_t len) {
    if (w->state == OVER) return true; /* on_end or on_error tells */
    if (w->state != OPEN || !has_room(w)) {
        w->wants_room = true;
        return false;
    }
    uint8_t message[1 + WEBSOCKET_MESSAGE_MAX];
    message[0] = first;
    if (len) memcpy(message + 1, data, len);
    struct wslay_event_msg msg = {.opcode = WSLAY_BINARY_FRAME, .msg = message, .msg_length = 1 + len};
    wslay_event_queue_msg(w->frames, &msg);
    if (w->sent <= UNREAD_MAX) w->sent += len;
    w->fed = w->sent > UNREAD_MAX;
    flush(w);
    return true;
}

bool websocket_drained(const struct websocket *w) {
    return w->state == OPEN && wslay_event_get_queued_msg_count(w->frames) == 0;
}

void websocket_pause(struct websocket *w) {
    if (w->state != OPEN || w->paused) return;
    w->paused = true;
    tls_stream_pause(w->stream);
}

void websocket_resume(struct websocket *w) {
    if (w->state != OPEN || !w->paused) return;
    w->paused = false;
    w->heard_at = uv_now(w->loop);
    tls_stream_resume(w->stream);
    uv_timer_start(&w->kick, on_kick, 0, 0);
}

void websocket_close(struct websocket *w) {
    if (!w || w->closed) return;
    w->closed = true;
    if (w->state == OPEN && !w->reading) {
        wslay_event_queue_close(w->frames, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
        wslay_event_send(w->frames);
    }
    if (w->state != OVER) end(w);
    uv_close((uv_handle_t *)&w->timer, on_handle_closed);
    uv_close((uv_handle_t *)&w->kick, on_handle_closed);
}
