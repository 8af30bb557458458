/* Bytes both ways between two connected stream sockets, as they come, until both have ended: what is left
 * of HTTP after a checked upgrade. Fixed buffers with back-pressure; an idle tunnel holds none. Knows
 * nothing of what passes. (http-api.md 2.11; lessons I19, S2, M3)
 *
 * Everything runs on the thread of the loop. */
#pragma once

#include "common/bytes.h"

#include <uv.h>

#define TUNNEL_BUFFER (64 * 1024) /* most that waits for one side */

struct tunnel;

struct tunnel_limits {
    uint64_t idle_ms;     /* ends when nothing moved for so long */
    uint64_t lifetime_ms; /* ends at that age, whatever moves */
    uint64_t half_ms;     /* the same as idle_ms once one side has ended */
    uint64_t tick_ms;     /* how often all of this is looked at */
};

struct tunnel_events {
    /* Bytes have moved since the last call; at most once in a tick of the tunnel's clock. May be NULL. */
    void (*on_activity)(void *ctx);
    /* Both sides have ended, one of them failed, or a limit was reached. Only tunnel_close() may follow. */
    void (*on_end)(void *ctx);
};

/* Takes both descriptors, which are connected and non-blocking; they are closed by tunnel_close(), on failure
 * (NULL) at once. `to_a` and `to_b` are bytes that were read ahead, copied. No event comes from within. */
struct tunnel *tunnel_open(uv_loop_t *loop, int a, int b, struct slice to_a, struct slice to_b,
                           const struct tunnel_limits *limits, const struct tunnel_events *events, void *ctx);
/* Ends both connections. NULL is fine. */
void tunnel_close(struct tunnel *t);
