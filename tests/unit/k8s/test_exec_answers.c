/* What scripts in pods answer: attributes, listings, outcomes, complaints. */
#include "k8s/exec_answers.h"

#include "common/json.h"
#include "k8s/exec_params.h"

#include <check.h>

START_TEST(S14_parameters_are_one_line_of_harmless_bytes) {
    cleanup_buffer struct buffer out = {0};
    exec_param(&out, "a\n\\'$\x01\xff\xc3\xa9");
    exec_param(&out, "");
    exec_param_number(&out, -5);
    ck_assert_str_eq(buffer_cstr(&out), "a\\0012\\0134'$\\0001\\0377\\0303\\0251\n\n-5\n");
}
END_TEST

START_TEST(attributes_of_stat_and_of_ls) {
    struct access_head h;
    ck_assert(exec_file("81a4 123 1700000000 1.2.3", &h));
    ck_assert(h.size == 123 && h.mode == 0644 && h.modified_at == 1700000000 && h.fd == -1);
    ck_assert(exec_file("-rwsr-xr-t 5 -1 x", &h));
    ck_assert(h.size == 5 && h.mode == 05755 && h.modified_at == -1);
    static const char *const bad[] = {"",
                                      "81a4",
                                      "81a4 x 1",
                                      "zz 1 1",
                                      "81a4 -1 1",
                                      "81a4 1 1e3",
                                      "-rwxr 1 1",
                                      "81a4 99999999999999999999 1",
                                      "123456789a 1 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!exec_file(bad[i], &h), "%s", bad[i]);
}
END_TEST

#define LIST(text) exec_entries(slice_make(text, sizeof text - 1), "/d", true, &err)

START_TEST(listings_pair_names_and_attributes) {
    struct error err = {0};
    cleanup_json json_t *r = LIST("./b\0./new\nline\0./gone\0./l\0\0"
                                  "81a4 1 2 ./b\n41ed 4096 3 ./new\nline\na1ff 4 5 ./l\n\0./l\0to\0\0");
    ck_assert_msg(r != NULL, "%s", err.message);
    json_t *entries = json_object_get(r, "entries");
    ck_assert_int_eq(json_array_size(entries), 3);
    ck_assert_str_eq(json_str_at(json_array_get(entries, 1), "name"), "l");
    ck_assert_str_eq(json_str_at(json_array_get(entries, 1), "linkTarget"), "to");
    ck_assert_str_eq(json_str_at(json_array_get(entries, 2), "name"), "new\nline");
    ck_assert(json_is_true(json_object_get(json_array_get(entries, 2), "isDir")));
    cleanup_json json_t *empty = LIST("\0\0\0");
    ck_assert_int_eq(json_array_size(json_object_get(empty, "entries")), 0);
}
END_TEST

START_TEST(listings_that_make_no_sense_are_refused) {
    struct error err = {0};
    ck_assert_ptr_null(LIST(""));
    ck_assert_ptr_null(LIST("./a\0"));
    ck_assert_ptr_null(LIST("./a\0\0zz\0\0"));
    ck_assert_ptr_null(LIST("../a\0\0"
                            "81a4 1 2 ../a\n\0\0"));
    ck_assert_ptr_null(LIST("./a/b\0\0"
                            "81a4 1 2 ./a/b\n\0\0"));
    ck_assert_ptr_null(LIST("./a\0\0"
                            "81a4 1 2 ./b\n\0\0"));
    ck_assert_str_eq(err.code, "sandbox_bad_answer");
}
END_TEST

START_TEST(outcomes) {
    struct exec_ended e;
    ck_assert(exec_ended("255", &e) && e.code == 255 && e.ms == -1);
    ck_assert(exec_ended("1 1 0 30 5 6", &e) && e.timed_out && !e.killed && e.ms == 30 && e.size[1] == 6);
    static const char *const bad[] = {"", "256", "-1", "1 2", "1 2 0 30 5 6", "1 1 0 30 5 6 7", "a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!exec_ended(bad[i], &e), "%s", bad[i]);
}
END_TEST

static void complains(const char *words, int status, const char *code) {
    struct error err = {0};
    exec_complaint(slice_of(words), 1, "/f", &err);
    ck_assert_msg(err.status == status && strcmp(err.code, code) == 0, "%s: %d %s", words, err.status,
                  err.code);
}

START_TEST(complaints_of_tools_become_codes) {
    complains("cat: write error: No space left on device", 507, "disk_full");
    complains("sh: can't create /f: Permission denied", 403, "permission_denied");
    complains("mkdir: Read-only file system", 403, "permission_denied");
    complains("rmdir: 'x': Directory not empty", 409, "directory_not_empty");
    complains("ls: /f: No such file or directory", 404, "file_not_found");
    complains("ls: /f/x: Not a directory", 400, "not_a_directory");
    complains("\x1b[31m\xff", 502, "sandbox_unreachable");
    complains("", 502, "sandbox_unreachable");
    struct error err = {0};
    exec_refusal("surprise", "/f", &err);
    ck_assert_str_eq(err.code, "sandbox_bad_answer");
    exec_refusal("no_tar", "/f", &err);
    ck_assert_int_eq(err.status, 501);
}
END_TEST

int main(void) {
    Suite *s = suite_create("exec_answers");
    TCase *t = tcase_create("answers");
    tcase_add_test(t, S14_parameters_are_one_line_of_harmless_bytes);
    tcase_add_test(t, attributes_of_stat_and_of_ls);
    tcase_add_test(t, listings_pair_names_and_attributes);
    tcase_add_test(t, listings_that_make_no_sense_are_refused);
    tcase_add_test(t, outcomes);
    tcase_add_test(t, complaints_of_tools_become_codes);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
