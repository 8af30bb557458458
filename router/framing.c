/* See framing.h. */
#include "router/framing.h"

#include "common/bytes.h"
#include "common/http1.h"

#include <ctype.h>
#include <strings.h>

#define MAX_HEADERS      256
#define MAX_HEADER_BYTES (48 * 1024)

struct scan {
    struct framing *out;
    struct error *err;
    int hosts, lengths, codings, tokens, keys, origins, count;
    size_t bytes;
    bool http10;
    bool bad;
    uintptr_t line_end;   /* where the previous header line's value ends in libmicrohttpd's buffer */
    const char *last_end; /* the same place */
};

static enum MHD_Result refuse(struct scan *s, int status, const char *code, const char *message) {
    s->bad = true;
    error_set(s->err, status, code, "%s", message);
    return MHD_NO;
}

/* Before 1.0 libmicrohttpd takes bare LF and obs-fold for granted, and its callbacks do not
 * show the raw head. But it parses in place: CR and LF are each overwritten by NUL, so
 * the next line's name starts exactly two bytes after a value that ended with CRLF. Any other
 * distance within one buffer is a line that did not. */
static bool line_ended_properly(struct scan *s, const char *key, const char *value, size_t value_len) {
    bool proper = true;
#if MHD_VERSION < 0x01000000
    uintptr_t start = (uintptr_t)key;
    if (s->line_end != 0 && start > s->line_end && start - s->line_end < MAX_HEADER_BYTES) {
        const char *gap = key - (start - s->line_end);
        size_t width = start - s->line_end;
        /* trailing blanks of a value are kept by the parser, so the gap is the line's end alone */
        proper = width == 2 && gap[0] == '\0' && gap[1] == '\0';
    }
    s->line_end = (uintptr_t)value + value_len;
    s->last_end = value ? value + value_len : NULL;
#else
    (void)s, (void)key, (void)value, (void)value_len;
#endif
    return proper;
}

/* To it a line that begins with a colon is the empty line that ends the head: what follows would be taken
 * for the body, or for another request. The empty line is CR and LF, each NUL by now, right behind the last
 * header's own; in such a line something follows the colon's NUL. */
static bool head_ended_properly(const struct scan *s) {
#if MHD_VERSION < 0x01000000
    return !s->last_end || (s->last_end[2] == '\0' && s->last_end[3] == '\0');
#else
    return s != NULL;
#endif
}

bool framing_request_line(const char *method, uintptr_t target, size_t target_len, const char *version,
                          struct error *err) {
#if MHD_VERSION < 0x01000000
    /* It is split in place as well: each space became one NUL, and a NUL that was sent ends the target early.
     */
    bool single = target == (uintptr_t)method + strlen(method) + 1;
    bool whole = (uintptr_t)version == target + target_len + 1;
    if (!single || !whole) {
        error_set(err, 400, "bad_request_line",
                  "the request line is not METHOD TARGET VERSION with single spaces and without NUL");
        return false;
    }
#else
    (void)method, (void)target, (void)target_len, (void)version, (void)err;
#endif
    return true;
}

static enum MHD_Result content_length(struct scan *s, struct slice v) {
    uint64_t n;
    if (s->lengths++) return refuse(s, 400, "bad_framing", "more than one Content-Length");
    if (!slice_parse_u64(v, INT64_MAX, &n))
        return refuse(s, 400, "bad_framing", "Content-Length is not a number");
    s->out->body_length = (int64_t)n;
    return MHD_YES;
}

static enum MHD_Result transfer_encoding(struct scan *s, struct slice v) {
    if (s->codings++) return refuse(s, 400, "bad_framing", "more than one Transfer-Encoding");
    if (s->http10) return refuse(s, 400, "bad_framing", "Transfer-Encoding in an HTTP/1.0 request");
    if (!slice_equal_nocase(v, "chunked"))
        return refuse(s, 501, "unsupported_transfer_coding", "the only transfer coding is chunked");
    return MHD_YES;
}

