/* See preview_early.h. */
#include "router/preview_early.h"

#include "router/packed_headers.h"
#include "router/upstream.h"

void early_answer_free(struct early_answer *early) {
    buffer_free(&early->headers);
    buffer_free(&early->body);
}

void early_answer_header(void *ctx, const char *name, const char *value) {
    struct early_answer *early = ctx;
    packed_header_add(&early->headers, name, value);
}

size_t early_answer_take(struct early_answer *early, const char *data, size_t len) {
    size_t room = UPSTREAM_BUFFER - early->body.len, taken = len < room ? len : room;
    buffer_append(&early->body, data, taken);
    early->full = taken < len;
    return taken;
}

void early_answer_begin(struct early_answer *early, struct request *r) {
    early->waits = false;
    const char *name, *value;
    for (size_t at = 0; packed_header_next(&early->headers, &at, &name, &value);)
        reply_header(r, name, value);
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
