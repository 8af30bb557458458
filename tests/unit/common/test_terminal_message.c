/* The JSON messages of terminals (http-api.md 2.12; W-16). */
#include "common/terminal_message.h"

#include "tests/unit/common/suite.h"

static void expect(const char *text, enum terminal_message_type type, const char *wanted, size_t len) {
    struct terminal_message m;
    terminal_message_parse(slice_of(text), &m);
    ck_assert_msg(m.type == type, "%s is %d", text, (int)m.type);
    ck_assert_msg(m.text.len == len && (len == 0 || memcmp(m.text.ptr, wanted, len) == 0), "%s gives %.*s",
                  text, (int)m.text.len, m.text.ptr ? m.text.ptr : "");
    terminal_message_free(&m);
}

START_TEST(input_is_its_text) {
    expect("{\"type\":\"input\",\"data\":\"ls\\r\"}", TERMINAL_INPUT, "ls\r", 3);
    expect(" {\"data\":\"\\u0003\", \"x\": [1, {}], \"type\" : \"input\"} ", TERMINAL_INPUT, "\003", 1);
    expect("{\"type\":\"input\",\"data\":\"\"}", TERMINAL_INPUT, "", 0);
    expect("{\"type\":\"input\",\"data\":\"\\u0000a\"}", TERMINAL_INPUT, "\0a", 2); /* control and space */
    expect("{\"type\":\"input\",\"data\":\"\\ud83d\\ude00é\"}", TERMINAL_INPUT, "😀é", 6);
    expect("{\"type\":\"output\",\"data\":\"x\",\"stream\":\"stdout\"}", TERMINAL_OUTPUT, "x", 1);
    expect("{\"type\":\"error\",\"message\":\"no\"}", TERMINAL_ERROR, "no", 2);
    expect("{\"type\":\"error\"}", TERMINAL_ERROR, "", 0);
    expect("{\"type\":\"ping\"}", TERMINAL_PING, "", 0);
}
END_TEST

START_TEST(what_is_no_unicode_is_replaced) {
    expect("{\"type\":\"input\",\"data\":\"a\\ud83dz\"}", TERMINAL_INPUT, "a\uFFFDz", 5);
    expect("{\"type\":\"input\",\"data\":\"\\ude00\\ud83d\"}", TERMINAL_INPUT, "\uFFFD\uFFFD", 6);
    expect("{\"type\":\"input\",\"data\":\"\\ud83d\\ud83d\\ude00\"}", TERMINAL_INPUT, "\uFFFD😀", 7);
    expect("{\"type\":\"input\",\"data\":\"\\\\ud83d\\ud83d\"}", TERMINAL_INPUT, "\\ud83d\uFFFD", 9);
    expect("{\"type\":\"input\",\"data\":\"\xff\"}", TERMINAL_INPUT, "\uFFFD", 3);
}
END_TEST

START_TEST(anything_else_is_ignored) {
    static const char *const texts[] = {"",
                                        "x",
                                        "{",
                                        "[]",
                                        "1",
                                        "null",
                                        "\"input\"",
                                        "{}",
                                        "{\"type\":1}",
                                        "{\"type\":\"input\"}",
                                        "{\"type\":\"input\",\"data\":1}",
                                        "{\"type\":\"resize\",\"cols\":\"x\"}",
                                        "{\"type\":\"resize\",\"cols\":1.5}",
                                        "{\"type\":\"INPUT\",\"data\":\"x\"}",
                                        "{\"type\":\"ping\"} {\"type\":\"ping\"}",
                                        "{\"type\":\"ping\"}x",
                                        "{\"type\":\"input\",\"data\":\"\\ud83\"}",
                                        "{\"type\":\"input\",\"data\":\"\\",
                                        "{\"type\":\"output\"}",
                                        "{\"type\":\"heartbeat\",\"ts\":1}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect(texts[i], TERMINAL_UNKNOWN, "", 0);
    /* What would take much memory as values. */
    cleanup_buffer struct buffer many = {0};
    buffer_append_str(&many, "{\"type\":\"ping\",\"x\":[0");
    for (int i = 0; i < 100; i++)
        buffer_append_str(&many, ",0");
    buffer_append_str(&many, "]}");
    expect(buffer_cstr(&many), TERMINAL_UNKNOWN, "", 0);
    cleanup_buffer struct buffer deep = {0};
    for (int i = 0; i < 5000; i++)
        buffer_append_char(&deep, '[');
    expect(buffer_cstr(&deep), TERMINAL_UNKNOWN, "", 0);
}
END_TEST

static void expect_size(const char *text, unsigned cols, unsigned rows) {
    struct terminal_message m;
    terminal_message_parse(slice_of(text), &m);
    ck_assert_int_eq(m.type, TERMINAL_RESIZE);
    ck_assert_uint_eq(m.cols, cols);
    ck_assert_uint_eq(m.rows, rows);
    terminal_message_free(&m);
}

START_TEST(sizes_are_clamped) {
    expect_size("{\"type\":\"resize\",\"cols\":132,\"rows\":43}", 132, 43);
    expect_size("{\"type\":\"resize\",\"cols\":0,\"rows\":-7}", 1, 1);
    expect_size("{\"type\":\"resize\",\"cols\":65535,\"rows\":65536}", 65535, 65535);
    expect_size("{\"type\":\"resize\",\"rows\":9223372036854775807}", 1, 65535);
    expect_size("{\"type\":\"resize\",\"cols\":null}", 1, 1);
}
END_TEST

START_TEST(messages_are_written) {
    struct buffer b = {0};
    terminal_message_put_input(&b, slice_make("a\"\0\xff", 4));
    terminal_message_put_resize(&b, 80, 24);
    terminal_message_put_output(&b, slice_of("é\r\n"));
    terminal_message_put_error(&b, "no");
    terminal_message_put_heartbeat(&b, 1784606611123);
    terminal_message_put_pong(&b);
    terminal_message_put_close(&b, "sandbox_stopped", 4001);
    ck_assert_str_eq(buffer_cstr(&b), "{\"type\":\"input\",\"data\":\"a\\\"\\u0000\uFFFD\"}"
                                      "{\"type\":\"resize\",\"cols\":80,\"rows\":24}"
                                      "{\"type\":\"output\",\"data\":\"é\\r\\n\",\"stream\":\"stdout\"}"
                                      "{\"type\":\"error\",\"message\":\"no\"}"
                                      "{\"type\":\"heartbeat\",\"ts\":1784606611123}"
                                      "{\"type\":\"pong\"}"
                                      "{\"type\":\"close\",\"reason\":\"sandbox_stopped\",\"code\":4001}");
    buffer_free(&b);
}
END_TEST

RUN_SUITE("terminal_message", input_is_its_text, what_is_no_unicode_is_replaced, anything_else_is_ignored,
          sizes_are_clamped, messages_are_written)
