/* See framing.h. */
#include "router/framing.h"

#include "common/bytes.h"

#include <ctype.h>

struct scan {
    struct framing *out;
    struct error *err;
    int tokens, keys, origins;
    bool host, bad;
};

static enum MHD_Result refuse(struct scan *s, int status, const char *code, const char *message) {
    s->bad = true;
    error_set(s->err, status, code, "%s", message);
    return MHD_NO;
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
    uint64_t length;
    /* Who looks at the first of two must not disagree with who looks at the last about who is calling. */
    if ((slice_equal_nocase(name, "authorization") && s->tokens++) ||
        (slice_equal_nocase(name, "x-api-key") && s->keys++) ||
        (slice_equal_nocase(name, "origin") && s->origins++))
        return refuse(s, 400, "bad_header", "more than one Authorization, X-API-Key or Origin");
    if (slice_equal_nocase(name, "host")) {
        s->host = true;
        if (!host_valid(v)) return refuse(s, 400, "bad_header", "Host is not a host and port");
    } else if (slice_equal_nocase(name, "content-length")) {
        if (!slice_parse_u64(v, INT64_MAX, &length))
            return refuse(s, 400, "bad_framing", "Content-Length is not a number of bytes");
        s->out->body_length = (int64_t)length;
    } else if (slice_equal_nocase(name, "transfer-encoding")) {
        s->out->body_length = -1;
    } else if (slice_equal_nocase(name, "expect")) {
        if (!slice_equal_nocase(v, "100-continue"))
            return refuse(s, 417, "bad_expectation", "the only expectation is 100-continue");
        s->out->expect_continue = true;
    }
    return MHD_YES;
}

bool framing_check(struct MHD_Connection *connection, const char *version, struct framing *out,
                   struct error *err) {
    *out = (struct framing){0};
    struct scan s = {.out = out, .err = err};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, check_header, &s);
    if (!s.bad && !s.host && strcmp(version, "HTTP/1.0") != 0) refuse(&s, 400, "bad_framing", "no Host");
    return !s.bad;
}
