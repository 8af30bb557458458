/* Libraries that are opened when they are needed. What they do is tested where they are used. */
#include "common/lazy.h"

#include "common/lazy_forward.h"

#define CURL_DISABLE_TYPECHECK /* its macros are too long for the texts of assertions */
#include <check.h>
#include <curl/curl.h>
#include <signal.h>
#include <string.h>

static struct lazy_library absent = {.soname = "libagenttier-is-not-there.so.0"};

START_TEST(a_missing_library_is_reported_by_name) {
    cleanup_error struct error err = {0};
    ck_assert(!lazy_open(&absent, &err));
    ck_assert_int_eq(err.status, 500);
    ck_assert_ptr_nonnull(strstr(err.message, absent.soname));
    ck_assert(!lazy_open(&absent, NULL));
}
END_TEST

START_TEST(a_call_into_a_missing_library_ends_the_program) {
    static void *_Atomic found;
    lazy_find(&absent, &found, "anything");
}
END_TEST

START_TEST(a_call_of_a_missing_function_ends_the_program) {
    static void *_Atomic found;
    lazy_find(&lazy_curl, &found, "curl_has_no_such_function");
}
END_TEST

START_TEST(calls_reach_the_library) {
    ck_assert_ptr_null(lazy_curl.handle);
    ck_assert_str_eq(curl_easy_strerror(CURLE_OK), "No error"); /* also without lazy_open */
    ck_assert_ptr_nonnull(lazy_curl.handle);
    ck_assert(lazy_open(&lazy_curl, NULL));
}
END_TEST

START_TEST(options_of_every_type_arrive) {
    CURL *easy = curl_easy_init();
    ck_assert_ptr_nonnull(easy);
    char mark = 'x', *back = NULL;
    ck_assert_int_eq(curl_easy_setopt(easy, CURLOPT_PRIVATE, &mark), CURLE_OK);
    ck_assert_int_eq(curl_easy_getinfo(easy, CURLINFO_PRIVATE, &back), CURLE_OK);
    ck_assert_ptr_eq(back, &mark);
    /* Refused for their values, so these arrived as they were given. */
    ck_assert_int_eq(curl_easy_setopt(easy, CURLOPT_TIMEOUT, 5L), CURLE_OK);
    ck_assert_int_eq(curl_easy_setopt(easy, CURLOPT_TIMEOUT, -5L), CURLE_BAD_FUNCTION_ARGUMENT);
    ck_assert_int_eq(curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)1 << 40), CURLE_OK);
    ck_assert_int_eq(curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) - (1LL << 40)),
                     CURLE_BAD_FUNCTION_ARGUMENT);
    curl_easy_cleanup(easy);
}
END_TEST

int main(void) {
    Suite *s = suite_create("lazy");
    TCase *t = tcase_create("all");
    tcase_add_test(t, a_missing_library_is_reported_by_name);
    tcase_add_test_raise_signal(t, a_call_into_a_missing_library_ends_the_program, SIGABRT);
    tcase_add_test_raise_signal(t, a_call_of_a_missing_function_ends_the_program, SIGABRT);
    tcase_add_test(t, calls_reach_the_library);
    tcase_add_test(t, options_of_every_type_arrive);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
