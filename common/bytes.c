/* Slices, growing buffers and the allocation that never returns NULL. Sizes are checked
 * before they are added; a buffer keeps one byte beyond its contents for a NUL. */
#include "common/bytes.h"

#include <stdarg.h>
#include <stdio.h>

static _Noreturn void out_of_memory(void) {
    static const char text[] = "out of memory\n";
    /* Nothing can be done when this fails too. */
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) abort();
    abort();
}

void *xcalloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) out_of_memory();
    return p;
}

void *xrealloc(void *p, size_t size) {
    void *q = realloc(p, size ? size : 1);
    if (!q) out_of_memory();
    return q;
}

char *xstrdup(const char *s) {
    char *p = strdup(s);
    if (!p) out_of_memory();
    return p;
}

char *xasprintf(const char *fmt, ...) {
    char *out = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&out, fmt, args);
    va_end(args);
    if (n < 0) out_of_memory();
    return out;
}

bool slice_equal(struct slice a, struct slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool slice_equal_str(struct slice a, const char *s) {
    return slice_equal(a, slice_of(s));
}

/* Not tolower(): that depends on the locale. */
static char ascii_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool slice_equal_nocase(struct slice a, const char *s) {
    struct slice b = slice_of(s);
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        if (ascii_lower(a.ptr[i]) != ascii_lower(b.ptr[i])) return false;
    }
    return true;
}

bool slice_starts_with(struct slice a, const char *prefix) {
    struct slice b = slice_of(prefix);
    return a.len >= b.len && (b.len == 0 || memcmp(a.ptr, b.ptr, b.len) == 0);
}

struct slice slice_trim(struct slice s) {
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t')) {
        s.len--;
    }
    return s;
}

char *slice_dup(struct slice s) {
    if (s.len == SIZE_MAX) out_of_memory();
    char *p = xrealloc(NULL, s.len + 1);
    if (s.len > 0) memcpy(p, s.ptr, s.len);
    p[s.len] = '\0';
    return p;
}

bool slice_parse_u64(struct slice s, uint64_t max, uint64_t *out) {
    if (s.len == 0) return false;
    uint64_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
        uint64_t digit = (uint64_t)(s.ptr[i] - '0');
        if (n > (UINT64_MAX - digit) / 10) return false;
        n = n * 10 + digit;
    }
    if (n > max) return false;
    *out = n;
    return true;
}

void buffer_free(struct buffer *b) {
    free(b->data);
    b->data = NULL;
    b->len = 0;
    b->cap = 0;
}

void buffer_clear(struct buffer *b) {
    b->len = 0;
    if (b->data) b->data[0] = '\0';
}

char *buffer_reserve(struct buffer *b, size_t n) {
    if (b->limit != 0 && (b->len > b->limit || n > b->limit - b->len)) return NULL;
    if (n >= SIZE_MAX / 2 - b->len) out_of_memory();
    size_t need = b->len + n + 1;
    if (need > b->cap) {
        size_t cap = b->cap < 32 ? 64 : b->cap * 2;
        if (cap < need) cap = need;
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    return b->data + b->len;
}

void buffer_commit(struct buffer *b, size_t n) {
    if (n >= b->cap - b->len) abort(); /* more than was reserved: memory is already overwritten */
    b->len += n;
    b->data[b->len] = '\0';
}

bool buffer_append(struct buffer *b, const void *p, size_t n) {
    char *to = buffer_reserve(b, n);
    if (!to) return false;
    if (n > 0) memcpy(to, p, n);
    buffer_commit(b, n);
    return true;
}

bool buffer_append_str(struct buffer *b, const char *s) {
    return buffer_append(b, s, strlen(s));
}

bool buffer_append_char(struct buffer *b, char c) {
    return buffer_append(b, &c, 1);
}

bool buffer_printf(struct buffer *b, const char *fmt, ...) {
    va_list args;
    va_list again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *to = n < 0 ? NULL : buffer_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        buffer_commit(b, (size_t)n);
    }
    va_end(again);
    return to != NULL;
}

void buffer_consume(struct buffer *b, size_t n) {
    if (n >= b->len) {
        buffer_clear(b);
        return;
    }
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}

const char *buffer_cstr(struct buffer *b) {
    if (!b->data) return "";
    return b->data;
}

char *buffer_steal(struct buffer *b, size_t *len) {
    if (!b->data) {
        b->data = xcalloc(1, 1);
        b->cap = 1;
    }
    char *data = b->data;
    if (len) *len = b->len;
    b->data = NULL;
    b->len = 0;
    b->cap = 0;
    return data;
}
