/* One HTTP/1.1 exchange with an application over a connected socket. See router/upstream.h. */
#include "router/upstream_conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Reads from one connection before others get their turn. */
#define READS_PER_TURN 4
/* A buffer, and a head that is incomplete or was not sent: never reached, a bound all the same. */
#define HELD_MAX (4 * UPSTREAM_BUFFER)

static void on_poll(uv_poll_t *poll, int status, int events);

static void on_closed(uv_handle_t *handle) {
    struct upstream *u = handle->data;
    struct upstream_pool *pool = u->pool;
    buffer_free(&u->held);
    buffer_free(&u->out);
    free(u);
    upstream_pool_handle_closed(pool);
}

void upstream_destroy(struct upstream *u) {
    u->state = UPSTREAM_CLOSED;
    u->events = NULL;
    uv_close((uv_handle_t *)&u->poll, on_closed);
    close(u->fd); /* allowed once uv_close() has taken it out of the loop */
    u->fd = -1;
}

int upstream_detach(struct upstream *u) {
    int fd = u->fd;
    u->state = UPSTREAM_CLOSED;
    u->events = NULL;
    u->fd = -1;
    uv_close((uv_handle_t *)&u->poll, on_closed);
    return fd;
}

void upstream_watch(struct upstream *u, int events) {
    if (u->state == UPSTREAM_CLOSED || u->interest == events) return;
    u->interest = events;
    if (events)
        uv_poll_start(&u->poll, events, on_poll);
    else
        uv_poll_stop(&u->poll);
}

static void watch_as_needed(struct upstream *u) {
    upstream_watch(u, (u->paused ? 0 : UV_READABLE) | (u->out.len ? UV_WRITABLE : 0));
}

struct upstream *upstream_adopt(struct upstream_pool *pool, const char *uid, int port, int fd,
                                struct error *err) {
    struct upstream *u = xcalloc(1, sizeof *u);
    int rc = uv_poll_init(pool->loop, &u->poll, fd);
    if (rc < 0) {
        error_set(err, 502, "upstream_reset", "the connection to the application cannot be watched: %s",
                  uv_strerror(rc));
        close(fd);
        free(u);
        return NULL;
    }
    pool->open_handles++;
    u->poll.data = u;
    u->pool = pool;
    u->fd = fd;
    u->port = port;
    u->state = UPSTREAM_TAKEN;
    u->held.limit = u->out.limit = HELD_MAX;
    /* A UID that does not fit is left out: such a connection is never kept. */
    if (strlen(uid) < sizeof u->uid) strcpy(u->uid, uid);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1},
               sizeof(int)); /* fails on a UNIX socket: no Nagle there */
    return u;
}

static void fail(struct upstream *u, const char *code, const char *text) {
    struct error err = {0};
    error_set(&err, 502, code, "%s", text);
    bool unused = u->reused && !u->got_bytes;
    u->state = UPSTREAM_OVER;
    u->keep_alive = false;
    upstream_watch(u, 0);
    u->events->on_error(u->ctx, &err, unused);
    error_clear(&err);
}

/* ---- The answer ---- */

/* Keeps what cannot be handled yet. `p` may lie within what is held already. */
static void hold(struct upstream *u, const char *p, size_t n) {
    if (u->held.len && p >= u->held.data && p < u->held.data + u->held.len) {
        memmove(u->held.data, p, n);
        u->held.len = n;
        return;
    }
    buffer_clear(&u->held);
    buffer_append(&u->held, p, n);
}

static void end_answer(struct upstream *u) {
    u->state = UPSTREAM_OVER;
    u->events->on_end(u->ctx);
}

/* Hands on decoded bytes; what is not taken is held and stops the reading. */
static void deliver(struct upstream *u, const char *p, size_t n) {
    while (n) {
        u->delivering = true;
        u->resumed = false;
        size_t taken = u->events->on_body(u->ctx, p, n);
        if (u->state != UPSTREAM_BODY) return;
        u->delivering = false;
        p += taken;
        n -= taken;
        if (n && !u->resumed) break;
    }
    u->paused = n > 0;
    if (n) {
        hold(u, p, n);
        return;
    }
    buffer_clear(&u->held);
    if (u->ended) end_answer(u);
}

