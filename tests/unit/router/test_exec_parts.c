/* The pure parts of commands: the body that asks for one, and the text that answers. */
#include "common/json.h"
#include "common/text.h"
#include "router/exec_args.h"
#include "router/exec_render.h"

#include <check.h>

static bool parse(const char *body, struct exec_args *out, struct error *err) {
    cleanup_json json_t *json = json_loads(body, 0, NULL);
    ck_assert_msg(json != NULL, "%s", body);
    return exec_args_parse(json, out, err);
}

static void expect_field(const char *body, const char *field) {
    cleanup_exec_args struct exec_args args;
    cleanup_error struct error err = {0};
    ck_assert_msg(!parse(body, &args, &err), "%s", body);
    ck_assert_int_eq(err.status, 400);
    ck_assert_str_eq(json_string_value(json_object_get(err.details, "field")), field);
}

START_TEST(bodies_that_are_refused) {
    expect_field("{}", "command");
    expect_field("{\"command\":null}", "command");
    expect_field("{\"command\":\"\"}", "command");
    expect_field("{\"command\":[]}", "command");
    expect_field("{\"command\":[\"\"]}", "command");
    expect_field("{\"command\":[\"a\",1]}", "command");
    expect_field("{\"command\":{}}", "command");
    expect_field("{\"command\":\"x\",\"timeout\":-1}", "timeout");
    expect_field("{\"command\":\"x\",\"timeout\":\"1\"}", "timeout");
    expect_field("{\"command\":\"x\",\"timeout\":1.5}", "timeout");
    expect_field("{\"command\":\"x\",\"env\":[]}", "env");
    expect_field("{\"command\":\"x\",\"env\":{\"1A\":\"\"}}", "env");
    expect_field("{\"command\":\"x\",\"env\":{\"A=B\":\"\"}}", "env");
    expect_field("{\"command\":\"x\",\"env\":{\"\":\"\"}}", "env");
    expect_field("{\"command\":\"x\",\"env\":{\"A\":1}}", "env");
    expect_field("{\"command\":\"x\",\"workingDir\":\"a\"}", "workingDir");
    expect_field("{\"command\":\"x\",\"encoding\":\"latin1\"}", "encoding");
    expect_field("{\"command\":\"x\",\"stdin\":1}", "stdin");
    expect_field("{\"command\":\"x\",\"stdinBase64\":\"a\"}", "stdinBase64");
    expect_field("{\"command\":\"x\",\"stdinBase64\":\"\",\"stdin\":\"\"}", "stdinBase64");
    expect_field("{\"command\":\"x\",\"detach\":1}", "detach");
}
END_TEST

static json_int_t timeout_of(const char *body) {
    cleanup_exec_args struct exec_args args;
    ck_assert(parse(body, &args, NULL));
    return json_integer_value(json_object_get(args.access, "timeoutMs"));
}

START_TEST(bodies_that_are_taken) {
    cleanup_exec_args struct exec_args args;
    ck_assert(
        parse("{\"command\":\"a 'b\",\"stdin\":\"x\",\"encoding\":\"base64\",\"other\":1}", &args, NULL));
    cleanup_free char *argv = json_dumps(json_object_get(args.access, "command"), JSON_COMPACT);
    ck_assert_str_eq(argv, "[\"/bin/sh\",\"-c\",\"a 'b\"]");
    ck_assert(args.base64 && args.has_input && !args.detach);
    ck_assert_uint_eq(args.input.len, 1);
    ck_assert(json_is_true(json_object_get(args.access, "stdin")));
    cleanup_exec_args struct exec_args list;
    ck_assert(parse("{\"command\":[\"ls\",\"\"],\"env\":null}", &list, NULL));
    ck_assert_uint_eq(json_array_size(json_object_get(list.access, "command")), 2);
    ck_assert(!list.has_input && !json_object_get(list.access, "stdin"));
    ck_assert_int_eq(timeout_of("{\"command\":\"x\"}"), 30000);
    ck_assert_int_eq(timeout_of("{\"command\":\"x\",\"timeout\":0}"), 30000);
    ck_assert_int_eq(timeout_of("{\"command\":\"x\",\"timeout\":7}"), 7000);
    ck_assert_int_eq(timeout_of("{\"command\":\"x\",\"timeout\":99999}"), 1800000);
    ck_assert_int_eq(timeout_of("{\"command\":\"x\",\"detach\":true}"), 1800000);
}
END_TEST

START_TEST(keys_and_waits) {
    char key[258];
    memset(key, 'k', 257);
    key[256] = 0;
    ck_assert(!idempotency_key_valid(key));
    key[255] = 0;
    ck_assert(idempotency_key_valid(key));
    ck_assert(!idempotency_key_valid("") && !idempotency_key_valid("a b") &&
              !idempotency_key_valid("\xc3\xa9"));
    int ms = -1;
    ck_assert(exec_wait_parse(NULL, &ms, NULL) && ms == 0);
    ck_assert(exec_wait_parse("60", &ms, NULL) && ms == 60000);
    ck_assert(!exec_wait_parse("61", &ms, NULL) && !exec_wait_parse("-1", &ms, NULL));
    ck_assert(!exec_wait_parse("", &ms, NULL) && !exec_wait_parse("1.5", &ms, NULL));
}
END_TEST

