/* recv() of this program. libmicrohttpd reads its sockets itself and has no place where the bytes could be
 * looked at before it parses them; but it calls recv(), and the dynamic linker gives it the one of the
 * executable. On the threads of loops, reads of clients' sockets pass router/inbound.c; all others are the
 * system's. */
#include "router/server.h"

#include <sys/socket.h>

static _Thread_local struct loop *this_loop;

void inbound_watch(struct loop *loop) {
    this_loop = loop;
}

void inbound_add(struct loop *loop, struct connection *c) {
    size_t fd = (size_t)c->fd;
    if (fd >= loop->by_fd_room) {
        size_t room = fd + 64;
        loop->by_fd = xrealloc(loop->by_fd, room * sizeof *loop->by_fd);
        memset(loop->by_fd + loop->by_fd_room, 0, (room - loop->by_fd_room) * sizeof *loop->by_fd);
        loop->by_fd_room = room;
    }
    loop->by_fd[fd] = c;
}

void inbound_remove(struct loop *loop, struct connection *c) {
    loop->by_fd[c->fd] = NULL;
    inbound_free(&c->inbound);
}

struct reading {
    int fd, flags;
};

static ssize_t read_socket(void *ctx, void *out, size_t size) {
    const struct reading *r = ctx;
    return recvfrom(r->fd, out, size, r->flags, NULL, NULL);
}

/* Under a name of its own: the headers may have made recv() something inline. */
ssize_t recv_checked(int fd, void *out, size_t size, int flags) __asm__("recv")
    __attribute__((visibility("default")));

ssize_t recv_checked(int fd, void *out, size_t size, int flags) {
    struct reading r = {fd, flags};
    struct loop *loop = this_loop;
    struct connection *c = loop && fd >= 0 && (size_t)fd < loop->by_fd_room ? loop->by_fd[fd] : NULL;
    return c ? inbound_read(&c->inbound, read_socket, &r, out, size) : read_socket(&r, out, size);
}
