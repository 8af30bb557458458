#include "k8s/paths.h"

#include "common/text.h"

void k8s_path(enum kind kind, const char *namespace, const char *name, const char *subresource,
              struct buffer *out) {
    const struct resource_kind *k = &resource_kinds[kind];
    /* The core group alone has no name and a root of its own. */
    buffer_printf(out, "/%s/%s", strchr(k->api_version, '/') ? "apis" : "api", k->api_version);
    if (k->namespaced && namespace && namespace[0]) {
        buffer_append_str(out, "/namespaces/");
        percent_encode(slice_of(namespace), "", out);
    }
    buffer_printf(out, "/%s", k->plural);
    if (!name) return;
    buffer_append_char(out, '/');
    percent_encode(slice_of(name), "", out);
    if (subresource) buffer_printf(out, "/%s", subresource);
}

void k8s_path_query(struct buffer *path, const char *name, const char *value) {
    bool first = path->len == 0 || !memchr(path->data, '?', path->len);
    buffer_printf(path, "%c%s=", first ? '?' : '&', name);
    percent_encode(slice_of(value), "", path);
}
