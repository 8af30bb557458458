/* What comes in on a connection, cut in every way and read into buffers of every size: what is handed on is
 * always the same, and nothing of it could be read in two ways. */
#include "router/inbound.h"

#include "tests/unit/common/suite.h"
#include "tests/unit/router/client_sends.h"

#include <stdio.h>

/* All that is handed on of `sent`. Whoever got less than asked for must wait for more from the client: so the
 * source may only be asked again when it has more, or when all that was asked for was given. */
static void read_all(struct inbound *in, struct slice sent, size_t step, size_t size, bool pauses,
                     struct buffer *out) {
    struct client client = {sent, step, pauses, pauses};
    char *piece = xcalloc(1, size);
    for (;;) {
        size_t before = client.bytes.len;
        ssize_t n = inbound_read(in, client_sends, &client, piece, size);
        if (n > 0) buffer_append(out, piece, (size_t)n);
        if (n < 0) ck_assert_int_eq(errno, EAGAIN);
        if (n == (ssize_t)size) continue;
        if (client.bytes.len == 0 && n <= 0) break;
        /* An edge-triggered reader sleeps now, and is woken by what comes in later only. */
        if (!pauses && client.step >= sent.len)
            ck_assert(client.bytes.len == 0 || before == client.bytes.len);
        if (before == client.bytes.len && in->state == INBOUND_REFUSED) break;
    }
    free(piece);
}

static const size_t steps[] = {1, 2, 3, 7, 16, 64, 1000000}, sizes[] = {1, 2, 5, 16, 33, 200, 32768};

/* Reads `sent` in every way and expects `wanted`. */
static void expect(struct slice sent, struct slice wanted, int status, uint64_t requests, const char *what) {
    for (size_t i = 0; i < COUNT(steps) * COUNT(sizes) * 2; i++) {
        size_t step = steps[i % COUNT(steps)], size = sizes[i / COUNT(steps) % COUNT(sizes)];
        bool pauses = i >= COUNT(steps) * COUNT(sizes);
        struct inbound in = {0};
        cleanup_buffer struct buffer out = {0};
        read_all(&in, sent, step, size, pauses, &out);
        ck_assert_msg(out.len == wanted.len && memcmp(buffer_cstr(&out), wanted.ptr, wanted.len) == 0,
                      "%s, step %zu, size %zu: got \"%s\"", what, step, size, buffer_cstr(&out));
        ck_assert_uint_eq(in.requests, requests);
        const struct error *why = inbound_refusal(&in, requests);
        ck_assert_msg((why ? why->status : 0) == status, "%s: %s", what, why ? why->message : "taken");
        ck_assert_ptr_null(inbound_refusal(&in, requests - 1));
        ck_assert_ptr_null(inbound_refusal(&in, requests + 1));
        inbound_free(&in);
    }
}

#define GET_   "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST_  "POST /a HTTP/1.1\r\nHost: h\r\n"
#define CHUNKS POST_ "Transfer-Encoding: chunked\r\n\r\n"

