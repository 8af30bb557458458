/* A request from a stranger: its head is the same however it is cut, lies within the input,
 * and keeps the rules that later code relies on; then its body. */
#include "common/http1.h"
#include "tests/fuzz/fuzz.h"

static bool within(struct slice part, struct slice all) {
    return part.len == 0 || (part.ptr >= all.ptr && part.ptr + part.len <= all.ptr + all.len);
}

static void check_head(const struct http1_head *head, struct slice bytes) {
    MUST(http1_token_valid(head->method) && within(head->method, bytes));
    MUST(head->target.len > 0 && within(head->target, bytes));
    for (size_t i = 0; i < head->target.len; i++) {
        MUST(head->target.ptr[i] > ' ' && head->target.ptr[i] < 0x7f);
    }
    size_t lengths = 0;
    size_t codings = 0;
    MUST(head->header_count <= HTTP1_MAX_HEADERS);
    for (size_t i = 0; i < head->header_count; i++) {
        const struct http1_header *h = &head->headers[i];
        MUST(http1_token_valid(h->name) && within(h->name, bytes));
        MUST(http1_value_valid(h->value) && within(h->value, bytes));
        if (slice_equal_nocase(h->name, "content-length")) lengths++;
        if (slice_equal_nocase(h->name, "transfer-encoding")) codings++;
    }
    MUST(lengths + codings <= 1 && head->framing != HTTP1_BODY_UNTIL_CLOSE);
    MUST((head->framing == HTTP1_BODY_LENGTH) == (lengths == 1));
    MUST((head->framing == HTTP1_BODY_CHUNKED) == (codings == 1));
    MUST(head->content_length <= INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct http1_head head, cut;
    struct slice bytes = slice_make((const char *)data, size);
    cleanup_error struct error err = {0};
    ssize_t len = http1_parse_request(bytes, &head, &err);
    MUST(len <= (ssize_t)size && (len < 0) == (err.status != 0));
    if (len > 0) check_head(&head, bytes);
    /* Byte by byte: nothing but "more" until the end of the head or the refusal. Long inputs would
     * take time in square for nothing new. */
    ssize_t earlier = 0;
    for (size_t n = 0; n < size && size <= 2048 && earlier == 0; n++) {
        earlier = http1_parse_request(slice_make(bytes.ptr, n), &cut, NULL);
        MUST(earlier == 0 || (earlier < 0 && len < 0) || earlier == len);
    }
    if (len > 0 && head.framing == HTTP1_BODY_CHUNKED) {
        struct http1_chunked d = {0};
        struct slice rest = slice_make(bytes.ptr + len, size - (size_t)len);
        int r = 0;
        while (r == 0 && rest.len > 0) {
            size_t taken;
            struct slice out;
            r = http1_chunked_decode(&d, rest, &taken, &out);
            MUST(taken <= rest.len && (r != 0 || taken > 0) && within(out, rest));
            rest = slice_make(rest.ptr + taken, rest.len - taken);
        }
    }
    return 0;
}
