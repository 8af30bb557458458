/* Counters of the server and their Prometheus text (http-api.md 1.16, W-60). Labels come
 * from the route table only: never a sandbox, a user or a path. */
#pragma once

#include "common/bytes.h"
#include "router/route.h"

#include <stdint.h>

struct metrics;
struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);
/* `route` NULL: a request that matched none. Thread-safe, wait-free. */
void metrics_count(struct metrics *m, const struct route *route, int status, uint64_t nanoseconds);
void metrics_connections(struct metrics *m, int change);
enum metrics_auth {
    METRICS_AUTH_API_KEY,
    METRICS_AUTH_TOKEN,
    METRICS_AUTH_DEV,
    METRICS_AUTH_REFUSED,
    METRICS_AUTH_LIMITED,     /* refused without looking, after too many failures */
    METRICS_AUTH_UNAVAILABLE, /* who could tell did not answer */
    METRICS_AUTH_COUNT
};
void metrics_auth(struct metrics *m, enum metrics_auth outcome);
void metrics_render(struct metrics *m, struct buffer *out);
