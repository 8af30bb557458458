/* The marks around a command's output, cut anywhere. */
#include "k8s/exec_marks.h"

#include <check.h>

#define NONCE "0123456789abcdef0123456789abcdef"

static void feed_in_pieces(const char *bytes, size_t len, size_t piece, const char *output, size_t output_len,
                           const char *tail) {
    struct exec_marks m;
    cleanup_buffer struct buffer out = {0};
    exec_marks_init(&m, NONCE, true);
    for (size_t i = 0; i < len; i += piece)
        ck_assert(exec_marks_feed(&m, slice_make(bytes + i, len - i < piece ? len - i : piece), &out));
    ck_assert(!m.wants_head);
    ck_assert_str_eq(m.head, NONCE " 12 34");
    ck_assert_int_eq(m.ended, tail != NULL);
    if (tail) ck_assert_str_eq(m.tail, tail);
    exec_marks_flush(&m, &out);
    ck_assert_int_eq(out.len, output_len);
    ck_assert(memcmp(buffer_cstr(&out), output, output_len) == 0);
    exec_marks_free(&m);
}
#define CHECK(text, output, tail)                                                                            \
    for (size_t piece = 1; piece < sizeof text; piece++)                                                     \
    feed_in_pieces(text, sizeof text - 1, piece, output, sizeof output - 1, tail)

#define HEAD NONCE " 12 34\n"

START_TEST(marks_are_found_wherever_they_are_cut) {
    CHECK(HEAD "\0" NONCE " 0\n", "", "0");
    CHECK(HEAD "out\0put\n\0" NONCE " 7 0 1\nlate output of a child", "out\0put\n", "7 0 1");
    CHECK(HEAD "a\0\0" NONCE " 1\n", "a\0", "1");
    CHECK(HEAD "x\0" NONCE "y", "x\0" NONCE "y", NULL);
    CHECK(HEAD "\0" NONCE " 1", "\0" NONCE " 1", NULL);
    CHECK(HEAD "\0" NONCE NONCE "\0" NONCE " 255\n", "\0" NONCE NONCE, "255");
    CHECK(HEAD, "", NULL);
}
END_TEST

START_TEST(what_only_looks_like_a_mark_is_output) {
    struct exec_marks m;
    cleanup_buffer struct buffer out = {0};
    char junk[600];
    memset(junk, 'j', sizeof junk);
    exec_marks_init(&m, NONCE, false);
    ck_assert(exec_marks_feed(&m, slice_make("\0" NONCE " ", 34), &out));
    ck_assert(exec_marks_feed(&m, slice_make(junk, sizeof junk), &out));
    ck_assert_int_eq(out.len, 634);
    ck_assert(!m.ended);
    exec_marks_free(&m);
    exec_marks_init(&m, NONCE, true);
    ck_assert(!exec_marks_feed(&m, slice_make(junk, sizeof junk), &out));
    exec_marks_free(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("exec_marks");
    TCase *t = tcase_create("marks");
    tcase_add_test(t, marks_are_found_wherever_they_are_cut);
    tcase_add_test(t, what_only_looks_like_a_mark_is_output);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
