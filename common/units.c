/* Durations in Go's grammar, RFC 3339 timestamps, and the monotonic clock. Quantities are
 * in quantity.c. */
#include "common/units.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS (1000 * NS_PER_US)
#define NS_PER_S  (1000 * NS_PER_MS)

/* |INT64_MIN|: the largest magnitude, reached by negative durations only. */
#define MAGNITUDE_MAX (UINT64_C(1) << 63)

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

/* The unit at the start of `text`; *len is its length in bytes, 0 when there is none. */
static uint64_t duration_unit(const char *text, size_t *len) {
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {
        {"ns", 1},
        {"us", NS_PER_US},
        {"\xc2\xb5s", NS_PER_US}, /* U+00B5 micro sign */
        {"\xce\xbcs", NS_PER_US}, /* U+03BC Greek mu */
        {"ms", NS_PER_MS},
        {"s", NS_PER_S},
        {"m", 60 * NS_PER_S},
        {"h", 3600 * NS_PER_S},
    };
    size_t n = strcspn(text, ".0123456789"); /* a unit reaches to the next number */
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strlen(units[i].name) == n && memcmp(units[i].name, text, n) == 0) {
            *len = n;
            return units[i].ns;
        }
    }
    *len = 0;
    return 0;
}

/* Digits after the point. Those that no longer fit are below a nanosecond and dropped. */
static uint64_t duration_fraction(const char **text, double *scale) {
    uint64_t n = 0;
    bool full = false;
    *scale = 1;
    for (; digit(**text); (*text)++) {
        if (full || n > (MAGNITUDE_MAX - 1) / 10) {
            full = true;
            continue;
        }
        n = n * 10 + (uint64_t)(**text - '0');
        *scale *= 10;
    }
    return n;
}

bool duration_parse(const char *text, int64_t *ns) {
    const char *p = text;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    if (strcmp(p, "0") == 0) {
        *ns = 0;
        return true;
    }
    if (*p == '\0') return false;
    uint64_t total = 0;
    while (*p != '\0') {
        const char *start = p;
        uint64_t whole = 0;
        for (; digit(*p); p++) {
            if (whole > MAGNITUDE_MAX / 10) return false;
            whole = whole * 10 + (uint64_t)(*p - '0');
            if (whole > MAGNITUDE_MAX) return false;
        }
        bool any = p != start;
        uint64_t fraction = 0;
        double scale = 1;
        if (*p == '.') {
            start = ++p;
            fraction = duration_fraction(&p, &scale);
            any = any || p != start;
        }
        if (!any) return false;
        size_t unit_len;
        uint64_t unit = duration_unit(p, &unit_len);
        if (unit_len == 0 || whole > MAGNITUDE_MAX / unit) return false;
        p += unit_len;
        whole *= unit;
        /* In binary floating point, as Go does it, so that every text gives the same number. */
        if (fraction > 0) whole += (uint64_t)((double)fraction * ((double)unit / scale));
        if (whole > MAGNITUDE_MAX || total > MAGNITUDE_MAX - whole) return false;
        total += whole;
    }
    if (!negative && total == MAGNITUDE_MAX) return false;
    *ns = (int64_t)(negative ? 0 - total : total);
    return true;
}

__attribute__((format(printf, 2, 3))) static void append(char out[DURATION_TEXT_MAX], const char *format,
                                                         ...) {
    size_t len = strlen(out);
    va_list args;
    va_start(args, format);
    vsnprintf(out + len, DURATION_TEXT_MAX - len, format, args);
    va_end(args);
}

/* "1.5" and the suffix: n units of 10^digits, without trailing zeros in the fraction. */
static void append_decimal(char out[DURATION_TEXT_MAX], uint64_t n, int digits, const char *suffix) {
    uint64_t scale = 1;
    for (int i = 0; i < digits; i++) {
        scale *= 10;
    }
    append(out, "%llu", (unsigned long long)(n / scale));
    uint64_t rest = n % scale;
    if (rest > 0) {
        while (rest % 10 == 0) {
            rest /= 10;
            digits--;
        }
        append(out, ".%0*llu", digits, (unsigned long long)rest);
    }
    append(out, "%s", suffix);
}

