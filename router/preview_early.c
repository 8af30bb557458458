/* See preview_early.h. */
#include "router/preview_early.h"

#include "router/upstream.h"

void early_answer_free(struct early_answer *early) {
    buffer_free(&early->headers);
    buffer_free(&early->body);
}

void early_answer_header(void *ctx, const char *name, const char *value) {
    struct early_answer *early = ctx;
    buffer_append(&early->headers, name, strlen(name) + 1);
    buffer_append(&early->headers, value, strlen(value) + 1);
}

size_t early_answer_take(struct early_answer *early, const char *data, size_t len) {
    size_t room = UPSTREAM_BUFFER - early->body.len, taken = len < room ? len : room;
    buffer_append(&early->body, data, taken);
    early->full = taken < len;
    return taken;
}

void early_answer_begin(struct early_answer *early, struct request *r) {
    early->waits = false;
    for (size_t at = 0; at < early->headers.len;) {
        const char *name = early->headers.data + at;
        const char *value = name + strlen(name) + 1;
        reply_header(r, name, value);
        at = (size_t)(value - early->headers.data) + strlen(value) + 1;
    }
    reply_stream_begin(r, early->status, early->length);
}

bool early_answer_flush(struct early_answer *early, struct request *r) {
    struct buffer *body = &early->body;
    if (!body->len) return true;
    buffer_consume(body, reply_stream_write(r, body->data, body->len));
    if (body->len) return false;
    if (early->ended) reply_stream_end(r);
    return true;
}
