/* A connection's bytes from a stranger: what is handed on is the same however they are cut and read, is what
 * strict parsers make whole requests of, and ends where it was refused. */
#include "router/inbound.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/router/client_sends.h"

static void read_all(struct inbound *in, struct slice sent, size_t step, size_t size, struct buffer *out) {
    struct client client = {sent, step, true, false};
    char piece[4096];
    ssize_t n;
    while ((n = inbound_read(in, client_sends, &client, piece, size)) > 0 || client.bytes.len > 0) {
        MUST(n != 0 && n <= (ssize_t)size);
        if (n > 0) buffer_append(out, piece, (size_t)n);
        if (n < 0 && in->state == INBOUND_REFUSED) break;
    }
}

/* Requests, one after the other, the last of them perhaps without all of its body. */
static void check_requests(const struct inbound *in, struct slice rest) {
    static struct http1_head head;
    uint64_t seen = 0;
    while (rest.len > 0) {
        if (slice_starts_with(rest, "\r\n")) {
            rest = slice_make(rest.ptr + 2, rest.len - 2);
            continue;
        }
        ssize_t len = http1_parse_client_request(rest, &head, NULL);
        MUST(len > 0 && len <= INBOUND_HEAD_MAX);
        seen++;
        rest = slice_make(rest.ptr + len, rest.len - (size_t)len);
        if (head.framing == HTTP1_BODY_LENGTH) {
            size_t n = head.content_length < rest.len ? (size_t)head.content_length : rest.len;
            rest = slice_make(rest.ptr + n, rest.len - n);
        } else if (head.framing == HTTP1_BODY_CHUNKED) {
            struct http1_chunked d = {0};
            int rc = 0;
            while (rc == 0 && rest.len > 0) {
                size_t taken;
                struct slice data;
                rc = http1_chunked_decode(&d, rest, &taken, &data);
                MUST(rc >= 0 && taken > 0);
                for (const char *p = rest.ptr; p < data.ptr && data.len > 0; p++)
                    MUST(*p != ' ' && *p != '\t' && *p != '"');
                rest = slice_make(rest.ptr + taken, rest.len - taken);
            }
        }
        if (head.upgrade || http1_find(&head, "upgrade")) break;
    }
    MUST(seen == in->requests);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t step = data[0] + 1u, reads = data[1] + 1u;
    struct slice sent = slice_make((const char *)data + 2, size - 2);
    struct inbound in = {0}, whole = {0};
    cleanup_buffer struct buffer out = {0}, at_once = {0};
    read_all(&in, sent, step, reads, &out);
    read_all(&whole, sent, sent.len + 1, 4096, &at_once);
    MUST(slice_equal(buffer_slice(&out), buffer_slice(&at_once)));
    MUST(in.state == whole.state && in.requests == whole.requests);
    MUST((in.refusal != NULL) == (in.state == INBOUND_REFUSED));
    MUST(!in.refusal || (in.refusal->why.status >= 400 && in.refusal->why.status < 600));
    check_requests(&in, buffer_slice(&out));
    inbound_free(&in);
    inbound_free(&whole);
    return 0;
}
