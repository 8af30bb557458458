/* The end of connections whose client may still be sending. Closing a socket with bytes that nobody has read
 * resets the connection, and the reset can overtake the answer: so the last bytes are awaited for a moment,
 * and dropped. */
#include "router/server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_MS 5000
/* Of one loop at once; those above it are closed as they are. */
#define LINGERING_MAX 64

struct lingering {
    struct loop *loop;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;
    int handles; /* open ones */
    struct lingering *prev, *next;
};

static void on_closed(uv_handle_t *handle) {
    struct lingering *l = handle->data;
    if (--l->handles > 0) return;
    close(l->fd);
    free(l);
}

static void end(struct lingering *l) {
    struct loop *loop = l->loop;
    if (l->prev)
        l->prev->next = l->next;
    else
        loop->lingering = l->next;
    if (l->next) l->next->prev = l->prev;
    loop->lingering_count--;
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->timer, on_closed);
}

static void on_time(uv_timer_t *timer) {
    end(timer->data);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    (void)events;
    struct lingering *l = poll->data;
    char bytes[16 * 1024];
    ssize_t n = status < 0 ? 0 : recv(l->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) end(l);
}

void linger_after(struct loop *loop, int fd) {
    int copy = loop->lingering_count < LINGERING_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy < 0) {
        shutdown(fd, SHUT_RDWR);
        return;
    }
    struct lingering *l = xcalloc(1, sizeof *l);
    l->loop = loop;
    l->fd = copy;
    l->handles = 2;
    uv_poll_init(&loop->uv, &l->poll, copy);
    uv_timer_init(&loop->uv, &l->timer);
    l->poll.data = l->timer.data = l;
    l->next = loop->lingering;
    if (l->next) l->next->prev = l;
    loop->lingering = l;
    loop->lingering_count++;
    shutdown(copy, SHUT_WR); /* nothing follows the answer */
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
    uv_timer_start(&l->timer, on_time, LINGER_MS, 0);
}

void linger_stop(struct loop *loop) {
    while (loop->lingering)
        end(loop->lingering);
}
