/* The request target as the client sent it, into a canonical path and a query. Pure.
 * (http-api.md 1.2; lessons M5, S11) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define TARGET_MAX (32 * 1024)

/* Splits origin-form and absolute-form targets. The path is made canonical without
 * decoding it: repeated slashes collapse, "." and ".." (also as %2e) are resolved, a
 * trailing slash stays. What follows a preview's port is the application's and stays as
 * it is. `path` is appended to; `query` points into `target`. False (400): control characters,
 * "%00", malformed escapes, above TARGET_MAX, no path. */
bool target_parse(struct slice target, struct buffer *path, struct slice *query, struct error *err);

/* The raw value of the first query parameter of that name; ptr NULL when absent. */
struct slice target_query_raw(struct slice query, const char *name);
/* Decodes a query value: %XX and '+'. False: malformed or NUL. */
bool target_query_decode(struct slice raw, struct buffer *out);