/* uri-host [":" port] (RFC 9110 7.2): one colon, but for those within "[...]". */
static bool host_valid(struct slice v) {
    size_t i = 0;
    if (v.len > 0 && v.ptr[0] == '[') {
        const char *close = memchr(v.ptr, ']', v.len);
        if (!close) return false;
        for (i = 1; v.ptr + i < close; i++)
            if (!isalnum((unsigned char)v.ptr[i]) && !strchr(":.", v.ptr[i])) return false;
        i++;
    } else {
        while (i < v.len && (isalnum((unsigned char)v.ptr[i]) || strchr("-._~%!$&'()*+;=", v.ptr[i])))
            i++;
    }
    if (i == v.len) return true;
    uint64_t port;
    return v.ptr[i] == ':' &&
           (i + 1 == v.len || slice_parse_u64(slice_make(v.ptr + i + 1, v.len - i - 1), 65535, &port));
}

static enum MHD_Result check_header(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_len,
                                    const char *value, size_t value_len) {
    (void)kind;
    struct scan *s = ctx;
    struct slice name = slice_make(key, key_len), v = slice_trim(slice_make(value ? value : "", value_len));
    s->bytes += key_len + value_len + 4;
    if (++s->count > MAX_HEADERS || s->bytes > MAX_HEADER_BYTES)
        return refuse(s, 431, "headers_too_large",
                      "the request's headers are too large; at most 48 KiB and 256 of them");
    if (!http1_token_valid(name))
        return refuse(s, 400, "bad_header", "a header name holds a character it cannot");
    if (!http1_value_valid(v))
        return refuse(s, 400, "bad_header", "a header value holds a control character");
    if (!line_ended_properly(s, key, value, value_len))
        return refuse(s, 400, "bad_header", "a header line does not end with CRLF, or is folded");
    if (slice_equal_nocase(name, "host")) {
        if (s->hosts++) return refuse(s, 400, "bad_framing", "more than one Host");
        if (!host_valid(v)) return refuse(s, 400, "bad_header", "Host is not a host and port");
    }
    /* Who looks at the first of two must not disagree with who looks at the last about who is calling. */
    if ((slice_equal_nocase(name, "authorization") && s->tokens++) ||
        (slice_equal_nocase(name, "x-api-key") && s->keys++) ||
        (slice_equal_nocase(name, "origin") && s->origins++))
        return refuse(s, 400, "bad_header", "more than one Authorization, X-API-Key or Origin");
    if (slice_equal_nocase(name, "content-length")) return content_length(s, v);
    if (slice_equal_nocase(name, "transfer-encoding")) return transfer_encoding(s, v);
    if (slice_equal_nocase(name, "expect")) {
        if (!slice_equal_nocase(v, "100-continue"))
            return refuse(s, 417, "bad_expectation", "the only expectation is 100-continue");
        s->out->expect_continue = true;
    }
    return MHD_YES;
}

bool framing_check(struct MHD_Connection *connection, const char *version, struct framing *out,
                   struct error *err) {
    *out = (struct framing){0};
    struct scan s = {.out = out, .err = err, .http10 = strcmp(version, "HTTP/1.0") == 0};
    if (!s.http10 && strcmp(version, "HTTP/1.1") != 0) {
        error_set(err, 505, "http_version", "only HTTP/1.1 and HTTP/1.0 are spoken here");
        return false;
    }
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, check_header, &s);
    if (s.bad) return false;
    if (!head_ended_properly(&s)) {
        error_set(err, 400, "bad_header", "a header has no name");
        return false;
    }
    if (s.codings && s.lengths) {
        error_set(err, 400, "bad_framing", "both Content-Length and Transfer-Encoding");
        return false;
    }
    if (s.codings) out->body_length = -1;
    if (!s.http10 && s.hosts == 0) {
        error_set(err, 400, "bad_framing", "no Host");
        return false;
    }
    return true;
}
