/* Message heads: what is read, and one row for each way to be refused (lessons S18, S19). */
#include "common/http1.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>

static struct http1_head head;

static ssize_t request(struct slice s, struct error *err) {
    return http1_parse_request(s, &head, err);
}
static ssize_t response(struct slice s, struct error *err) {
    return http1_parse_response(s, "GET", &head, err);
}

#define R "GET / HTTP/1.1\r\n"
#define A "HTTP/1.1 200 OK\r\n"

START_TEST(test_request) {
    struct slice text = slice_of("POST /exec/a%20b?x=1&y= HTTP/1.1\r\nHost: runtime\r\nX-Empty:\r\n"
                                 "X-Spaces: \t a b \t\r\nContent-Length: 5\r\nx-obs: \xe4\r\n\r\nhello");
    cleanup_error struct error err = {0};
    ssize_t len = request(text, &err);
    ck_assert_int_eq(len, (ssize_t)text.len - 5);
    ck_assert(slice_equal_str(head.method, "POST"));
    ck_assert(slice_equal_str(head.target, "/exec/a%20b?x=1&y="));
    ck_assert_int_eq(head.minor, 1);
    ck_assert_uint_eq(head.header_count, 5);
    ck_assert(slice_equal_str(http1_find(&head, "HOST")->value, "runtime"));
    ck_assert_uint_eq(http1_find(&head, "x-empty")->value.len, 0);
    ck_assert(slice_equal_str(http1_find(&head, "x-spaces")->value, "a b"));
    ck_assert(slice_equal_str(http1_find(&head, "x-obs")->value, "\xe4"));
    ck_assert_ptr_null(http1_find(&head, "x-none"));
    ck_assert_int_eq(head.framing, HTTP1_BODY_LENGTH);
    ck_assert_uint_eq(head.content_length, 5);
    ck_assert(head.keep_alive && !head.upgrade);
    ck_assert_int_eq(err.status, 0);
}
END_TEST

/* Framing, keep-alive and upgrade. */
static const struct {
    const char *text;
    enum http1_framing framing;
    uint64_t length;
    bool keep_alive, upgrade;
} requests[] = {
    {R "\r\n", HTTP1_BODY_NONE, 0, true, false},
    {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1_BODY_NONE, 0, true, false},
    {"GET / HTTP/1.0\r\n\r\n", HTTP1_BODY_NONE, 0, false, false},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", HTTP1_BODY_NONE, 0, true, false},
    {"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", HTTP1_BODY_NONE, 0, false, false},
    {R "Connection: close\r\n\r\n", HTTP1_BODY_NONE, 0, false, false},
    {R "Connection: x, CLOSE ,y\r\n\r\n", HTTP1_BODY_NONE, 0, false, false},
    {R "Connection: closed\r\n\r\n", HTTP1_BODY_NONE, 0, true, false},
    {R "Connection: x\r\nConnection: close\r\n\r\n", HTTP1_BODY_NONE, 0, false, false},
    {R "Connection: keep-alive,Upgrade\r\nUpgrade: websocket\r\n\r\n", HTTP1_BODY_NONE, 0, true, true},
    {R "Upgrade: websocket\r\n\r\n", HTTP1_BODY_NONE, 0, true, false},
    {R "Connection: ,,upgrade,\r\n\r\n", HTTP1_BODY_NONE, 0, true, true},
    {R "Content-Length: 0\r\n\r\n", HTTP1_BODY_LENGTH, 0, true, false},
    {R "Content-Length: 007\r\n\r\n", HTTP1_BODY_LENGTH, 7, true, false},
    {R "Content-Length: 9223372036854775807\r\n\r\n", HTTP1_BODY_LENGTH, INT64_MAX, true, false},
    {R "transfer-encoding:Chunked\r\n\r\n", HTTP1_BODY_CHUNKED, 0, true, false},
};

