/* Message heads of HTTP/1.1. A head is first found (its lines end with CRLF, the last one is
 * empty), then split, then checked as a whole: anything that two parsers could read in two
 * ways is refused (RFC 9112, lessons S18, S19). */
#include "common/http1.h"

#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

/* Letters, digits and "!#$%&'*+-.^_`|~": a bit for each of the first 128 characters. */
static bool token_char(unsigned char c) {
    static const uint32_t bits[4] = {0, 0x03ff6cfa, 0xc7fffffe, 0x57ffffff};
    return c < 128 && (bits[c / 32] >> (c % 32) & 1) != 0;
}

bool http1_token_valid(struct slice s) {
    for (size_t i = 0; i < s.len; i++) {
        if (!token_char((unsigned char)s.ptr[i])) return false;
    }
    return s.len > 0;
}

/* Looks at all of it in any case: a loop without a way out is done many bytes at a time. */
bool http1_value_valid(struct slice s) {
    unsigned bad = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        bad |= (unsigned)(c < 0x20) & (unsigned)(c != '\t');
        bad |= (unsigned)(c == 0x7f);
    }
    return bad == 0;
}

const struct http1_header *http1_find(const struct http1_head *head, const char *name) {
    for (size_t i = 0; i < head->header_count; i++) {
        if (slice_equal_nocase(head->headers[i].name, name)) return &head->headers[i];
    }
    return NULL;
}

/* What differs between requests and answers. */
struct kind {
    int status; /* of errors */
    const char *code;
    int status_too_large;
    const char *code_too_large;
    const char *what;
    bool response;
    bool from_anybody;
};
static const struct kind request_kind = {
    .status = 400,
    .code = ERR_BAD_REQUEST,
    .status_too_large = 431,
    .code_too_large = "header_too_large",
    .what = "request",
};
static const struct kind client_request_kind = {
    .status = 400,
    .code = ERR_BAD_REQUEST,
    .status_too_large = 431,
    .code_too_large = "header_too_large",
    .what = "request",
    .from_anybody = true,
};
static const struct kind response_kind = {
    .status = 502,
    .code = "bad_answer",
    .status_too_large = 502,
    .code_too_large = "bad_answer",
    .what = "answer",
    .response = true,
};

static bool refuse(const struct kind *kind, struct error *err, const char *why) {
    error_set(err, kind->status, kind->code, "malformed HTTP %s: %s", kind->what, why);
    return false;
}

/* The head's length with its empty line, 0 when it is not complete, -1 when no more bytes
 * could make it valid. */
static ssize_t find_end(const struct kind *kind, struct slice bytes, struct error *err) {
    size_t seen = bytes.len < HTTP1_MAX_HEAD ? bytes.len : HTTP1_MAX_HEAD;
    size_t lines = 0;
    for (size_t at = 0; at < seen;) {
        const char *line = bytes.ptr + at;
        const char *end = memchr(line, '\n', seen - at);
        if (!end) break;
        if (end == line || end[-1] != '\r') {
            refuse(kind, err, "a line does not end with CR LF");
            return -1;
        }
        at = (size_t)(end - bytes.ptr) + 1;
        if (end - line == 1) {
            if (lines > 0) return (ssize_t)at;
            refuse(kind, err, "it starts with an empty line");
            return -1;
        }
        if (++lines > HTTP1_MAX_HEADERS + 1) {
            error_set(err, kind->status_too_large, kind->code_too_large,
                      "the HTTP %s has more than %d headers", kind->what, HTTP1_MAX_HEADERS);
            return -1;
        }
    }
    if (seen < HTTP1_MAX_HEAD) return 0;
    error_set(err, kind->status_too_large, kind->code_too_large,
              "the head of the HTTP %s is larger than %d bytes", kind->what, HTTP1_MAX_HEAD);
    return -1;
}

/* Takes a line off the front of `rest`, which is known to have CR LF. */
static struct slice take_line(struct slice *rest) {
    const char *end = memchr(rest->ptr, '\n', rest->len);
    struct slice line = slice_make(rest->ptr, (size_t)(end - rest->ptr) - 1);
    rest->ptr += line.len + 2;
    rest->len -= line.len + 2;
    return line;
}

static bool split_headers(const struct kind *kind, struct slice rest, struct http1_head *head,
                          struct error *err) {
    for (;;) {
        struct slice line = take_line(&rest);
        if (line.len == 0) return true;
        if (head->header_count == HTTP1_MAX_HEADERS) return refuse(kind, err, "too many headers");
        if (line.ptr[0] == ' ' || line.ptr[0] == '\t') return refuse(kind, err, "a header is folded");
        const char *colon = memchr(line.ptr, ':', line.len);
        if (!colon) return refuse(kind, err, "a header has no colon");
        struct http1_header *h = &head->headers[head->header_count++];
        h->name = slice_make(line.ptr, (size_t)(colon - line.ptr));
        h->value = slice_trim(slice_make(colon + 1, line.len - h->name.len - 1));
        if (!http1_token_valid(h->name))
            return refuse(kind, err, "a header's name has a character it may not have");
        if (!http1_value_valid(h->value))
            return refuse(kind, err, "a header's value has a control character");
    }
}

