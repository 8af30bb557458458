/* Log lines as a reader of the descriptor sees them: one write, one line, always whole. */
#include "common/log.h"
#include "common/json.h"
#include "common/text.h"

#include "tests/unit/common/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>

static int pipe_fds[2];
static char line[PIPE_BUF * 2];

static void start(enum log_level level, enum log_format format) {
    ck_assert_int_eq(pipe2(pipe_fds, O_NONBLOCK), 0);
    log_configure(level, format, pipe_fds[1]);
}

/* What was written since; "" when nothing. */
static const char *written(void) {
    ssize_t n = read(pipe_fds[0], line, sizeof line - 1);
    line[n > 0 ? n : 0] = '\0';
    return line;
}

/* The text line without its time, which is checked. */
static const char *after_time(void) {
    const char *text = written();
    ck_assert_uint_gt(strlen(text), 21);
    ck_assert_int_eq(text[19], 'Z');
    ck_assert_int_eq(text[10], 'T');
    return text + 21;
}

START_TEST(test_text) {
    start(LOG_LEVEL_DEBUG, LOG_FORMAT_TEXT);
    log_info("sandbox started", "sandbox", "demo", "ms", log_int(12), NULL);
    ck_assert_str_eq(after_time(), "info  sandbox started sandbox=demo ms=12\n");
    log_debug("plain", NULL);
    ck_assert_str_eq(after_time(), "debug plain\n");
    log_warn("quoted", "a", "two words", "b", "", "c", "x=y", "d", "say \"hi\"", "e", "back\\slash", NULL);
    ck_assert_str_eq(after_time(), "warn  quoted a=\"two words\" b=\"\" c=\"x=y\" d=\"say \\\"hi\\\"\" "
                                   "e=\"back\\\\slash\"\n");
    log_error("one\nline\r", "a", "x\ny\tz\x1b[31m\x7f", "b", "\xff\xc3", "c", "\xc3\xa4", "d", "\xc2\x9b",
              NULL);
    ck_assert_str_eq(after_time(), "error one\\nline\\r a=\"x\\ny\\tz\\x1b[31m\\x7f\" b=\"\\xff\\xc3\" "
                                   "c=\"\xc3\xa4\" d=\"\\u009b\"\n");
    const char *none = NULL;
    log_info("null", "a", none, NULL);
    ck_assert_str_eq(after_time(), "info  null a=\"\"\n");
}
END_TEST