START_TEST(test_request_framing) {
    for (size_t i = 0; i < COUNT(requests); i++) {
        cleanup_error struct error err = {0};
        ssize_t len = request(slice_of(requests[i].text), &err);
        ck_assert_msg(len == (ssize_t)strlen(requests[i].text), "%s: %s", requests[i].text, err.message);
        ck_assert_msg(head.framing == requests[i].framing, "%s", requests[i].text);
        ck_assert_uint_eq(head.content_length, requests[i].length);
        ck_assert_msg(head.keep_alive == requests[i].keep_alive, "%s", requests[i].text);
        ck_assert_msg(head.upgrade == requests[i].upgrade, "%s", requests[i].text);
    }
}
END_TEST

static const struct {
    const char *text;
    enum http1_framing get, head;
    uint64_t length;
    bool keep_alive;
} answers[] = {
    {A "\r\n", HTTP1_BODY_UNTIL_CLOSE, HTTP1_BODY_NONE, 0, false},
    {A "Content-Length: 3\r\n\r\n", HTTP1_BODY_LENGTH, HTTP1_BODY_NONE, 3, true},
    {A "Content-Length: 0\r\n\r\n", HTTP1_BODY_LENGTH, HTTP1_BODY_NONE, 0, true},
    {A "Transfer-Encoding: chunked\r\n\r\n", HTTP1_BODY_CHUNKED, HTTP1_BODY_NONE, 0, true},
    {A "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", HTTP1_BODY_CHUNKED, HTTP1_BODY_NONE, 0,
     false},
    {"HTTP/1.0 200 OK\r\n\r\n", HTTP1_BODY_UNTIL_CLOSE, HTTP1_BODY_NONE, 0, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", HTTP1_BODY_LENGTH, HTTP1_BODY_NONE, 3, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", HTTP1_BODY_LENGTH,
     HTTP1_BODY_NONE, 3, true},
    {"HTTP/1.1 204 No Content\r\n\r\n", HTTP1_BODY_NONE, HTTP1_BODY_NONE, 0, true},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", HTTP1_BODY_NONE, HTTP1_BODY_NONE, 5, true},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", HTTP1_BODY_NONE, HTTP1_BODY_NONE, 99, true},
    {"HTTP/1.1 100 Continue\r\n\r\n", HTTP1_BODY_NONE, HTTP1_BODY_NONE, 0, true},
    {"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", HTTP1_BODY_NONE, HTTP1_BODY_NONE, 0,
     true},
};

START_TEST(test_response_framing) {
    for (size_t i = 0; i < COUNT(answers); i++) {
        cleanup_error struct error err = {0};
        ssize_t len = response(slice_of(answers[i].text), &err);
        ck_assert_msg(len == (ssize_t)strlen(answers[i].text), "%s: %s", answers[i].text, err.message);
        ck_assert_msg(head.framing == answers[i].get, "%s", answers[i].text);
        ck_assert_uint_eq(head.content_length, answers[i].length);
        ck_assert_msg(head.keep_alive == answers[i].keep_alive, "%s", answers[i].text);
        ck_assert_int_gt(http1_parse_response(slice_of(answers[i].text), "HEAD", &head, &err), 0);
        ck_assert_msg(head.framing == answers[i].head, "%s", answers[i].text);
    }
    cleanup_error struct error err = {0};
    ck_assert_int_gt(response(slice_of("HTTP/1.1 404 Not\tFound \xe4\r\n\r\n"), &err), 0);
    ck_assert_int_eq(head.status, 404);
    ck_assert(slice_equal_str(head.reason, "Not\tFound \xe4"));
    ck_assert_int_gt(response(slice_of("HTTP/1.1 200\r\n\r\n"), &err), 0);
    ck_assert_uint_eq(head.reason.len, 0);
    ck_assert_int_gt(response(slice_of("HTTP/1.1 599 \r\n\r\n"), &err), 0);
    ck_assert_int_eq(head.status, 599);
    ck_assert(http1_find(&head, "a") == NULL);
}
END_TEST