/* Decodes the body's bytes in place, so that many small chunks are handed on together. Returns their
 * number and sets u->ended; -1 when the coding is malformed. */
static ssize_t decode(struct upstream *u, char *p, size_t n) {
    size_t used = 0, out = 0;
    switch (u->answer_framing) {
    case HTTP1_BODY_UNTIL_CLOSE: return (ssize_t)n;
    case HTTP1_BODY_NONE: u->ended = true; break;
    case HTTP1_BODY_LENGTH:
        used = out = n < u->answer_left ? n : (size_t)u->answer_left;
        u->answer_left -= used;
        u->ended = u->answer_left == 0;
        break;
    case HTTP1_BODY_CHUNKED:
        while (used < n && !u->ended) {
            size_t consumed = 0;
            struct slice piece = {0};
            int rc = http1_chunked_decode(&u->chunked, slice_make(p + used, n - used), &consumed, &piece);
            if (rc < 0) return -1;
            if (piece.len) memmove(p + out, piece.ptr, piece.len);
            out += piece.len;
            used += consumed;
            u->ended = rc > 0;
            if (!consumed && !u->ended) return -1; /* no progress: not ours to spin on */
        }
        break;
    }
    /* Bytes after the end belong to no request: nothing more is asked on this connection. */
    if (u->ended && used < n) u->keep_alive = false;
    return (ssize_t)out;
}

/* Whether an empty line was seen, so that parsing is worth its time: an application that sends its head
 * byte by byte must not cost us a parse for each. */
static bool has_empty_line(const char *p, size_t n, size_t from) {
    const char *end = p + n;
    for (const char *at = p + from; at < end && (at = memchr(at, '\n', (size_t)(end - at))); at++)
        if ((at + 1 < end && at[1] == '\n') || (at + 2 < end && at[1] == '\r' && at[2] == '\n')) return true;
    return false;
}

/* Finds the final answer's head at the start of the bytes, skipping interim ones. Returns where the body
 * starts; 0: incomplete, the bytes from *skip on are needed again; -1: failed. */
static ssize_t parse_head(struct upstream *u, const char *p, size_t n, size_t seen, struct http1_head *head,
                          size_t *skip) {
    *skip = 0;
    for (;;) {
        const char *at = p + *skip;
        size_t len = n - *skip;
        if (memcmp(at, "HTTP/1.", len < 7 ? len : 7) != 0) {
            fail(u, "upstream_bad_answer", "the application did not answer in HTTP/1.1");
            return -1;
        }
        size_t from = seen > *skip + 3 ? seen - *skip - 3 : 0;
        ssize_t used = 0;
        struct error err = {0};
        if (has_empty_line(at, len, from))
            used = http1_parse_response(slice_make(at, len), u->method, head, &err);
        if (used < 0 || (used == 0 && len >= HTTP1_MAX_HEAD)) {
            char text[640];
            snprintf(text, sizeof text, "the application's answer is not acceptable: %s",
                     used < 0 && err.message[0] ? err.message : "its headers are above 64 KiB");
            error_clear(&err);
            fail(u, "upstream_bad_answer", text);
            return -1;
        }
        if (used == 0) return 0;
        *skip += (size_t)used;
        if (head->status >= 200 || (head->status == 101 && u->upgrades)) return (ssize_t)*skip;
        /* Interim answers are for us: 100 needs nothing done, 103 and others are hints. A switch of
         * protocols that was not asked for is refused (lessons S2). */
        if (head->status == 101 || ++u->interim > UPSTREAM_MAX_INTERIM) {
            fail(u, "upstream_bad_answer",
                 head->status == 101 ? "the application switched protocols unasked"
                                     : "the application sent interim answers without end");
            return -1;
        }
        if (*skip == n) return 0;
    }
}

