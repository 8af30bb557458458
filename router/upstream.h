/* HTTP/1.1 to an application in a sandbox, on the request's event loop: one exchange at a
 * time over a connected socket, and a pool of connections that are idle between exchanges.
 * Bodies flow through fixed buffers with back-pressure both ways; an idle stream holds no
 * buffer. What the application answers is hostile input. (http-api.md 2.11; lessons I26, S19)
 *
 * Everything runs on the thread of the pool's loop. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "common/http1.h"

#include <uv.h>

struct upstream_pool;
struct upstream; /* one connection, with the exchange that it carries */

#define UPSTREAM_BUFFER      (64 * 1024) /* most that is held of a body, each way */
#define UPSTREAM_MAX_ACTIVE  512         /* exchanges of one loop */
#define UPSTREAM_MAX_TUNNELS 2048        /* upgraded connections of one loop */
#define UPSTREAM_MAX_IDLE    256         /* idle connections of one loop */
#define UPSTREAM_MAX_TARGET  32          /* idle connections of one port of one sandbox */
#define UPSTREAM_IDLE_MS     30000
#define UPSTREAM_MAX_INTERIM 32 /* 1xx answers of one exchange */
#define UPSTREAM_FRESH_MS    1000

struct upstream_pool *upstream_pool_new(uv_loop_t *loop);
/* Closes what is idle. Every exchange must be closed. The memory goes when the loop has run once
 * more (uv_close callbacks). NULL is fine. */
void upstream_pool_free(struct upstream_pool *pool);

/* Counts one proxied request in; false: UPSTREAM_MAX_ACTIVE are under way. Each true needs
 * one upstream_pool_leave(). */
bool upstream_pool_admit(struct upstream_pool *pool);
void upstream_pool_leave(struct upstream_pool *pool);
/* The same for what became an upgraded connection: from one count into the other. */
bool upstream_pool_to_tunnel(struct upstream_pool *pool);
void upstream_pool_leave_tunnel(struct upstream_pool *pool);
/* An empty buffer to build a request head in; valid until the next call. */
struct buffer *upstream_pool_scratch(struct upstream_pool *pool);
size_t upstream_pool_idle(const struct upstream_pool *pool); /* connections, for tests and metrics */

/* An idle connection to `port` of the sandbox with that UID, not idle for longer than `max_idle_ms`,
 * or NULL: dial and adopt. With `certain` a connection that the application closed meanwhile is never given;
 * without, the kernel is not asked about one that was used a moment ago: for what may be sent again. */
struct upstream *upstream_reuse(struct upstream_pool *pool, const char *uid, int port, uint64_t max_idle_ms,
                                bool certain);
/* Takes the fd, a connected non-blocking stream socket (closed on failure too: NULL with err). */
struct upstream *upstream_adopt(struct upstream_pool *pool, const char *uid, int port, int fd,
                                struct error *err);

/* None is called from within upstream_send(), upstream_write() or upstream_finish(). After on_end or
 * on_error only upstream_close() may be called, which is also allowed at any time before. */
struct upstream_events {
    /* The final answer's head, valid during the call. `whole`: all of the body when it came with the head
     * (on_end follows, no on_body); else NULL. */
    void (*on_head)(void *ctx, const struct http1_head *head, const struct slice *whole);
    /* Body bytes, never more than UPSTREAM_BUFFER; returns how many it took. Less than len: nothing more
     * is read until upstream_resume(). */
    size_t (*on_body)(void *ctx, const char *data, size_t len);
    /* upstream_write() took less than it was given; there is room again. */
    void (*on_writable)(void *ctx);
    void (*on_end)(void *ctx);
    /* 502 upstream_reset or upstream_bad_answer. `unused`: the connection was a reused one that ended before
     * a byte of the answer came, so the request may be tried again on a fresh one if it is safe to repeat. */
    void (*on_error)(void *ctx, const struct error *err, bool unused);
    /* A 101, after upstream_allow_upgrade(); `rest` are the bytes behind its head. Only upstream_detach() or
     * upstream_close() may follow. Without that call a 101 is an error (lesson S2). May be NULL. */
    void (*on_upgrade)(void *ctx, const struct http1_head *head, struct slice rest);
};

/* Sends the head (checked by the caller, copied when it does not fit the socket at once). `framing` is
 * that of the request's body: NONE, LENGTH (of `length` bytes) or CHUNKED, which is encoded here.
 * `method` decides how the answer is framed; it must stay valid. */
void upstream_send(struct upstream *u, const char *method, struct slice head, enum http1_framing framing,
                   uint64_t length, const struct upstream_events *events, void *ctx);
/* Takes some of the body and returns how much. Less than len: on_writable follows. When the application
 * closed its side or has answered already, bytes are taken and dropped. */
size_t upstream_write(struct upstream *u, const char *data, size_t len);
void upstream_finish(struct upstream *u); /* the whole body was written */
/* After upstream_send(): a 101 is what was asked for, and this connection is not used again. */
void upstream_allow_upgrade(struct upstream *u);
/* Within or after on_upgrade: the connected socket, the caller's now; the rest of `u` is freed. */
int upstream_detach(struct upstream *u);
void upstream_resume(struct upstream *u); /* on_body may be called again, also from within this call */
/* Ends the exchange: the connection goes back to the pool after on_end when it can be used again, else it
 * is closed. NULL is fine. */
void upstream_close(struct upstream *u);