/* ---- The answer ---- */

#define OUTCOME                                                                                              \
    "{\"id\":\"x\",\"exitCode\":3,\"signal\":0,\"timedOut\":false,\"killed\":false,\"durationMs\":5,"        \
    "\"truncated\":{\"stdout\":false,\"stderr\":false}"

static json_t *render(const char *outcome, struct slice out, struct slice err_out, bool base64) {
    cleanup_json json_t *o = json_loads(outcome, 0, NULL);
    ck_assert(o != NULL);
    struct exec_render r;
    exec_render_init(&r, o, NULL, (struct slice[2]){out, err_out}, (bool[2]){false, false}, base64);
    cleanup_buffer struct buffer text = {0};
    size_t before = 0;
    while (exec_render_more(&r, &text)) {
        ck_assert_uint_le(text.len - before, 65536);
        before = text.len;
    }
    exec_render_free(&r);
    json_error_t why;
    json_t *json = json_loadb(text.data, text.len, JSON_ALLOW_NUL, &why);
    ck_assert_msg(json != NULL, "%s", why.text);
    return json;
}

static const char *stdout_of(const json_t *j) {
    return json_string_value(json_object_get(j, "stdout"));
}
static const char *stderr_of(const json_t *j) {
    return json_string_value(json_object_get(j, "stderr"));
}

START_TEST(texts) {
    cleanup_json json_t *a = render(OUTCOME "}", slice_of("a\"\\\b\n\xff\xc3\xa9\xc3"), slice_of(""), false);
    ck_assert_str_eq(stdout_of(a), "a\"\\\b\n\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd");
    ck_assert_str_eq(stderr_of(a), "");
    ck_assert_int_eq(json_integer_value(json_object_get(a, "exitCode")), 3);
    ck_assert(json_is_false(json_object_get(a, "truncated")));
    ck_assert_ptr_null(json_object_get(a, "signal"));
    ck_assert_ptr_null(json_object_get(a, "status"));
    cleanup_json json_t *b =
        render(OUTCOME ",\"startError\":\"no such\"}", slice_of(""), slice_of(""), false);
    ck_assert_str_eq(stderr_of(b), "[runtime] no such\n");
    cleanup_json json_t *c = render(OUTCOME ",\"startError\":\"no such\"}", slice_of(""), slice_of(""), true);
    ck_assert_str_eq(stderr_of(c), "W3J1bnRpbWVdIG5vIHN1Y2gK");
}
END_TEST

START_TEST(truncation_is_marked) {
    static const char outcome[] =
        "{\"id\":\"x\",\"exitCode\":-1,\"signal\":9,\"timedOut\":true,\"killed\":true,\"durationMs\":5,"
        "\"truncated\":{\"stdout\":true,\"stderr\":false}}";
    cleanup_json json_t *a = render(outcome, slice_of("ab\xe2\x82"), slice_of("e"), false);
    ck_assert_str_eq(stdout_of(a), "ab\n[truncated]");
    ck_assert_str_eq(stderr_of(a), "e");
    ck_assert(json_is_true(json_object_get(a, "truncated")));
    ck_assert(json_is_true(json_object_get(a, "killed")));
    ck_assert_int_eq(json_integer_value(json_object_get(a, "signal")), 9);
    cleanup_json json_t *b = render(outcome, slice_of("abc"), slice_of(""), true);
    ck_assert_str_eq(stdout_of(b), "YWJj");
    ck_assert_str_eq(json_string_value(json_object_get(b, "encoding")), "base64");
}
END_TEST

/* No piece splits a character or a group of base64, wherever it falls. */
START_TEST(long_outputs_are_whole) {
    cleanup_buffer struct buffer text = {0}, decoded = {0};
    for (int i = 0; i < 20000; i++)
        buffer_append_str(&text, i % 3 ? "\xe2\x82\xac" : i % 2 ? "\xf0\x9f\x98\x80" : "a");
    for (size_t skip = 0; skip < 4; skip++) {
        struct slice in = {text.data + skip, text.len - skip};
        cleanup_json json_t *a = render(OUTCOME "}", in, in, false);
        cleanup_buffer struct buffer want = {0};
        utf8_repair(in, &want);
        ck_assert_str_eq(stdout_of(a), buffer_cstr(&want));
        ck_assert_str_eq(stderr_of(a), buffer_cstr(&want));
        cleanup_json json_t *b = render(OUTCOME "}", in, slice_of(""), true);
        buffer_clear(&decoded);
        ck_assert(base64_decode(slice_of(stdout_of(b)), &decoded));
        ck_assert(slice_equal(buffer_slice(&decoded), in));
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("exec_parts");
    TCase *t = tcase_create("all");
    tcase_add_test(t, bodies_that_are_refused);
    tcase_add_test(t, bodies_that_are_taken);
    tcase_add_test(t, keys_and_waits);
    tcase_add_test(t, texts);
    tcase_add_test(t, truncation_is_marked);
    tcase_add_test(t, long_outputs_are_whole);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