START_TEST(test_levels) {
    start(LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
    log_debug("no", NULL);
    log_info("no", NULL);
    log_write(LOG_LEVEL_INFO, "no", NULL);
    ck_assert_str_eq(written(), "");
    log_warn("yes", NULL);
    ck_assert_str_eq(after_time(), "warn  yes\n");
    ck_assert(!log_enabled(LOG_LEVEL_INFO) && log_enabled(LOG_LEVEL_ERROR) && !log_enabled(LOG_LEVEL_OFF));
    log_configure(LOG_LEVEL_OFF, LOG_FORMAT_TEXT, pipe_fds[1]);
    log_error("no", NULL);
    ck_assert_str_eq(written(), "");
}
END_TEST

static json_t *logged_object(void) {
    const char *text = written();
    size_t len = strlen(text);
    ck_assert_uint_gt(len, 0);
    ck_assert_uint_le(len, PIPE_BUF);
    ck_assert_ptr_eq(strchr(text, '\n'), text + len - 1);
    cleanup_error struct error err = {0};
    json_t *o = json_parse_object(slice_of(text), &err);
    ck_assert_msg(o != NULL, "%s: %s", err.message, text);
    return o;
}

START_TEST(test_json) {
    start(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    log_info("sandbox \"started\"", "sandbox", "de\nmo\x01", "ms", log_int(-12), "bad",
             "a\xff"
             "b",
             "text", "12", NULL);
    cleanup_json json_t *o = logged_object();
    ck_assert_str_eq(json_str_at(o, "level"), "INFO");
    ck_assert_str_eq(json_str_at(o, "msg"), "sandbox \"started\"");
    ck_assert_str_eq(json_str_at(o, "sandbox"), "de\nmo\x01");
    ck_assert_int_eq(json_integer_value(json_at(o, "ms")), -12);
    ck_assert_str_eq(json_str_at(o, "bad"), "a\xef\xbf\xbd"
                                            "b");
    ck_assert_str_eq(json_str_at(o, "text"), "12");
    ck_assert_uint_eq(strlen(json_str_at(o, "time")), 30);
}
END_TEST

/* Whatever is logged, a line is whole, bounded and valid. */
START_TEST(test_long_lines) {
    start(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    static const char *const fills[] = {"a", "\x01", "\xff", "\xf0\x9f\x98\x80", "\"", "\xc2\x9b"};
    for (size_t f = 0; f < COUNT(fills); f++) {
        for (size_t n = 0; n < 2200; n += n < 1000 || n > 1100 ? 50 : 1) {
            cleanup_buffer struct buffer text = {0};
            while (text.len < n) {
                buffer_append_str(&text, fills[f]);
            }
            const char *value = buffer_cstr(&text);
            log_info(value, "a", value, "b", "small", "c", value, "d", value, "e", "late", NULL);
            cleanup_json json_t *o = logged_object();
            ck_assert(json_at(o, "e") != NULL || json_is_true(json_at(o, "cut")));
            log_configure(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, pipe_fds[1]);
            log_info(value, "a", value, "b", value, "c", value, "d", value, NULL);
            const char *plain = after_time();
            ck_assert_uint_le(strlen(line), PIPE_BUF);
            ck_assert_ptr_eq(strchr(plain, '\n'), plain + strlen(plain) - 1);
            ck_assert(utf8_valid(slice_of(plain)));
            log_configure(LOG_LEVEL_INFO, LOG_FORMAT_JSON, pipe_fds[1]);
        }
    }
}
END_TEST

START_TEST(test_log_int) {
    ck_assert_str_eq(log_int(INT64_MIN), "-9223372036854775808");
    const char *first = log_int(1);
    for (int i = 2; i <= 8; i++) {
        log_int(i);
    }
    ck_assert_str_eq(first, "1"); /* the eighth call later takes its place */
    ck_assert_str_eq(log_int(0), "0");
    ck_assert_str_eq(log_int(INT64_MAX), "9223372036854775807");
}
END_TEST

START_TEST(test_log_milliseconds) {
    ck_assert_str_eq(log_milliseconds(0), "0.000");
    ck_assert_str_eq(log_milliseconds(499), "0.000");
    ck_assert_str_eq(log_milliseconds(500), "0.001");
    ck_assert_str_eq(log_milliseconds(12345678), "12.346");
    ck_assert_str_eq(log_milliseconds(999999999), "1000.000");
    ck_assert_str_eq(log_milliseconds(UINT64_MAX), "18446744073709.552");
}
END_TEST

/* A thread that collects writes when it says so, at a warning, and when a buffer is full: whole lines. */
START_TEST(test_collect) {
    start(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_collect(true);
    log_info("one", NULL);
    log_info("two", NULL);
    ck_assert_str_eq(written(), "");
    log_flush();
    const char *text = after_time();
    ck_assert_ptr_eq(strstr(text, "info  one\n"), text);
    ck_assert_ptr_nonnull(strstr(text, "info  two\n"));
    log_flush();
    ck_assert_str_eq(written(), "");
    log_info("three", NULL);
    log_warn("four", NULL);
    text = after_time();
    ck_assert(strstr(text, "three") && strstr(text, "four") > strstr(text, "three"));
    size_t lines = 0;
    for (int i = 0; i < 300; i++) {
        log_info("line", "n", log_int(1000 + i), NULL);
        text = written();
        size_t n = strlen(text);
        ck_assert_uint_le(n, PIPE_BUF);
        ck_assert(n == 0 || text[n - 1] == '\n');
        for (; *text; text++)
            lines += *text == '\n';
    }
    ck_assert_uint_gt(lines, 0);
    ck_assert_uint_lt(lines, 300);
    log_collect(false);
    for (text = written(); *text; text++)
        lines += *text == '\n';
    ck_assert_uint_eq(lines, 300);
    log_info("at once", NULL);
    ck_assert_str_eq(after_time(), "info  at once\n");
}
END_TEST

START_TEST(test_errno_kept_and_failure_harmless) {
    log_configure(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, -1);
    errno = ENOENT;
    log_info("nowhere", NULL);
    ck_assert_int_eq(errno, ENOENT);
}
END_TEST

static void *log_many(void *name) {
    for (int i = 0; i < 200; i++) {
        log_info("from a thread", "thread", (const char *)name, "n", log_int(i), NULL);
    }
    return NULL;
}

START_TEST(test_threads) {
    ck_assert_int_eq(pipe(pipe_fds), 0);
    ck_assert_int_ge(fcntl(pipe_fds[1], F_SETPIPE_SZ, 1 << 18), 1 << 18); /* nobody reads meanwhile */
    log_configure(LOG_LEVEL_INFO, LOG_FORMAT_JSON, pipe_fds[1]);
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, log_many, (void *)"worker"), 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    close(pipe_fds[1]);
    FILE *in = fdopen(pipe_fds[0], "r");
    ck_assert_ptr_nonnull(in);
    int lines = 0;
    while (fgets(line, sizeof line, in)) {
        cleanup_json json_t *o = json_parse_object(slice_of(line), NULL);
        ck_assert_str_eq(json_str_at(o, "thread"), "worker");
        lines++;
    }
    fclose(in);
    ck_assert_int_eq(lines, 800);
}
END_TEST

RUN_SUITE("log", test_text, test_levels, test_json, test_long_lines, test_log_int, test_log_milliseconds,
          test_collect, test_errno_kept_and_failure_harmless, test_threads)
