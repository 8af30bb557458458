#include "router/sandbox_lookup.h"

#include <string.h>

/* The one of `all` that the caller reaches with this level; NULL when there is none or more than one. */
static struct object *only_one(const struct object_list *all, const struct identity *caller,
                               enum access_level level, size_t *count) {
    struct object *found = NULL;
    *count = 0;
    for (size_t i = 0; i < all->count; i++) {
        if (identity_access(caller, all->items[i]->json) < level) continue;
        found = all->items[i];
        ++*count;
    }
    return *count == 1 ? found : NULL;
}

/* Among sandboxes of one name: the caller's own comes before those that he may merely reach. */
static struct object *choose(const struct object_list *all, const struct identity *caller,
                             enum access_level least, size_t *count) {
    struct object *own = NULL;
    size_t owned = 0;
    for (size_t i = 0; i < all->count; i++) {
        const char *owner = json_string_value(json_object_get(
            json_object_get(json_object_get(all->items[i]->json, "spec"), "createdBy"), "sub"));
        if (!owner || !owner[0] || strcmp(owner, caller->sub) != 0) continue;
        if (identity_access(caller, all->items[i]->json) < least) continue;
        own = all->items[i];
        owned++;
    }
    *count = owned;
    if (owned > 0) return owned == 1 ? own : NULL;
    return only_one(all, caller, least, count);
}

struct object *sandbox_lookup(struct store *store, const struct identity *caller,
                              const char *default_namespace, const char *namespace, const char *name,
                              enum access_level least, struct error *err) {
    bool pinned = namespace && namespace[0];
    if (!pinned && caller->sandbox_id && caller->sandbox_namespace) {
        /* A scoped key means the sandbox that it was made for (W-74). */
        namespace = caller->sandbox_namespace;
        pinned = true;
    }
    struct object *there = store->ops->get(store, KIND_SANDBOX, pinned ? namespace : default_namespace, name);
    if (there && identity_access(caller, there->json) >= least) return there;
    object_unref(there);
    if (!pinned) {
        cleanup_object_list struct object_list all = store->ops->find(store, KIND_SANDBOX, name);
        size_t count = 0;
        struct object *found = choose(&all, caller, least, &count);
        if (found) return object_ref(found);
        if (count > 1) {
            error_set(err, 404, "sandbox_ambiguous",
                      "sandbox %s exists in more than one namespace; say which with ?namespace=", name);
            return NULL;
        }
    }
    error_set(err, 404, "sandbox_not_found", "sandbox %s not found", name);
    return NULL;
}
