/* Durations, timestamps and Kubernetes quantities: parse, print canonically, compare.
 * Pure functions. (http-api.md 1.8, crds.md 2) */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Go duration grammar: "1h30m", "1.5h", "300ms", "0", sign allowed. Nanoseconds. */
bool duration_parse(const char *text, int64_t *ns);
#define DURATION_TEXT_MAX 32
/* Canonical: "1h30m0s", "45s", "1.5s", "300ms", "0s". */
void duration_format(int64_t ns, char out[DURATION_TEXT_MAX]);

/* UTC, years 0 to 9999: a time outside is printed as the nearest one inside. */
#define RFC3339_MAX 40
void rfc3339_format(time_t seconds, char out[RFC3339_MAX]);          /* 2026-07-21T04:16:07Z */
void rfc3339_format_nanos(struct timespec t, char out[RFC3339_MAX]); /* ...07.512903441Z */
bool rfc3339_parse(const char *text, time_t *seconds);               /* fraction dropped; offset honoured */
bool rfc3339_parse_ms(const char *text, int64_t *milliseconds);      /* since 1970; the rest is dropped */

/* A Kubernetes quantity, exact: value = nano / 10^9. */
struct quantity {
    __int128 nano;
    bool binary;   /* printed with Ki, Mi, ... */
    bool exponent; /* printed with e3, e6, ...; else k, M, ... */
};
/* False: bad grammar, or beyond +-(2^63 - 1). Digits below nano round away from zero. */
bool quantity_parse(const char *text, struct quantity *out);
int quantity_compare(struct quantity a, struct quantity b);
#define QUANTITY_TEXT_MAX 48
void quantity_format(struct quantity q, char out[QUANTITY_TEXT_MAX]); /* "500m", "2", "1536Mi" */
/* Rounded up to whole units (bytes, cores); saturates at INT64_MAX. */
int64_t quantity_ceil(struct quantity q);

int64_t monotonic_ms(void);
int64_t realtime_ms(void); /* since 1970 */
