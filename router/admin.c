/* What administrators see of the whole fleet: every sandbox with the keys that were made for it, and whom
 * sandboxes are shared with (http-api.md 2.17). */
#include "common/text.h"
#include "router/handlers.h"
#include "router/key_record.h"
#include "router/router.h"
#include "router/sandbox_list.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_view.h"
#include "router/sharing.h"

#include <string.h>

/* ---- sandboxes ---- */

/* The records of all scoped keys, by the name of their sandbox: {"demo": [record, ...]}. A new reference. */
static json_t *scoped_keys(struct request *r) {
    json_t *by_name = json_object();
    cleanup_object_list struct object_list all = key_cache_scoped(r->router->keys);
    for (size_t i = 0; i < all.count; i++) {
        cleanup_json json_t *record = key_record_read(all.items[i]->json);
        const char *name = json_str_at(record, "sandboxId");
        if (!name[0]) continue;
        json_t *list = json_object_get(by_name, name);
        if (!list) json_object_set_new(by_name, name, list = json_array());
        json_array_append(list, record);
    }
    return by_name;
}

/* A key that says which sandbox of the name it is for belongs to no other one. */
static bool is_for(const json_t *record, const struct object *sandbox) {
    const char *namespace = json_str_at(record, "sandboxNamespace");
    const char *uid = json_str_at(record, "sandboxUid");
    return (!namespace[0] || strcmp(namespace, sandbox->namespace) == 0) &&
           (!uid[0] || strcmp(uid, sandbox->uid) == 0);
}

static void append_with_keys(void *ctx, const struct object *sandbox, const struct sandbox_view *view,
                             struct buffer *out) {
    cleanup_json json_t *keys = json_array();
    size_t i;
    json_t *record;
    json_array_foreach(json_object_get(ctx, sandbox->name), i, record) if (is_for(record, sandbox))
        json_array_append_new(keys, key_record_public(record));
    if (json_array_size(keys) == 0) {
        buffer_append(out, view->json.ptr, view->json.len);
        return;
    }
    cleanup_free char *text = json_dumps(keys, JSON_COMPACT);
    buffer_append(out, view->json.ptr, view->json.len - 1);
    buffer_printf(out, ",\"scopedApiKeys\":%s}", text);
}

void admin_sandboxes(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_filter struct sandbox_filter filter = {
        .namespace = request_query(r, "namespace"),
        .status = request_query(r, "status"),
        .template = request_query(r, "template"),
    };
    if (!sandbox_filter_parse(request_query(r, "limit"), request_query(r, "continue"), &filter, &err)) {
        reply_error(r, &err);
        return;
    }
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, filter.namespace);
    cleanup_json json_t *keys = scoped_keys(r);
    struct buffer text = {0};
    sandbox_list_render(&all, &r->identity, &filter, append_with_keys, keys, &text);
    size_t len = 0;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "application/json", data, len);
}

/* ---- sharing ---- */

/* {"namespace/name": {namespace, sandboxId, owner, users, groups, shareLinks}}, of those that are shared. */
void admin_sharing(struct request *r) {
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all =
        store->ops->list(store, KIND_SANDBOX, request_query(r, "namespace"));
    json_t *out = json_object();
    for (size_t i = 0; i < all.count; i++) {
        const struct object *o = all.items[i];
        const struct sandbox_view *v = sandbox_view_get(all.items[i]);
        if (!v->shared && !v->has_links) continue;
        json_t *entry = share_json(json_object_get(o->json, "spec"));
        json_object_set_new(entry, "sandboxId", json_string(o->name));
        json_object_set_new(entry, "namespace", json_string(o->namespace));
        json_object_set_new(entry, "owner", json_string_repaired(slice_of(v->owner)));
        cleanup_free char *place = xasprintf("%s/%s", o->namespace, o->name);
        json_object_set_new(out, place, entry);
    }
    reply_json(r, 200, out);
}
