/* What a client sends, checked before libmicrohttpd parses it (lessons M4, S18).
 *
 * The library accepts what two parsers could read in two ways, and answers what it refuses in its own words.
 * So each byte of a connection passes here first: heads and chunks are handed on once they are whole and
 * proper. In the place of the first one that is not, the library gets a proper end, and the request to which
 * it belongs is refused by router/exchange.c as any other. Pure, but for where the bytes come from. */
#pragma once

#include "common/error.h"
#include "common/http1.h"

#include <sys/types.h>

/* What libmicrohttpd has room for beside its own records of a request. */
#define INBOUND_HEAD_MAX (48 * 1024)

enum inbound_state {
    INBOUND_HEAD,    /* a head comes next */
    INBOUND_LENGTH,  /* `left` bytes of a body */
    INBOUND_CHUNKED, /* chunks of a body */
    INBOUND_RAW,     /* behind a request to upgrade: whatever it will be, it is not looked at */
    INBOUND_REFUSED  /* nothing is taken any more */
};

struct inbound_refusal {
    struct error why;
    size_t len;
    char instead[]; /* what the library gets in the place of the rest */
};

/* Of one connection. Zero-initialised is ready; inbound_free() frees what it holds. */
struct inbound {
    enum inbound_state state;
    bool upgrade;      /* the request under way asks for one: INBOUND_RAW follows its body */
    bool raw_seen;     /* bytes came in INBOUND_RAW */
    bool chunk_seen;   /* a chunk of this body has passed, so a CRLF comes before the next size */
    uint64_t left;     /* of a body with a length */
    uint64_t requests; /* whose heads were handed on */
    struct inbound_refusal *refusal; /* of the request number `requests`, in INBOUND_REFUSED */
    struct http1_chunked chunks;
    /* Bytes that wait: [given, ready) for the library's next read, [ready, end) for the rest of their head or
     * chunk. */
    char *held;
    size_t given, ready, end, room;
};

/* Reads as recv() does, without blocking: -1 and EAGAIN when nothing is there, 0 at the end. */
typedef ssize_t (*inbound_source)(void *ctx, void *out, size_t size);

/* Reads up to `size` checked bytes as recv() does. Fewer than `size` only when the source has no more for
 * now: an edge-triggered reader asks no further then. */
ssize_t inbound_read(struct inbound *in, inbound_source source, void *ctx, char *out, size_t size);

/* Why request `number` of the connection (the first is 1) is refused, or NULL. */
static inline const struct error *inbound_refusal(const struct inbound *in, uint64_t number) {
    return in->refusal && number == in->requests ? &in->refusal->why : NULL;
}

/* Whether a part of something is here, and the rest is not. */
static inline bool inbound_waits(const struct inbound *in) {
    return in->end > in->ready;
}

/* Request `number` has ended, and its connection may go on: what follows a request for an upgrade that was
 * not granted is a request again. False: nothing can follow. */
bool inbound_next(struct inbound *in, uint64_t number);

void inbound_free(struct inbound *in);
