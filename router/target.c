/* See target.h. */
#include "router/target.h"

#include "common/text.h"

#include <ctype.h>

static bool is_hex(char c) {
    return isxdigit((unsigned char)c) != 0;
}

/* No control characters, no NUL in disguise, every '%' followed by two hex digits. */
static bool check_characters(struct slice s, struct error *err) {
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= ' ' || c == 0x7f) {
            error_set(err, 400, "bad_target",
                      "the request target holds a control character or space; percent-encode it");
            return false;
        }
        if (c == '#') {
            error_set(err, 400, "bad_target", "the request target holds a fragment; send %%23 for '#'");
            return false;
        }
        if (c != '%') continue;
        if (i + 2 >= s.len || !is_hex(s.ptr[i + 1]) || !is_hex(s.ptr[i + 2])) {
            error_set(err, 400, "bad_target",
                      "the request target holds '%%' without two hex digits; send %%25 for it");
            return false;
        }
        if (s.ptr[i + 1] == '0' && s.ptr[i + 2] == '0') {
            error_set(err, 400, "bad_target", "the request target holds %%00, which no name can hold");
            return false;
        }
    }
    return true;
}

/* 0: an ordinary segment; 1: "."; 2: ".."; %2e counts as a dot. */
static int dot_segment(struct slice s) {
    int dots = 0;
    for (size_t i = 0; i < s.len; dots++) {
        if (s.ptr[i] == '.') {
            i++;
        } else if (s.len - i >= 3 && s.ptr[i] == '%' && s.ptr[i + 1] == '2' && (s.ptr[i + 2] | 0x20) == 'e') {
            i += 3;
        } else {
            return 0;
        }
    }
    return dots <= 2 ? dots : 0;
}

/* Whether `path` so far is /api/v1/sandboxes/{id}/preview/{port}. */
static bool is_preview(const struct buffer *path) {
    static const char prefix[] = "/api/v1/sandboxes/";
    struct slice p = buffer_slice(path);
    if (!slice_starts_with(p, prefix)) return false;
    const char *rest = p.ptr + sizeof prefix - 1;
    const char *end = p.ptr + p.len;
    const char *slash = memchr(rest, '/', (size_t)(end - rest));
    static const char word[] = "/preview/";
    if (!slash || (size_t)(end - slash) < sizeof word || memcmp(slash, word, sizeof word - 1) != 0)
        return false;
    const char *port = slash + sizeof word - 1;
    return memchr(port, '/', (size_t)(end - port)) == NULL;
}

static void canonicalise(struct slice in, struct buffer *out) {
    size_t i = 0;
    bool slash_at_end = true;
    while (i < in.len) {
        while (i < in.len && in.ptr[i] == '/')
            i++;
        size_t start = i;
        while (i < in.len && in.ptr[i] != '/')
            i++;
        struct slice segment = slice_make(in.ptr + start, i - start);
        if (segment.len == 0) break; /* slash_at_end is that of the last segment */
        slash_at_end = i < in.len;
        int dots = dot_segment(segment);
        if (dots == 0) {
            buffer_append_char(out, '/');
            buffer_append(out, segment.ptr, segment.len);
            if (is_preview(out)) {
                buffer_append(out, in.ptr + i, in.len - i);
                return;
            }
        } else {
            /* As a directory: "/a/.." is "/". */
            slash_at_end = true;
            if (dots == 2) {
                while (out->len > 0 && out->data[out->len - 1] != '/')
                    out->len--;
                if (out->len > 0) out->len--;
            }
        }
    }
    if (out->len == 0 || slash_at_end) buffer_append_char(out, '/');
}

bool target_parse(struct slice target, struct buffer *path, struct slice *query, struct error *err) {
    if (target.len > TARGET_MAX) {
        error_set(err, 414, "target_too_long", "the request target is longer than %d bytes", TARGET_MAX);
        return false;
    }
    if (!check_characters(target, err)) return false;
    /* absolute-form (RFC 9112 3.2.2): the authority is not used for routing */
    for (size_t i = 0; i < 2; i++) {
        const char *scheme = i ? "https://" : "http://";
        size_t n = strlen(scheme);
        if (target.len < n || strncasecmp(target.ptr, scheme, n) != 0) continue;
        const char *slash = memchr(target.ptr + n, '/', target.len - n);
        if (!slash) {
            target = slice_of("/");
        } else {
            target = slice_make(slash, (size_t)(target.ptr + target.len - slash));
        }
        break;
    }
    if (target.len == 0 || (target.ptr[0] != '/' && !slice_equal_str(target, "*"))) {
        error_set(err, 400, "bad_target", "the request target must be a path that starts with '/'");
        return false;
    }
    const char *mark = memchr(target.ptr, '?', target.len);
    size_t path_len = mark ? (size_t)(mark - target.ptr) : target.len;
    *query = mark ? slice_make(mark + 1, target.len - path_len - 1) : slice_make("", 0);
    canonicalise(slice_make(target.ptr, path_len), path);
    return true;
}

struct slice target_query_raw(struct slice query, const char *name) {
    size_t n = strlen(name);
    while (query.len > 0) {
        const char *amp = memchr(query.ptr, '&', query.len);
        size_t len = amp ? (size_t)(amp - query.ptr) : query.len;
        if (len >= n && memcmp(query.ptr, name, n) == 0) {
            if (len == n) return slice_make(query.ptr + n, 0);
            if (query.ptr[n] == '=') return slice_make(query.ptr + n + 1, len - n - 1);
        }
        size_t step = len + (amp ? 1 : 0);
        query = slice_make(query.ptr + step, query.len - step);
    }
    return slice_make(NULL, 0);
}

bool target_query_decode(struct slice raw, struct buffer *out) {
    cleanup_buffer struct buffer spaced = {0};
    for (size_t i = 0; i < raw.len; i++)
        buffer_append_char(&spaced, raw.ptr[i] == '+' ? ' ' : raw.ptr[i]);
    return percent_decode(buffer_slice(&spaced), out);
}
