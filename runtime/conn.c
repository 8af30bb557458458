#include "runtime/conn.h"

#include "common/text.h"
#include "common/units.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#define HEAD_READ (16 * 1024)

/* Empties the signalfd; what matters to a request is only whether to stop. */
static void read_signals(struct conn *c) {
    struct signalfd_siginfo info;
    while (read(c->signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) c->stopping = true;
}

bool conn_wait(struct conn *c, short events, int64_t timeout_ms) {
    int64_t deadline = timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
    for (;;) {
        if (c->stopping) return false;
        int64_t left = deadline < 0 ? -1 : deadline - monotonic_ms();
        if (deadline >= 0 && left <= 0) return false;
        struct pollfd fds[2] = {{.fd = c->fd, .events = events}, {.fd = c->signals, .events = POLLIN}};
        int n = poll(fds, 2, left > INT32_MAX ? INT32_MAX : (int)left);
        if (n < 0 && errno != EINTR) return false;
        if (n <= 0) continue;
        if (fds[1].revents) read_signals(c);
        if (fds[0].revents & (events | POLLERR | POLLHUP)) return !c->stopping;
    }
}

ssize_t conn_receive(struct conn *c, void *out, size_t cap, int64_t timeout_ms) {
    for (;;) {
        ssize_t n = recv(c->fd, out, cap, 0);
        if (n >= 0) return n;
        if (errno == EINTR) continue;
        if (errno != EAGAIN || !conn_wait(c, POLLIN, timeout_ms)) return -1;
    }
}

bool conn_send(struct conn *c, struct slice bytes) {
    while (bytes.len > 0) {
        ssize_t n = send(c->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (errno != EAGAIN || !conn_wait(c, POLLOUT, STALL_TIMEOUT_MS)) return false;
            continue;
        }
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return true;
}

bool conn_send_fd(struct conn *c, struct slice bytes, int fd) {
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)bytes.ptr, bytes.len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    for (;;) {
        ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
        if (n >= 0) return conn_send(c, slice_make(bytes.ptr + n, bytes.len - (size_t)n));
        if (errno == EINTR) continue;
        if (errno != EAGAIN || !conn_wait(c, POLLOUT, STALL_TIMEOUT_MS)) return false;
    }
}

static void split_target(struct request *r) {
    struct slice t = r->head.target;
    const char *mark = t.len ? memchr(t.ptr, '?', t.len) : NULL;
    size_t n = mark ? (size_t)(mark - t.ptr) : t.len;
    r->path = slice_make(t.ptr, n);
    r->query = mark ? slice_make(mark + 1, t.len - n - 1) : slice_make(t.ptr, 0);
}

bool conn_read_head(struct conn *c, struct request *r, struct error *err) {
    int64_t deadline = monotonic_ms() + HEAD_TIMEOUT_MS;
    r->conn = c;
    c->in.limit = HTTP1_MAX_HEAD + HEAD_READ;
    char chunk[HEAD_READ];
    for (;;) {
        int64_t left = deadline - monotonic_ms();
        ssize_t n = left > 0 ? conn_receive(c, chunk, sizeof chunk, left) : -1;
        if (n <= 0) return false; /* gone or too slow: nobody to answer */
        if (!buffer_append(&c->in, chunk, (size_t)n)) {
            error_set(err, 431, ERR_BAD_REQUEST, "the request head is longer than %d bytes", HTTP1_MAX_HEAD);
            return false;
        }
        ssize_t head = http1_parse_request(buffer_slice(&c->in), &r->head, err);
        if (head < 0) return false;
        if (head == 0) continue;
        c->used = (size_t)head;
        split_target(r);
        return true;
    }
}

void conn_finish(struct conn *c) {
    shutdown(c->fd, SHUT_WR);
    int64_t deadline = monotonic_ms() + LINGER_TIMEOUT_MS;
    char chunk[HEAD_READ];
    for (int64_t left; (left = deadline - monotonic_ms()) > 0;)
        if (conn_receive(c, chunk, sizeof chunk, left) <= 0) return;
}

int request_query(const struct request *r, const char *name, struct buffer *out) {
    int found = 0;
    size_t name_len = strlen(name);
    buffer_clear(out);
    struct slice q = r->query;
    while (q.len > 0) {
        const char *end = memchr(q.ptr, '&', q.len);
        size_t n = end ? (size_t)(end - q.ptr) : q.len;
        if (n > name_len && q.ptr[name_len] == '=' && memcmp(q.ptr, name, name_len) == 0) {
            if (found++) return -1;
            if (!percent_decode(slice_make(q.ptr + name_len + 1, n - name_len - 1), out)) return -1;
        }
        q.ptr += n + (end ? 1 : 0);
        q.len -= n + (end ? 1 : 0);
    }
    return found;
}

bool request_method_is(const struct request *r, const char *method) {
    return slice_equal_str(r->head.method, method);
}

bool request_upgrades_to(const struct request *r, const char *protocol) {
    const struct http1_header *h = http1_find(&r->head, "Upgrade");
    return r->head.upgrade && h && slice_equal_nocase(h->value, protocol);
}

bool body_open(struct body *b, const struct request *r) {
    struct conn *c = r->conn;
    b->conn = c;
    b->framing = r->head.framing;
    b->left = r->head.content_length;
    b->rest = slice_make(c->in.data + c->used, c->in.len - c->used);
    c->used = c->in.len;
    b->ended = b->framing == HTTP1_BODY_NONE || (b->framing == HTTP1_BODY_LENGTH && b->left == 0);
    const struct http1_header *expect = http1_find(&r->head, "Expect");
    if (expect && !b->ended && b->rest.len == 0 && slice_equal_nocase(expect->value, "100-continue"))
        return conn_send(c, slice_of("HTTP/1.1 100 Continue\r\n\r\n"));
    return true;
}

static bool body_refill(struct body *b, struct error *err) {
    if (b->rest.len > 0) return true;
    if (!b->buffer) b->buffer = xcalloc(1, BODY_BUFFER);
    ssize_t n = conn_receive(b->conn, b->buffer, BODY_BUFFER, STALL_TIMEOUT_MS);
    if (n <= 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "the request body ended early");
        return false;
    }
    b->rest = slice_make(b->buffer, (size_t)n);
    return true;
}

