/* Flags, environment and fallbacks: which one counts, what each type takes, and what is refused. */
#include "common/flags.h"

#include "common/log.h"
#include "tests/unit/common/suite.h"

#include <string.h>
#include <unistd.h>

struct values {
    const char *name, *mode, *issuers;
    bool on;
    double rate;
    int count;
    int64_t wait_ms;
    enum log_level level;
    enum log_format format;
};

#define AT(member) offsetof(struct values, member)
static const struct flag table[] = {
    {"name", FLAG_STRING, AT(name), "TEST_FLAGS_NAME", "anna", "NAME", .help = "who"},
    {"mode", FLAG_STRING, AT(mode), NULL, "plain", "MODE", .help = "how", .never_empty = true},
    {"issuer", FLAG_LIST, AT(issuers), NULL, "", "URL", .help = "whose"},
    {"on", FLAG_BOOL, AT(on), "TEST_FLAGS_ON", "true", NULL, .help = "whether"},
    {"rate", FLAG_RATE, AT(rate), NULL, "5", "N", .help = "how often"},
    {"count", FLAG_COUNT, AT(count), NULL, "3", "N", .help = "how many", .least = 1, .most = 10},
    {"wait", FLAG_DURATION, AT(wait_ms), NULL, "2m", "TIME", .help = "how long", .least = 1},
    {"log-level", FLAG_LOG_LEVEL, AT(level), NULL, "info", "LEVEL", .help = "level"},
    {"log-format", FLAG_LOG_FORMAT, AT(format), NULL, "", "FORMAT", .help = "format"},
    {"webhook", FLAG_OFF, 0, NULL, "false", NULL, .help = NULL},
    {"webhook-name", FLAG_WITHOUT, 0, NULL, "", NULL, .help = NULL},
};

static struct flags flags;
static struct values v;
static struct error err;

static enum flags_result parse(const char *a, const char *b, const char *c) {
    flags_free(&flags);
    flags = (struct flags){.table = table, .count = COUNT(table), .log_fd = -1};
    v = (struct values){0};
    error_clear(&err);
    char program[] = "program";
    char *argv[] = {program, (char *)a, (char *)b, (char *)c, NULL};
    return flags_parse(&flags, 1 + (a != NULL) + (b != NULL) + (c != NULL), argv, &v, &err);
}

static void forget_environment(void) {
    unsetenv("TEST_FLAGS_NAME");
    unsetenv("TEST_FLAGS_ON");
}

START_TEST(test_fallbacks_environment_flags) {
    forget_environment();
    ck_assert_int_eq(parse(NULL, NULL, NULL), FLAGS_RUN);
    ck_assert_str_eq(v.name, "anna");
    ck_assert_str_eq(v.issuers, "");
    ck_assert(v.on && v.count == 3 && v.wait_ms == 120000);
    ck_assert(v.level == LOG_LEVEL_INFO && v.format == LOG_FORMAT_JSON);
    setenv("TEST_FLAGS_NAME", "ben", 1);
    setenv("TEST_FLAGS_ON", "0", 1);
    ck_assert_int_eq(parse(NULL, NULL, NULL), FLAGS_RUN);
    ck_assert_str_eq(v.name, "ben");
    ck_assert(!v.on);
    ck_assert_int_eq(parse("--name", "carla", "-on"), FLAGS_RUN);
    ck_assert_str_eq(v.name, "carla");
    ck_assert(v.on);
    setenv("TEST_FLAGS_ON", "perhaps", 1);
    ck_assert_int_eq(parse(NULL, NULL, NULL), FLAGS_ERROR);
    ck_assert_ptr_nonnull(strstr(err.message, "TEST_FLAGS_ON"));
    forget_environment();
}
END_TEST

