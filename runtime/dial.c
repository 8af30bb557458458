/* See dial.h. On a UNIX socket the connected socket itself is handed over, so that the bytes need
 * not pass through here. */
#include "runtime/dial.h"

#include "runtime/reply.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#define RELAY_BUFFER    (64 * 1024)
#define CONNECT_TIMEOUT 3000

static int connect_to(struct conn *c, const struct sockaddr *address, socklen_t len) {
    cleanup_close int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, address, len) != 0) {
        if (errno != EINPROGRESS) return -1;
        struct conn waiting = {.fd = fd, .signals = c->signals};
        int failure = 0;
        socklen_t size = sizeof failure;
        if (!conn_wait(&waiting, POLLOUT, CONNECT_TIMEOUT)) return -1;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0 || failure != 0) return -1;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return steal_fd(fd);
}

static int connect_port(struct conn *c, uint16_t port) {
    struct sockaddr_in v4 = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 v6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = connect_to(c, (struct sockaddr *)&v4, sizeof v4);
    return fd >= 0 ? fd : connect_to(c, (struct sockaddr *)&v6, sizeof v6);
}

struct way {
    int from, to;
    char *buffer;
    size_t start, len;
    bool ended, closed;
};

/* Moves what can be moved now; false when a side is broken. */
static bool move(struct way *w) {
    if (w->len == 0 && !w->ended) {
        ssize_t n = recv(w->from, w->buffer, RELAY_BUFFER, 0);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (n == 0) w->ended = true;
        if (n > 0) w->start = 0, w->len = (size_t)n;
    }
    if (w->len > 0) {
        ssize_t n = send(w->to, w->buffer + w->start, w->len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (n > 0) w->start += (size_t)n, w->len -= (size_t)n;
    }
    if (w->ended && w->len == 0 && !w->closed) {
        shutdown(w->to, SHUT_WR);
        w->closed = true;
    }
    return true;
}

static short wanted(const struct way *in, const struct way *out) {
    short events = 0;
    if (!in->ended && in->len == 0) events |= POLLIN;
    if (out->len > 0) events |= POLLOUT;
    return events;
}

static void relay(struct conn *c, int fd) {
    cleanup_free char *up = xrealloc(NULL, RELAY_BUFFER), *down = xrealloc(NULL, RELAY_BUFFER);
    struct way to_port = {.from = c->fd, .to = fd, .buffer = up},
               to_peer = {.from = fd, .to = c->fd, .buffer = down};
    size_t early = c->in.len - c->used; /* bytes that came with the head */
    if (early > 0 &&
        !conn_send(&(struct conn){.fd = fd, .signals = c->signals}, slice_make(c->in.data + c->used, early)))
        return;
    while (!(to_port.closed && to_peer.closed)) {
        struct pollfd fds[3] = {{.fd = c->fd, .events = wanted(&to_port, &to_peer)},
                                {.fd = fd, .events = wanted(&to_peer, &to_port)},
                                {.fd = c->signals, .events = POLLIN}};
        for (int i = 0; i < 2; i++)
            if (!fds[i].events) fds[i].fd = -1;
        if (poll(fds, 3, -1) < 0 && errno != EINTR) return;
        if (fds[2].revents) return; /* the runtime stops */
        if (!move(&to_port) || !move(&to_peer)) return;
    }
}

static bool port_of(struct request *r, uint16_t *port, struct error *err) {
    cleanup_buffer struct buffer text = {0};
    uint64_t n;
    if (request_query(r, "port", &text) == 1 && slice_parse_u64(buffer_slice(&text), 65535, &n) && n > 0) {
        *port = (uint16_t)n;
        return true;
    }
    error_set(err, 400, ERR_BAD_REQUEST, "port must be a number from 1 to 65535");
    return false;
}

void dial(struct request *r) {
    struct conn *c = r->conn;
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer pass = {0};
    uint16_t port;
    if (!port_of(r, &port, &err)) {
        reply_error(c, &err);
        return;
    }
    cleanup_close int fd = connect_port(c, port);
    if (fd < 0) {
        error_set(&err, 502, "port_closed", "nothing listens on port %u in the sandbox", port);
        reply_error(c, &err);
        return;
    }
    c->answered = true;
    if (c->local && request_query(r, "pass", &pass) == 1 && slice_equal_str(buffer_slice(&pass), "fd")) {
        conn_send_fd(c, slice_of("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), fd);
        return;
    }
    if (conn_send(c, slice_of(UPGRADE_ANSWER("agenttier-dial")))) relay(c, fd);
}
