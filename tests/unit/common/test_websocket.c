/* The handshake's answer and the frames of clients (RFC 6455; lesson S22). */
#include "common/websocket.h"

#include "common/sha1.h"
#include "common/text.h"

#include <check.h>

START_TEST(sha1_vectors) {
    static const struct {
        const char *text, *digest;
    } cases[] = {
        {"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
    };
    unsigned char digest[SHA1_LEN];
    char hex[2 * SHA1_LEN + 1];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sha1(slice_of(cases[i].text), digest);
        hex_encode(digest, sizeof digest, hex);
        ck_assert_str_eq(hex, cases[i].digest);
    }
    cleanup_free char *million = xcalloc(1, 1000000);
    memset(million, 'a', 1000000);
    sha1(slice_make(million, 1000000), digest);
    hex_encode(digest, sizeof digest, hex);
    ck_assert_str_eq(hex, "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}
END_TEST

START_TEST(accept_of_the_rfc) {
    char accept[WEBSOCKET_ACCEPT_LEN + 1];
    ck_assert(websocket_accept(slice_of("dGhlIHNhbXBsZSBub25jZQ=="), accept));
    ck_assert_str_eq(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    static const char *const bad[] = {"", "x", "dGhlIHNhbXBsZSBub25jZQ",
                                      "dGhlIHNhbXBsZSBub25jZSE=", "!!!!!!!!!!!!!!!!!!!!!!=="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!websocket_accept(slice_of(bad[i]), accept));
}
END_TEST

/* A client's frame with a mask. */
static void put(struct buffer *out, unsigned char first, struct slice payload) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    buffer_append_char(out, (char)first);
    if (payload.len < 126) {
        buffer_append_char(out, (char)(0x80 | payload.len));
    } else {
        ck_assert_uint_lt(payload.len, 65536);
        buffer_append_char(out, (char)(0x80 | 126));
        buffer_append_char(out, (char)(payload.len >> 8));
        buffer_append_char(out, (char)(payload.len & 255));
    }
    buffer_append(out, mask, 4);
    for (size_t i = 0; i < payload.len; i++)
        buffer_append_char(out, (char)(payload.ptr[i] ^ (char)mask[i % 4]));
}

START_TEST(messages_however_they_arrive) {
    cleanup_buffer struct buffer all = {0}, in = {0};
    char big[5000];
    memset(big, 'b', sizeof big);
    put(&all, 0x81, slice_of("hello"));
    put(&all, 0x01, slice_of("in "));
    put(&all, 0x89, slice_of("ping"));
    put(&all, 0x80, slice_of("pieces"));
    put(&all, 0x82, slice_make(big, sizeof big));
    put(&all, 0x88,
        slice_make("\x03\xe8"
                   "bye",
                   5));
    for (size_t step = 1; step < 40; step += 13) {
        struct websocket_reader r = {.limit = 8000};
        struct websocket_message m;
        int seen = 0;
        buffer_clear(&in);
        for (size_t at = 0; at < all.len; at += step) {
            buffer_append(&in, all.data + at, all.len - at < step ? all.len - at : step);
            while (websocket_read(&r, &in, &m) == 1) {
                switch (seen++) {
                case 0: ck_assert(m.opcode == WEBSOCKET_TEXT && slice_equal_str(m.payload, "hello")); break;
                case 1: ck_assert(m.opcode == WEBSOCKET_PING && slice_equal_str(m.payload, "ping")); break;
                case 2:
                    ck_assert(m.opcode == WEBSOCKET_TEXT && slice_equal_str(m.payload, "in pieces"));
                    break;
                case 3:
                    ck_assert(m.opcode == WEBSOCKET_BINARY &&
                              slice_equal(m.payload, slice_make(big, sizeof big)));
                    break;
                case 4: ck_assert(m.opcode == WEBSOCKET_CLOSE && m.close_code == 1000); break;
                default: ck_abort_msg("too many messages");
                }
            }
        }
        ck_assert_int_eq(seen, 5);
        ck_assert_uint_eq(in.len, 0);
        websocket_reader_free(&r);
    }
}
END_TEST

START_TEST(frames_that_fail_the_connection) {
    static const struct {
        const char *bytes;
        size_t len;
        int code;
    } cases[] = {
        {"\x81\x01x", 3, 1002},                             /* no mask */
        {"\xc1\x80\0\0\0\0", 6, 1002},                      /* RSV1 */
        {"\x83\x80\0\0\0\0", 6, 1002},                      /* reserved */
        {"\x8b\x80\0\0\0\0", 6, 1002},                      /* reserved control */
        {"\x89\xfe\0\x80\0\0\0\0", 8, 1002},                /* long ping */
        {"\x09\x80\0\0\0\0", 6, 1002},                      /* ping in pieces */
        {"\x80\x80\0\0\0\0", 6, 1002},                      /* continues nothing */
        {"\x01\x80\0\0\0\0\x01\x80\0\0\0\0", 12, 1002},     /* text within text */
        {"\x81\xfe\0\x05\0\0\0\0", 8, 1002},                /* not the shortest length */
        {"\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 14, 1002}, /* nor here */
        {"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 14, 1002},   /* 2^63 */
        {"\x82\xff\0\0\0\x01\0\0\0\0\0\0\0\0", 14, 1009},   /* 4 GiB */
        {"\x81\x81\0\0\0\0\xff", 7, 1007},                  /* not UTF-8 */
        {"\x88\x81\0\0\0\0\x03", 7, 1002},                  /* half a code */
        {"\x88\x82\0\0\0\0\x03\xed", 8, 1002},              /* 1005 */
        {"\x88\x82\0\0\0\0\x03\xe7", 8, 1002},              /* 999 */
        {"\x88\x83\0\0\0\0\x03\xe8\xff", 9, 1007},          /* a reason that is not UTF-8 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cleanup_buffer struct buffer in = {0};
        struct websocket_reader r = {.limit = 100000};
        struct websocket_message m;
        buffer_append(&in, cases[i].bytes, cases[i].len);
        ck_assert_msg(websocket_read(&r, &in, &m) == cases[i].code, "case %zu", i);
        websocket_reader_free(&r);
    }
}
END_TEST

START_TEST(frames_for_clients) {
    static const size_t sizes[] = {0, 1, 125, 126, 65535, 65536};
    static const size_t heads[] = {2, 2, 2, 4, 4, 10};
    cleanup_free char *bytes = xcalloc(1, 65536);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        cleanup_buffer struct buffer out = {0};
        websocket_put(&out, WEBSOCKET_BINARY, slice_make(bytes, sizes[i]));
        ck_assert_uint_eq(out.len, heads[i] + sizes[i]);
        ck_assert_uint_eq((unsigned char)out.data[0], 0x82);
        ck_assert_uint_eq(out.data[1] & 0x80, 0);
    }
    cleanup_buffer struct buffer out = {0};
    websocket_put_close(&out, 1001, "away");
    ck_assert(slice_equal(buffer_slice(&out), slice_make("\x88\x06\x03\xe9"
                                                         "away",
                                                         8)));
}
END_TEST

START_TEST(the_clients_side) {
    static const size_t sizes[] = {0, 1, 125, 126, 65535, 65536};
    static const unsigned char mask[4] = {1, 0x80, 0xff, 7};
    cleanup_free char *bytes = xcalloc(1, 65536);
    memset(bytes, 'x', 65536);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        /* What one side writes, the other one reads, and only that one. */
        for (int server = 0; server < 2; server++) {
            cleanup_buffer struct buffer wire = {0};
            struct websocket_reader r = {.limit = 100000, .of_server = server},
                                    other = {.limit = 100000, .of_server = !server};
            struct websocket_message m;
            if (server)
                websocket_put(&wire, WEBSOCKET_TEXT, slice_make(bytes, sizes[i]));
            else
                websocket_put_masked(&wire, WEBSOCKET_TEXT, slice_make(bytes, sizes[i]), mask);
            cleanup_buffer struct buffer copy = {0};
            buffer_append(&copy, wire.data, wire.len);
            ck_assert_int_eq(websocket_read(&other, &copy, &m), 1002);
            ck_assert_int_eq(websocket_read(&r, &wire, &m), 1);
            ck_assert(slice_equal(m.payload, slice_make(bytes, sizes[i])) && wire.len == 0);
            websocket_reader_free(&r);
            websocket_reader_free(&other);
        }
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("websocket");
    TCase *c = tcase_create("all");
    tcase_add_test(c, sha1_vectors);
    tcase_add_test(c, accept_of_the_rfc);
    tcase_add_test(c, messages_however_they_arrive);
    tcase_add_test(c, frames_that_fail_the_connection);
    tcase_add_test(c, frames_for_clients);
    tcase_add_test(c, the_clients_side);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
