/* What every store has in common: the table of kinds, the immutable objects that stores
 * hand out, and the read-modify-write loop on top of store_ops. Knows no backend. */
#include "backend/store.h"

#include "common/bytes.h"
#include "common/json.h"

#include <stdatomic.h>
#include <time.h>

#define AGENTTIER_API "agenttier.io/v1alpha1"

/* kind, API version, plural, namespaced, has a status subresource (crds.md 1) */
const struct resource_kind resource_kinds[KIND_COUNT] = {
    [KIND_SANDBOX] = {"Sandbox", AGENTTIER_API, "sandboxes", true, true},
    [KIND_SANDBOX_TEMPLATE] = {"SandboxTemplate", AGENTTIER_API, "sandboxtemplates", true, false},
    [KIND_CLUSTER_SANDBOX_TEMPLATE] = {"ClusterSandboxTemplate", AGENTTIER_API, "clustersandboxtemplates",
                                       false, false},
    [KIND_SECRET] = {"Secret", "v1", "secrets", true, false},
    [KIND_CONFIG_MAP] = {"ConfigMap", "v1", "configmaps", true, false},
    [KIND_SERVICE] = {"Service", "v1", "services", true, false},
    [KIND_EVENT] = {"Event", "v1", "events", true, false},
    [KIND_POD] = {"Pod", "v1", "pods", true, true},
    [KIND_PERSISTENT_VOLUME_CLAIM] = {"PersistentVolumeClaim", "v1", "persistentvolumeclaims", true, true},
    [KIND_NETWORK_POLICY] = {"NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", true, false},
    [KIND_INGRESS] = {"Ingress", "networking.k8s.io/v1", "ingresses", true, true},
    [KIND_VOLUME_SNAPSHOT] = {"VolumeSnapshot", "snapshot.storage.k8s.io/v1", "volumesnapshots", true, true},
};

struct object *object_new(enum kind kind, json_t *json, uint64_t generation) {
    struct object *o = xcalloc(1, sizeof(*o));
    o->kind = kind;
    o->json = json;
    o->name = json_str_at(json, "metadata.name");
    o->namespace = resource_kinds[kind].namespaced ? json_str_at(json, "metadata.namespace") : "";
    o->uid = json_str_at(json, "metadata.uid");
    o->resource_version = json_str_at(json, "metadata.resourceVersion");
    o->generation = generation;
    atomic_init(&o->view, NULL);
    atomic_init(&o->refs, 1);
    return o;
}

struct object *object_ref(struct object *o) {
    atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
    return o;
}

void object_unref(struct object *o) {
    if (o == NULL || atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1) return;
    void *view = atomic_load_explicit(&o->view, memory_order_relaxed);
    if (view != NULL) o->view_free(view);
    json_decref((json_t *)o->json);
    free(o);
}

void *object_view(struct object *o, void *(*make)(const struct object *), void (*free_view)(void *)) {
    void *view = atomic_load_explicit(&o->view, memory_order_acquire);
    if (view != NULL) return view;
    void *made = make(o);
    if (made == NULL) return NULL;
    if (!atomic_compare_exchange_strong_explicit(&o->view, &view, made, memory_order_acq_rel,
                                                 memory_order_acquire)) {
        free_view(made); /* another thread was first: `view` is its rendering */
        return view;
    }
    /* Only the winner comes here, and it is read only by the last unref, which is after ours. */
    o->view_free = free_view;
    return made;
}

void object_list_free(struct object_list *l) {
    for (size_t i = 0; i < l->count; i++)
        object_unref(l->items[i]);
    free(l->items);
    *l = (struct object_list){0};
}

int64_t store_age_ms(struct store *store) {
    return store->ops->age_ms ? store->ops->age_ms(store) : 0;
}

#define UPDATE_ATTEMPTS 8

bool store_update(struct store *store, enum kind kind, enum store_part part, const char *namespace,
                  const char *name, bool (*change)(void *ctx, json_t *object, struct error *), void *ctx,
                  struct object **out, struct error *err) {
    for (int attempt = 0;; attempt++) {
        cleanup_object struct object *current = store->ops->get(store, kind, namespace, name);
        if (current == NULL) {
            error_set(err, 404, ERR_NOT_FOUND, "%s \"%s\" not found", resource_kinds[kind].kind, name);
            return false;
        }
        cleanup_json json_t *copy = json_deep_copy(current->json);
        if (copy == NULL) {
            error_set(err, 500, ERR_INTERNAL, "out of memory while changing %s \"%s\"",
                      resource_kinds[kind].kind, name);
            return false;
        }
        if (!change(ctx, copy, err)) return false;
        cleanup_error struct error failed = {0};
        if (store->ops->replace(store, kind, part, copy, out, &failed)) return true;
        if (strcmp(failed.code, ERR_CONFLICT) != 0 || attempt + 1 == UPDATE_ATTEMPTS) {
            error_move(err, &failed);
            return false;
        }
        /* A watch cache may still show what has just been refused: give it time to move on. */
        struct timespec pause = {0, (1L << attempt) * 1000000L};
        nanosleep(&pause, NULL);
    }
}
