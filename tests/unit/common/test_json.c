/* JSON at the edges: what is refused, what is repaired, readers and merge-patch. */
#include "common/json.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>

/* The value parsed from `text`, dumped again without its newline, or "!code: message". */
static char *parsed(struct slice text) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *value = json_parse(text, &err);
    if (!value) return xasprintf("!%d %s: %s", err.status, err.code, err.message);
    ck_assert_int_eq(err.status, 0);
    size_t len;
    char *line = json_dump_line(value, &len);
    ck_assert_int_eq(line[len - 1], '\n');
    line[len - 1] = '\0';
    return line;
}

START_TEST(test_parse) {
    static const char *const rows[][2] = {
        {"{}", "{}"},
        {" \t\r\n{\"a\": [1, 2.5, true, null, \"x\"]} trailing", "{\"a\":[1,2.5,true,null,\"x\"]}"},
        {"{\"a\":1}{\"a\":1", "{\"a\":1}"},
        {"[]]]]", "[]"},
        {"1", "1"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"9223372036854775807 ", "9223372036854775807"},
        {"\"text\"x", "\"text\""},
        {"true", "true"},
        {"null", "null"},
        {"\"\\u00e4\\ud83d\\ude00\"", "\"\xc3\xa4\xf0\x9f\x98\x80\""},
        {"{\"a\":{\"a\":{\"a\":1}}}", "{\"a\":{\"a\":{\"a\":1}}}"},
        {"\"[[[[\\\"[[[[\"", "\"[[[[\\\"[[[[\""},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        cleanup_free char *got = parsed(slice_of(rows[i][0]));
        ck_assert_str_eq(got, rows[i][1]);
    }
}
END_TEST

START_TEST(test_parse_refused) {
    static const char *const rows[][2] = {
        {"", "nothing was sent"},
        {" \n\t ", "nothing was sent"},
        {"{\"a\":1,\"a\":1}", "line 1, column 10: duplicate object key"},
        {"{\"b\":{\"a\":1,\"\\u0061\":1}}", "duplicate object key"},
        {"{\"a\":1", "line 1, column 6"},
        {"{\n\"a\":1,\n}", "line 3, column 1"},
        {"{'a':1}", "invalid JSON at line 1, column 2"},
        {"tru", "invalid token"},
        {"1e999", "real number overflow"},
        {"-1e999", "real number overflow"},
        {"9223372036854775808", "too big integer"},
        {"-9223372036854775809", "too big negative integer"},
        {"\"a\\u0000b\"", "\\u0000 is not allowed"},
        {"{\"a\\u0000b\":1}", "NUL byte in object key"},
        {"\"\xff\"", "unable to decode byte 0xff"},
        {"\"\xc0\x80\"", "unable to decode"},
        {"\"\xed\xa0\x80\"", "unable to decode"},
        {"\"\\ud800\"", "send one valid JSON value"},
        {"\"\\udc00\\ud800\"", "send one valid JSON value"},
        {"\"a\nb\"", "send one valid JSON value"},
        {"NaN", "invalid token"},
        {"]", "invalid JSON"},
        {"}", "invalid JSON"},
        {"\xef\xbb\xbf{}", "invalid JSON"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        cleanup_free char *got = parsed(slice_of(rows[i][0]));
        ck_assert_msg(strncmp(got, "!400 bad_request: ", 18) == 0, "%s: %s", rows[i][0], got);
        ck_assert_msg(strstr(got, rows[i][1]), "%s: %s", rows[i][0], got);
    }
    cleanup_free char *nul = parsed(slice_make("\"a\0b\"", 5));
    ck_assert_int_eq(nul[0], '!');
    cleanup_free char *outside = parsed(slice_make("\0", 1));
    ck_assert_int_eq(outside[0], '!');
}
END_TEST

static void nested(struct buffer *text, size_t depth, const char *open, const char *close) {
    buffer_clear(text);
    for (size_t i = 0; i < depth; i++) {
        buffer_append_str(text, open);
    }
    buffer_append_str(text, "1");
    for (size_t i = 0; i < depth; i++) {
        buffer_append_str(text, close);
    }
}

START_TEST(test_depth) {
    cleanup_buffer struct buffer text = {0};
    static const char *const kinds[][2] = {{"[", "]"}, {"{\"a\":", "}"}, {"[\"]]]\",", "]"}, {"[[],", "]"}};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        size_t inner = i == 3 ? 1 : 0; /* an empty list beside */
        nested(&text, JSON_MAX_DEPTH - inner, kinds[i][0], kinds[i][1]);
        cleanup_free char *ok = parsed(buffer_slice(&text));
        ck_assert_msg(ok[0] != '!', "%s", ok);
        nested(&text, JSON_MAX_DEPTH + 1, kinds[i][0], kinds[i][1]);
        cleanup_free char *refused = parsed(buffer_slice(&text));
        ck_assert_str_eq(
            refused, "!400 bad_request: the JSON is nested more than 64 levels deep: send a flatter value");
    }
    /* Depth after the first value does not matter. */
    buffer_clear(&text);
    buffer_append_str(&text, "{}");
    for (int i = 0; i < 100; i++) {
        buffer_append_str(&text, "[");
    }
    cleanup_free char *first = parsed(buffer_slice(&text));
    ck_assert_str_eq(first, "{}");
}
END_TEST

