/* What the suites of the resource handlers share: JSON from text, errors by name, a main. */
#pragma once

#include "common/error.h"
#include "common/json.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* JSON written with single quotes; `x` stands for a quoted "x" inside a string. */
static inline json_t *json_of(const char *text) {
    cleanup_buffer struct buffer copy = {0};
    for (; *text; text++) {
        if (*text == '`')
            buffer_append_str(&copy, "\\\"");
        else
            buffer_append_char(&copy, *text == '\'' ? '"' : *text);
    }
    json_error_t error;
    json_t *value = json_loads(buffer_cstr(&copy), JSON_DECODE_ANY, &error);
    ck_assert_msg(value != NULL, "test JSON: %s: %s", error.text, buffer_cstr(&copy));
    return value;
}

static inline void assert_json(const json_t *got, const char *want) {
    cleanup_json json_t *expected = json_of(want);
    cleanup_free char *text = json_dumps(got, JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_COMPACT);
    ck_assert_msg(json_equal(got, expected), "got %s, want %s", text ? text : "nothing", want);
}

/* 400 that names the field. */
static inline void assert_field_error(const struct error *err, const char *field) {
    ck_assert_int_eq(err->status, 400);
    ck_assert_msg(strcmp(json_str_at(err->details, "field"), field) == 0, "names %s, not %s: %s",
                  json_str_at(err->details, "field"), field, err->message);
    ck_assert_msg(strstr(err->message, field) != NULL, "the text does not name %s: %s", field, err->message);
}

static inline int run_tests(const char *name, const TTest *const *tests, size_t count) {
    Suite *suite = suite_create(name);
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(all, tests[i]);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
#define RUN_TESTS(name, ...)                                                                                 \
    int main(void) {                                                                                         \
        const TTest *const tests[] = {__VA_ARGS__};                                                          \
        return run_tests(name, tests, sizeof tests / sizeof tests[0]);                                       \
    }
