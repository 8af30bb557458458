/* Durations and timestamps: Go's grammar and RFC 3339, at the edges and in round trips. */
#include "common/units.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>
#include <string.h>

#define S INT64_C(1000000000)

START_TEST(test_duration_parse) {
    static const struct {
        const char *text;
        int64_t ns;
    } rows[] = {
        {"0", 0},
        {"+0", 0},
        {"-0", 0},
        {"0s", 0},
        {"5s", 5 * S},
        {"30s", 30 * S},
        {"1478s", 1478 * S},
        {"-5s", -5 * S},
        {"+5s", 5 * S},
        {"5.0s", 5 * S},
        {"5.6s", 5 * S + 600000000},
        {"5.s", 5 * S},
        {".5s", S / 2},
        {"1.0s", S},
        {"1.004s", S + 4000000},
        {"100.00100s", 100 * S + 1000000},
        {"10ns", 10},
        {"11us", 11000},
        {"12\xc2\xb5s", 12000},
        {"12\xce\xbcs", 12000},
        {"13ms", 13000000},
        {"15m", 15 * 60 * S},
        {"16h", 16 * 3600 * S},
        {"3h30m", 210 * 60 * S},
        {"10.5s4m", 4 * 60 * S + 10 * S + S / 2},
        {"-2m3.4s", -(2 * 60 * S + 3 * S + 400000000)},
        {"1h2m3s4ms5us6ns", 3600 * S + 120 * S + 3 * S + 4005006},
        {"39h9m14.425s", 39 * 3600 * S + 9 * 60 * S + 14 * S + 425000000},
        {"52763797000ns", 52763797000},
        {"0.3333333333333333333h", 20 * 60 * S},
        {"9007199254740993ns", 9007199254740993},
        {"9223372036854775807ns", INT64_MAX},
        {"9223372036854775.807us", INT64_MAX},
        {"9223372036s854ms775us807ns", INT64_MAX},
        {"-9223372036854775808ns", INT64_MIN},
        {"-2562047h47m16.854775808s", INT64_MIN},
        {"0.100000000000000000000h", 6 * 60 * S},
        {"0.830103483285477580700h", 2988372539827},
        {"1.9999999999ns", 1},
        {"1ns1ns", 2},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        int64_t ns = 77;
        ck_assert_msg(duration_parse(rows[i].text, &ns), "%s", rows[i].text);
        ck_assert_msg(ns == rows[i].ns, "%s: %lld", rows[i].text, (long long)ns);
    }
    static const char *const bad[] = {"",
                                      "3",
                                      "-",
                                      "+",
                                      "s",
                                      ".",
                                      "-.",
                                      ".s",
                                      "+.s",
                                      "1d",
                                      "1w",
                                      "1 s",
                                      " 1s",
                                      "1s ",
                                      "1h 30m",
                                      "1S",
                                      "1H",
                                      "--1s",
                                      "1s-1s",
                                      "1e3s",
                                      "0x1s",
                                      "1.2.3s",
                                      "00",
                                      "1,5s",
                                      "\x85\x85",
                                      "\xff",
                                      "hello \xff",
                                      "3000000h",
                                      "1\xc2s",
                                      "1\xb5s",
                                      "9223372036854775808ns",
                                      "9223372036854775.808us",
                                      "-9223372036854775809ns",
                                      "9223372036854ms775us808ns",
                                      "99999999999999999999s",
                                      "2562047h47m16.854775808s",
                                      "9223372036854775807ns1ns"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        int64_t ns = 77;
        ck_assert_msg(!duration_parse(bad[i], &ns), "%s", bad[i]);
        ck_assert_int_eq(ns, 77);
    }
}
END_TEST