int body_next(struct body *b, struct slice *out, struct error *err) {
    while (!b->ended) {
        if (!body_refill(b, err)) return -1;
        if (b->framing == HTTP1_BODY_LENGTH) {
            size_t n = b->rest.len < b->left ? b->rest.len : (size_t)b->left;
            *out = slice_make(b->rest.ptr, n);
            b->rest = slice_make(b->rest.ptr + n, b->rest.len - n);
            b->left -= n;
            b->ended = b->left == 0;
            return 1;
        }
        size_t consumed = 0;
        int done = http1_chunked_decode(&b->chunks, b->rest, &consumed, out);
        if (done < 0) {
            error_set(err, 400, ERR_BAD_REQUEST, "the request body's chunks are malformed");
            return -1;
        }
        b->rest = slice_make(b->rest.ptr + consumed, b->rest.len - consumed);
        b->ended = done == 1;
        if (out->len > 0) return 1;
    }
    return 0;
}

void body_free(struct body *b) {
    free(b->buffer);
    b->buffer = NULL;
}

bool body_read_all(const struct request *r, size_t max, struct buffer *out, struct error *err) {
    cleanup_body struct body b = {0};
    if (r->head.framing == HTTP1_BODY_LENGTH && r->head.content_length > max) {
        error_set(err, 413, ERR_BAD_REQUEST, "the request body is larger than %zu bytes", max);
        return false;
    }
    if (!body_open(&b, r)) return false;
    out->limit = max;
    struct slice part;
    int more;
    while ((more = body_next(&b, &part, err)) > 0) {
        if (!buffer_append(out, part.ptr, part.len)) {
            error_set(err, 413, ERR_BAD_REQUEST, "the request body is larger than %zu bytes", max);
            return false;
        }
    }
    return more == 0;
}
