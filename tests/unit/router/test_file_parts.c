/* The pure parts of files: paths, ranges, entity tags, dates. */
#include "router/http_range.h"
#include "router/sandbox_path.h"

#include <check.h>

static void expect_path(const char *raw, const char *want) {
    cleanup_buffer struct buffer out = {0};
    ck_assert(sandbox_path_clean(raw, &out, NULL));
    ck_assert_str_eq(out.data, want);
}

START_TEST(paths) {
    expect_path("", "/");
    expect_path("/", "/");
    expect_path("..", "/");
    expect_path("../../etc/passwd", "/etc/passwd");
    expect_path("workspace/a", "/workspace/a");
    expect_path("//workspace///a//", "/workspace/a");
    expect_path("/workspace/../etc", "/etc");
    expect_path("/a/./b/../c/..", "/a");
    expect_path("/...", "/...");
    expect_path("/a/..b/.c", "/a/..b/.c");
    expect_path("/a/b/../../..", "/");
    expect_path("/-rf/'\"`$\\\n", "/-rf/'\"`$\\\n");
    cleanup_buffer struct buffer out = {0};
    cleanup_error struct error err = {0};
    ck_assert(!sandbox_path_clean("/a\xff", &out, &err));
    ck_assert_str_eq(err.code, "bad_path");
    char longest[SANDBOX_PATH_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[SANDBOX_PATH_MAX] = 0;
    ck_assert(sandbox_path_clean(longest, &out, NULL));
    buffer_clear(&out);
    longest[SANDBOX_PATH_MAX] = 'a';
    longest[SANDBOX_PATH_MAX + 1] = 0;
    ck_assert(!sandbox_path_clean(longest, &out, NULL));
}
END_TEST

START_TEST(workspaces_and_names) {
    ck_assert(sandbox_path_in_workspace("/workspace") && sandbox_path_in_workspace("/workspace/a"));
    ck_assert(!sandbox_path_in_workspace("/") && !sandbox_path_in_workspace("/workspaces"));
    ck_assert_str_eq(sandbox_path_base("/a/b.c"), "b.c");
    ck_assert_str_eq(sandbox_path_base("/"), "");
    cleanup_buffer struct buffer out = {0};
    sandbox_path_safe_name("a\"\r\n b\xc3\xa9_-.c", "file", &out);
    sandbox_path_safe_name("\xc3\xa9", "file", &out);
    ck_assert_str_eq(buffer_cstr(&out), "ab_-.cfile");
}
END_TEST

START_TEST(ranges) {
    static const struct {
        const char *header;
        uint64_t size;
        enum range_result result;
        uint64_t first, length;
    } cases[] = {
        {NULL, 10, RANGE_WHOLE, 0, 10},
        {"bytes=0-0", 10, RANGE_PART, 0, 1},
        {"bytes=0-99", 10, RANGE_PART, 0, 10},
        {"Bytes= 3-", 10, RANGE_PART, 3, 7},
        {"bytes=-3", 10, RANGE_PART, 7, 3},
        {"bytes=-30", 10, RANGE_PART, 0, 10},
        {"bytes=-0", 10, RANGE_UNSATISFIABLE, 0, 10},
        {"bytes=10-", 10, RANGE_UNSATISFIABLE, 0, 10},
        {"bytes=0-", 0, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=-1", 0, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=5-3", 10, RANGE_WHOLE, 0, 10},
        {"bytes=0-1,3-4", 10, RANGE_WHOLE, 0, 10},
        {"bytes=a-b", 10, RANGE_WHOLE, 0, 10},
        {"bytes=-", 10, RANGE_WHOLE, 0, 10},
        {"bytes=", 10, RANGE_WHOLE, 0, 10},
        {"lines=0-1", 10, RANGE_WHOLE, 0, 10},
        {"", 10, RANGE_WHOLE, 0, 10},
        {"bytes=18446744073709551615-", 10, RANGE_UNSATISFIABLE, 0, 10},
        {"bytes=0-18446744073709551615", 10, RANGE_PART, 0, 10},
        {"bytes=99999999999999999999-", 10, RANGE_WHOLE, 0, 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t first, length;
        enum range_result got = range_parse(cases[i].header, cases[i].size, &first, &length);
        ck_assert_msg(got == cases[i].result && first == cases[i].first && length == cases[i].length,
                      "%s: %d %llu %llu", cases[i].header, got, (unsigned long long)first,
                      (unsigned long long)length);
    }
}
END_TEST

START_TEST(tags_and_dates) {
    ck_assert(etag_listed("\"a\"", "\"a\"", false) && etag_listed("*", "\"a\"", false));
    ck_assert(etag_listed(" \"b\" , \"a,\" ,\"a\"", "\"a\"", false));
    ck_assert(!etag_listed("W/\"a\"", "\"a\"", false) && etag_listed("W/\"a\"", "\"a\"", true));
    ck_assert(!etag_listed("", "\"a\"", true) && !etag_listed("a", "\"a\"", true));
    ck_assert(!etag_listed("\"a", "\"a\"", true) && !etag_listed("\"b\";\"a\"", "\"a\"", true));
    char date[HTTP_DATE_MAX];
    http_date_format(784111777, date);
    ck_assert_str_eq(date, "Sun, 06 Nov 1994 08:49:37 GMT");
    http_date_format(-5, date);
    ck_assert_str_eq(date, "Thu, 01 Jan 1970 00:00:00 GMT");
    http_date_format(INT64_MAX, date);
    ck_assert_str_eq(date, "Fri, 31 Dec 9999 23:59:59 GMT");
}
END_TEST

int main(void) {
    Suite *s = suite_create("file_parts");
    TCase *t = tcase_create("all");
    tcase_add_test(t, paths);
    tcase_add_test(t, workspaces_and_names);
    tcase_add_test(t, ranges);
    tcase_add_test(t, tags_and_dates);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