START_TEST(test_duration_format) {
    static const struct {
        int64_t ns;
        const char *text;
    } rows[] = {
        {0, "0s"},
        {1, "1ns"},
        {999, "999ns"},
        {1100, "1.1\xc2\xb5s"},
        {2200000, "2.2ms"},
        {300 * 1000000, "300ms"},
        {999999999, "999.999999ms"},
        {S, "1s"},
        {1500 * INT64_C(1000000), "1.5s"},
        {45 * S, "45s"},
        {60 * S, "1m0s"},
        {30 * 60 * S, "30m0s"},
        {90 * 60 * S, "1h30m0s"},
        {3600 * S, "1h0m0s"},
        {24 * 3600 * S, "24h0m0s"},
        {4 * 60 * S + 5001000000, "4m5.001s"},
        {5 * 3600 * S + 6 * 60 * S + 7001000000, "5h6m7.001s"},
        {8 * 60 * S + 1, "8m0.000000001s"},
        {-90 * S, "-1m30s"},
        {-1, "-1ns"},
        {INT64_MAX, "2562047h47m16.854775807s"},
        {INT64_MIN, "-2562047h47m16.854775808s"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[DURATION_TEXT_MAX];
        duration_format(rows[i].ns, text);
        ck_assert_str_eq(text, rows[i].text);
    }
}
END_TEST

/* A deterministic stream of numbers of all magnitudes. */
static uint64_t next_number(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t mixed = *seed ^ *seed >> 29;
    return mixed >> (mixed & 63);
}

START_TEST(test_duration_round_trip) {
    uint64_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        int64_t ns = (int64_t)next_number(&seed);
        if (i & 1) ns = (int64_t)(0 - (uint64_t)ns);
        int64_t back;
        char text[DURATION_TEXT_MAX], again[DURATION_TEXT_MAX];
        duration_format(ns, text);
        ck_assert_uint_lt(strlen(text), DURATION_TEXT_MAX);
        if (!duration_parse(text, &back)) ck_abort_msg("%s", text);
        if (back != ns) ck_abort_msg("%lld -> %s -> %lld", (long long)ns, text, (long long)back);
        duration_format(back, again);
        ck_assert_str_eq(text, again);
    }
}
END_TEST

