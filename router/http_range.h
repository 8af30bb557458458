/* Range and conditional requests (RFC 9110 sections 13 and 14) of one representation. Pure. */
#pragma once

#include "common/bytes.h"

#include <stdint.h>

enum range_result {
    RANGE_WHOLE, /* no range, one that is malformed, or several: the whole is sent */
    RANGE_PART,
    RANGE_UNSATISFIABLE
};

/* `header` may be NULL. */
enum range_result range_parse(const char *header, uint64_t size, uint64_t *first, uint64_t *length);

/* Whether `list` ("*" or entity tags) names `etag`. `weak`: W/ prefixes are looked through
 * (If-None-Match); else a weak tag never matches (If-Match, If-Range). */
bool etag_listed(const char *list, const char *etag, bool weak);

#define HTTP_DATE_MAX 40
void http_date_format(int64_t seconds, char out[HTTP_DATE_MAX]); /* Sun, 06 Nov 1994 08:49:37 GMT */
