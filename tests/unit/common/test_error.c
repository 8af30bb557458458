/* Errors: contents, context, ownership, and cutting at whole characters. */
#include "common/error.h"
#include "common/text.h"

#include "tests/unit/common/suite.h"

#include <errno.h>
#include <stdio.h>

START_TEST(test_set_and_clear) {
    cleanup_error struct error err = {0};
    error_set(&err, 404, ERR_NOT_FOUND, "no sandbox %s", "demo");
    ck_assert_int_eq(err.status, 404);
    ck_assert_str_eq(err.code, "not_found");
    ck_assert_str_eq(err.message, "no sandbox demo");
    err.retry_after = 5;
    /* The old message may be an argument of the new one. */
    error_set(&err, 409, ERR_CONFLICT, "again: %s", err.message);
    ck_assert_str_eq(err.message, "again: no sandbox demo");
    ck_assert_int_eq(err.retry_after, 0);
    error_clear(&err);
    ck_assert_int_eq(err.status, 0);
    ck_assert_str_eq(err.message, "");
    error_clear(NULL);
    error_set(NULL, 500, ERR_INTERNAL, "nobody cares");
    error_set_errno(NULL, EIO, "nobody cares");
    error_set_field(NULL, "a", "nobody cares");
    error_wrap(NULL, "nobody cares");
}
END_TEST

START_TEST(test_errno_and_field) {
    cleanup_error struct error err = {0};
    error_set_errno(&err, ENOENT, "open %s", "/x");
    ck_assert_int_eq(err.status, 500);
    ck_assert_str_eq(err.code, "internal");
    ck_assert_str_eq(err.message, "open /x: No such file or directory");
    error_set_field(&err, "spec.name", "must be %d characters", 3);
    ck_assert_int_eq(err.status, 400);
    ck_assert_str_eq(err.code, "invalid_field");
    ck_assert_str_eq(err.message, "spec.name: must be 3 characters");
    ck_assert_str_eq(json_string_value(json_object_get(err.details, "field")), "spec.name");
    error_wrap(&err, "item %d", 2);
    ck_assert_str_eq(err.message, "item 2: spec.name: must be 3 characters");
    ck_assert_ptr_nonnull(err.details);
}
END_TEST

START_TEST(test_move) {
    struct error from = {0};
    cleanup_error struct error to = {0};
    error_set_field(&from, "a", "b");
    error_set_field(&to, "old", "old");
    error_move(&to, &from);
    ck_assert_int_eq(from.status, 0);
    ck_assert_ptr_null(from.details);
    ck_assert_str_eq(to.message, "a: b");
    error_move(&to, &to);
    ck_assert_str_eq(to.message, "a: b");
    error_set_field(&from, "a", "b");
    error_move(NULL, &from);
    ck_assert_ptr_null(from.details);
    error_move(&to, NULL);
    ck_assert_int_eq(to.status, 400);
}
END_TEST

START_TEST(test_long_messages_stay_utf8) {
    for (int shift = 0; shift < 4; shift++) {
        cleanup_buffer struct buffer text = {0};
        for (int i = 0; i < shift; i++) {
            buffer_append_char(&text, 'x');
        }
        for (int i = 0; i < 400; i++) {
            buffer_append_str(&text, "\xf0\x9f\x98\x80");
        }
        cleanup_error struct error err = {0};
        error_set(&err, 400, ERR_BAD_REQUEST, "%s", text.data);
        ck_assert(utf8_valid(slice_of(err.message)));
        ck_assert_uint_ge(strlen(err.message), sizeof err.message - 5);
        error_wrap(&err, "c%s", "ontext");
        ck_assert(utf8_valid(slice_of(err.message)));
        error_wrap(&err, "%s", text.data);
        ck_assert(utf8_valid(slice_of(err.message)));
        error_set_errno(&err, EIO, "%s", text.data);
        ck_assert(utf8_valid(slice_of(err.message)));
    }
}
END_TEST

RUN_SUITE("error", test_set_and_clear, test_errno_and_field, test_move, test_long_messages_stay_utf8)
