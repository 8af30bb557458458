/* See tunnel.h. */
#include "router/tunnel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* Reads from one side before others get their turn. */
#define READS_PER_TURN 4

struct side {
    uv_poll_t poll;
    struct tunnel *tunnel;
    struct side *other;
    int fd;
    int interest;
    bool ended;         /* it sends no more */
    bool told;          /* and we send it no more: its peer has ended, and that was passed on */
    struct buffer wait; /* what it has not taken yet */
};

struct tunnel {
    struct side a, b;
    uv_timer_t clock;
    struct tunnel_limits limits;
    const struct tunnel_events *events;
    void *ctx;
    uint64_t born, moved_at;
    bool moved, over;
    int open_handles;
};

static void on_poll(uv_poll_t *poll, int status, int events);

static void end(struct tunnel *t) {
    if (t->over) return;
    t->over = true;
    uv_poll_stop(&t->a.poll);
    uv_poll_stop(&t->b.poll);
    uv_timer_stop(&t->clock);
    t->events->on_end(t->ctx);
}

static void watch(struct side *s) {
    int events = (s->ended || s->other->wait.len ? 0 : UV_READABLE) | (s->wait.len ? UV_WRITABLE : 0);
    if (events == s->interest) return;
    s->interest = events;
    if (events)
        uv_poll_start(&s->poll, events, on_poll);
    else
        uv_poll_stop(&s->poll);
}

/* False: the connection is gone. */
static bool send_some(struct side *s, const char *data, size_t len, size_t *sent) {
    ssize_t n;
    *sent = 0;
    do
        n = send(s->fd, data, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    *sent = (size_t)n;
    return true;
}

/* Passes the end of `from` on when all that it sent has been passed on. */
static void pass_end(struct side *from) {
    struct side *to = from->other;
    if (!from->ended || to->told || to->wait.len) return;
    to->told = true;
    shutdown(to->fd, SHUT_WR);
}

static bool both_ended(const struct tunnel *t) {
    return t->a.told && t->b.told;
}

static void note(struct tunnel *t) {
    t->moved = true;
    t->moved_at = uv_now(t->clock.loop);
}

/* False: the tunnel is to end. */
static bool read_turn(struct side *from) {
    char bytes[TUNNEL_BUFFER];
    struct side *to = from->other;
    for (int i = 0; i < READS_PER_TURN && !from->ended && !to->wait.len; i++) {
        ssize_t n = recv(from->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
        note(from->tunnel);
        if (n == 0) {
            from->ended = true;
            break;
        }
        size_t sent;
        if (!send_some(to, bytes, (size_t)n, &sent)) return false;
        if (sent < (size_t)n) buffer_append(&to->wait, bytes + sent, (size_t)n - sent);
        if ((size_t)n < sizeof bytes) break;
    }
    pass_end(from);
    return !both_ended(from->tunnel);
}

static bool flush(struct side *s) {
    if (!s->wait.len) return true;
    size_t sent;
    if (!send_some(s, s->wait.data, s->wait.len, &sent)) return false;
    if (sent) note(s->tunnel);
    buffer_consume(&s->wait, sent);
    if (s->wait.len) return true;
    buffer_free(&s->wait); /* an idle tunnel holds nothing */
    pass_end(s->other);
    return !both_ended(s->tunnel);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct side *s = poll->data;
    struct tunnel *t = s->tunnel;
    if (t->over) return;
    if (status < 0) { /* libuv stops at an error; what can still be read is */
        s->interest = 0;
        events = UV_READABLE | UV_WRITABLE;
    }
    bool goes_on = (!(events & UV_WRITABLE) || flush(s)) && (!(events & UV_READABLE) || read_turn(s));
    if (!goes_on || (status < 0 && s->ended)) {
        end(t);
        return;
    }
    watch(s);
    watch(s->other);
}

static void on_clock(uv_timer_t *clock) {
    struct tunnel *t = clock->data;
    uint64_t now = uv_now(clock->loop), quiet = now - t->moved_at;
    bool half = t->a.ended || t->b.ended;
    if (t->moved && t->events->on_activity) t->events->on_activity(t->ctx);
    t->moved = false;
    if (now - t->born >= t->limits.lifetime_ms || quiet >= (half ? t->limits.half_ms : t->limits.idle_ms))
        end(t);
}

static void on_closed(uv_handle_t *handle) {
    struct tunnel *t = handle->data;
    if (--t->open_handles == 0) free(t);
}

static void on_poll_closed(uv_handle_t *handle) {
    struct side *s = handle->data;
    struct tunnel *t = s->tunnel;
    if (--t->open_handles == 0) free(t);
}

static void close_side(struct side *s) {
    uv_close((uv_handle_t *)&s->poll, on_poll_closed);
    shutdown(s->fd, SHUT_RDWR);
    close(s->fd);
    buffer_free(&s->wait);
}

void tunnel_close(struct tunnel *t) {
    if (!t) return;
    t->over = true;
    close_side(&t->a);
    close_side(&t->b);
    uv_close((uv_handle_t *)&t->clock, on_closed);
}

static bool open_side(struct tunnel *t, struct side *s, struct side *other, int fd, struct slice first) {
    s->tunnel = t;
    s->other = other;
    s->fd = fd;
    s->poll.data = s;
    if (uv_poll_init(t->clock.loop, &s->poll, fd) < 0) return false;
    t->open_handles++;
    /* Nagle's delay would stand between every message and its answer; fails on UNIX sockets, which have none.
     */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){60}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){15}, sizeof(int));
    if (first.len) buffer_append(&s->wait, first.ptr, first.len);
    return true;
}

struct tunnel *tunnel_open(uv_loop_t *loop, int a, int b, struct slice to_a, struct slice to_b,
                           const struct tunnel_limits *limits, const struct tunnel_events *events,
                           void *ctx) {
    struct tunnel *t = xcalloc(1, sizeof *t);
    t->limits = *limits;
    t->events = events;
    t->ctx = ctx;
    uv_timer_init(loop, &t->clock);
    t->clock.data = t;
    t->open_handles = 1;
    t->born = t->moved_at = uv_now(loop);
    if (!open_side(t, &t->a, &t->b, a, to_a) || !open_side(t, &t->b, &t->a, b, to_b)) {
        if (t->open_handles > 1) uv_close((uv_handle_t *)&t->a.poll, on_poll_closed);
        uv_close((uv_handle_t *)&t->clock, on_closed);
        buffer_free(&t->a.wait);
        close(a);
        close(b);
        return NULL;
    }
    uv_timer_start(&t->clock, on_clock, limits->tick_ms, limits->tick_ms);
    watch(&t->a);
    watch(&t->b);
    return t;
}
