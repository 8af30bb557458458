/* Quantities: the examples of the contract, exactness, range, and canonical round trips. */
#include "common/units.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *in;
    const char *canonical;
    int64_t ceil;
} rows[] = {
    {"0.5", "500m", 1},
    {"2000m", "2", 2},
    {"1024Mi", "1Gi", INT64_C(1) << 30},
    {"1.5Gi", "1536Mi", INT64_C(3) << 29},
    {"10Gi", "10Gi", INT64_C(10) << 30},
    {"500m", "500m", 1},
    {"2", "2", 2},
    {"0", "0", 0},
    {"0Gi", "0", 0},
    {"-0", "0", 0},
    {"00012", "12", 12},
    {"+1", "1", 1},
    {"-1", "-1", -1},
    {"-1500m", "-1500m", -1},
    {"-1.5Gi", "-1536Mi", -(INT64_C(3) << 29)},
    {"1k", "1k", 1000},
    {"1000k", "1M", 1000000},
    {"1500", "1500", 1500},
    {"15000", "15k", 15000},
    {"1M", "1M", 1000000},
    {"1G", "1G", 1000000000},
    {"1T", "1T", INT64_C(1000000000000)},
    {"1P", "1P", INT64_C(1000000000000000)},
    {"1E", "1E", INT64_C(1000000000000000000)},
    {"1000000u", "1", 1},
    {"1n", "1n", 1},
    {"1u", "1u", 1},
    {".5", "500m", 1},
    {"5.", "5", 5},
    {"5.Ki", "5Ki", 5120},
    {"1023Ki", "1023Ki", 1023 * 1024},
    {"1000Ki", "1000Ki", 1024000},
    {"0.5Ki", "512", 512}, /* below 1024: no binary suffix */
    {"0.1Ki", "102400m", 103},
    {"1.1Ki", "1126400m", 1127}, /* not whole: in decimal, nothing is lost */
    {"1.5Ki", "1536", 1536},
    {"1Ki", "1Ki", 1024},
    {"7Ei", "7Ei", INT64_C(7) << 60},
    {"7.999999Ei", NULL, INT64_C(9223370883933271202)},
    {"1e3", "1e3", 1000},
    {"1E3", "1e3", 1000},
    {"1E+3", "1e3", 1000},
    {"1e-3", "1e-3", 1},
    {"12e6", "12e6", 12000000},
    {"100e1", "1e3", 1000},
    {"1e0", "1", 1},
    {"0.001e3", "1", 1},
    {"0e99999999999999999999", "0", 0},
    {"1e-99999999999999999999", "1e-9", 1},
    {"0.0000000001", "1n", 1}, /* rounded away from zero */
    {"-0.0000000001", "-1n", 0},
    {"1.0000000000000000000000000000000000000000000000000000000000001", "1000000001n", 2},
    {"1.0000000000000000000000000000000000000000000000000000000000000", "1", 1},
    {"0.00000000000000000000000000000000000000000000000000000000000001Ei", "1n", 1},
    {"100000000000000000000000000000000000000000000000000000000000e-59", "1", 1},
    {"9223372036854775807", "9223372036854775807", INT64_MAX},
    {"-9223372036854775807", "-9223372036854775807", -INT64_MAX},
    {"9223372036854775806.999999999", "9223372036854775806999999999n", INT64_MAX},
    {"8191Pi", "8191Pi", INT64_C(8191) << 50},
};

START_TEST(test_parse_and_format) {
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct quantity q, again;
        char text[QUANTITY_TEXT_MAX], twice[QUANTITY_TEXT_MAX];
        ck_assert_msg(quantity_parse(rows[i].in, &q), "%s", rows[i].in);
        quantity_format(q, text);
        if (rows[i].canonical)
            ck_assert_msg(strcmp(text, rows[i].canonical) == 0, "%s: %s", rows[i].in, text);
        ck_assert_msg(quantity_ceil(q) == rows[i].ceil, "%s: %lld", rows[i].in, (long long)quantity_ceil(q));
        ck_assert(quantity_parse(text, &again));
        ck_assert_int_eq(quantity_compare(q, again), 0);
        quantity_format(again, twice);
        ck_assert_str_eq(text, twice);
    }
}
END_TEST