/* Whether a Connection header's value lists `token`. */
static bool lists(struct slice rest, const char *token) {
    while (rest.len > 0) {
        const char *comma = memchr(rest.ptr, ',', rest.len);
        size_t n = comma ? (size_t)(comma - rest.ptr) : rest.len;
        if (slice_equal_nocase(slice_trim(slice_make(rest.ptr, n)), token)) return true;
        rest.ptr += comma ? n + 1 : n;
        rest.len -= comma ? n + 1 : n;
    }
    return false;
}

/* Whether no blank follows the value; it is within a head that was found whole. */
static bool ends_line(const struct http1_header *h) {
    return h->value.ptr[h->value.len] == '\r';
}

/* The headers that framing is about, in one pass over all. */
struct framing_headers {
    const struct http1_header *length, *coding;
    size_t lengths, codings, hosts;
    bool close, keep_alive, upgrade;
};

static void find_framing(const struct http1_head *head, struct framing_headers *f) {
    for (size_t i = head->header_count; i-- > 0;) { /* of several, the first stays */
        const struct http1_header *h = &head->headers[i];
        switch (h->name.len) { /* few names get as far as a comparison */
        case sizeof "host" - 1: f->hosts += slice_equal_nocase(h->name, "host"); break;
        case sizeof "connection" - 1:
            if (!slice_equal_nocase(h->name, "connection")) break;
            f->close = f->close || lists(h->value, "close");
            f->keep_alive = f->keep_alive || lists(h->value, "keep-alive");
            f->upgrade = f->upgrade || lists(h->value, "upgrade");
            break;
        case sizeof "content-length" - 1:
            if (!slice_equal_nocase(h->name, "content-length")) break;
            f->length = h;
            f->lengths++;
            break;
        case sizeof "transfer-encoding" - 1:
            if (!slice_equal_nocase(h->name, "transfer-encoding")) break;
            f->coding = h;
            f->codings++;
            break;
        }
    }
}

static bool decide_framing(const struct kind *kind, struct http1_head *head, struct error *err) {
    struct framing_headers f = {0};
    find_framing(head, &f);
    const struct http1_header *length = f.length, *coding = f.coding;
    if (f.lengths > 1) return refuse(kind, err, "more than one Content-Length");
    if (f.codings > 1) return refuse(kind, err, "more than one Transfer-Encoding");
    if (length && coding) return refuse(kind, err, "both Content-Length and Transfer-Encoding");
    if (f.hosts > 1) return refuse(kind, err, "more than one Host");
    if (kind->from_anybody && ((length && !ends_line(length)) || (coding && !ends_line(coding))))
        return refuse(kind, err, "blanks behind Content-Length or Transfer-Encoding");
    if (length) {
        if (!slice_parse_u64(length->value, INT64_MAX, &head->content_length)) {
            return refuse(kind, err, "Content-Length is not a number of bytes");
        }
        head->framing = HTTP1_BODY_LENGTH;
    } else if (coding) {
        if (!slice_equal_nocase(coding->value, "chunked")) {
            if (kind->from_anybody) {
                error_set(err, 501, "unsupported_transfer_coding", "the only transfer coding is chunked");
                return false;
            }
            return refuse(kind, err, "a Transfer-Encoding other than chunked");
        }
        /* An HTTP/1.0 intermediary may have passed it on without understanding it. */
        if (head->minor == 0) return refuse(kind, err, "Transfer-Encoding in HTTP/1.0");
        head->framing = HTTP1_BODY_CHUNKED;
    } else {
        head->framing = HTTP1_BODY_NONE;
    }
    head->keep_alive = !f.close && (head->minor == 1 || f.keep_alive);
    head->upgrade = f.upgrade;
    return true;
}

/* "HTTP/1.0" or "HTTP/1.1". */
static bool parse_version(struct slice s, int *minor) {
    if (slice_equal_str(s, "HTTP/1.1"))
        *minor = 1;
    else if (slice_equal_str(s, "HTTP/1.0"))
        *minor = 0;
    else
        return false;
    return true;
}

static bool looks_like_version(struct slice s) {
    return s.len == 8 && slice_starts_with(s, "HTTP/") && s.ptr[5] >= '0' && s.ptr[5] <= '9' &&
           s.ptr[6] == '.' && s.ptr[7] >= '0' && s.ptr[7] <= '9';
}

static bool absolute_form(struct slice s) {
    return (s.len > 7 && strncasecmp(s.ptr, "http://", 7) == 0) ||
           (s.len > 8 && strncasecmp(s.ptr, "https://", 8) == 0);
}

