/* An answer from a sandbox or an application in it, which is hostile: the head, then a chunked body
 * decoded at once and in pieces that the input itself chooses, with the same result. */
#include "common/http1.h"
#include "tests/fuzz/fuzz.h"

/* Decodes with pieces of `step` bytes. Returns 1, 0 or -1, with the body and what was taken. */
static int decode(struct slice in, size_t step, struct buffer *body, size_t *total) {
    struct http1_chunked d = {0};
    size_t given = 0;
    *total = 0;
    while (given < in.len) {
        given = in.len - given < step ? in.len : given + step;
        while (*total < given) {
            size_t taken;
            struct slice out;
            struct slice part = slice_make(in.ptr + *total, given - *total);
            int r = http1_chunked_decode(&d, part, &taken, &out);
            MUST(taken <= part.len && (r != 0 || taken > 0));
            MUST(out.len == 0 || (out.ptr >= part.ptr && out.ptr + out.len <= part.ptr + taken));
            buffer_append(body, out.ptr, out.len);
            *total += taken;
            if (r != 0) return r;
        }
    }
    return 0;
}

static void check_chunked(struct slice in, size_t step) {
    cleanup_buffer struct buffer whole = {0};
    cleanup_buffer struct buffer pieces = {0};
    size_t taken, taken_pieces;
    int r = decode(in, SIZE_MAX, &whole, &taken);
    MUST(decode(in, step, &pieces, &taken_pieces) == r);
    MUST(taken == taken_pieces && slice_equal(buffer_slice(&whole), buffer_slice(&pieces)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct http1_head head, cut;
    struct slice bytes = slice_make((const char *)data, size);
    size_t step = size > 0 ? data[size - 1] % 16 + 1U : 1;
    static const char *const methods[] = {"GET", "HEAD"};
    for (size_t m = 0; m < 2; m++) {
        cleanup_error struct error err = {0};
        ssize_t len = http1_parse_response(bytes, methods[m], &head, &err);
        MUST(len <= (ssize_t)size && (len < 0) == (err.status != 0));
        if (len <= 0) continue;
        MUST(head.status >= 100 && head.status <= 599 && http1_value_valid(head.reason));
        for (size_t i = 0; i < head.header_count; i++) {
            MUST(http1_token_valid(head.headers[i].name) && http1_value_valid(head.headers[i].value));
        }
        bool bodiless = m == 1 || head.status < 200 || head.status == 204 || head.status == 304;
        MUST(!bodiless || head.framing == HTTP1_BODY_NONE);
        MUST(bodiless || head.framing != HTTP1_BODY_NONE);
        MUST(!(head.framing == HTTP1_BODY_UNTIL_CLOSE && head.keep_alive));
        ssize_t before = http1_parse_response(slice_make(bytes.ptr, (size_t)len - 1), methods[m], &cut, NULL);
        MUST(before == 0);
        if (head.framing == HTTP1_BODY_CHUNKED) {
            check_chunked(slice_make(bytes.ptr + len, size - (size_t)len), step);
        }
    }
    check_chunked(bytes, step);
    return 0;
}
