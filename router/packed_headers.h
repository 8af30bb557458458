/* Headers of an answer until it can begin: "name\0value\0" pairs in one buffer. */
#pragma once

#include "common/bytes.h"

#include <stdbool.h>
#include <string.h>

/* Copies both. */
static inline void packed_header_add(struct buffer *headers, const char *name, const char *value) {
    buffer_append(headers, name, strlen(name) + 1);
    buffer_append(headers, value, strlen(value) + 1);
}

/* The header at `*at`, which begins with 0 and then is that of the next one. Both are the buffer's. False:
 * there is none. */
static inline bool packed_header_next(const struct buffer *headers, size_t *at, const char **name,
                                      const char **value) {
    if (*at >= headers->len) return false;
    *name = headers->data + *at;
    *value = *name + strlen(*name) + 1;
    *at = (size_t)(*value - headers->data) + strlen(*value) + 1;
    return true;
}
