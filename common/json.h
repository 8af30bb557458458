/* JSON at the edges: strict parsing of what others send, repair of what we send, and
 * readers that name the field they reject. Values are jansson's. (lessons S27, M6) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

#define JSON_MAX_DEPTH 64

static inline void cleanup_json_fn(json_t **j) {
    json_decref(*j);
}
#define cleanup_json __attribute__((cleanup(cleanup_json_fn)))

/* Parses the first value in the bytes; what follows it is ignored (http-api.md 1.4).
 * Rejects duplicate keys, depth above JSON_MAX_DEPTH, invalid UTF-8, NUL, numbers out of
 * range: 400 bad_request. Returns a new reference or NULL. */
json_t *json_parse(struct slice text, struct error *err);

/* Whether the text has no more than `most` values, give or take empty arrays and objects: one of two bytes
 * takes some fifty in memory. Of any bytes. */
bool json_values_within(struct slice text, size_t most);

/* As json_parse, and the value must be an object. */
json_t *json_parse_object(struct slice text, struct error *err);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. Never NULL. */
json_t *json_string_repaired(struct slice bytes);

/* Compact text and a final newline, malloc'ed. Never NULL for a value we built. */
char *json_dump_line(const json_t *value, size_t *len);

/* Readers of optional members. Absent or null: true with *out = NULL (or unchanged for
 * numbers). A wrong type: false, err = 400 invalid_field that names `name`.
 * Borrowed from `object`. */
bool json_get_string(const json_t *object, const char *name, const char **out, struct error *err);
bool json_get_object(const json_t *object, const char *name, json_t **out, struct error *err);
bool json_get_array(const json_t *object, const char *name, json_t **out, struct error *err);
bool json_get_bool(const json_t *object, const char *name, bool *out, struct error *err);
bool json_get_int(const json_t *object, const char *name, json_int_t min, json_int_t max, json_int_t *out,
                  struct error *err);

/* The member at a dotted path such as "status.phase", or NULL. Borrowed. */
json_t *json_at(const json_t *object, const char *dotted_path);
/* The string there, or "" when absent or not a string. Borrowed. */
const char *json_str_at(const json_t *object, const char *dotted_path);

/* RFC 7396: a new value, `patch` applied to `target` (neither is changed). */
json_t *json_merge_patch(const json_t *target, const json_t *patch);
