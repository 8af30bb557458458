#include "router/sandbox_path.h"

#include "common/text.h"

#include <ctype.h>

bool sandbox_path_clean(const char *raw, struct buffer *out, struct error *err) {
    size_t len = strlen(raw);
    if (!utf8_valid(slice_make(raw, len))) {
        error_set(err, 400, "bad_path", "the path is not UTF-8");
        return false;
    }
    for (const char *at = raw; *at;) {
        size_t n = strcspn(at, "/");
        if (n == 2 && at[0] == '.' && at[1] == '.') {
            while (out->len && out->data[out->len - 1] != '/')
                out->len--;
            if (out->len) out->len--;
        } else if (n && !(n == 1 && at[0] == '.')) {
            buffer_append_char(out, '/');
            buffer_append(out, at, n);
        }
        at += n + (at[n] == '/');
    }
    if (out->len > SANDBOX_PATH_MAX) {
        error_set(err, 400, "bad_path", "the path is longer than %d bytes", SANDBOX_PATH_MAX);
        return false;
    }
    if (out->len == 0) buffer_append_char(out, '/');
    buffer_cstr(out);
    out->data[out->len] = 0; /* ".." may have shortened it */
    return true;
}

bool sandbox_path_in_workspace(const char *path) {
    size_t n = strlen(WORKSPACE);
    return strncmp(path, WORKSPACE, n) == 0 && (path[n] == 0 || path[n] == '/');
}

const char *sandbox_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void sandbox_path_safe_name(const char *name, const char *fallback, struct buffer *out) {
    size_t before = out->len;
    for (; *name; name++)
        if (isalnum((unsigned char)*name) || strchr("._-", *name)) buffer_append_char(out, *name);
    if (out->len == before) buffer_append_str(out, fallback);
}
