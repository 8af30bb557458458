/* A client whose bytes come in small pieces, as a source for inbound_read(). */
#pragma once

#include "common/bytes.h"

#include <errno.h>
#include <string.h>

/* What a client sends, `step` bytes at a time; with `pauses` each is followed by a moment without any. */
struct client {
    struct slice bytes;
    size_t step;
    bool pauses, paused;
};

static inline ssize_t client_sends(void *ctx, void *out, size_t size) {
    struct client *c = ctx;
    if (c->bytes.len == 0 || (c->paused = c->pauses && !c->paused)) {
        errno = EAGAIN;
        return -1;
    }
    size_t n = c->bytes.len < c->step ? c->bytes.len : c->step;
    if (n > size) n = size;
    memcpy(out, c->bytes.ptr, n);
    c->bytes = slice_make(c->bytes.ptr + n, c->bytes.len - n);
    return (ssize_t)n;
}