START_TEST(test_refused) {
    static const char *const bad[] = {"",
                                      ".",
                                      "-",
                                      "+",
                                      "Mi",
                                      "m",
                                      "--1",
                                      "+-1",
                                      "1 ",
                                      " 1",
                                      "1 Gi",
                                      "1gi",
                                      "1GI",
                                      "1ki",
                                      "1KI",
                                      "1K",
                                      "1g",
                                      "1t",
                                      "1p",
                                      "1b",
                                      "1B",
                                      "1Gib",
                                      "1.5.5",
                                      "1,5",
                                      "1e",
                                      "1e+",
                                      "1e-",
                                      "1e1.5",
                                      "1e3k",
                                      "1e3Ki",
                                      "1ee3",
                                      "1Kie3",
                                      "0x10",
                                      "1_000",
                                      "one",
                                      "1mi",
                                      "1ni",
                                      "NaN",
                                      "Inf",
                                      "9223372036854775808",
                                      "-9223372036854775808",
                                      "8Ei",
                                      "10E",
                                      "8192Pi",
                                      "1e19",
                                      "9223372036854775807.1",
                                      "1e99999999999999999999",
                                      "99999999999999999999999999999999999999999999999",
                                      "9223372036854775806.9999999999999Ki",
                                      "1\xff"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct quantity q = {77, false, false};
        ck_assert_msg(!quantity_parse(bad[i], &q), "%s", bad[i]);
        ck_assert(q.nano == 77);
    }
}
END_TEST

START_TEST(test_compare) {
    static const char *const ascending[] = {"-8191Pi", "-1",    "-1n", "0",   "1n", "1u",  "1m", "0.5",
                                            "1",       "1001m", "1k",  "1Ki", "1M", "1Mi", "1G", "1Gi",
                                            "1T",      "1Ti",   "1P",  "1Pi", "1E", "1Ei"};
    for (size_t i = 0; i < COUNT(ascending); i++) {
        for (size_t k = 0; k < COUNT(ascending); k++) {
            struct quantity a, b;
            ck_assert(quantity_parse(ascending[i], &a) && quantity_parse(ascending[k], &b));
            ck_assert_int_eq(quantity_compare(a, b), (i > k) - (i < k));
        }
    }
    struct quantity a, b;
    ck_assert(quantity_parse("1Gi", &a) && quantity_parse("1073741824", &b));
    ck_assert_int_eq(quantity_compare(a, b), 0);
    ck_assert(quantity_parse("1e9", &a) && quantity_parse("1G", &b));
    ck_assert_int_eq(quantity_compare(a, b), 0);
}
END_TEST

START_TEST(test_ceil_saturates) {
    struct quantity q = {.nano = ((__int128)1 << 126)};
    ck_assert_int_eq(quantity_ceil(q), INT64_MAX);
    q.nano = -q.nano;
    ck_assert_int_eq(quantity_ceil(q), INT64_MIN);
    char text[QUANTITY_TEXT_MAX];
    quantity_format(q, text); /* far outside what can be parsed, still whole */
    ck_assert_uint_lt(strlen(text), QUANTITY_TEXT_MAX - 1);
}
END_TEST

/* Any value printed in any family is read back as the same value. */
START_TEST(test_round_trip) {
    uint64_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        __int128 nano = (__int128)(seed >> 1) * (i % 3 == 0 ? 1 : i % 3 == 1 ? 1000 : 1000000000);
        nano >>= seed & 63;
        struct quantity q = {.nano = i & 1 ? -nano : nano, .binary = (i & 6) == 2, .exponent = (i & 6) == 4};
        struct quantity back;
        char text[QUANTITY_TEXT_MAX];
        quantity_format(q, text);
        if (!quantity_parse(text, &back)) ck_abort_msg("%s", text);
        if (quantity_compare(q, back) != 0) ck_abort_msg("%s", text);
    }
}
END_TEST

RUN_SUITE("quantity", test_parse_and_format, test_refused, test_compare, test_ceil_saturates, test_round_trip)
