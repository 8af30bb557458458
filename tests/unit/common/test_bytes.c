/* Slices and buffers at their edges. */
#include "common/bytes.h"

#include "tests/unit/common/suite.h"

START_TEST(test_slices) {
    ck_assert(slice_equal(slice_of(""), slice_make(NULL, 0)));
    ck_assert(slice_equal(slice_make("a\0b", 3), slice_make("a\0b", 3)));
    ck_assert(!slice_equal(slice_make("a\0b", 3), slice_make("a\0c", 3)));
    ck_assert(slice_equal_str(slice_of("abc"), "abc"));
    ck_assert(!slice_equal_str(slice_of("abc"), "ab"));
    ck_assert(slice_equal_nocase(slice_of("Content-LENGTH"), "content-length"));
    ck_assert(!slice_equal_nocase(slice_of("[a"), "{A"));
    ck_assert(!slice_equal_nocase(slice_of("\xc3\xa4"), "\xc3\x84"));
    ck_assert(slice_starts_with(slice_of("abc"), "ab"));
    ck_assert(slice_starts_with(slice_make(NULL, 0), ""));
    ck_assert(!slice_starts_with(slice_of("a"), "ab"));
    ck_assert(slice_equal_str(slice_trim(slice_of(" \t a b\t ")), "a b"));
    ck_assert_uint_eq(slice_trim(slice_of(" \t ")).len, 0);
    ck_assert_uint_eq(slice_trim(slice_make(NULL, 0)).len, 0);
    ck_assert(slice_equal_str(slice_trim(slice_of("\n")), "\n"));
    cleanup_free char *copy = slice_dup(slice_make("abcd", 2));
    ck_assert_str_eq(copy, "ab");
    cleanup_free char *none = slice_dup(slice_make(NULL, 0));
    ck_assert_str_eq(none, "");
    ck_assert_uint_eq(slice_of(NULL).len, 0);
}
END_TEST

START_TEST(test_parse_u64) {
    static const struct {
        const char *text;
        uint64_t max;
        bool ok;
        uint64_t n;
    } rows[] = {
        {"0", UINT64_MAX, true, 0},
        {"007", 10, true, 7},
        {"18446744073709551615", UINT64_MAX, true, UINT64_MAX},
        {"18446744073709551616", UINT64_MAX, false, 0},
        {"99999999999999999999999", UINT64_MAX, false, 0},
        {"9223372036854775807", INT64_MAX, true, INT64_MAX},
        {"9223372036854775808", INT64_MAX, false, 0},
        {"65536", 65535, false, 0},
        {"", 1, false, 0},
        {"-1", 1, false, 0},
        {"+1", 1, false, 0},
        {" 1", 1, false, 0},
        {"1 ", 1, false, 0},
        {"0x1", 1, false, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t n = 12345;
        ck_assert_msg(slice_parse_u64(slice_of(rows[i].text), rows[i].max, &n) == rows[i].ok, "%s",
                      rows[i].text);
        ck_assert_uint_eq(n, rows[i].ok ? rows[i].n : 12345);
    }
}
END_TEST

START_TEST(test_buffer) {
    cleanup_buffer struct buffer b = {0};
    ck_assert_str_eq(buffer_cstr(&b), "");
    buffer_clear(&b);
    buffer_consume(&b, 10);
    ck_assert(buffer_append(&b, NULL, 0));
    ck_assert(buffer_append_str(&b, "hello"));
    ck_assert(buffer_append_char(&b, ' '));
    ck_assert(buffer_printf(&b, "%s %d", "world", 7));
    ck_assert_str_eq(b.data, "hello world 7");
    buffer_consume(&b, 6);
    ck_assert_str_eq(b.data, "world 7");
    ck_assert_uint_eq(b.len, 7);
    ck_assert(slice_equal_str(buffer_slice(&b), "world 7"));
    buffer_consume(&b, 100);
    ck_assert_uint_eq(b.len, 0);
    for (int i = 0; i < 100000; i++) {
        buffer_append_char(&b, (char)('a' + i % 26));
    }
    ck_assert_uint_eq(b.len, 100000);
    ck_assert_int_eq(b.data[99999], 'a' + 99999 % 26);
    ck_assert_int_eq(b.data[100000], '\0');
    size_t len;
    cleanup_free char *taken = buffer_steal(&b, &len);
    ck_assert_uint_eq(len, 100000);
    ck_assert_ptr_null(b.data);
    cleanup_free char *empty = buffer_steal(&b, &len);
    ck_assert_str_eq(empty, "");
    ck_assert_uint_eq(len, 0);
    ck_assert_int_eq(taken[0], 'a');
}
END_TEST

START_TEST(test_buffer_limit) {
    cleanup_buffer struct buffer b = {.limit = 8};
    ck_assert(buffer_append_str(&b, "12345"));
    ck_assert(!buffer_append_str(&b, "6789"));
    ck_assert(!buffer_printf(&b, "%d", 6789));
    ck_assert_str_eq(b.data, "12345");
    ck_assert(buffer_append_str(&b, "678"));
    ck_assert(!buffer_append_char(&b, '9'));
    ck_assert(!buffer_append(&b, "", SIZE_MAX));
    ck_assert(buffer_append(&b, "", 0));
    buffer_consume(&b, 1);
    ck_assert(buffer_append_char(&b, '9'));
    ck_assert_str_eq(b.data, "23456789");
    ck_assert_ptr_null(buffer_reserve(&b, 1));
    buffer_clear(&b);
    char *to = buffer_reserve(&b, 8);
    ck_assert_ptr_nonnull(to);
    memcpy(to, "abcdefgh", 8);
    buffer_commit(&b, 3);
    ck_assert_str_eq(b.data, "abc");
}
END_TEST

START_TEST(test_allocation) {
    cleanup_free char *zero = xcalloc(0, 0);
    ck_assert_ptr_nonnull(zero);
    cleanup_free char *text = xasprintf("%s-%d", "a", 1);
    ck_assert_str_eq(text, "a-1");
    char *copy = xstrdup("copy");
    cleanup_free char *moved = steal_ptr(copy);
    ck_assert_ptr_null(copy);
    ck_assert_str_eq(moved, "copy");
    int fd = 7;
    ck_assert_int_eq(steal_fd(fd), 7);
    ck_assert_int_eq(fd, -1);
}
END_TEST

RUN_SUITE("bytes", test_slices, test_parse_u64, test_buffer, test_buffer_limit, test_allocation)
