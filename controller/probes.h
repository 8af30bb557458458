/* A small HTTP server for health and metrics: one address, GET only, answers from memory. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

struct probes;

/* Appends the answer to `out` and returns its status; 404 for a path that it does not know. Any thread. */
typedef int probes_fn(void *ctx, const char *path, struct buffer *out);

/* `address` is [HOST]:PORT; "" or "0": nothing is served and a valid object returned. */
struct probes *probes_start(const char *address, probes_fn *answer, void *ctx, struct error *err);
void probes_stop(struct probes *p);
