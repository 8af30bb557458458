/* See inbound.h. */
#include "router/inbound.h"

#include "router/target.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a refused target, what the log gets to see. */
#define SHOWN_TARGET_MAX 1024

/* ---- Bytes that wait ---- */

static void make_room(struct inbound *in, size_t more) {
    if (in->given > 0) {
        memmove(in->held, in->held + in->given, in->end - in->given);
        in->ready -= in->given;
        in->end -= in->given;
        in->given = 0;
    }
    if (in->end + more <= in->room) return;
    in->room = in->end + more;
    in->held = xrealloc(in->held, in->room);
}

static void hold(struct inbound *in, const char *data, size_t n) {
    make_room(in, n);
    memcpy(in->held + in->end, data, n);
    in->end += n;
}

static void hold_nothing(struct inbound *in) {
    free(in->held);
    in->held = NULL;
    in->given = in->ready = in->end = in->room = 0;
}

void inbound_free(struct inbound *in) {
    hold_nothing(in);
    if (in->refusal) error_clear(&in->refusal->why);
    free(in->refusal);
    in->refusal = NULL;
}

/* ---- The check ---- */

static size_t substitute_head(const struct http1_head *head, char *out, size_t size) {
    struct slice method = head->method, target = head->target;
    bool shown = http1_token_valid(method) && method.len <= 32 && target.len > 0 &&
                 target.len <= SHOWN_TARGET_MAX && target.ptr[0] == '/';
    for (size_t i = 0; shown && i < target.len; i++)
        shown = target.ptr[i] > ' ' && target.ptr[i] < 0x7f && target.ptr[i] != '#';
    if (!shown) {
        method = slice_of("GET");
        target = slice_of("/");
    }
    return (size_t)snprintf(out, size, "%.*s %.*s HTTP/1.1\r\nHost: refused\r\n\r\n", (int)method.len,
                            method.ptr, (int)target.len, target.ptr);
}

/* Refuses the request under way: the library gets `instead`, and then nothing more. */
static void refuse(struct inbound *in, struct error *err, const char *instead, size_t len) {
    in->state = INBOUND_REFUSED;
    in->refusal = xcalloc(1, sizeof *in->refusal + len);
    in->refusal->len = len;
    memcpy(in->refusal->instead, instead, len);
    error_move(&in->refusal->why, err);
}

static void after_body(struct inbound *in) {
    in->state = in->upgrade ? INBOUND_RAW : INBOUND_HEAD;
}

static bool small_enough(struct slice bytes, ssize_t len, struct error *err) {
    if (len < 0 || (len > 0 ? (size_t)len : bytes.len) <= INBOUND_HEAD_MAX) return true;
    error_clear(err);
    if (memchr(bytes.ptr, '\n', bytes.len))
        error_set(err, 431, "header_too_large", "the request's headers have more than %d bytes",
                  INBOUND_HEAD_MAX);
    else
        error_set(err, 414, "target_too_long", "the request target is longer than %d bytes", TARGET_MAX);
    return false;
}

/* The length of the head at the start of `bytes`; 0: more must come first, or it was refused. */
static size_t check_head(struct inbound *in, struct slice bytes) {
    if (bytes.ptr[0] == '\r') { /* an empty line before a request is no request (RFC 9112 2.2) */
        if (bytes.len == 1) return 0;
        if (bytes.ptr[1] == '\n') return 2;
    }
    if (bytes.len > INBOUND_HEAD_MAX) bytes.len = INBOUND_HEAD_MAX + 1;
    struct http1_head head;
    cleanup_error struct error err = {0};
    ssize_t len = http1_parse_client_request(bytes, &head, &err);
    if (!small_enough(bytes, len, &err)) len = -1;
    if (len < 0) {
        char instead[SHOWN_TARGET_MAX + 128];
        size_t n = substitute_head(&head, instead, sizeof instead);
        in->requests++;
        refuse(in, &err, instead, n);
    }
    if (len <= 0) return 0;
    in->requests++;
    in->upgrade = head.upgrade || http1_find(&head, "upgrade");
    in->left = head.framing == HTTP1_BODY_LENGTH ? head.content_length : 0;
    in->chunks = (struct http1_chunked){0};
    in->chunk_seen = false;
    if (head.framing == HTTP1_BODY_CHUNKED)
        in->state = INBOUND_CHUNKED;
    else if (in->left > 0)
        in->state = INBOUND_LENGTH;
    else
        after_body(in);
    return (size_t)len;
}

/* Extensions and trailers are for nobody here (RFC 9112 7.1), and parsers differ in what they make of them.
 * An extension of the same length takes their place. `at` is that of the size, `len` of all up to the data,
 * or to the end of the body when this is the last chunk. */
static void blank_out(char *chunk, size_t at, size_t len, bool last) {
    const char *cr = memchr(chunk + at, '\r', len - at);
    size_t end = last ? len - 4 : (size_t)(cr - chunk);
    while (isxdigit((unsigned char)chunk[at]))
        at++;
    if (at == end) return;
    chunk[at] = ';';
    memset(chunk + at + 1, 'x', end - at - 1);
    memcpy(chunk + end, "\r\n\r\n", last ? 4 : 2);
}

