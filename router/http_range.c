#include "router/http_range.h"

#include <stdio.h>
#include <time.h>

enum range_result range_parse(const char *header, uint64_t size, uint64_t *first, uint64_t *length) {
    *first = 0;
    *length = size;
    if (!header) return RANGE_WHOLE;
    struct slice h = slice_trim(slice_of(header));
    if (h.len < 6 || !slice_equal_nocase(slice_make(h.ptr, 6), "bytes=")) return RANGE_WHOLE;
    struct slice spec = slice_trim(slice_make(h.ptr + 6, h.len - 6));
    const char *dash = memchr(spec.ptr, '-', spec.len);
    if (!dash || memchr(spec.ptr, ',', spec.len)) return RANGE_WHOLE;
    struct slice from = {spec.ptr, (size_t)(dash - spec.ptr)};
    struct slice to = {dash + 1, spec.len - from.len - 1};
    uint64_t a, b = UINT64_MAX;
    if (from.len == 0) { /* the last b bytes */
        if (!slice_parse_u64(to, UINT64_MAX, &b)) return RANGE_WHOLE;
        if (b == 0 || size == 0) return RANGE_UNSATISFIABLE;
        if (b > size) b = size;
        *first = size - b;
        *length = b;
        return RANGE_PART;
    }
    if (!slice_parse_u64(from, UINT64_MAX, &a)) return RANGE_WHOLE;
    if (to.len && (!slice_parse_u64(to, UINT64_MAX, &b) || b < a)) return RANGE_WHOLE;
    if (a >= size) return RANGE_UNSATISFIABLE;
    *first = a;
    *length = (b >= size ? size - 1 : b) - a + 1;
    return RANGE_PART;
}

bool etag_listed(const char *list, const char *etag, bool weak) {
    struct slice rest = slice_trim(slice_of(list));
    if (slice_equal_str(rest, "*")) return true;
    while (rest.len) {
        bool is_weak = slice_starts_with(rest, "W/");
        const char *open = is_weak ? rest.ptr + 2 : rest.ptr, *end = rest.ptr + rest.len;
        if (open >= end || *open != '"') return false;
        const char *close = memchr(open + 1, '"', (size_t)(end - open - 1));
        if (!close) return false;
        if ((weak || !is_weak) && slice_equal_str(slice_make(open, (size_t)(close - open) + 1), etag))
            return true;
        rest = slice_trim(slice_make(close + 1, (size_t)(end - close - 1)));
        if (rest.len == 0) return false;
        if (rest.ptr[0] != ',') return false;
        rest = slice_trim(slice_make(rest.ptr + 1, rest.len - 1));
    }
    return false;
}

void http_date_format(int64_t seconds, char out[HTTP_DATE_MAX]) {
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    /* RFC 9110 has four digits for a year: 0000 to 9999. */
    if (seconds < 0) seconds = 0;
    if (seconds > 253402300799) seconds = 253402300799;
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    snprintf(out, HTTP_DATE_MAX, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * tm.tm_wday,
             (unsigned char)tm.tm_mday, months + 3 * tm.tm_mon, (tm.tm_year + 1900) % 10000,
             (unsigned char)tm.tm_hour, (unsigned char)tm.tm_min, (unsigned char)tm.tm_sec);
}