START_TEST(test_parse_object) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *ok = json_parse_object(slice_of("{\"a\":1}"), &err);
    ck_assert_ptr_nonnull(ok);
    static const char *const bad[][2] = {{"[]", "an array"}, {"1", "a number"},     {"1.5", "a number"},
                                         {"null", "null"},   {"true", "a boolean"}, {"\"x\"", "a string"}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        ck_assert_ptr_null(json_parse_object(slice_of(bad[i][0]), &err));
        ck_assert_int_eq(err.status, 400);
        ck_assert_msg(strstr(err.message, bad[i][1]), "%s", err.message);
    }
    ck_assert_ptr_null(json_parse_object(slice_of("["), NULL));
}
END_TEST

START_TEST(test_string_repaired) {
    cleanup_json json_t *a = json_string_repaired(slice_make("a\0\xff\xc3", 4));
    ck_assert_uint_eq(json_string_length(a), 8);
    ck_assert_int_eq(memcmp(json_string_value(a), "a\0\xef\xbf\xbd\xef\xbf\xbd", 8), 0);
    cleanup_json json_t *b = json_string_repaired(slice_make(NULL, 0));
    ck_assert_str_eq(json_string_value(b), "");
    cleanup_free char *line = json_dump_line(a, NULL);
    ck_assert_str_eq(line, "\"a\\u0000\xef\xbf\xbd\xef\xbf\xbd\"\n");
    ck_assert_ptr_null(json_dump_line(NULL, NULL));
}
END_TEST

START_TEST(test_readers) {
    cleanup_json json_t *o = json_pack("{s:s, s:i, s:b, s:n, s:f, s:[i], s:{s:i}}", "text", "x", "n", 42,
                                       "yes", 1, "none", "real", 5.0, "list", 1, "map", "k", 1);
    cleanup_error struct error err = {0};
    const char *text = "unset";
    ck_assert(json_get_string(o, "text", &text, &err));
    ck_assert_str_eq(text, "x");
    ck_assert(json_get_string(o, "none", &text, &err) && !text);
    ck_assert(json_get_string(o, "absent", &text, &err) && !text);
    ck_assert(json_get_string(NULL, "absent", &text, &err) && !text);
    ck_assert(!json_get_string(o, "n", &text, &err));
    ck_assert_str_eq(err.code, "invalid_field");
    ck_assert_str_eq(err.message, "n: must be a string, not a number");
    ck_assert_str_eq(json_str_at(err.details, "field"), "n");

    json_t *part;
    ck_assert(json_get_object(o, "map", &part, &err) && part);
    ck_assert(json_get_object(o, "none", &part, &err) && !part);
    ck_assert(!json_get_object(o, "list", &part, &err));
    ck_assert_str_eq(err.message, "list: must be an object, not an array");
    ck_assert(json_get_array(o, "list", &part, &err) && part);
    ck_assert(!json_get_array(o, "yes", &part, &err));
    ck_assert_str_eq(err.message, "yes: must be an array, not a boolean");

    bool yes = false;
    ck_assert(json_get_bool(o, "yes", &yes, &err) && yes);
    ck_assert(json_get_bool(o, "none", &yes, &err) && yes);
    ck_assert(!json_get_bool(o, "text", &yes, &err));

    json_int_t n = 7;
    ck_assert(json_get_int(o, "absent", 0, 9, &n, &err) && n == 7);
    ck_assert(json_get_int(o, "n", 42, 42, &n, &err) && n == 42);
    n = 7;
    ck_assert(!json_get_int(o, "n", 0, 41, &n, &err));
    ck_assert_str_eq(err.message, "n: must be from 0 to 41, not 42");
    ck_assert(!json_get_int(o, "n", 43, 99, &n, &err));
    ck_assert(!json_get_int(o, "real", 0, 9, &n, &err));
    ck_assert(!json_get_int(o, "text", 0, 9, &n, &err));
    ck_assert_int_eq(n, 7);
}
END_TEST

