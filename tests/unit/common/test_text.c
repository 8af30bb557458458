/* Text encodings: vectors from their documents, every cut, and round trips. */
#include "common/text.h"

#include "tests/unit/common/suite.h"

static const struct {
    struct slice in;
    bool valid;
    size_t tail;
    const char *repaired;
} utf8_rows[] = {
#define R "\xef\xbf\xbd"
#define ROW(in, valid, tail, repaired)                                                                       \
    { {in, sizeof(in) - 1}, valid, tail, repaired }
    ROW("", true, 0, ""),
    ROW("plain ascii text", true, 0, "plain ascii text"),
    ROW("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", true, 0, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
    ROW("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80", true, 0, "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80"),
    ROW("a\xff"
        "b",
        false, 0, "a" R "b"),
    ROW("\x80", false, 0, R),
    ROW("\xbf\xbf\xbf\xbf", false, 0, R R R R),
    ROW("\xc0\x80", false, 0, R R),             /* overlong NUL */
    ROW("\xc1\xbf", false, 0, R R),             /* overlong */
    ROW("\xe0\x9f\xbf", false, 0, R R R),       /* overlong */
    ROW("\xf0\x8f\xbf\xbf", false, 0, R R R R), /* overlong */
    ROW("\xed\xa0\x80", false, 0, R R R),       /* surrogate */
    ROW("\xf4\x90\x80\x80", false, 0, R R R R), /* above U+10FFFF */
    ROW("\xf5\x80", false, 0, R R),
    ROW("x\xc3", false, 1, "x" R),
    ROW("x\xe2\x82", false, 2, "x" R),
    ROW("x\xf0\x9f\x98", false, 3, "x" R),
    ROW("x\xf0\x9f", false, 2, "x" R),
    ROW("x\xe0", false, 1, "x" R),
    ROW("\xe2\x82"
        "a",
        false, 0, R "a"),
    ROW("\xf0\x9f\x98\xf0\x9f\x98\x80", false, 0, R "\xf0\x9f\x98\x80"),
    ROW("0123456\xe2\x82\xac"
        "89",
        true, 0,
        "0123456\xe2\x82\xac"
        "89"),
    ROW("01234567\xff", false, 0, "01234567" R),
    /* Unicode 15, table 3-8 */
    ROW("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", false, 0, "a" R R R "b" R "c" R R "d"),
#undef ROW
};

START_TEST(test_utf8) {
    for (size_t i = 0; i < COUNT(utf8_rows); i++) {
        ck_assert_msg(utf8_valid(utf8_rows[i].in) == utf8_rows[i].valid, "row %zu", i);
        ck_assert_msg(utf8_incomplete_tail(utf8_rows[i].in) == utf8_rows[i].tail, "row %zu", i);
        cleanup_buffer struct buffer out = {0};
        ck_assert(utf8_repair(utf8_rows[i].in, &out));
        ck_assert_str_eq(buffer_cstr(&out), utf8_rows[i].repaired);
        ck_assert(utf8_valid(buffer_slice(&out)));
    }
}
END_TEST

static int encode(unsigned code, char *to) {
    if (code < 0x80) return to[0] = (char)code, 1;
    if (code < 0x800) return to[0] = (char)(0xc0 | code >> 6), to[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000) {
        to[0] = (char)(0xe0 | code >> 12);
        to[1] = (char)(0x80 | (code >> 6 & 63));
        to[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | code >> 18);
    to[1] = (char)(0x80 | (code >> 12 & 63));
    to[2] = (char)(0x80 | (code >> 6 & 63));
    to[3] = (char)(0x80 | (code & 63));
    return 4;
}

/* Every code point is valid but surrogates; every cut of it is an incomplete tail. */
START_TEST(test_utf8_every_code_point) {
    for (unsigned code = 0; code < 0x110400; code++) {
        char text[4];
        size_t len = (size_t)encode(code, text);
        bool valid = code < 0x110000 && (code < 0xd800 || code > 0xdfff);
        if (utf8_valid(slice_make(text, len)) != valid) ck_abort_msg("U+%04X", code);
        for (size_t cut = 1; valid && cut < len; cut++) {
            if (utf8_incomplete_tail(slice_make(text, cut)) != cut)
                ck_abort_msg("U+%04X cut at %zu", code, cut);
        }
        if (valid && utf8_incomplete_tail(slice_make(text, len)) != 0) ck_abort_msg("U+%04X", code);
    }
}
END_TEST

/* A text cut anywhere, with tails carried over, is never repaired. */
START_TEST(test_utf8_carried_tails) {
    struct slice text = slice_of("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z\xed\x9f\xbf");
    for (size_t step = 1; step <= text.len; step++) {
        cleanup_buffer struct buffer out = {0};
        cleanup_buffer struct buffer carry = {0};
        for (size_t at = 0; at < text.len; at += step) {
            size_t n = text.len - at < step ? text.len - at : step;
            buffer_append(&carry, text.ptr + at, n);
            size_t whole = carry.len - utf8_incomplete_tail(buffer_slice(&carry));
            ck_assert(utf8_repair(slice_make(carry.data, whole), &out));
            buffer_consume(&carry, whole);
        }
        ck_assert_uint_eq(carry.len, 0);
        ck_assert(slice_equal(buffer_slice(&out), text));
    }
}
END_TEST

START_TEST(test_limits_append_nothing) {
    cleanup_buffer struct buffer out = {.limit = 5};
    buffer_append_str(&out, "ab");
    ck_assert(!utf8_repair(slice_of("c\xff"), &out));
    ck_assert(!base64_encode(slice_of("c"), &out));
    ck_assert(!base64_decode(slice_of("YWJjZA=="), &out));
    ck_assert(!percent_encode(slice_of("c/"), "", &out));
    ck_assert(!percent_decode(slice_of("cdef"), &out));
    ck_assert_str_eq(out.data, "ab");
    ck_assert_uint_eq(out.len, 2);
    ck_assert(utf8_repair(slice_of("\xff"), &out));
}
END_TEST

START_TEST(test_base64) {
    static const char *const rows[][3] = {
        {"", "", ""},
        {"f", "Zg==", "Zg"},
        {"fo", "Zm8=", "Zm8"},
        {"foo", "Zm9v", "Zm9v"},
        {"foob", "Zm9vYg==", "Zm9vYg"},
        {"fooba", "Zm9vYmE=", "Zm9vYmE"},
        {"foobar", "Zm9vYmFy", "Zm9vYmFy"},
        {"\xfb\xff\xfe", "+//+", "-__-"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        cleanup_buffer struct buffer a = {0}, b = {0}, c = {0};
        ck_assert(base64_encode(slice_of(rows[i][0]), &a));
        ck_assert_str_eq(buffer_cstr(&a), rows[i][1]);
        ck_assert(base64url_encode(slice_of(rows[i][0]), &b));
        ck_assert_str_eq(buffer_cstr(&b), rows[i][2]);
        ck_assert(base64_decode(slice_of(rows[i][1]), &c));
        ck_assert_str_eq(buffer_cstr(&c), rows[i][0]);
        cleanup_buffer struct buffer d = {0};
        ck_assert(base64url_decode(slice_of(rows[i][2]), &d));
        ck_assert_str_eq(buffer_cstr(&d), rows[i][0]);
    }
    static const char *const bad_url[] = {"Z",    "Zh",     "Zm9",  "Zg==",    "Zg=", "Zm+v",
                                          "Zm/v", "Zm9v\n", "Zm 9", "Zm9\x80", "="};
    for (size_t i = 0; i < COUNT(bad_url); i++) {
        cleanup_buffer struct buffer out = {0};
        ck_assert_msg(!base64url_decode(slice_of(bad_url[i]), &out), "%s", bad_url[i]);
    }
    static const char *const bad[] = {
        "Z",        "Zg",       "Zg=",  "Zg===",  "=Zg=", "====",    "Z===", "Zh==",      "Zm9=",
        "Zm8=Zg==", "Zg==Zg==", "Z g=", "Zm9v\n", "Zm-_", "Zm9\x80", "Z=g=", "Zm9vYg==\n"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        cleanup_buffer struct buffer out = {0};
        ck_assert_msg(!base64_decode(slice_of(bad[i]), &out), "%s", bad[i]);
        ck_assert_uint_eq(out.len, 0);
    }
}
END_TEST

START_TEST(test_base64_round_trip) {
    unsigned seed = 1;
    for (size_t n = 0; n < 300; n++) {
        cleanup_buffer struct buffer in = {0}, text = {0}, out = {0};
        for (size_t i = 0; i < n; i++) {
            buffer_append_char(&in, (char)((seed = seed * 1103515245 + 12345) >> 16));
        }
        ck_assert(base64_encode(buffer_slice(&in), &text));
        ck_assert_uint_eq(text.len, (n + 2) / 3 * 4);
        ck_assert(base64_decode(buffer_slice(&text), &out));
        ck_assert(slice_equal(buffer_slice(&in), buffer_slice(&out)));
    }
}
END_TEST

START_TEST(test_hex) {
    char out[9];
    hex_encode((const unsigned char *)"\x00\x7f\x80\xff", 4, out);
    ck_assert_str_eq(out, "007f80ff");
    hex_encode((const unsigned char *)"", 0, out);
    ck_assert_str_eq(out, "");
}
END_TEST

START_TEST(test_percent) {
    static const char *const good[][2] = {
        {"", ""},     {"a%41b", "aAb"},       {"%2f%2F", "//"}, {"a+b", "a+b"},
        {"%25", "%"}, {"%c3%a4", "\xc3\xa4"}, {"%ff", "\xff"},  {"%2541", "%41"},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        cleanup_buffer struct buffer out = {0};
        ck_assert(percent_decode(slice_of(good[i][0]), &out));
        ck_assert_str_eq(buffer_cstr(&out), good[i][1]);
    }
    static const char *const bad[] = {"%", "%4", "a%", "%g1", "%1g", "%00", "a%0", "% 1", "%-1"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        cleanup_buffer struct buffer out = {0};
        ck_assert_msg(!percent_decode(slice_of(bad[i]), &out), "%s", bad[i]);
        ck_assert_uint_eq(out.len, 0);
    }
    cleanup_buffer struct buffer out = {0};
    ck_assert(!percent_decode(slice_make("a\0b", 3), &out));
    ck_assert(percent_encode(slice_make("aZ9-._~ /?%\xc3\0", 13), "/", &out));
    ck_assert_str_eq(out.data, "aZ9-._~%20/%3F%25%C3%00");
    buffer_clear(&out);
    ck_assert(percent_encode(slice_of("a/b"), NULL, &out));
    ck_assert_str_eq(out.data, "a%2Fb");
    for (unsigned c = 1; c < 256; c++) {
        char byte = (char)c;
        cleanup_buffer struct buffer text = {0}, back = {0};
        ck_assert(percent_encode(slice_make(&byte, 1), "/%", &text));
        if (c == '%') continue; /* kept as asked: then not to be decoded */
        ck_assert(percent_decode(buffer_slice(&text), &back));
        ck_assert(slice_equal(buffer_slice(&back), slice_make(&byte, 1)));
    }
}
END_TEST

START_TEST(test_dns_label) {
    static const char *const good[] = {"a", "0", "a-b", "a--b", "my-sandbox-01"};
    static const char *const bad[] = {"", "-", "-a", "a-", "A", "a.b", "a_b", "a b", "\xc3\xa4"};
    for (size_t i = 0; i < COUNT(good); i++) {
        ck_assert(dns_label_valid(slice_of(good[i])));
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        ck_assert(!dns_label_valid(slice_of(bad[i])));
    }
    char text[64];
    memset(text, 'a', sizeof text);
    ck_assert(dns_label_valid(slice_make(text, 63)));
    ck_assert(!dns_label_valid(slice_make(text, 64)));
}
END_TEST

RUN_SUITE("text", test_utf8, test_utf8_every_code_point, test_utf8_carried_tails, test_limits_append_nothing,
          test_base64, test_base64_round_trip, test_hex, test_percent, test_dns_label)