START_TEST(test_rfc3339_parse) {
    static const struct {
        const char *text;
        time_t seconds;
    } rows[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1969-12-31T23:59:59Z", -1},
        {"2026-07-21T04:16:07Z", 1784607367},
        {"2026-07-21t04:16:07z", 1784607367},
        {"2026-07-21T04:16:07.512903441Z", 1784607367},
        {"2026-07-21T06:16:07.5+02:00", 1784607367},
        {"2026-07-20T22:46:07-05:30", 1784607367},
        {"2000-02-29T00:00:00Z", 951782400},
        {"2100-03-01T00:00:00-00:00", 4107542400},
        {"0001-01-01T00:00:00Z", -62135596800},
        {"0000-01-01T00:00:00Z", -62167219200},
        {"9999-12-31T23:59:59Z", 253402300799},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        time_t t;
        ck_assert_msg(rfc3339_parse(rows[i].text, &t), "%s", rows[i].text);
        ck_assert_msg(t == rows[i].seconds, "%s: %lld", rows[i].text, (long long)t);
    }
    static const struct {
        const char *text;
        int64_t milliseconds;
    } exact[] = {
        {"2026-07-21T04:16:07Z", 1784607367000},
        {"2026-07-21T04:16:07.512903441Z", 1784607367512},
        {"2026-07-21T06:16:07.5+02:00", 1784607367500},
        {"2026-07-21T04:16:07.0019Z", 1784607367001},
        {"1969-12-31T23:59:59.25Z", -750},
        {"9999-12-31T23:59:59.999999Z", 253402300799999},
        {"1970-01-01T00:00:00.99999999999999999999Z", 999},
    };
    for (size_t i = 0; i < COUNT(exact); i++) {
        int64_t ms;
        time_t t;
        ck_assert_msg(rfc3339_parse_ms(exact[i].text, &ms), "%s", exact[i].text);
        ck_assert_msg(ms == exact[i].milliseconds, "%s: %lld", exact[i].text, (long long)ms);
        ck_assert_msg(rfc3339_parse(exact[i].text, &t) && t * 1000 <= ms && ms < t * 1000 + 1000, "%s",
                      exact[i].text);
    }
    static const char *const bad[] = {"",
                                      "2026",
                                      "2026-07-21",
                                      "2026-07-21T04:16:07",
                                      "2026-07-21 04:16:07Z",
                                      "2026-07-21T04:16Z",
                                      "2026-13-01T00:00:00Z",
                                      "2026-00-01T00:00:00Z",
                                      "2026-02-29T00:00:00Z",
                                      "1900-02-29T00:00:00Z",
                                      "2026-04-31T00:00:00Z",
                                      "2026-01-00T00:00:00Z",
                                      "2026-01-01T24:00:00Z",
                                      "2026-01-01T00:60:00Z",
                                      "2026-01-01T00:00:60Z",
                                      "2026-01-01T00:00:00.Z",
                                      "2026-01-01T00:00:00Zx",
                                      "2026-01-01T00:00:00+0200",
                                      "2026-01-01T00:00:00+24:00",
                                      "2026-01-01T00:00:00+02:60",
                                      "2026-01-01T00:00:00+2:00",
                                      "26-01-01T00:00:00Z",
                                      "2026-1-01T00:00:00Z",
                                      "+2026-01-01T00:00:00Z",
                                      " 2026-01-01T00:00:00Z",
                                      "2026-01-01T00:00:00,5Z",
                                      "2026-01-01T-1:00:00Z",
                                      "10000-01-01T00:00:00Z",
                                      "2026-01-01T00:00:00 Z"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        time_t t = 77;
        ck_assert_msg(!rfc3339_parse(bad[i], &t), "%s", bad[i]);
        ck_assert_int_eq(t, 77);
    }
}
END_TEST

START_TEST(test_rfc3339_format) {
    char text[RFC3339_MAX];
    rfc3339_format(1784607367, text);
    ck_assert_str_eq(text, "2026-07-21T04:16:07Z");
    rfc3339_format(-62135596800, text);
    ck_assert_str_eq(text, "0001-01-01T00:00:00Z");
    rfc3339_format(INT64_MAX, text);
    ck_assert_str_eq(text, "9999-12-31T23:59:59Z");
    rfc3339_format(INT64_MIN, text);
    ck_assert_str_eq(text, "0000-01-01T00:00:00Z");
    rfc3339_format_nanos((struct timespec){1784607367, 512903441}, text);
    ck_assert_str_eq(text, "2026-07-21T04:16:07.512903441Z");
    rfc3339_format_nanos((struct timespec){1784607367, 500000000}, text);
    ck_assert_str_eq(text, "2026-07-21T04:16:07.500000000Z");
    /* Every day of 800 years, at an odd second. */
    for (time_t t = -62135596800 + 12345; t < -62135596800 + INT64_C(86400) * 293000; t += 86400) {
        time_t back;
        rfc3339_format(t, text);
        if (!rfc3339_parse(text, &back) || back != t) ck_abort_msg("%lld %s", (long long)t, text);
    }
    for (time_t t = -100000; t < 4107542400; t += 86399) {
        time_t back;
        rfc3339_format(t, text);
        if (!rfc3339_parse(text, &back) || back != t) ck_abort_msg("%lld %s", (long long)t, text);
    }
}
END_TEST

START_TEST(test_monotonic) {
    int64_t a = monotonic_ms();
    struct timespec pause = {0, 3000000};
    nanosleep(&pause, NULL);
    ck_assert_int_ge(monotonic_ms(), a + 2);
}
END_TEST

RUN_SUITE("units", test_duration_parse, test_duration_format, test_duration_round_trip, test_rfc3339_parse,
          test_rfc3339_format, test_monotonic)
