#include "k8s/unsupported.h"

static struct access_stream *refuse(struct access *access, uv_loop_t *loop, struct object *sandbox,
                                    enum access_op op, const json_t *args, const struct access_events *events,
                                    void *ctx, struct error *err) {
    (void)access, (void)loop, (void)sandbox, (void)op, (void)args, (void)events, (void)ctx;
    error_set(err, 501, "not_implemented", "commands, files and ports are not supported on this backend");
    return NULL;
}

struct access *unsupported_access(void) {
    static struct access none = {refuse};
    return &none;
}