/* The same of what is left of a chunk, or of the next one with some of its data. */
static size_t check_chunk(struct inbound *in, char *start, size_t len) {
    struct slice bytes = slice_make(start, len);
    struct http1_chunked chunks = in->chunks;
    struct slice data;
    size_t taken;
    int rc = http1_chunked_decode(&chunks, bytes, &taken, &data);
    if (rc < 0) {
        cleanup_error struct error err = {0};
        const char *end = in->chunk_seen ? "\r\n0\r\n\r\n" : "0\r\n\r\n";
        error_set(&err, 400, "bad_framing", "malformed HTTP request: a chunk of the body is not one");
        refuse(in, &err, end, strlen(end));
        return 0;
    }
    if (rc == 0 && data.len == 0) return 0;
    size_t framing = rc > 0 ? taken : (size_t)(data.ptr - bytes.ptr);
    if (framing > 0) blank_out(start, in->chunk_seen ? 2 : 0, framing, rc > 0);
    in->chunks = chunks;
    in->chunk_seen = true;
    if (rc > 0) after_body(in);
    return taken;
}

/* How many of the bytes may be handed on. With those behind them: more must come first, or they were refused.
 */
static size_t check(struct inbound *in, char *data, size_t len) {
    size_t at = 0;
    while (at < len) {
        struct slice rest = slice_make(data + at, len - at);
        size_t n = rest.len;
        switch (in->state) {
        case INBOUND_HEAD: n = check_head(in, rest); break;
        case INBOUND_LENGTH:
            if (n > in->left) n = (size_t)in->left;
            in->left -= n;
            if (in->left == 0) after_body(in);
            break;
        case INBOUND_CHUNKED: n = check_chunk(in, data + at, n); break;
        case INBOUND_RAW: in->raw_seen = true; break;
        case INBOUND_REFUSED: n = 0; break;
        }
        if (n == 0) break;
        at += n;
    }
    return at;
}

/* ---- Reading ---- */

/* In the place of what was refused, which is behind all that is held now. */
static void end_properly(struct inbound *in) {
    hold(in, in->refusal->instead, in->refusal->len);
    in->ready = in->end;
}

static ssize_t nothing_more(size_t got, ssize_t rc) {
    if (got > 0) return (ssize_t)got;
    return rc;
}

static ssize_t nothing_yet(size_t got) {
    errno = EAGAIN;
    return nothing_more(got, -1);
}

/* Hands on what is ready. */
static size_t give(struct inbound *in, char *out, size_t size) {
    size_t n = in->ready - in->given < size ? in->ready - in->given : size;
    if (n > 0) memcpy(out, in->held + in->given, n);
    in->given += n;
    if (in->given == in->end) hold_nothing(in);
    return n;
}

/* What waits for its rest does not fit into the reader's buffer: it grows here. False: *rc is the source's.
 */
static bool read_aside(struct inbound *in, inbound_source source, void *ctx, bool *more, ssize_t *rc) {
    const size_t piece = 16 * 1024;
    make_room(in, piece);
    *rc = source(ctx, in->held + in->end, piece);
    if (*rc <= 0) return false;
    *more = (size_t)*rc == piece;
    in->end += (size_t)*rc;
    in->ready += check(in, in->held + in->ready, in->end - in->ready);
    if (in->state == INBOUND_REFUSED) {
        in->end = in->ready;
        end_properly(in);
    }
    return true;
}

ssize_t inbound_read(struct inbound *in, inbound_source source, void *ctx, char *out, size_t size) {
    size_t got = 0;
    bool more = true; /* the source may have */
    for (;;) {
        if (in->held) got += give(in, out + got, size - got);
        if (got == size) return (ssize_t)got;
        if (in->state == INBOUND_REFUSED || !more) return nothing_yet(got);
        size_t waiting = in->end - in->ready, room = size - got;
        ssize_t n;
        if (waiting >= room) {
            if (!read_aside(in, source, ctx, &more, &n)) return nothing_more(got, n);
            continue;
        }
        n = source(ctx, out + got + waiting, room - waiting);
        if (n <= 0) return nothing_more(got, n);
        more = (size_t)n == room - waiting;
        if (waiting > 0) {
            memcpy(out + got, in->held + in->ready, waiting);
            hold_nothing(in);
        }
        size_t have = waiting + (size_t)n, good = check(in, out + got, have);
        if (in->state == INBOUND_REFUSED)
            end_properly(in);
        else if (good < have)
            hold(in, out + got + good, have - good);
        got += good;
        if (!in->held) return (ssize_t)got;
    }
}

bool inbound_next(struct inbound *in, uint64_t number) {
    if (number < in->requests) return true;
    if (in->state == INBOUND_RAW && !in->raw_seen) in->state = INBOUND_HEAD;
    return in->state != INBOUND_RAW && in->state != INBOUND_REFUSED;
}
