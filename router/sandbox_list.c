#include "router/sandbox_list.h"

#include "common/text.h"
#include "router/sandbox_view.h"
#include "router/sharing.h"

#include <string.h>

void sandbox_filter_free(struct sandbox_filter *f) {
    free(f->after);
    f->after = NULL;
}

/* ---- the cursor: base64url of "namespace/name" ---- */

static bool name_valid(struct slice s) {
    if (s.len == 0 || s.len > 253) return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.')) return false;
    }
    return true;
}

static bool cursor_decode(const char *cursor, char **after) {
    cleanup_buffer struct buffer text = {0};
    size_t len = strlen(cursor);
    if (len > 1024 || !base64url_decode(slice_make(cursor, len), &text) || text.len == 0) return false;
    const char *slash = memchr(text.data, '/', text.len);
    if (!slash) return false;
    size_t n = (size_t)(slash - text.data);
    if (!name_valid(slice_make(text.data, n)) || !name_valid(slice_make(slash + 1, text.len - n - 1)))
        return false;
    *after = slice_dup(buffer_slice(&text));
    return true;
}

bool sandbox_filter_parse(const char *limit, const char *cursor, struct sandbox_filter *out,
                          struct error *err) {
    if (limit && limit[0]) {
        uint64_t n = 0;
        if (!slice_parse_u64(slice_of(limit), SANDBOX_LIST_MAX_LIMIT, &n) || n == 0) {
            error_set_field(err, "limit", "must be a number from 1 to %d", SANDBOX_LIST_MAX_LIMIT);
            return false;
        }
        out->limit = (size_t)n;
    }
    if (cursor && cursor[0] && !cursor_decode(cursor, &out->after)) {
        error_set_field(err, "continue", "is not a value that a list answered; start without it");
        return false;
    }
    return true;
}

/* Whether `o` stands after "namespace/name" in the order of lists. */
static bool is_after(const struct object *o, const char *after) {
    const char *slash = strchr(after, '/');
    size_t n = (size_t)(slash - after), m = strlen(o->namespace);
    int c = memcmp(o->namespace, after, n < m ? n : m);
    if (c == 0) c = n == m ? 0 : m > n ? 1 : -1;
    if (c == 0) c = strcmp(o->name, slash + 1);
    return c > 0;
}

static bool is_given(const char *s) {
    return s && s[0];
}

static bool wanted(struct object *o, const struct sandbox_view *v, const struct identity *caller,
                   const struct sandbox_filter *f) {
    if (is_given(f->namespace) && strcmp(f->namespace, o->namespace) != 0) return false;
    if (is_given(f->status) && !slice_equal_nocase(slice_of(v->status), f->status)) return false;
    if (is_given(f->template) && strcmp(f->template, v->template) != 0) return false;
    if (f->after && !is_after(o, f->after)) return false;
    if (caller->is_admin) return true;
    if (v->owner[0] && strcmp(v->owner, caller->sub) == 0) return true;
    return f->shared && v->shared && identity_access(caller, o->json) != ACCESS_LEVEL_NONE;
}

void sandbox_append_with_role(void *ctx, const struct object *sandbox, const struct sandbox_view *v,
                              struct buffer *out) {
    const struct identity *caller = ctx;
    bool own = v->owner[0] && strcmp(v->owner, caller->sub) == 0;
    const char *role =
        caller->is_admin && !own ? "admin" : access_level_name(identity_access(caller, sandbox->json));
    buffer_append(out, v->json.ptr, v->json.len - 1);
    buffer_printf(out, ",\"role\":\"%s\"}", role);
}

void sandbox_list_render(const struct object_list *all, const struct identity *caller,
                         const struct sandbox_filter *f, sandbox_append_fn *append, void *ctx,
                         struct buffer *out) {
    const struct object *last = NULL;
    size_t count = 0;
    bool more = false;
    buffer_append_str(out, "{\"sandboxes\":[");
    for (size_t i = 0; i < all->count && !more; i++) {
        struct object *o = all->items[i];
        const struct sandbox_view *v = sandbox_view_get(o);
        if (!wanted(o, v, caller, f)) continue;
        if (f->limit > 0 && count == f->limit) {
            more = true;
            continue;
        }
        if (count++ > 0) buffer_append_char(out, ',');
        if (append)
            append(ctx, o, v, out);
        else
            buffer_append(out, v->json.ptr, v->json.len);
        last = o;
    }
    buffer_append_char(out, ']');
    if (more) {
        cleanup_free char *position = xasprintf("%s/%s", last->namespace, last->name);
        buffer_append_str(out, ",\"continue\":\"");
        base64url_encode(slice_of(position), out);
        buffer_append_char(out, '"');
    }
    buffer_append_str(out, "}\n");
}
