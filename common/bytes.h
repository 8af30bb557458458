/* Bytes with a length: borrowed views (slice) and owned growing buffers (buffer).
 * Strings are NUL-terminated only at the edges of libraries. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A borrowed view; never owns, never NUL-terminated. */
struct slice {
    const char *ptr;
    size_t len;
};

static inline struct slice slice_of(const char *s) {
    return (struct slice){s, s ? strlen(s) : 0};
}
static inline struct slice slice_make(const char *p, size_t n) {
    return (struct slice){p, n};
}

bool slice_equal(struct slice a, struct slice b);
bool slice_equal_str(struct slice a, const char *s);
bool slice_equal_nocase(struct slice a, const char *s); /* ASCII */
bool slice_starts_with(struct slice a, const char *prefix);
struct slice slice_trim(struct slice s); /* spaces and tabs at both ends */
char *slice_dup(struct slice s); /* malloc'ed, NUL-terminated; never NULL (aborts when out of memory) */
/* A decimal number of digits only that fits `max`. */
bool slice_parse_u64(struct slice s, uint64_t max, uint64_t *out);

/* An owned buffer. `data` is always followed by a NUL when len > 0 or after
 * buffer_cstr(). `limit` 0 = bounded only by memory. Zero-initialised is empty. */
struct buffer {
    char *data;
    size_t len;
    size_t cap;
    size_t limit;
};

void buffer_free(struct buffer *b);
void buffer_clear(struct buffer *b); /* keeps the memory */
bool buffer_append(struct buffer *b, const void *p,
                   size_t n); /* false: the limit would be passed, nothing appended */
bool buffer_append_str(struct buffer *b, const char *s);
bool buffer_append_char(struct buffer *b, char c);
bool buffer_printf(struct buffer *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for n more bytes at the end, to be written by the caller and then added by
 * buffer_commit(b, at most n). NULL: the limit would be passed. */
char *buffer_reserve(struct buffer *b, size_t n);
void buffer_commit(struct buffer *b, size_t n);
void buffer_consume(struct buffer *b, size_t n);   /* drops n bytes from the front */
const char *buffer_cstr(struct buffer *b);         /* NUL-terminated view */
char *buffer_steal(struct buffer *b, size_t *len); /* caller frees; b is empty after */
static inline struct slice buffer_slice(const struct buffer *b) {
    return (struct slice){b->data, b->len};
}

/* malloc family that aborts instead of returning NULL: for small things whose failure
 * no caller could handle. Sizes that a client controls go through a limited buffer. */
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Cleanup attributes: what a scope owns. */
static inline void cleanup_free_fn(void *p) {
    free(*(void **)p);
}
static inline void cleanup_close_fn(const int *fd) {
    if (*fd >= 0) close(*fd);
}
#define cleanup_free   __attribute__((cleanup(cleanup_free_fn)))
#define cleanup_close  __attribute__((cleanup(cleanup_close_fn)))
#define cleanup_buffer __attribute__((cleanup(buffer_free)))
/* Moves an owned pointer or fd out of its scope. */
#define steal_ptr(p)                                                                                         \
    ({                                                                                                       \
        __typeof__(p) steal_tmp = (p);                                                                       \
        (p) = NULL;                                                                                          \
        steal_tmp;                                                                                           \
    })
#define steal_fd(fd)                                                                                         \
    ({                                                                                                       \
        int steal_tmp = (fd);                                                                                \
        (fd) = -1;                                                                                           \
        steal_tmp;                                                                                           \
    })