/* False: the exchange is over or given up; nothing of `u` may be relied on. */
static bool take_bytes(struct upstream *u, char *p, size_t n) {
    u->got_bytes = true;
    if (u->state == UPSTREAM_BODY) {
        ssize_t decoded = decode(u, p, n);
        if (decoded < 0) {
            fail(u, "upstream_bad_answer", "the application's chunked body is malformed");
            return false;
        }
        if (decoded == 0 && u->ended)
            end_answer(u);
        else
            deliver(u, p, (size_t)decoded);
        return u->state == UPSTREAM_BODY;
    }
    size_t seen = u->held.len, skip;
    if (seen) {
        buffer_append(&u->held, p, n);
        p = u->held.data;
        n = u->held.len;
    }
    struct http1_head head;
    ssize_t start = parse_head(u, p, n, seen, &head, &skip);
    if (start < 0) return false;
    if (start == 0) {
        if (n > skip)
            hold(u, p + skip, n - skip);
        else
            buffer_clear(&u->held);
        return true;
    }
    if (head.status == 101) {
        u->state = UPSTREAM_OVER;
        u->keep_alive = false;
        upstream_watch(u, 0);
        u->events->on_upgrade(u->ctx, &head, slice_make(p + start, n - (size_t)start));
        return false;
    }
    u->state = UPSTREAM_BODY;
    u->keep_alive = head.keep_alive && !u->upgrades;
    u->answer_framing = head.framing;
    u->answer_left = head.content_length;
    if (head.framing == HTTP1_BODY_LENGTH && head.content_length == 0) u->answer_framing = HTTP1_BODY_NONE;
    if (head.framing == HTTP1_BODY_UNTIL_CLOSE) u->keep_alive = false;
    p += start;
    ssize_t decoded = decode(u, p, n - (size_t)start);
    if (decoded < 0) {
        u->state = UPSTREAM_HEAD;
        fail(u, "upstream_bad_answer", "the application's chunked body is malformed");
        return false;
    }
    struct slice whole = slice_make(p, (size_t)decoded);
    u->events->on_head(u->ctx, &head, u->ended ? &whole : NULL);
    if (u->state != UPSTREAM_BODY) return false;
    if (u->ended)
        end_answer(u);
    else
        deliver(u, p, (size_t)decoded);
    return u->state == UPSTREAM_BODY;
}

static void take_eof(struct upstream *u) {
    if (u->state == UPSTREAM_BODY && u->answer_framing == HTTP1_BODY_UNTIL_CLOSE) {
        u->ended = true;
        end_answer(u);
        return;
    }
    fail(u, "upstream_reset",
         u->state == UPSTREAM_BODY ? "the application closed the connection in the middle of its answer"
                                   : "the application closed the connection without an answer");
}

static void read_turn(struct upstream *u, bool broken) {
    for (int i = 0; i < READS_PER_TURN && !u->paused; i++) {
        ssize_t n = recv(u->fd, u->pool->read_buffer, sizeof u->pool->read_buffer, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && !broken) return;
        if (n < 0) {
            fail(u, "upstream_reset", "the connection to the application was reset");
            return;
        }
        if (n == 0) {
            take_eof(u);
            return;
        }
        if (!take_bytes(u, u->pool->read_buffer, (size_t)n)) return;
        if ((size_t)n < sizeof u->pool->read_buffer && !broken) return; /* that was all */
    }
}

void upstream_resume(struct upstream *u) {
    u->resumed = true;
    if (u->delivering || !u->paused || u->state != UPSTREAM_BODY) return;
    u->paused = false;
    deliver(u, u->held.data, u->held.len);
    if (u->state == UPSTREAM_BODY) watch_as_needed(u);
}

/* ---- The request ---- */

/* The application takes no more. What it has answered before can still be read, and the reading side
 * reports what happened. */
static void stop_sending(struct upstream *u, int errnum) {
    u->send_dead = true;
    u->keep_alive = false;
    buffer_clear(&u->out);
    if (errnum != EPIPE && errnum != ECONNRESET) shutdown(u->fd, SHUT_RDWR);
}

/* Sends, or keeps what the socket does not take. */
static void send_parts(struct upstream *u, struct iovec *parts, size_t count) {
    size_t sent = 0;
    if (!u->out.len) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t n;
        do
            n = sendmsg(u->fd, &message, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            stop_sending(u, errno);
            return;
        }
        if (n > 0) sent = (size_t)n;
    }
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skip;
        if (skip < parts[i].iov_len)
            buffer_append(&u->out, (char *)parts[i].iov_base + skip, parts[i].iov_len - skip);
    }
}