START_TEST(test_at) {
    cleanup_json json_t *o =
        json_pack("{s:{s:s, s:{s:i}}, s:s}", "status", "phase", "Running", "deep", "n", 1, "top", "t");
    ck_assert_str_eq(json_str_at(o, "status.phase"), "Running");
    ck_assert_str_eq(json_str_at(o, "top"), "t");
    ck_assert_str_eq(json_str_at(o, "status.deep.n"), "");
    ck_assert_int_eq(json_integer_value(json_at(o, "status.deep.n")), 1);
    ck_assert_ptr_null(json_at(o, "status.none.n"));
    ck_assert_ptr_null(json_at(o, "top.t"));
    ck_assert_ptr_null(json_at(o, ""));
    ck_assert_ptr_null(json_at(o, "status."));
    ck_assert_ptr_null(json_at(NULL, "status"));
    char longest[400];
    memset(longest, 'a', sizeof longest);
    longest[399] = '\0';
    ck_assert_ptr_null(json_at(o, longest));
}
END_TEST

/* The examples of RFC 7396, appendix A. */
START_TEST(test_merge_patch) {
    static const char *const rows[][3] = {
        {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
        {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
        {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
        {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
        {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
        {"[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]"},
        {"{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]"},
        {"{\"a\":\"foo\"}", "null", "null"},
        {"{\"a\":\"foo\"}", "\"bar\"", "\"bar\""},
        {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
        {"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
        {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
        {"{\"a\":1}", "{\"a\":{\"b\":[null,{\"c\":null}]}}", "{\"a\":{\"b\":[null,{\"c\":null}]}}"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        cleanup_json json_t *target = json_loads(rows[i][0], JSON_DECODE_ANY, NULL);
        cleanup_json json_t *patch = json_loads(rows[i][1], JSON_DECODE_ANY, NULL);
        cleanup_json json_t *result = json_merge_patch(target, patch);
        cleanup_json json_t *wanted = json_loads(rows[i][2], JSON_DECODE_ANY, NULL);
        ck_assert_msg(json_equal(result, wanted), "row %zu", i);
        cleanup_json json_t *target_before = json_loads(rows[i][0], JSON_DECODE_ANY, NULL);
        cleanup_json json_t *patch_before = json_loads(rows[i][1], JSON_DECODE_ANY, NULL);
        ck_assert(json_equal(target, target_before) && json_equal(patch, patch_before));
    }
    cleanup_json json_t *patch = json_pack("{s:{s:n, s:[i]}}", "a", "b", "c", 1);
    cleanup_json json_t *made = json_merge_patch(NULL, patch);
    json_array_append_new(json_at(made, "a.c"), json_integer(2));
    json_object_set_new(json_at(made, "a"), "x", json_true());
    ck_assert_uint_eq(json_array_size(json_at(patch, "a.c")), 1);
    ck_assert_ptr_null(json_at(patch, "a.x"));
}
END_TEST

START_TEST(test_values_within) {
    static const struct {
        const char *text;
        size_t values;
    } rows[] = {
        {"1", 1},    {"[1,2,3]", 4}, {"{\"a\":1,\"b\":[true,{}]}", 6}, {"[\",,,[[[\",\"\\\",{{\"]", 3},
        {"\"\\", 1}, {"", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_msg(json_values_within(slice_of(rows[i].text), rows[i].values), "%s", rows[i].text);
        ck_assert_msg(rows[i].values == 1 || !json_values_within(slice_of(rows[i].text), rows[i].values - 1),
                      "%s", rows[i].text);
    }
}
END_TEST

RUN_SUITE("json", test_values_within, test_parse, test_parse_refused, test_depth, test_parse_object,
          test_string_repaired, test_readers, test_at, test_merge_patch)
