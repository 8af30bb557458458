/* A WebSocket to a server, as a client, on the caller's loop: the upgrade (k8s/upgrade.h) over
 * k8s/tls_stream.h, then framing by wslay. Messages are passed on in pieces as they come, nothing is
 * gathered. Pings every 5 s; a peer that is silent for 61 s is given up (lessons I16, S22). */
#pragma once

#include "k8s/tls_stream.h"

#define WEBSOCKET_MESSAGE_MAX 32768 /* of what we send, without its first byte */

struct websocket;

struct websocket_events {
    void (*on_open)(void *ctx, int protocol); /* index into the offered ones */
    /* A piece of a binary message (up to 4 KiB, may be empty); `last`: the message ends with it. */
    void (*on_piece)(void *ctx, struct slice piece, bool last);
    void (*on_writable)(void *ctx);
    /* An answer other than 101. Nothing follows. */
    void (*on_refused)(void *ctx, int status, struct slice body);
    /* The peer ended the connection: its close code, 0 without one. Nothing follows. */
    void (*on_end)(void *ctx, int code);
    /* Nothing follows. */
    void (*on_error)(void *ctx, const struct error *err);
};

struct websocket_target {
    const char *host;
    uint16_t port;
    SSL_CTX *tls; /* NULL: plain */
    const char *tls_name;
    const char *path;             /* encoded, with query */
    const char *authorization;    /* NULL: none */
    const char *const *protocols; /* NULL-terminated, static storage */
};

/* NULL: 500, the request cannot be written. Events come from the loop only. */
struct websocket *websocket_open(uv_loop_t *loop, const struct websocket_target *target,
                                 const struct websocket_events *events, void *ctx, struct error *err);
/* One binary message: `first` and then `data` (at most WEBSOCKET_MESSAGE_MAX). False: no room,
 * nothing was taken, on_writable follows. */
bool websocket_send(struct websocket *w, unsigned char first, const char *data, size_t len);
/* All that was sent has been given to the kernel. */
bool websocket_drained(const struct websocket *w);
void websocket_pause(struct websocket *w); /* no on_piece, no on_end */
void websocket_resume(struct websocket *w);
void websocket_close(struct websocket *w); /* NULL is fine; no event follows */
