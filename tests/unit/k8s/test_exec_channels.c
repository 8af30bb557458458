/* Channels and statuses of pods/exec (lessons I6, S23; http-api.md 5.5). */
#include "k8s/exec_channels.h"

#include <check.h>
#include <stdio.h>

static struct exec_channels c;
static int channel;
static struct slice out;

static void setup(void) {
    exec_channels_init(&c, true);
}
static void teardown(void) {
    exec_channels_free(&c);
}

static bool take(const char *bytes, size_t len, bool last) {
    return exec_channels_take(&c, slice_make(bytes, len), last, &channel, &out, NULL);
}
static void status(const char *text) {
    ck_assert(take("\3", 1, false));
    ck_assert(take(text, strlen(text), true));
}
static int outcome(const char *text, const char *code) {
    struct error err = {0};
    exec_channels_free(&c);
    exec_channels_init(&c, true);
    if (text) status(text);
    int rc = exec_channels_outcome(&c, &err);
    if (rc < 0)
        ck_assert_msg(err.status == 502 && strcmp(err.code, code) == 0, "%s: %s", err.code, err.message);
    return rc;
}

START_TEST(output_is_passed_on_in_pieces) {
    ck_assert(take("\1ab", 3, false));
    ck_assert(channel == 1 && slice_equal_str(out, "ab"));
    ck_assert(take("\2c", 2, true)); /* no longer a channel byte */
    ck_assert(channel == 1 && slice_equal_str(out, "\2c"));
    ck_assert(take("\2x", 2, true));
    ck_assert(channel == 2 && slice_equal_str(out, "x"));
    ck_assert(take("\1", 1, true)); /* the node's greeting */
    ck_assert(channel == 1 && out.len == 0);
    ck_assert(!exec_channels_has_status(&c));
}
END_TEST

START_TEST(S23_unknown_channels_and_empty_messages_are_refused) {
    static const char *const bad[] = {"\4", "\5x", "\xfe", "\xff\5", "\xff\1\1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setup();
        ck_assert_msg(!take(bad[i], strlen(bad[i]), true), "%zu", i);
        teardown();
    }
    ck_assert(!take("\0x", 2, true));
    setup();
    ck_assert(!take("", 0, true));
    setup();
    ck_assert(!take("\xff", 1, true));
    setup();
    ck_assert(take("\xff\1", 2, true));
    ck_assert_int_eq(channel, -1);
    exec_channels_init(&c, false);
    ck_assert(!take("\xff\1", 2, true)); /* v4 knows no close */
}
END_TEST

START_TEST(I6_the_code_comes_from_the_status_alone) {
    ck_assert_int_eq(outcome("{\"status\":\"Success\"}", ""), 0);
    ck_assert_int_eq(
        outcome("{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":["
                "{\"reason\":\"X\",\"message\":\"1\"},{\"reason\":\"ExitCode\",\"message\":\"42\"}]}}",
                ""),
        42);
    ck_assert_int_eq(outcome(NULL, "exec_outcome_unknown"), -1);
    ck_assert_int_eq(outcome("{\"status\":\"Succ", "exec_outcome_unknown"), -1);
    ck_assert_int_eq(outcome("[]", "exec_outcome_unknown"), -1);
    ck_assert_int_eq(outcome("{\"status\":true}", "exec_outcome_unknown"), -1);
    ck_assert_int_eq(
        outcome("{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\"}", "exec_outcome_unknown"), -1);
    static const char *const codes[] = {"0", "-1", "256", "1e1", "", "999999999999999999999"};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        char text[200];
        snprintf(text, sizeof text,
                 "{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":"
                 "[{\"reason\":\"ExitCode\",\"message\":\"%s\"}]}}",
                 codes[i]);
        ck_assert_int_eq(outcome(text, "exec_outcome_unknown"), -1);
    }
    ck_assert_int_eq(
        outcome("{\"status\":\"Failure\",\"reason\":\"InternalError\",\"message\":\"no\\nshell\"}",
                "sandbox_unreachable"),
        -1);
}
END_TEST

START_TEST(S23_a_status_may_come_before_data_and_has_a_limit) {
    status("{\"status\":\"Success\"}");
    ck_assert(exec_channels_has_status(&c));
    ck_assert(take("\1late", 5, true));
    ck_assert(channel == 1 && slice_equal_str(out, "late"));
    char big[4096];
    memset(big, ' ', sizeof big);
    big[0] = 3;
    bool ok = true;
    for (int i = 0; ok && i < 32; i++)
        ok = take(big, sizeof big, true);
    ck_assert(!ok);
}
END_TEST

int main(void) {
    Suite *s = suite_create("exec_channels");
    TCase *t = tcase_create("channels");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, output_is_passed_on_in_pieces);
    tcase_add_test(t, S23_unknown_channels_and_empty_messages_are_refused);
    tcase_add_test(t, I6_the_code_comes_from_the_status_alone);
    tcase_add_test(t, S23_a_status_may_come_before_data_and_has_a_limit);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