static bool target_valid(const struct kind *kind, struct slice s) {
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= 0x20 || c >= 0x7f || c == '#') return false;
    }
    return slice_starts_with(s, "/") || slice_equal_str(s, "*") || (kind->from_anybody && absolute_form(s));
}

static bool parse_request_line(const struct kind *kind, struct slice line, struct http1_head *head,
                               struct error *err) {
    const char *first = memchr(line.ptr, ' ', line.len);
    const char *last = memrchr(line.ptr, ' ', line.len);
    if (!first || first == last) {
        return refuse(kind, err, "the first line is not METHOD TARGET VERSION");
    }
    head->method = slice_make(line.ptr, (size_t)(first - line.ptr));
    head->target = slice_make(first + 1, (size_t)(last - first) - 1);
    struct slice version = slice_make(last + 1, line.len - (size_t)(last + 1 - line.ptr));
    if (!http1_token_valid(head->method)) return refuse(kind, err, "the method is not a token");
    if (!target_valid(kind, head->target)) {
        return refuse(kind, err, "the target is not an absolute path of visible ASCII characters");
    }
    if (parse_version(version, &head->minor)) return true;
    if (!looks_like_version(version)) return refuse(kind, err, "the version is not HTTP/1.1");
    error_set(err, 505, "version_not_supported", "HTTP version %.*s is not supported: use HTTP/1.1",
              (int)version.len, version.ptr);
    return false;
}

static bool parse_status_line(struct slice line, struct http1_head *head, struct error *err) {
    if (line.len < 12 || !parse_version(slice_make(line.ptr, 8), &head->minor) || line.ptr[8] != ' ') {
        return refuse(&response_kind, err, "the first line is not HTTP/1.1 STATUS REASON");
    }
    uint64_t status;
    if (!slice_parse_u64(slice_make(line.ptr + 9, 3), 599, &status) || status < 100) {
        return refuse(&response_kind, err, "the status is not from 100 to 599");
    }
    head->status = (int)status;
    /* RFC 9112 wants the space even before an empty reason; many servers leave it out. */
    if (line.len == 12) return true;
    head->reason = slice_make(line.ptr + 13, line.len - 13);
    if (line.ptr[12] != ' ' || !http1_value_valid(head->reason)) {
        return refuse(&response_kind, err, "the reason has a character it may not have");
    }
    return true;
}

/* Refuses at once what is not HTTP at all, before a first line is complete. */
static bool plausible_start(const struct kind *kind, struct slice bytes, struct error *err) {
    static const char version[] = "HTTP/1.";
    if (kind->response) {
        size_t n = bytes.len < sizeof version - 1 ? bytes.len : sizeof version - 1;
        return n == 0 || memcmp(bytes.ptr, version, n) == 0 ||
               refuse(kind, err, "it does not start with HTTP/1.1");
    }
    for (size_t i = 0; i < bytes.len && bytes.ptr[i] != ' ' && bytes.ptr[i] != '\r'; i++) {
        if (!token_char((unsigned char)bytes.ptr[i])) return refuse(kind, err, "the method is not a token");
    }
    return true;
}

static ssize_t parse_head(const struct kind *kind, struct slice bytes, struct http1_head *head,
                          struct error *err) {
    head->method = head->target = head->reason = slice_make(NULL, 0);
    head->status = head->minor = 0;
    head->header_count = 0;
    head->framing = HTTP1_BODY_NONE;
    head->content_length = 0;
    head->keep_alive = head->upgrade = false;
    ssize_t len = find_end(kind, bytes, err);
    if (len < 0) return -1;
    if (len == 0) return plausible_start(kind, bytes, err) ? 0 : -1;
    struct slice rest = slice_make(bytes.ptr, (size_t)len);
    struct slice first = take_line(&rest);
    bool ok =
        kind->response ? parse_status_line(first, head, err) : parse_request_line(kind, first, head, err);
    return ok && split_headers(kind, rest, head, err) && decide_framing(kind, head, err) ? len : -1;
}

ssize_t http1_parse_request(struct slice bytes, struct http1_head *head, struct error *err) {
    return parse_head(&request_kind, bytes, head, err);
}

ssize_t http1_parse_client_request(struct slice bytes, struct http1_head *head, struct error *err) {
    return parse_head(&client_request_kind, bytes, head, err);
}

ssize_t http1_parse_response(struct slice bytes, const char *request_method, struct http1_head *head,
                             struct error *err) {
    ssize_t len = parse_head(&response_kind, bytes, head, err);
    if (len <= 0) return len;
    if (strcmp(request_method, "HEAD") == 0 || head->status < 200 || head->status == 204 ||
        head->status == 304) {
        head->framing = HTTP1_BODY_NONE;
    } else if (head->framing == HTTP1_BODY_NONE) {
        head->framing = HTTP1_BODY_UNTIL_CLOSE;
        head->keep_alive = false;
    }
    return len;
}