static void flush_out(struct upstream *u) {
    if (u->out.len) {
        ssize_t n = send(u->fd, u->out.data, u->out.len, MSG_NOSIGNAL);
        if (n > 0) buffer_consume(&u->out, (size_t)n);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) stop_sending(u, errno);
    }
    if (!u->out.len && u->want_writable) {
        u->want_writable = false;
        u->events->on_writable(u->ctx);
    }
}

void upstream_send(struct upstream *u, const char *method, struct slice head, enum http1_framing framing,
                   uint64_t length, const struct upstream_events *events, void *ctx) {
    u->state = UPSTREAM_HEAD;
    u->events = events;
    u->ctx = ctx;
    u->method = method;
    u->got_bytes = u->paused = u->keep_alive = u->ended = u->delivering = u->resumed = false;
    u->upgrades = false;
    u->interim = 0;
    u->chunked = (struct http1_chunked){0};
    u->send_framing = framing;
    u->send_left = framing == HTTP1_BODY_LENGTH ? length : 0;
    u->send_done = framing == HTTP1_BODY_NONE;
    u->send_dead = u->want_writable = false;
    struct iovec part = {.iov_base = (void *)(uintptr_t)head.ptr, .iov_len = head.len};
    send_parts(u, &part, 1);
    watch_as_needed(u);
}

void upstream_allow_upgrade(struct upstream *u) {
    u->upgrades = true;
}

static bool exchange_runs(const struct upstream *u) {
    return u->state == UPSTREAM_HEAD || u->state == UPSTREAM_BODY;
}

size_t upstream_write(struct upstream *u, const char *data, size_t len) {
    size_t taken = 0;
    while (taken < len) {
        if (!exchange_runs(u) || u->send_dead || u->send_done) return len;
        if (u->out.len) {
            u->want_writable = true;
            break;
        }
        size_t n = len - taken < UPSTREAM_BUFFER ? len - taken : UPSTREAM_BUFFER;
        if (u->send_framing == HTTP1_BODY_CHUNKED) {
            char size[20];
            int digits = snprintf(size, sizeof size, "%zx\r\n", n);
            struct iovec parts[3] = {
                {size, (size_t)digits}, {(char *)(uintptr_t)data + taken, n}, {"\r\n", 2}};
            send_parts(u, parts, 3);
        } else {
            /* Never more than was announced, whatever the caller has. */
            if (u->send_left == 0) return len;
            if (n > u->send_left) n = (size_t)u->send_left;
            u->send_left -= n;
            struct iovec part = {(char *)(uintptr_t)data + taken, n};
            send_parts(u, &part, 1);
        }
        taken += n;
    }
    watch_as_needed(u);
    return taken;
}

void upstream_finish(struct upstream *u) {
    if (!exchange_runs(u) || u->send_done) return;
    if (u->send_left > 0 && !u->send_dead) { /* shorter than announced: it must not look complete */
        stop_sending(u, EPIPE);
        shutdown(u->fd, SHUT_WR);
    }
    u->send_done = true;
    if (u->send_dead || u->send_framing != HTTP1_BODY_CHUNKED) return;
    struct iovec part = {"0\r\n\r\n", 5};
    send_parts(u, &part, 1);
    watch_as_needed(u);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct upstream *u = poll->data;
    if (status < 0) u->interest = 0; /* libuv stops at an error */
    if (u->state == UPSTREAM_IDLE) { /* closed, or words unasked */
        upstream_pool_unlink(u);
        upstream_destroy(u);
        return;
    }
    if (exchange_runs(u) && (status < 0 || events & UV_WRITABLE)) flush_out(u);
    if (exchange_runs(u) && (status < 0 || events & UV_READABLE)) read_turn(u, status < 0);
    if (exchange_runs(u))
        watch_as_needed(u);
    else if (u->state == UPSTREAM_TAKEN || u->state == UPSTREAM_OVER)
        upstream_watch(u, 0);
}

void upstream_close(struct upstream *u) {
    if (!u || u->state == UPSTREAM_CLOSED) return;
    bool reusable = u->state == UPSTREAM_OVER && u->ended && u->keep_alive && u->send_done && !u->send_dead &&
                    !u->out.len;
    /* A buffer that once was needed is not kept with an idle connection. */
    buffer_free(&u->held);
    buffer_free(&u->out);
    u->held.limit = u->out.limit = HELD_MAX;
    if (reusable)
        upstream_pool_put(u);
    else
        upstream_destroy(u);
}
