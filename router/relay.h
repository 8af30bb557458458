/* Bytes from a sandbox to the client with back-pressure: what the connection does not take at
 * once waits here (at most one piece of 64 KiB) while the sandbox is paused. */
#pragma once

#include "router/request.h"

struct relay {
    struct request *r;
    struct access_stream *stream; /* borrowed; NULL once it has ended */
    struct buffer waiting;
    bool ended;
};

void relay_data(struct relay *, const char *data, size_t len); /* from on_data */
void relay_end(struct relay *);      /* no more data; the answer ends when all is out */
void relay_writable(struct relay *); /* from the request's on_writable */
void relay_free(struct relay *);
