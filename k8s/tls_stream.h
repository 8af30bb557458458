/* A byte stream to a server over TCP and, mostly, TLS, on the caller's loop: OpenSSL between two
 * memory BIOs, so that no call waits. It is read by pulling: what is not asked for stays with the
 * kernel, which is the back-pressure; written are at most 64 KiB ahead of the kernel. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <openssl/ssl.h>
#include <uv.h>

#define TLS_STREAM_CONNECT_MS   10000 /* name look-up and TCP, all addresses together */
#define TLS_STREAM_HANDSHAKE_MS 10000

struct tls_stream;

struct tls_stream_events {
    void (*on_connected)(void *ctx);
    void (*on_readable)(void *ctx); /* tls_stream_read has bytes or the end */
    void (*on_writable)(
        void *ctx); /* there is room again after a write that was not taken whole or left none */
    /* 503 unavailable, 504 sandbox_timeout; nothing follows. Not from within tls_stream_open. */
    void (*on_error)(void *ctx, const struct error *err);
};

/* `tls` NULL: plain TCP; else a reference is taken. `name` is what the certificate must be for: a
 * DNS name or an address. */
struct tls_stream *tls_stream_open(uv_loop_t *loop, const char *host, uint16_t port, SSL_CTX *tls,
                                   const char *name, const struct tls_stream_events *events, void *ctx);
/* > 0 bytes, 0 = nothing now, -1 = the end (also of a connection that was cut: what flows must tell
 * its own end). */
ssize_t tls_stream_read(struct tls_stream *s, char *out, size_t len);
/* Takes what there is room for. Less than len, or no room left: on_writable follows. */
size_t tls_stream_write(struct tls_stream *s, const char *data, size_t len);
size_t tls_stream_room(const struct tls_stream *s);
void tls_stream_pause(struct tls_stream *s);  /* no on_readable */
void tls_stream_resume(struct tls_stream *s); /* on_readable follows, from the loop */
void tls_stream_close(struct tls_stream *s);  /* NULL is fine; what the kernel takes at once is still sent */
