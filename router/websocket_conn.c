/* See websocket_conn.h. */
#include "router/websocket_conn.h"

#include "common/websocket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define READ_MAX       16384
#define READS_PER_TURN 8     /* then other connections have their turn */
#define SMALL          65536 /* held by a connection without the budget being asked */
#define CODE_NONE      1006

struct websocket_conn {
    uv_poll_t poll;
    uv_timer_t clock;
    int fd, open_handles, interest;
    struct websocket_conn_limits limits;
    const struct websocket_conn_events *events;
    void *ctx;

    struct buffer in, out;
    struct websocket_reader reader;
    int64_t held;
    uint64_t heard_at, moved_at, pinged_at, closing_at;
    bool paused, was_full;
    bool closing; /* our close frame is in `out`; what comes is dropped, but for theirs */
    bool shut;    /* and all is out: they read the end of the connection */
    bool their_close;
    bool over; /* on_end was called */
    unsigned code;
};

static void on_poll(uv_poll_t *poll, int status, int events);

static uint64_t now_of(const struct websocket_conn *c) {
    return uv_now(c->clock.loop);
}

/* ---- Ends ---- */

static void end(struct websocket_conn *c, unsigned code) {
    if (c->over) return;
    c->over = true;
    uv_poll_stop(&c->poll);
    uv_timer_stop(&c->clock);
    c->events->on_end(c->ctx, c->code ? c->code : code);
}

static void begin_close(struct websocket_conn *c, unsigned code, const char *reason) {
    if (c->closing || c->over) return;
    c->closing = true;
    c->closing_at = now_of(c);
    c->code = code;
    websocket_put_close(&c->out, (uint16_t)code, reason);
    websocket_reader_free(&c->reader);
}

/* ---- What is held ---- */

/* Keeps the sum of all connections. False: this one is over the budget. */
static bool account(struct websocket_conn *c) {
    int64_t held = (int64_t)(c->in.cap + c->out.cap + c->reader.message.cap);
    int64_t all = atomic_fetch_add(c->limits.held, held - c->held) + held - c->held;
    c->held = held;
    return held <= SMALL || all <= c->limits.held_max;
}

/* ---- To the client ---- */

static void watch(struct websocket_conn *c) {
    int events = UV_DISCONNECT;
    if (c->over) return;
    if (!c->paused || c->closing) events |= UV_READABLE;
    if (c->out.len) events |= UV_WRITABLE;
    if (events == c->interest) return;
    c->interest = events;
    uv_poll_start(&c->poll, events, on_poll);
}

/* False: the connection is gone. */
static bool flush(struct websocket_conn *c) {
    while (c->out.len) {
        ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
        buffer_consume(&c->out, (size_t)n);
        c->moved_at = now_of(c);
    }
    if (c->out.len == 0) buffer_free(&c->out);
    if (c->out.len == 0 && c->closing && !c->shut) {
        /* What the client still sends must not make its kernel drop what we said. */
        c->shut = true;
        shutdown(c->fd, SHUT_WR);
    }
    return true;
}

static void tell_room(struct websocket_conn *c) {
    if (!c->was_full || c->out.len > WEBSOCKET_CONN_FULL / 2 || c->closing || c->over) return;
    c->was_full = false;
    c->events->on_room(c->ctx);
}

/* ---- From the client ---- */

/* False: nothing more is to be taken now. */
static bool take_message(struct websocket_conn *c) {
    struct websocket_message m;
    int got = websocket_read(&c->reader, &c->in, &m);
    if (got == 0) return false;
    if (got != 1) {
        begin_close(c, (unsigned)got, got == 1009 ? "the message is too long" : "");
        return false;
    }
    switch (m.opcode) {
    case WEBSOCKET_PING:
        /* Who pings and does not read gets no more answers than may wait for it. */
        if (!websocket_conn_full(c)) websocket_put(&c->out, WEBSOCKET_PONG, m.payload);
        break;
    case WEBSOCKET_PONG: c->heard_at = now_of(c); break;
    case WEBSOCKET_CLOSE:
        c->their_close = true;
        begin_close(c, m.close_code == 1005 ? WEBSOCKET_CLOSE_NORMAL : m.close_code, "");
        return false;
    default: c->events->on_message(c->ctx, m.payload); break;
    }
    return !c->closing && !c->paused;
}

static void take_all(struct websocket_conn *c) {
    while (!c->closing && !c->paused && take_message(c)) {
    }
    if (c->closing) buffer_free(&c->in);
    if (c->in.len == 0) buffer_free(&c->in);
    if (!c->reader.in_message) websocket_reader_free(&c->reader);
    if (!account(c) && !c->closing)
        begin_close(c, WEBSOCKET_CLOSE_BUSY, "too many large messages are under way");
}

/* False: the connection is gone. */
static bool receive(struct websocket_conn *c) {
    char bytes[READ_MAX];
    for (int i = 0; i < READS_PER_TURN; i++) {
        if (c->over || (c->paused && !c->closing)) return true;
        ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
        if (n == 0) return false;
        if (c->closing) continue; /* only its end is of interest now */
        /* A long message on a slow way keeps its pongs waiting behind it. */
        if (c->in.len || c->reader.in_message) c->heard_at = now_of(c);
        buffer_append(&c->in, bytes, (size_t)n);
        take_all(c);
    }
    return true;
}

