#include "k8s/dial.h"

#include "backend/runtime_socket.h"
#include "common/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#define CONNECT_TIMEOUT_MS 5000

struct dial {
    struct access_stream base;
    struct access_events events;
    void *ctx;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd, handles;
    bool done, closed;
};

static struct dial *dial_of(struct access_stream *s) {
    return (struct dial *)s;
}

static void on_handle_closed(uv_handle_t *handle) {
    struct dial *d = handle->data;
    if (--d->handles == 0) free(d);
}

static void stop(struct dial *d) {
    if (d->done) return;
    d->done = true;
    uv_timer_stop(&d->timer);
    uv_close((uv_handle_t *)&d->poll, on_handle_closed);
}

static void fail(struct dial *d, int status, const char *code, const char *text) {
    cleanup_error struct error err = {0};
    stop(d);
    close(steal_fd(d->fd));
    error_set(&err, status, code, "%s", text);
    d->events.on_error(d->ctx, &err);
}

static void on_timer(uv_timer_t *timer) {
    fail(timer->data, 504, "sandbox_timeout", "the port did not accept a connection in time");
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    struct dial *d = poll->data;
    int errnum = 0;
    socklen_t len = sizeof errnum;
    if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0) errnum = errno;
    if (errnum == ECONNREFUSED) {
        fail(d, 502, "port_closed", "nothing listens on this port of the sandbox");
    } else if (errnum) {
        char text[128];
        snprintf(text, sizeof text, "cannot connect to the sandbox: %s", strerror(errnum));
        fail(d, 502, ERR_SANDBOX_UNREACHABLE, text);
    } else {
        stop(d);
        d->events.on_connected(d->ctx, steal_fd(d->fd));
    }
}

static size_t dial_write(struct access_stream *s, const char *data, size_t len) {
    (void)s;
    (void)data;
    return len;
}
static void dial_ignore(struct access_stream *s) {
    (void)s;
}
static void dial_close(struct access_stream *s) {
    struct dial *d = dial_of(s);
    if (d->closed) return;
    d->closed = true;
    stop(d);
    if (d->fd >= 0) close(steal_fd(d->fd));
    uv_close((uv_handle_t *)&d->timer, on_handle_closed);
}

static const struct access_stream_ops ops = {.write = dial_write,
                                             .finish = dial_ignore,
                                             .pause = dial_ignore,
                                             .resume = dial_ignore,
                                             .close = dial_close};

struct access_stream *pod_dial_open(uv_loop_t *loop, const struct pod_place *place, const json_t *args,
                                    const struct access_events *events, void *ctx, struct error *err) {
    json_int_t port = json_integer_value(json_object_get(args, "port"));
    if (port < 1 || port > 65535) {
        error_set_field(err, "port", "must be an integer from 1 to 65535");
        return NULL;
    }
    if (!pod_place_dialable(place, err)) return NULL;
    struct runtime_address to = {.port = (uint16_t)port};
    snprintf(to.host, sizeof to.host, "%s", place->ip);
    bool again;
    int fd = runtime_socket_connect(&to, &again, err);
    if (fd < 0) {
        if (again) error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox takes no connection now");
        return NULL;
    }
    struct dial *d = xcalloc(1, sizeof *d);
    *d = (struct dial){.base.ops = &ops, .events = *events, .ctx = ctx, .fd = fd, .handles = 2};
    if (uv_poll_init(loop, &d->poll, fd) != 0) {
        close(fd);
        free(d);
        error_set(err, 500, ERR_INTERNAL, "cannot watch the sandbox's socket");
        return NULL;
    }
    uv_timer_init(loop, &d->timer);
    d->poll.data = d->timer.data = d;
    uv_poll_start(&d->poll, UV_WRITABLE, on_poll);
    uv_timer_start(&d->timer, on_timer, CONNECT_TIMEOUT_MS, 0);
    return &d->base;
}