START_TEST(test_passed_on_as_sent) {
    static const struct {
        const char *sent;
        uint64_t requests;
    } rows[] = {
        {GET_, 1},
        {GET_ GET_ GET_, 3},
        {"\r\n\r\n" GET_ "\r\n" GET_, 2},
        {POST_ "Content-Length: 5\r\n\r\nhello" GET_, 2},
        {POST_ "Content-Length: 0\r\n\r\n" GET_, 2},
        {POST_ "Content-Length: \t 5\r\n\r\n\r\n\r\nx" GET_, 2},
        {CHUNKS "0\r\n\r\n" GET_, 2},
        {CHUNKS "5\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\n" CHUNKS "0\r\n\r\n", 2},
        {"GET http://h/a HTTP/1.0\r\n\r\n", 1},
        {"GET /a HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\x81\x02hi\n\n", 1},
        {POST_ "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nb\x81\x02hi\n\n", 1},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        expect(slice_of(rows[i].sent), slice_of(rows[i].sent), 0, rows[i].requests, rows[i].sent);
}
END_TEST

START_TEST(test_extensions_and_trailers_are_blanked_out) {
    static const struct {
        const char *sent, *wanted;
    } rows[] = {
        {CHUNKS "5;a=b\r\nhello\r\n0;c\r\n\r\n", CHUNKS "5;xxx\r\nhello\r\n0;x\r\n\r\n"},
        {CHUNKS "5 \t;\"\r\nhello\r\n0\r\n\r\n" GET_, CHUNKS "5;xxx\r\nhello\r\n0\r\n\r\n" GET_},
        {CHUNKS "0\r\na\r\n\r\n" GET_, CHUNKS "0;xx\r\n\r\n" GET_},
        {CHUNKS "1\r\na\r\n00;e\r\nA: b\r\nContent-Length: 9\r\n\r\n" GET_,
         CHUNKS "1\r\na\r\n00;xxxxxxxxxxxxxxxxxxxxxxxxxx\r\n\r\n" GET_},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        expect(slice_of(rows[i].sent), slice_of(rows[i].wanted), 0, strstr(rows[i].sent, GET_) ? 2 : 1,
               rows[i].sent);
}
END_TEST

#define INSTEAD(line) line " HTTP/1.1\r\nHost: refused\r\n\r\n"

START_TEST(test_M4_S18_refused_heads) {
    static const struct {
        const char *head, *instead;
        int status;
    } rows[] = {
        {POST_ "Content-Length: +2\r\n\r\n{}", INSTEAD("POST /a"), 400},
        {POST_ "Content-Length: \r\n\r\n", INSTEAD("POST /a"), 400},
        {POST_ "Content-Length: 2 \r\n\r\n{}", INSTEAD("POST /a"), 400},
        {POST_ "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", INSTEAD("POST /a"), 400},
        {POST_ "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", INSTEAD("POST /a"), 400},
        {POST_ "Transfer-Encoding: chunked\t\r\n\r\n{}", INSTEAD("POST /a"), 400},
        {POST_ "Transfer-Encoding: gzip, chunked\r\n\r\n{}", INSTEAD("POST /a"), 501},
        {"HEAD /a?b=%20 HTTP/1.1\r\nnonsense\r\n\r\n", INSTEAD("HEAD /a?b=%20"), 400},
        {"GET /a HTTP/1.1\r\nA: b\r\n c\r\n\r\n", INSTEAD("GET /a"), 400},
        {"GET /a HTTP/1.1\r\nA : b\r\n\r\n", INSTEAD("GET /a"), 400},
        {"GET /a HTTP/1.1\r\nA: b\x01\r\n\r\n", INSTEAD("GET /a"), 400},
        {"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", INSTEAD("GET /a"), 400},
        {"GET /a HTTP/2.0\r\n\r\n", INSTEAD("GET /a"), 505},
        {"GET /a HTTP/1.1\n\n", INSTEAD("GET /"), 400},
        {"GET  /a HTTP/1.1\r\n\r\n", INSTEAD("GET /"), 400},
        {"G(T /a HTTP/1.1\r\n\r\n", INSTEAD("GET /"), 400},
        {"GET a HTTP/1.1\r\n\r\n", INSTEAD("GET /"), 400},
        {"\x16\x03\x01\x02", INSTEAD("GET /"), 400},
        {"\nGET /a HTTP/1.1\r\n\r\n", INSTEAD("GET /"), 400},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (int before = 0; before < 3; before++) {
            cleanup_buffer struct buffer sent = {0}, wanted = {0};
            const char *first = before == 0 ? "" : before == 1 ? GET_ : CHUNKS "2\r\n{}\r\n0\r\n\r\n";
            buffer_printf(&sent, "%s%s" GET_, first, rows[i].head);
            buffer_printf(&wanted, "%s%s", first, rows[i].instead);
            expect(buffer_slice(&sent), buffer_slice(&wanted), rows[i].status, before ? 2 : 1, rows[i].head);
        }
    }
}
END_TEST

START_TEST(test_S18_refused_chunks) {
    static const char *const chunks[] = {
        "x\r\n{}\r\n", "-2\r\n{}\r\n", "0x2\r\n{}\r\n", "2\n{}\n0\n\n", "FFFFFFFFFFFFFFFFF\r\n{}\r\n",
        "\r\n",        " 2\r\n{}\r\n", "0\r\n\n",
    };
    for (size_t i = 0; i < COUNT(chunks); i++) {
        cleanup_buffer struct buffer sent = {0}, later = {0};
        buffer_printf(&sent, CHUNKS "%s" GET_, chunks[i]);
        expect(buffer_slice(&sent), slice_of(CHUNKS "0\r\n\r\n"), 400, 1, chunks[i]);
        buffer_printf(&later, CHUNKS "3\r\nabc\r\n%s" GET_, chunks[i]);
        expect(buffer_slice(&later), slice_of(CHUNKS "3\r\nabc\r\n0\r\n\r\n"), 400, 1, chunks[i]);
    }
    expect(slice_of(CHUNKS "2\r\nabXX0\r\n\r\n" GET_), slice_of(CHUNKS "2\r\nab\r\n0\r\n\r\n"), 400, 1,
           "no CRLF");
}
END_TEST

static void expect_large(size_t step, const char *start, size_t filler, int status) {
    struct inbound in = {0};
    cleanup_buffer struct buffer sent = {0}, out = {0};
    buffer_append(&sent, start, strlen(start));
    for (size_t i = 0; i < filler; i++)
        buffer_append_char(&sent, 'a');
    const char *rest = strchr(start, '\n') ? "\r\n\r\n" : " HTTP/1.1\r\n\r\n";
    buffer_append(&sent, rest, strlen(rest));
    read_all(&in, buffer_slice(&sent), step, 32768, true, &out);
    const struct error *why = inbound_refusal(&in, 1);
    ck_assert_int_eq(why ? why->status : 0, status);
    ck_assert(status ? out.len < 2048 : out.len == sent.len);
    ck_assert_uint_le(in.room, INBOUND_HEAD_MAX + 64 * 1024);
    inbound_free(&in);
}

START_TEST(test_1_12_large_heads) {
    static const char get[] = "GET /a HTTP/1.1\r\nHost: h\r\nA: ";
    size_t most = INBOUND_HEAD_MAX - strlen(get) - 4;
    for (size_t i = 0; i < 3; i++) {
        size_t step = (size_t[]){1460, 16384, 1000000}[i];
        expect_large(step, get, most, 0);
        expect_large(step, get, most + 1, 431);
        expect_large(step, get, 200000, 431);
    }
    expect_large(1460, "GET /", 100000, 414);
}
END_TEST

/* A client that leaves in the middle of a head is seen to leave. */
static ssize_t client_leaves(void *ctx, void *out, size_t size) {
    bool *sent = ctx;
    if (*sent) return 0;
    *sent = true;
    ck_assert_uint_ge(size, 7);
    memcpy(out, "GET /a ", 7);
    return 7;
}

START_TEST(test_end_of_the_connection) {
    struct inbound in = {0};
    char out[64];
    bool sent = false;
    ck_assert_int_eq(inbound_read(&in, client_leaves, &sent, out, sizeof out), -1);
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_eq(inbound_read(&in, client_leaves, &sent, out, sizeof out), 0);
    inbound_free(&in);
}
END_TEST

START_TEST(test_what_follows_an_upgrade) {
    static const char upgrade[] = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    struct inbound in = {0};
    cleanup_buffer struct buffer out = {0};
    /* Not granted, and nothing came behind it: requests go on, and are checked. */
    read_all(&in, slice_of(upgrade), 1000, 1000, false, &out);
    ck_assert(inbound_next(&in, 1));
    read_all(&in, slice_of("GET /a HTTP/1.1\n\n"), 1000, 1000, false, &out);
    ck_assert_ptr_nonnull(inbound_refusal(&in, 2));
    ck_assert(inbound_next(&in, 1));
    ck_assert(!inbound_next(&in, 2));
    inbound_free(&in);
    /* What came behind it was not checked: no request follows. */
    in = (struct inbound){0};
    read_all(&in, slice_of(upgrade), 1000, 1000, false, &out);
    read_all(&in, slice_of(GET_), 1000, 1000, false, &out);
    ck_assert_uint_eq(in.requests, 1);
    ck_assert(!inbound_next(&in, 1));
    inbound_free(&in);
}
END_TEST

RUN_SUITE("inbound", test_passed_on_as_sent, test_extensions_and_trailers_are_blanked_out,
          test_M4_S18_refused_heads, test_S18_refused_chunks, test_1_12_large_heads,
          test_end_of_the_connection, test_what_follows_an_upgrade)