void duration_format(int64_t ns, char out[DURATION_TEXT_MAX]) {
    uint64_t n = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
    strcpy(out, ns < 0 ? "-" : "");
    if (n == 0) {
        append(out, "0s");
    } else if (n < NS_PER_US) {
        append_decimal(out, n, 0, "ns");
    } else if (n < NS_PER_MS) {
        append_decimal(out, n, 3, "\xc2\xb5s");
    } else if (n < NS_PER_S) {
        append_decimal(out, n, 6, "ms");
    } else {
        uint64_t minutes = n / (60 * NS_PER_S);
        if (minutes >= 60) append(out, "%lluh", (unsigned long long)(minutes / 60));
        if (minutes > 0) append(out, "%llum", (unsigned long long)(minutes % 60));
        append_decimal(out, n % (60 * NS_PER_S), 9, "s");
    }
}

/* Days from 1970-01-01 in the Gregorian calendar without end; month 1 to 12. Years are
 * counted from March, so that the leap day is the last of its year. */
static int64_t days_from_civil(int64_t year, int month, int day) {
    if (month <= 2) year--;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static int days_in_month(int year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

static int rfc3339_print(time_t seconds, char out[RFC3339_MAX]) {
    const time_t first = (time_t)(days_from_civil(0, 1, 1) * 86400);
    const time_t last = (time_t)(days_from_civil(10000, 1, 1) * 86400 - 1);
    seconds = seconds < first ? first : seconds > last ? last : seconds;
    struct tm tm;
    gmtime_r(&seconds, &tm); /* cannot fail in this range */
    return snprintf(out, RFC3339_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900, tm.tm_mon + 1,
                    tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

void rfc3339_format(time_t seconds, char out[RFC3339_MAX]) {
    int n = rfc3339_print(seconds, out);
    snprintf(out + n, (size_t)(RFC3339_MAX - n), "Z");
}

void rfc3339_format_nanos(struct timespec t, char out[RFC3339_MAX]) {
    int n = rfc3339_print(t.tv_sec, out);
    /* Always nine digits: texts then sort as the times do. */
    snprintf(out + n, (size_t)(RFC3339_MAX - n), ".%09ldZ", t.tv_nsec);
}

/* Exactly `count` digits. */
static bool take_number(const char **p, int count, int *out) {
    int n = 0;
    for (int i = 0; i < count; i++, (*p)++) {
        if (!digit(**p)) return false;
        n = n * 10 + (**p - '0');
    }
    *out = n;
    return true;
}

static bool take_char(const char **p, char c) {
    if (**p != c) return false;
    (*p)++;
    return true;
}

/* The digits of a fraction: the first three count. */
static bool take_milliseconds(const char **p, int *out) {
    if (!digit(**p)) return false;
    for (int weight = 100; digit(**p); (*p)++, weight /= 10)
        *out += (**p - '0') * weight;
    return true;
}

bool rfc3339_parse_ms(const char *text, int64_t *milliseconds) {
    const char *p = text;
    int year, month, day, hour, minute, second, fraction = 0;
    if (!take_number(&p, 4, &year) || !take_char(&p, '-') || !take_number(&p, 2, &month) ||
        !take_char(&p, '-') || !take_number(&p, 2, &day) || !(take_char(&p, 'T') || take_char(&p, 't')) ||
        !take_number(&p, 2, &hour) || !take_char(&p, ':') || !take_number(&p, 2, &minute) ||
        !take_char(&p, ':') || !take_number(&p, 2, &second)) {
        return false;
    }
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 ||
        second > 59) {
        return false;
    }
    if (take_char(&p, '.') && !take_milliseconds(&p, &fraction)) return false;
    int64_t offset = 0;
    if (!take_char(&p, 'Z') && !take_char(&p, 'z')) {
        bool west = *p == '-';
        int hours, minutes;
        if (!(take_char(&p, '-') || take_char(&p, '+')) || !take_number(&p, 2, &hours) ||
            !take_char(&p, ':') || !take_number(&p, 2, &minutes) || hours > 23 || minutes > 59) {
            return false;
        }
        offset = (hours * 60 + minutes) * (west ? -60 : 60);
    }
    if (*p != '\0') return false;
    int64_t seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    *milliseconds = seconds * 1000 + fraction;
    return true;
}

bool rfc3339_parse(const char *text, time_t *seconds) {
    int64_t ms;
    if (!rfc3339_parse_ms(text, &ms)) return false;
    *seconds = (time_t)(ms / 1000 - (ms % 1000 < 0)); /* down, also before 1970 */
    return true;
}

static int64_t clock_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t monotonic_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

int64_t realtime_ms(void) {
    return clock_ms(CLOCK_REALTIME);
}
