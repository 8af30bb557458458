/* A client's WebSocket after the upgrade: messages in, messages out, pings and deadlines. All that is sent
 * goes through one bounded buffer (W-64); an idle connection holds none. Knows nothing of what is said.
 * (RFC 6455; http-api.md 1.13, 2.12; lessons I28, S22)
 *
 * Everything runs on the thread of the loop. Events come only from the loop. */
#pragma once

#include "common/bytes.h"

#include <stdatomic.h>
#include <uv.h>

#define WEBSOCKET_CONN_FULL (64 * 1024) /* waits for the client: then who sends should wait too */

enum {
    WEBSOCKET_CLOSE_NORMAL = 1000,
    WEBSOCKET_CLOSE_INTERNAL = 1011,
    WEBSOCKET_CLOSE_RESTART = 1012,
    WEBSOCKET_CLOSE_BUSY = 1013
};

struct websocket_conn;

struct websocket_conn_limits {
    size_t message_max;  /* of a client's message; more is 1009 */
    uint64_t ping_ms;    /* how often it is pinged */
    uint64_t silence_ms; /* without a pong, or a part of a message, for so long: it is gone */
    uint64_t stall_ms;   /* likewise when it takes nothing of what waits for it */
    uint64_t close_ms;   /* for its answer to a close frame */
    /* Large messages of all connections share a budget; above it the connection ends with 1013. */
    _Atomic int64_t *held; /* bytes that connections hold, kept by them */
    int64_t held_max;
};

struct websocket_conn_events {
    void (*on_message)(void *ctx, struct slice message); /* text or binary */
    void (*on_ping)(void *ctx);                          /* a ping is about to be sent */
    void (*on_room)(void *ctx);                          /* it was full, and no longer is */
    /* The connection is over, or its end was agreed on. Only websocket_conn_free() may follow. `code` is the
     * close code that was sent or received first, 1006 without any. */
    void (*on_end)(void *ctx, unsigned code);
};

/* Takes the descriptor, connected and non-blocking; NULL: it could not be watched, and is closed. `ahead` is
 * what the client has sent already, copied. */
struct websocket_conn *websocket_conn_open(uv_loop_t *loop, int fd, struct slice ahead,
                                           const struct websocket_conn_limits *limits,
                                           const struct websocket_conn_events *events, void *ctx);
/* One text message. It is always taken; look at websocket_conn_full() before the next one. */
void websocket_conn_send(struct websocket_conn *c, struct slice text);
bool websocket_conn_full(const struct websocket_conn *c);
/* No on_message until resumed, and nothing is read: the client has to wait. Its end is still seen. */
void websocket_conn_pause(struct websocket_conn *c);
void websocket_conn_resume(struct websocket_conn *c);
/* A close frame behind what was sent. on_end follows: soon, whatever the client does. */
void websocket_conn_close(struct websocket_conn *c, unsigned code, const char *reason);
/* NULL is fine. Not from within an event of its own. */
void websocket_conn_free(struct websocket_conn *c);
