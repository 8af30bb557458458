/* Hands each call to the transport that the stream belongs to. */
#include "backend/access.h"

#include "common/json.h"

#define TERMINAL_PATH_MAX    4096
#define TERMINAL_SESSION_MAX 128

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

/* ---- Arguments ---- */

static bool bad_argument(struct error *err, const char *what) {
    error_set(err, 400, ERR_BAD_REQUEST, "%s", what);
    return false;
}

static bool absolute_path(const char *path) {
    return path && path[0] == '/' && strlen(path) <= TERMINAL_PATH_MAX;
}

bool access_terminal_read(const json_t *args, struct access_terminal *out, struct error *err) {
    json_int_t cols = 0, rows = 0;
    *out = (struct access_terminal){.session = json_string_value(json_object_get(args, "session")),
                                    .shell = json_string_value(json_object_get(args, "shell")),
                                    .dir = json_string_value(json_object_get(args, "workingDir"))};
    size_t n = out->session ? strspn(out->session, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                   "0123456789._-")
                            : 0;
    if (n == 0 || n > TERMINAL_SESSION_MAX || out->session[n])
        return bad_argument(err, "a terminal's session is 1 to 128 letters, digits, ., _ or -");
    if (!absolute_path(out->shell)) return bad_argument(err, "a terminal's shell must be an absolute path");
    if (out->dir && !absolute_path(out->dir))
        return bad_argument(err, "a terminal's working directory must be an absolute path");
    if (!json_get_int(args, "cols", 1, 65535, &cols, err) ||
        !json_get_int(args, "rows", 1, 65535, &rows, err))
        return false;
    if (cols == 0 || rows == 0) return bad_argument(err, "a terminal's window needs cols and rows");
    out->cols = (unsigned)cols;
    out->rows = (unsigned)rows;
    return true;
}