START_TEST(test_an_empty_value_means_not_set) {
    forget_environment();
    ck_assert_int_eq(parse("--name=", "--mode=", "--on="), FLAGS_RUN);
    ck_assert_str_eq(v.name, ""); /* empty is a value of texts, unless they are never empty */
    ck_assert_str_eq(v.mode, "plain");
    ck_assert(v.on);
    ck_assert_int_eq(parse("--rate=", "--count=", "--wait="), FLAGS_RUN);
    ck_assert(v.rate > 4.9 && v.rate < 5.1 && v.count == 3 && v.wait_ms == 120000);
    ck_assert_int_eq(parse("--log-level=", "--log-format=", "--webhook="), FLAGS_RUN);
    ck_assert(v.level == LOG_LEVEL_INFO && v.format == LOG_FORMAT_JSON);
}
END_TEST

START_TEST(test_lists_are_joined) {
    forget_environment();
    ck_assert_int_eq(parse("--issuer=a,b", "--issuer", "c"), FLAGS_RUN);
    ck_assert_str_eq(v.issuers, "a,b,c");
    ck_assert_int_eq(parse("--issuer=a", "--issuer=", "--issuer=b"), FLAGS_RUN);
    ck_assert_str_eq(v.issuers, ",b");
}
END_TEST

START_TEST(test_values_of_each_type) {
    forget_environment();
    ck_assert_int_eq(parse("--rate=0.5", "--count=10", "--wait=1ms"), FLAGS_RUN);
    ck_assert(v.rate > 0.49 && v.rate < 0.51 && v.count == 10 && v.wait_ms == 1);
    ck_assert_int_eq(parse("--log-level=off", "--log-format=text", "--webhook=false"), FLAGS_RUN);
    ck_assert(v.level == LOG_LEVEL_OFF && v.format == LOG_FORMAT_TEXT);
    ck_assert_int_eq(parse("--webhook-name=any", NULL, NULL), FLAGS_RUN);
    ck_assert_int_eq(parse("--count=0", "--help", NULL), FLAGS_ERROR);
    ck_assert_int_eq(parse("--count=1", "--help", NULL), FLAGS_HELP);
    ck_assert_int_eq(parse("-h", NULL, NULL), FLAGS_HELP);
    ck_assert_int_eq(parse("--version", NULL, NULL), FLAGS_VERSION);
}
END_TEST

START_TEST(test_what_is_refused) {
    static const char *const wrong[] = {"stray",
                                        "-",
                                        "",
                                        "--",
                                        "--no-such",
                                        "--no-such=1",
                                        "--name",
                                        "--on=maybe",
                                        "--rate=-1",
                                        "--rate=x",
                                        "--rate=2e6",
                                        "--rate=nan",
                                        "--count=11",
                                        "--count=x",
                                        "--count=-1",
                                        "--wait=0",
                                        "--wait=soon",
                                        "--webhook",
                                        "--count=99999999999999999999",
                                        "--log-level=x",
                                        "--log-format=xml"};
    forget_environment();
    for (size_t i = 0; i < COUNT(wrong); i++) {
        ck_assert_msg(parse(wrong[i], NULL, NULL) == FLAGS_ERROR, "%s", wrong[i]);
        ck_assert_str_ne(err.message, "");
    }
}
END_TEST

START_TEST(test_help_names_every_shown_flag) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    parse(NULL, NULL, NULL);
    flags_print_help(&flags, out);
    fclose(out);
    for (size_t i = 0; i < COUNT(table); i++) {
        char flag[40];
        snprintf(flag, sizeof flag, "--%s", table[i].name);
        ck_assert_int_eq(strstr(text, flag) != NULL, table[i].help != NULL);
    }
    ck_assert_ptr_nonnull(strstr(text, "[TEST_FLAGS_NAME]"));
    ck_assert_ptr_nonnull(strstr(text, "(default plain)"));
    free(text);
    flags_free(&flags);
}
END_TEST

RUN_SUITE("flags", test_fallbacks_environment_flags, test_an_empty_value_means_not_set, test_lists_are_joined,
          test_values_of_each_type, test_what_is_refused, test_help_names_every_shown_flag)
