/* Decoder of the chunked transfer coding (RFC 9112 7.1): one state per kind of byte, so that
 * input may be cut anywhere. Lines end with CR LF and nothing else. */
#include "common/http1.h"

enum state {
    SIZE_FIRST, /* a hexadecimal digit must come */
    SIZE,
    SIZE_SPACE, /* blanks before an extension */
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_FIRST, /* first byte of a trailer, or of the empty line that ends the body */
    TRAILER,
    TRAILER_LF,
    END_LF,
    END,
};

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool text_char(char c) {
    unsigned char u = (unsigned char)c;
    return u == '\t' || (u >= 0x20 && u != 0x7f);
}

static bool size_digit(struct http1_chunked *d, char c) {
    int value = hex_value(c);
    if (value < 0 || d->left > (uint64_t)(INT64_MAX >> 4)) return false;
    d->left = d->left << 4 | (uint64_t)value;
    d->state = SIZE;
    return true;
}

/* One byte outside of data. False: malformed. */
static bool step(struct http1_chunked *d, char c) {
    size_t bound = d->state >= TRAILER_FIRST ? HTTP1_MAX_TRAILERS : HTTP1_MAX_CHUNK_LINE;
    if (++d->line > bound) return false;
    switch ((enum state)d->state) {
    case SIZE_FIRST: return size_digit(d, c);
    case SIZE:
        if (c == '\r')
            d->state = SIZE_LF;
        else if (c == ';')
            d->state = EXTENSION;
        else if (c == ' ' || c == '\t')
            d->state = SIZE_SPACE;
        else
            return size_digit(d, c);
        return true;
    case SIZE_SPACE:
        if (c == ';') d->state = EXTENSION;
        return c == ';' || c == ' ' || c == '\t';
    case EXTENSION:
        if (c == '\r') d->state = SIZE_LF;
        return c == '\r' || text_char(c);
    case SIZE_LF:
        d->state = d->left > 0 ? DATA : TRAILER_FIRST;
        d->line = 0;
        return c == '\n';
    case DATA_CR: d->state = DATA_LF; return c == '\r';
    case DATA_LF:
        d->state = SIZE_FIRST;
        d->line = 0;
        return c == '\n';
    case TRAILER_FIRST: d->state = c == '\r' ? END_LF : TRAILER; return c == '\r' || text_char(c);
    case TRAILER:
        if (c == '\r') d->state = TRAILER_LF;
        return c == '\r' || text_char(c);
    case TRAILER_LF: d->state = TRAILER_FIRST; return c == '\n';
    case END_LF: d->state = END; return c == '\n';
    case DATA:
    case END: break;
    }
    return false;
}

int http1_chunked_decode(struct http1_chunked *d, struct slice in, size_t *consumed, struct slice *out) {
    size_t at = 0;
    *out = slice_make(in.ptr, 0);
    while (at < in.len && d->state != DATA && d->state != END) {
        if (!step(d, in.ptr[at])) {
            *consumed = at;
            return -1;
        }
        at++;
    }
    if (at < in.len && d->state == DATA) {
        size_t n = in.len - at < d->left ? in.len - at : (size_t)d->left;
        *out = slice_make(in.ptr + at, n);
        at += n;
        d->left -= n;
        if (d->left == 0) d->state = DATA_CR;
    }
    *consumed = at;
    return d->state == END ? 1 : 0;
}
