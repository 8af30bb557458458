/* Hands each call to the transport that the stream belongs to. */
#include "backend/access.h"

struct access_stream *access_open(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                  enum access_op op, const json_t *args, const struct access_events *events,
                                  void *ctx, struct error *err) {
    return access->open(access, loop, sandbox, op, args, events, ctx, err);
}

size_t access_write(struct access_stream *s, const char *data, size_t len) {
    return s->ops->write(s, data, len);
}

void access_finish(struct access_stream *s) {
    s->ops->finish(s);
}

void access_pause(struct access_stream *s) {
    s->ops->pause(s);
}

void access_resume(struct access_stream *s) {
    s->ops->resume(s);
}

int access_take_fd(struct access_stream *s) {
    return s->ops->take_fd ? s->ops->take_fd(s) : -1;
}

void access_resize(struct access_stream *s, unsigned cols, unsigned rows) {
    if (s->ops->resize) s->ops->resize(s, cols, rows);
}

void access_close(struct access_stream *s) {
    if (s) s->ops->close(s);
}