/* ---- The loop ---- */

static void settle(struct websocket_conn *c) {
    bool there = flush(c);
    account(c);
    if (!there || (c->their_close && c->out.len == 0))
        end(c, CODE_NONE);
    else
        tell_room(c);
    watch(c);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct websocket_conn *c = poll->data;
    bool there = true;
    if (c->over) return;
    if (status < 0) {
        end(c, CODE_NONE);
        return;
    }
    if (events & UV_READABLE)
        there = receive(c);
    else if (events & UV_DISCONNECT && c->paused)
        there = false; /* nobody is there to answer any more */
    if (!there)
        end(c, CODE_NONE);
    else if (!c->over)
        settle(c);
}

static void on_clock(uv_timer_t *clock) {
    struct websocket_conn *c = clock->data;
    uint64_t now = now_of(c);
    if (c->paused) c->heard_at = now; /* its pongs are not read */
    if (c->out.len == 0) c->moved_at = now;
    bool silent = now - c->heard_at >= c->limits.silence_ms, stuck = now - c->moved_at >= c->limits.stall_ms;
    if (c->closing ? now - c->closing_at >= c->limits.close_ms : silent || stuck) {
        end(c, CODE_NONE);
        return;
    }
    if (!c->closing && now - c->pinged_at >= c->limits.ping_ms) {
        c->pinged_at = now;
        c->events->on_ping(c->ctx);
        if (!c->over && !c->closing) websocket_put(&c->out, WEBSOCKET_PING, slice_of(""));
    }
    if (c->in.len && !c->closing && !c->paused) take_all(c); /* came with the head, or before a pause */
    if (!c->over) settle(c);
}

/* ---- The interface ---- */

static void on_closed(uv_handle_t *handle) {
    struct websocket_conn *c = handle->data;
    if (--c->open_handles == 0) free(c);
}

void websocket_conn_send(struct websocket_conn *c, struct slice text) {
    if (c->closing || c->over) return;
    websocket_put(&c->out, WEBSOCKET_TEXT, text);
    if (websocket_conn_full(c)) c->was_full = true;
    /* A failure is seen by the loop. */
    flush(c);
    account(c);
    watch(c);
}

bool websocket_conn_full(const struct websocket_conn *c) {
    return c->out.len > WEBSOCKET_CONN_FULL;
}

void websocket_conn_pause(struct websocket_conn *c) {
    c->paused = true;
    watch(c);
}

void websocket_conn_resume(struct websocket_conn *c) {
    if (!c->paused || c->over) return;
    c->paused = false;
    c->heard_at = now_of(c);
    /* Messages that came already are given out by the loop, not from within this call. */
    if (c->in.len) uv_timer_start(&c->clock, on_clock, 0, uv_timer_get_repeat(&c->clock));
    watch(c);
}

void websocket_conn_close(struct websocket_conn *c, unsigned code, const char *reason) {
    begin_close(c, code, reason);
    flush(c);
    account(c);
    watch(c);
}

void websocket_conn_free(struct websocket_conn *c) {
    if (!c) return;
    c->over = true;
    uv_close((uv_handle_t *)&c->poll, on_closed);
    uv_close((uv_handle_t *)&c->clock, on_closed);
    shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    buffer_free(&c->in);
    buffer_free(&c->out);
    websocket_reader_free(&c->reader);
    account(c);
}

static uint64_t tick_of(const struct websocket_conn_limits *l) {
    uint64_t tick = l->close_ms < l->stall_ms ? l->close_ms : l->stall_ms;
    if (l->ping_ms < tick) tick = l->ping_ms;
    return tick / 4 > 1000 ? 1000 : tick / 4 ? tick / 4 : 1;
}

struct websocket_conn *websocket_conn_open(uv_loop_t *loop, int fd, struct slice ahead,
                                           const struct websocket_conn_limits *limits,
                                           const struct websocket_conn_events *events, void *ctx) {
    struct websocket_conn *c = xcalloc(1, sizeof *c);
    c->limits = *limits;
    c->events = events;
    c->ctx = ctx;
    c->fd = fd;
    c->reader.limit = limits->message_max;
    uv_timer_init(loop, &c->clock);
    c->clock.data = c->poll.data = c;
    c->open_handles = 1;
    if (uv_poll_init(loop, &c->poll, fd) < 0) {
        uv_close((uv_handle_t *)&c->clock, on_closed);
        close(fd);
        return NULL;
    }
    c->open_handles = 2;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    uv_update_time(loop);
    c->heard_at = c->moved_at = c->pinged_at = uv_now(loop);
    if (ahead.len) buffer_append(&c->in, ahead.ptr, ahead.len);
    uv_timer_start(&c->clock, on_clock, ahead.len ? 0 : tick_of(limits), tick_of(limits));
    watch(c);
    return c;
}