struct refused {
    struct slice text;
    int status;
    const char *why;
};
#define ROW(text, status, why)                                                                               \
    { {text, sizeof(text) - 1}, status, why }

/* The headers apply to answers as well: they are tried with both first lines. */
static const struct refused headers[] = {
    ROW("A: b\n\r\n", 0, "CR LF"),                   /* bare LF */
    ROW("A: b\r\r\n\r\n", 0, "control"),             /* bare CR */
    ROW("A: b\rC: d\r\n\r\n", 0, "control"),         /* CR amid a value */
    ROW("A: b\0c\r\n\r\n", 0, "control"),            /* NUL */
    ROW("A: b\x7f\r\n\r\n", 0, "control"),           /* DEL */
    ROW("A: b\x1b[1m\r\n\r\n", 0, "control"),        /* ESC */
    ROW("A: b\r\n c\r\n\r\n", 0, "folded"),          /* obs-fold */
    ROW("A: b\r\n\tc\r\n\r\n", 0, "folded"),         /* obs-fold */
    ROW(" A: b\r\n\r\n", 0, "folded"),               /* space before the first */
    ROW("A : b\r\n\r\n", 0, "name"),                 /* space before the colon */
    ROW("Content-Length\t: 5\r\n\r\n", 0, "name"),   /* tab before the colon */
    ROW(": b\r\n\r\n", 0, "name"),                   /* no name */
    ROW("A\0: b\r\n\r\n", 0, "name"),                /* NUL in a name */
    ROW("A\x01: b\r\n\r\n", 0, "name"),              /* control in a name */
    ROW("A(b): c\r\n\r\n", 0, "name"),               /* separator in a name */
    ROW("\xc3\xa4: c\r\n\r\n", 0, "name"),           /* not ASCII */
    ROW("Content-Length\x0b: 5\r\n\r\n", 0, "name"), /* vertical tab */
    ROW("no colon\r\n\r\n", 0, "colon"),             /* */
    ROW("Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 0, "more than one Content-Length"),
    ROW("Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 0, "more than one Content-Length"),
    ROW("Content-Length: 5, 5\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: +5\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: -5\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: 5 5\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: 0x5\r\n\r\n", 0, "not a number"),
    ROW("Content-Length:\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: 9223372036854775808\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: 99999999999999999999999\r\n\r\n", 0, "not a number"),
    ROW("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "both"),
    ROW("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 0, "both"),
    ROW("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0,
        "more than one Transfer-Encoding"),
    ROW("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n", 0,
        "more than one Transfer-Encoding"),
    ROW("Transfer-Encoding: gzip, chunked\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding: chunked, chunked\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding: xchunked\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding: chunked;q=1\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding: \"chunked\"\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding: \x0b"
        "chunked\r\n\r\n",
        0, "control"),
    ROW("Transfer-Encoding: identity\r\n\r\n", 0, "other than chunked"),
    ROW("Transfer-Encoding:\r\n\r\n", 0, "other than chunked"),
    ROW("Host: a\r\nHost: a\r\n\r\n", 0, "more than one Host"),
};

static const struct refused bad_requests[] = {
    ROW("\r\n" R "\r\n", 400, "empty line"),
    ROW("\n" R "\r\n", 400, "CR LF"),
    ROW("GET / HTTP/1.1\n\r\n", 400, "CR LF"),
    ROW("GET /\r\n\r\n", 400, "METHOD TARGET VERSION"),
    ROW("GET\r\n\r\n", 400, "METHOD TARGET VERSION"),
    ROW("GET / HTTP/1.1 \r\n\r\n", 400, "target"),
    ROW("GET  / HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET /  HTTP/1.1\r\n\r\n", 400, "target"),
    ROW(" GET / HTTP/1.1\r\n\r\n", 400, "method"),
    ROW("GET\t/ HTTP/1.1\r\n\r\n", 400, "METHOD TARGET VERSION"),
    ROW("G(T / HTTP/1.1\r\n\r\n", 400, "method"),
    ROW("GET /a b HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET /\0 HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET /\x7f HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET /\xc3\xa4 HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET /a#b HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET http://a/ HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("CONNECT a:80 HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET a HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET ** HTTP/1.1\r\n\r\n", 400, "target"),
    ROW("GET / http/1.1\r\n\r\n", 400, "version"),
    ROW("GET / HTTP/1.1x\r\n\r\n", 400, "version"),
    ROW("GET / HTTP/1\r\n\r\n", 400, "version"),
    ROW("GET / HTTP/01.1\r\n\r\n", 400, "version"),
    ROW("GET / HTTP/2.0\r\n\r\n", 505, "HTTP/2.0"),
    ROW("GET / HTTP/1.2\r\n\r\n", 505, "HTTP/1.2"),
    ROW("GET / HTTP/0.9\r\n\r\n", 505, "HTTP/0.9"),
    ROW("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0"),
    ROW("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0"),
    ROW("\x16\x03\x01\x02", 400, "method"), /* a TLS hello, refused before a line is complete */
    ROW("SSH-2.0-x y", 0, ""),              /* still possible: wait */
};

static const struct refused bad_answers[] = {
    ROW("\r\n" A "\r\n", 502, "empty line"),
    ROW("HTTP/2 200 OK\r\n\r\n", 502, "first line"),
    ROW("HTTP/1.2 200 OK\r\n\r\n", 502, "first line"),
    ROW("http/1.1 200 OK\r\n\r\n", 502, "first line"),
    ROW("HTTP/1.1\r\n\r\n", 502, "first line"),
    ROW("HTTP/1.1 20\r\n\r\n", 502, "first line"),
    ROW("HTTP/1.1  200 OK\r\n\r\n", 502, "status"),
    ROW("HTTP/1.1 099 OK\r\n\r\n", 502, "status"),
    ROW("HTTP/1.1 600 OK\r\n\r\n", 502, "status"),
    ROW("HTTP/1.1 -20 OK\r\n\r\n", 502, "status"),
    ROW("HTTP/1.1 2x0 OK\r\n\r\n", 502, "status"),
    ROW("HTTP/1.1 2000 OK\r\n\r\n", 502, "reason"),
    ROW("HTTP/1.1 200\tOK\r\n\r\n", 502, "reason"),
    ROW("HTTP/1.1 200 O\0K\r\n\r\n", 502, "reason"),
    ROW("HTTP/1.1 200 OK\r\r\n\r\n", 502, "reason"),
    ROW("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 502, "HTTP/1.0"),
    ROW("220 mail.example.org ESMTP", 502, "start with"),
    ROW("HTTP/2", 502, "start with"),
    ROW("x", 502, "start with"),
};

typedef ssize_t parse_fn(struct slice, struct error *);

static void expect_refused(parse_fn *parse, struct slice text, int status, const char *why) {
    cleanup_error struct error err = {0};
    ssize_t n = parse(text, &err);
    ck_assert_msg(n == -1, "%s: %zd, wanted: %s", text.ptr, n, why);
    ck_assert_msg(err.status == status, "%s: %d %s", text.ptr, err.status, err.message);
    ck_assert_msg(strstr(err.message, why), "%s: %s", text.ptr, err.message);
}

START_TEST(test_refused) {
    for (size_t i = 0; i < COUNT(headers); i++) {
        cleanup_buffer struct buffer text = {0};
        buffer_append_str(&text, R);
        buffer_append(&text, headers[i].text.ptr, headers[i].text.len);
        expect_refused(request, buffer_slice(&text), 400, headers[i].why);
        buffer_clear(&text);
        buffer_append_str(&text, A);
        buffer_append(&text, headers[i].text.ptr, headers[i].text.len);
        expect_refused(response, buffer_slice(&text), 502, headers[i].why);
    }
    for (size_t i = 0; i < COUNT(bad_requests); i++) {
        if (bad_requests[i].status == 0)
            ck_assert_int_eq(request(bad_requests[i].text, NULL), 0);
        else
            expect_refused(request, bad_requests[i].text, bad_requests[i].status, bad_requests[i].why);
    }
    for (size_t i = 0; i < COUNT(bad_answers); i++) {
        expect_refused(response, bad_answers[i].text, bad_answers[i].status, bad_answers[i].why);
    }
}
END_TEST

/* Cut anywhere: more bytes are asked for, never a head too early, and never a refusal. */
START_TEST(test_every_cut) {
    for (size_t i = 0; i < COUNT(requests); i++) {
        size_t len = strlen(requests[i].text);
        for (size_t n = 0; n < len; n++) {
            cleanup_error struct error err = {0};
            ck_assert_int_eq(request(slice_make(requests[i].text, n), &err), 0);
            ck_assert_int_eq(err.status, 0);
        }
        cleanup_free char *more = xasprintf("%sGET /next", requests[i].text);
        ck_assert_int_eq(request(slice_of(more), NULL), (ssize_t)len);
    }
    for (size_t i = 0; i < COUNT(answers); i++) {
        for (size_t n = 0; n < strlen(answers[i].text); n++) {
            ck_assert_int_eq(response(slice_make(answers[i].text, n), NULL), 0);
        }
    }
    ck_assert_int_eq(request(slice_make(NULL, 0), NULL), 0);
}
END_TEST

START_TEST(test_limits) {
    cleanup_buffer struct buffer text = {0};
    buffer_append_str(&text, R);
    for (int i = 0; i < HTTP1_MAX_HEADERS; i++) {
        buffer_printf(&text, "X-%d: y\r\n", i);
    }
    size_t full = text.len;
    buffer_append_str(&text, "\r\n");
    ck_assert_int_eq(request(buffer_slice(&text), NULL), (ssize_t)text.len);
    ck_assert_uint_eq(head.header_count, HTTP1_MAX_HEADERS);
    text.len = full;
    buffer_append_str(&text, "X-more: y\r\n\r\n");
    expect_refused(request, buffer_slice(&text), 431, "128 headers");

    buffer_clear(&text);
    buffer_append_str(&text, R "A: ");
    while (text.len < HTTP1_MAX_HEAD - 4) {
        buffer_append_char(&text, 'x');
    }
    buffer_append_str(&text, "\r\n\r\n");
    ck_assert_uint_eq(text.len, HTTP1_MAX_HEAD);
    ck_assert_int_eq(request(buffer_slice(&text), NULL), HTTP1_MAX_HEAD);
    text.len -= 4;
    ck_assert_int_eq(request(buffer_slice(&text), NULL), 0);
    buffer_append_str(&text, "x\r\n\r\n");
    expect_refused(request, buffer_slice(&text), 431, "larger than 65536");
    buffer_consume(&text, strlen(R));
    cleanup_buffer struct buffer answer = {0};
    buffer_append_str(&answer, A);
    buffer_append(&answer, text.data, text.len);
    expect_refused(response, buffer_slice(&answer), 502, "larger than 65536");
    /* Bytes after a complete head do not count. */
    buffer_clear(&text);
    buffer_append_str(&text, R "\r\n");
    for (int i = 0; i < HTTP1_MAX_HEAD; i++) {
        buffer_append_char(&text, '\n');
    }
    ck_assert_int_eq(request(buffer_slice(&text), NULL), (ssize_t)strlen(R) + 2);
}
END_TEST

START_TEST(test_characters) {
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        bool token = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                     (c && strchr("!#$%&'*+-.^_`|~", c));
        ck_assert_int_eq(http1_token_valid(slice_make(&byte, 1)), token);
        ck_assert_int_eq(http1_value_valid(slice_make(&byte, 1)), c == '\t' || (c >= 32 && c != 127));
    }
    ck_assert(!http1_token_valid(slice_of("")));
    ck_assert(http1_value_valid(slice_of("")));
}
END_TEST

RUN_SUITE("http1", test_request, test_request_framing, test_response_framing, test_refused, test_every_cut,
          test_limits, test_characters)
