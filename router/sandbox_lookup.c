#include "router/sandbox_lookup.h"

#include "common/json.h"
#include "router/freshness.h"
#include "router/sharing.h"

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

static bool is_owned(const struct object *sandbox, const struct identity *caller) {
    const char *owner = json_str_at(sandbox->json, "spec.createdBy.sub");
    return owner[0] && strcmp(owner, caller->sub) == 0;
}

/* Among sandboxes of one name: the caller's own comes before those that he may merely reach, so that nobody
 * can put a sandbox before mine by sharing one of its name with me; then the one in the default namespace. */
static struct object *choose(const struct object_list *all, const struct identity *caller,
                             enum access_level least, const char *home, size_t *count) {
    struct object *own = NULL, *at_home = NULL;
    size_t owned = 0;
    for (size_t i = 0; i < all->count; i++) {
        struct object *o = all->items[i];
        if (identity_access(caller, o->json) < least) continue;
        if (strcmp(o->namespace, home) == 0) at_home = o;
        if (!is_owned(o, caller)) continue;
        own = o;
        owned++;
    }
    *count = owned;
    if (owned > 0 && at_home && is_owned(at_home, caller)) return at_home;
    if (owned > 0) return owned == 1 ? own : NULL;
    return at_home ? at_home : only_one(all, caller, least, count);
}

/* As if there were none; a guest, who knows better, is told what is missing. */
static void not_found(const struct object_list *all, const struct identity *caller, const char *namespace,
                      const char *name, enum access_level least, struct error *err) {
    enum access_level best = ACCESS_LEVEL_NONE;
    for (size_t i = 0; i < all->count; i++) {
        if (namespace && strcmp(all->items[i]->namespace, namespace) != 0) continue;
        enum access_level level = identity_access(caller, all->items[i]->json);
        if (level > best) best = level;
    }
    if (best == ACCESS_LEVEL_NONE)
        error_set(err, 404, "sandbox_not_found", "sandbox %s not found", name);
    else
        error_set(err, 404, "share_level_too_low", "sandbox %s is shared with you as %s; this is for its %s",
                  name, access_level_name(best), access_level_name(least));
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
    bool certain = there && (pinned || caller->is_admin || is_owned(there, caller));
    if (certain && identity_access(caller, there->json) >= least) return there;
    object_unref(there);
    cleanup_object_list struct object_list all = store->ops->find(store, KIND_SANDBOX, name);
    if (!pinned) {
        size_t count = 0;
        struct object *found = choose(&all, caller, least, default_namespace, &count);
        if (found) return object_ref(found);
        if (count > 1) {
            error_set(err, 404, "sandbox_ambiguous",
                      "sandbox %s exists in more than one namespace; say which with ?namespace=", name);
            return NULL;
        }
    }
    not_found(&all, caller, pinned ? namespace : NULL, name, least, err);
    if (err && strcmp(err->code, "sandbox_not_found") == 0) freshness_doubt(store, "the sandbox", err);
    return NULL;
}
