/* Kubernetes resource quantities, exact to a billionth: http-api-extended.md 1.6. */
#include "common/units.h"

#include <stdio.h>
#include <string.h>

typedef unsigned __int128 wide;

#define NANO       UINT64_C(1000000000)
#define NANO_MAX   ((wide)INT64_MAX * NANO)
#define DIGITS_MAX 38 /* decimal digits that 128 bits hold, twice over */

/* Suffixes of each family, by power of 1000 or 1024. */
static const char *const decimal_suffixes[] = {"n", "u", "m", "", "k", "M", "G", "T", "P", "E"};
static const char *const binary_suffixes[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};

struct scale {
    int exp10;         /* times 10^exp10 */
    unsigned exp2;     /* times 2^exp2 */
    bool has_exponent; /* written as e3 */
};

/* The exponent in "e3" (after the letter), held within +-1000: it only has to be absurd. */
static bool parse_exponent(const char *p, int *out) {
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    if (*p == '\0') return false;
    int n = 0;
    for (; *p != '\0'; p++) {
        if (*p < '0' || *p > '9') return false;
        if (n < 1000) n = n * 10 + (*p - '0');
    }
    *out = negative ? -n : n;
    return true;
}

static bool parse_suffix(const char *text, struct scale *out) {
    *out = (struct scale){0};
    for (size_t i = 0; i < sizeof decimal_suffixes / sizeof decimal_suffixes[0]; i++) {
        if (strcmp(text, decimal_suffixes[i]) == 0) {
            out->exp10 = ((int)i - 3) * 3;
            return true;
        }
    }
    for (size_t i = 1; i < sizeof binary_suffixes / sizeof binary_suffixes[0]; i++) {
        if (strcmp(text, binary_suffixes[i]) == 0) {
            out->exp2 = (unsigned)i * 10;
            return true;
        }
    }
    if (*text != 'e' && *text != 'E') return false;
    out->has_exponent = true;
    return parse_exponent(text + 1, &out->exp10);
}

/* Significant digits as a number and the power of ten of the last one. Digits after the
 * 38th are only remembered as "something more" (*inexact): no result within range and
 * exact to a billionth depends on them but for rounding. */
static bool parse_number(const char **text, wide *digits, int *exp10, bool *inexact) {
    const char *p = *text;
    bool any = false, point = false;
    int kept = 0;
    *digits = 0;
    *exp10 = 0;
    *inexact = false;
    for (;; p++) {
        if (*p == '.' && !point) {
            point = true;
            continue;
        }
        if (*p < '0' || *p > '9') break;
        any = true;
        int value = *p - '0';
        if (kept < DIGITS_MAX) {
            *digits = *digits * 10 + (wide)value;
            if (*digits > 0) kept++;
            if (point) (*exp10)--;
        } else {
            if (value != 0) *inexact = true;
            if (!point) (*exp10)++;
        }
        if (*exp10 > 1000000 || *exp10 < -1000000) return false; /* a megabyte of digits */
    }
    *text = p;
    return any;
}

/* digits * 10^exp10 * 2^exp2 in billionths, rounded up. False: out of range. */
static bool to_nano(wide digits, int exp10, unsigned exp2, bool inexact, wide *out) {
    exp10 += 9;
    for (; exp10 > 0 && digits > 0; exp10--) {
        if (digits > NANO_MAX / 10) return false;
        digits *= 10;
    }
    /* Twice the divisor must fit: what is dropped here is 10^-20 of a billionth at most. */
    for (; exp10 < -DIGITS_MAX && digits > 0; exp10++) {
        if (digits % 10 != 0) inexact = true;
        digits /= 10;
    }
    if (digits == 0) {
        *out = inexact ? 1 : 0;
        return true;
    }
    wide divisor = 1;
    for (; exp10 < 0; exp10++) {
        divisor *= 10;
    }
    /* The product would not fit 128 bits; quotient and remainder, doubled bit by bit, do. */
    wide quotient = digits / divisor;
    wide rest = digits % divisor;
    for (; exp2 > 0; exp2--) {
        if (quotient > NANO_MAX / 2) return false;
        quotient *= 2;
        rest *= 2;
        if (rest >= divisor) {
            rest -= divisor;
            quotient++;
        }
    }
    if (rest > 0 || inexact) quotient++;
    if (quotient > NANO_MAX) return false;
    *out = quotient;
    return true;
}

bool quantity_parse(const char *text, struct quantity *out) {
    const char *p = text;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    wide digits, nano;
    int exp10;
    bool inexact;
    struct scale scale;
    if (!parse_number(&p, &digits, &exp10, &inexact) || !parse_suffix(p, &scale)) return false;
    if (!to_nano(digits, exp10 + scale.exp10, scale.exp2, inexact, &nano)) return false;
    *out = (struct quantity){
        .nano = negative ? -(__int128)nano : (__int128)nano,
        .binary = scale.exp2 > 0,
        .exponent = scale.has_exponent,
    };
    return true;
}

int quantity_compare(struct quantity a, struct quantity b) {
    return (a.nano > b.nano) - (a.nano < b.nano);
}

/* printf knows no 128 bits. */
static void print_number(char *to, bool negative, wide n, const char *suffix) {
    char digits[40];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + (int)(n % 10));
        n /= 10;
    } while (n > 0);
    snprintf(to, QUANTITY_TEXT_MAX, "%s%.*s%s", negative ? "-" : "", (int)(sizeof digits - at), digits + at,
             suffix);
}

void quantity_format(struct quantity q, char out[QUANTITY_TEXT_MAX]) {
    bool negative = q.nano < 0;
    wide n = negative ? (wide)0 - (wide)q.nano : (wide)q.nano;
    size_t power = 0;
    if (n == 0) {
        strcpy(out, "0");
    } else if (q.binary && n % NANO == 0 && n >= 1024 * (wide)NANO) {
        n /= NANO;
        while (n % 1024 == 0 && power + 1 < sizeof binary_suffixes / sizeof binary_suffixes[0]) {
            n /= 1024;
            power++;
        }
        print_number(out, negative, n, binary_suffixes[power]);
    } else {
        while (n % 1000 == 0 && power + 1 < sizeof decimal_suffixes / sizeof decimal_suffixes[0]) {
            n /= 1000;
            power++;
        }
        char suffix[8];
        snprintf(suffix, sizeof suffix, "%s", decimal_suffixes[power]);
        if (q.exponent) {
            suffix[0] = '\0';
            if (power != 3) snprintf(suffix, sizeof suffix, "e%d", ((int)power - 3) * 3);
        }
        print_number(out, negative, n, suffix);
    }
}

int64_t quantity_ceil(struct quantity q) {
    __int128 whole = q.nano / (__int128)NANO;
    if (q.nano > 0 && q.nano % (__int128)NANO != 0) whole++;
    if (whole > INT64_MAX) return INT64_MAX;
    if (whole < INT64_MIN) return INT64_MIN;
    return (int64_t)whole;
}
