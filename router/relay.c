#include "router/relay.h"

void relay_data(struct relay *x, const char *data, size_t len) {
    size_t taken = x->waiting.len ? 0 : reply_stream_write(x->r, data, len);
    if (taken == len) return;
    buffer_append(&x->waiting, data + taken, len - taken);
    if (x->stream) access_pause(x->stream);
}

void relay_end(struct relay *x) {
    x->ended = true;
    x->stream = NULL;
    if (x->waiting.len == 0) reply_stream_end(x->r);
}

void relay_writable(struct relay *x) {
    if (x->waiting.len) {
        buffer_consume(&x->waiting, reply_stream_write(x->r, x->waiting.data, x->waiting.len));
        if (x->waiting.len) return;
        if (x->ended) reply_stream_end(x->r);
    }
    if (x->stream) access_resume(x->stream);
}

void relay_free(struct relay *x) {
    buffer_free(&x->waiting);
}
