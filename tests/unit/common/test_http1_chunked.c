/* The chunked coding: bodies, ends and refusals, with the input cut in every way. */
#include "common/http1.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>

/* Decodes `in` given in pieces of `step` bytes. Returns the last result; *taken is what was consumed. */
static int decode(struct slice in, size_t step, struct buffer *body, size_t *taken) {
    struct http1_chunked d = {0};
    size_t at = 0;
    size_t given = 0;
    while (given < in.len) {
        given = in.len - given < step ? in.len : given + step;
        while (at < given) {
            size_t consumed = 0;
            struct slice out;
            int r = http1_chunked_decode(&d, slice_make(in.ptr + at, given - at), &consumed, &out);
            ck_assert_uint_le(consumed, given - at);
            if (out.len) ck_assert(out.ptr >= in.ptr + at && out.ptr + out.len <= in.ptr + given);
            buffer_append(body, out.ptr, out.len);
            at += consumed;
            *taken = at;
            if (r != 0) return r;
            ck_assert_uint_gt(consumed, 0);
        }
    }
    return 0;
}

static const struct {
    struct slice in;
    const char *body;
    size_t after; /* bytes at the end that are not its own */
} good[] = {
#define ROW(in, body, after)                                                                                 \
    { {in, sizeof(in) - 1}, body, after }
    ROW("0\r\n\r\n", "", 0),
    ROW("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
    ROW("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200", "hello", 12),
    ROW("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", "abc", 0),
    ROW("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", 0),
    ROW("0005\r\nhello\r\n0000\r\n\r\n", "hello", 0),
    ROW("5;name=value\r\nhello\r\n0;last\r\n\r\n", "hello", 0),
    ROW("5 \t ; name = \"quoted; value\"\r\nhello\r\n0\r\n\r\n", "hello", 0),
    ROW("0\r\nTrailer: x\r\nOther: \ty\r\n\r\nz", "", 1),
    ROW("7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n\r\n", 0),
#undef ROW
};

START_TEST(test_good) {
    for (size_t i = 0; i < COUNT(good); i++) {
        for (size_t step = 1; step <= good[i].in.len; step++) {
            cleanup_buffer struct buffer body = {0};
            size_t taken = 0;
            ck_assert_msg(decode(good[i].in, step, &body, &taken) == 1, "row %zu step %zu", i, step);
            ck_assert_str_eq(buffer_cstr(&body), good[i].body);
            ck_assert_uint_eq(taken, good[i].in.len - good[i].after);
        }
        /* Cut short it has not ended. */
        for (size_t n = 0; n < good[i].in.len - good[i].after; n++) {
            cleanup_buffer struct buffer body = {0};
            size_t taken = 0;
            ck_assert_int_eq(decode(slice_make(good[i].in.ptr, n), 3, &body, &taken), 0);
            ck_assert_uint_eq(taken, n);
        }
    }
}
END_TEST

START_TEST(test_refused) {
    static const struct slice bad[] = {
#define ROW(in) {in, sizeof(in) - 1}
        ROW("\r\n"),
        ROW("\n"),
        ROW(" 5\r\nhello\r\n"),
        ROW("5\nhello\r\n"),
        ROW("5 \r\nhello\r\n"),
        ROW("5\r\rhello"),
        ROW("5\rhello"),
        ROW("5\r\nhello0\r\n\r\n"),
        ROW("5\r\nhello\n0\r\n\r\n"),
        ROW("5\r\nhello\r0\r\n\r\n"),
        ROW("5\r\nhello\r\n\r\n"),
        ROW("4\r\nhello\r\n"),
        ROW("g\r\n"),
        ROW("-1\r\n"),
        ROW("+1\r\n"),
        ROW("0x5\r\nhello"),
        ROW("5;a\nb\r\n"),
        ROW("5;a\rb\r\n"),
        ROW("5;\0\r\n"),
        ROW("5;\x7f\r\n"),
        ROW("5 5\r\n"),
        ROW(";\r\n"),
        ROW("8000000000000000\r\n"),
        ROW("10000000000000000\r\n"),
        ROW("ffffffffffffffffffff\r\n"),
        ROW("0\r\n\n"),
        ROW("0\r\nA: b\n\r\n"),
        ROW("0\r\nA: b\rc\r\n"),
        ROW("0\r\n\rx"),
        ROW("0\r\nA: \0\r\n\r\n"),
        ROW("0\n\r\n"),
#undef ROW
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        for (size_t step = 1; step <= bad[i].len; step++) {
            cleanup_buffer struct buffer body = {0};
            size_t taken;
            ck_assert_msg(decode(bad[i], step, &body, &taken) == -1, "row %zu: %s", i, bad[i].ptr);
        }
    }
}
END_TEST

static int repeated(const char *start, char c, size_t count, const char *end) {
    cleanup_buffer struct buffer text = {0};
    cleanup_buffer struct buffer body = {0};
    size_t taken;
    buffer_append_str(&text, start);
    for (size_t i = 0; i < count; i++) {
        buffer_append_char(&text, c);
    }
    buffer_append_str(&text, end);
    return decode(buffer_slice(&text), 1000, &body, &taken);
}

START_TEST(test_limits) {
    ck_assert_int_eq(repeated("0;", 'x', HTTP1_MAX_CHUNK_LINE - 4, "\r\n\r\n"), 1);
    ck_assert_int_eq(repeated("0;", 'x', HTTP1_MAX_CHUNK_LINE - 3, "\r\n\r\n"), -1);
    ck_assert_int_eq(repeated("", '0', HTTP1_MAX_CHUNK_LINE + 1, ""), -1);
    ck_assert_int_eq(repeated("1", ' ', HTTP1_MAX_CHUNK_LINE, ""), -1);
    ck_assert_int_eq(repeated("0\r\n", 'x', HTTP1_MAX_TRAILERS - 4, "\r\n\r\n"), 1);
    ck_assert_int_eq(repeated("0\r\n", 'x', HTTP1_MAX_TRAILERS - 3, "\r\n\r\n"), -1);
    /* Many trailers count together; many chunks do not. */
    cleanup_buffer struct buffer text = {0}, chunks = {0}, body = {0};
    size_t taken;
    buffer_append_str(&text, "0\r\n");
    for (int i = 0; i <= HTTP1_MAX_TRAILERS / 6; i++) {
        buffer_append_str(&text, "A: b\r\n");
        buffer_append_str(&chunks, "1;x\r\na\r\n");
    }
    buffer_append_str(&text, "\r\n");
    buffer_append_str(&chunks, "0\r\n\r\n");
    ck_assert_int_eq(decode(buffer_slice(&text), 1000, &body, &taken), -1);
    ck_assert_int_eq(decode(buffer_slice(&chunks), 1000, &body, &taken), 1);
    ck_assert_uint_eq(body.len, HTTP1_MAX_TRAILERS / 6 + 1);
    /* A huge chunk is announced, not allocated. */
    struct http1_chunked d = {0};
    struct slice out;
    ck_assert_int_eq(http1_chunked_decode(&d, slice_of("7fffffffffffffff\r\nab"), &taken, &out), 0);
    ck_assert(slice_equal_str(out, "ab"));
}
END_TEST

START_TEST(test_after_the_end) {
    struct http1_chunked d = {0};
    struct slice out;
    size_t taken = 99;
    ck_assert_int_eq(http1_chunked_decode(&d, slice_make(NULL, 0), &taken, &out), 0);
    ck_assert_uint_eq(taken, 0);
    ck_assert_int_eq(http1_chunked_decode(&d, slice_of("0\r\n\r\nmore"), &taken, &out), 1);
    ck_assert_uint_eq(taken, 5);
    ck_assert_int_eq(http1_chunked_decode(&d, slice_of("more"), &taken, &out), 1);
    ck_assert_uint_eq(taken, 0);
    ck_assert_uint_eq(out.len, 0);
}
END_TEST

RUN_SUITE("http1_chunked", test_good, test_refused, test_limits, test_after_the_end)
