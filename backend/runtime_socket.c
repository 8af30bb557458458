#include "backend/runtime_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define MAX_PASSED 8

union address {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool fill_address(const struct runtime_address *to, union address *a, socklen_t *len) {
    *a = (union address){0};
    if (to->unix_path[0]) {
        a->local.sun_family = AF_UNIX;
        memcpy(a->local.sun_path, to->unix_path, strnlen(to->unix_path, sizeof to->unix_path - 1));
        *len = sizeof a->local;
    } else if (inet_pton(AF_INET, to->host, &a->v4.sin_addr) == 1) {
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons(to->port);
        *len = sizeof a->v4;
    } else if (inet_pton(AF_INET6, to->host, &a->v6.sin6_addr) == 1) {
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons(to->port);
        *len = sizeof a->v6;
    } else {
        return false;
    }
    return true;
}

int runtime_socket_connect(const struct runtime_address *to, bool *again, struct error *err) {
    union address address;
    socklen_t len;
    *again = false;
    if (!fill_address(to, &address, &len)) {
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox has no valid address");
        return -1;
    }
    cleanup_close int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot open a socket to the sandbox");
        return -1;
    }
    int on = 1;
    if (address.any.sa_family != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, &address.any, len) != 0 && errno != EINPROGRESS) {
        if (errno == EAGAIN)
            *again = true;
        else
            error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "cannot connect to the sandbox: %s",
                      strerror(errno));
        return -1;
    }
    return steal_fd(fd);
}

ssize_t runtime_socket_recv(int fd, void *buf, size_t len, int *passed, bool *surplus) {
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MAX_PASSED)];
    } control;
    struct iovec part = {buf, len};
    struct msghdr msg = {.msg_iov = &part,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0) return n;
    if (msg.msg_flags & MSG_CTRUNC) *surplus = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof got);
            if (*passed < 0) {
                *passed = got;
            } else {
                close(got);
                *surplus = true;
            }
        }
    }
    return n;
}

bool runtime_fd_is_file(int fd, uint64_t end) {
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= 0 && (uint64_t)st.st_size >= end &&
           flags >= 0 && (flags & O_ACCMODE) != O_WRONLY && !(flags & O_PATH);
}

bool runtime_fd_is_connection(int fd) {
    int domain = 0, type = 0;
    socklen_t len = sizeof domain, type_len = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0)
        return false;
    if ((domain != AF_INET && domain != AF_INET6) || type != SOCK_STREAM) return false;
    /* Not asked whether it is connected: an application may have reset it already. */
    int flags = fcntl(fd, F_GETFL), on = 1;
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return false;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return true;
}
