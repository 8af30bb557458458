/* What every store has in common: the table of kinds, the immutable objects that stores
 * hand out, and the read-modify-write loop on top of store_ops. Knows no backend. */
#include "backend/store.h"

#include "common/bytes.h"
#include "common/json.h"

#include <stdatomic.h>
#include <time.h>

#define AGENTTIER_API "agenttier.io/v1alpha1"

/* kind, API version, plural, namespaced, has a status subresource (crds.md 1), packed */
const struct resource_kind resource_kinds[KIND_COUNT] = {
    [KIND_SANDBOX] = {"Sandbox", AGENTTIER_API, "sandboxes", true, true, false},
    [KIND_SANDBOX_TEMPLATE] = {"SandboxTemplate", AGENTTIER_API, "sandboxtemplates", true, false, false},
    [KIND_CLUSTER_SANDBOX_TEMPLATE] = {"ClusterSandboxTemplate", AGENTTIER_API, "clustersandboxtemplates",
                                       false, false, false},
    [KIND_SECRET] = {"Secret", "v1", "secrets", true, false, true},
    [KIND_CONFIG_MAP] = {"ConfigMap", "v1", "configmaps", true, false, false},
    [KIND_SERVICE] = {"Service", "v1", "services", true, false, false},
    [KIND_EVENT] = {"Event", "v1", "events", true, false, false},
    [KIND_POD] = {"Pod", "v1", "pods", true, true, false},
    [KIND_PERSISTENT_VOLUME_CLAIM] = {"PersistentVolumeClaim", "v1", "persistentvolumeclaims", true, true,
                                      false},
    [KIND_NETWORK_POLICY] = {"NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", true, false, false},
    [KIND_INGRESS] = {"Ingress", "networking.k8s.io/v1", "ingresses", true, true, false},
    [KIND_VOLUME_SNAPSHOT] = {"VolumeSnapshot", "snapshot.storage.k8s.io/v1", "volumesnapshots", true, true,
                              false},
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

/* ---- packed objects: one block with the names and the text behind the structure ---- */

static const char *copy_to(char **at, const char *text, size_t len) {
    char *copy = *at;
    memcpy(copy, text, len);
    copy[len] = '\0';
    *at += len + 1;
    return copy;
}

struct object *object_pack_take(struct object *o) {
    if (!resource_kinds[o->kind].packed || !o->json || json_at(o->json, "metadata.ownerReferences") ||
        json_at(o->json, "metadata.finalizers"))
        return o;
    cleanup_free char *text = json_dumps(o->json, JSON_COMPACT);
    if (!text) return o;
    const char *const texts[] = {o->name, o->namespace, o->uid, o->resource_version, text};
    size_t total = 0;
    for (size_t i = 0; i < 5; i++)
        total += strlen(texts[i]) + 1;
    struct object *packed = xcalloc(1, sizeof *packed + total);
    char *at = (char *)(packed + 1);
    packed->kind = o->kind;
    packed->generation = o->generation;
    packed->name = copy_to(&at, texts[0], strlen(texts[0]));
    packed->namespace = copy_to(&at, texts[1], strlen(texts[1]));
    packed->uid = copy_to(&at, texts[2], strlen(texts[2]));
    packed->resource_version = copy_to(&at, texts[3], strlen(texts[3]));
    packed->packed_text = copy_to(&at, texts[4], strlen(texts[4]));
    atomic_init(&packed->view, NULL);
    atomic_init(&packed->refs, 1);
    object_unref(o);
    return packed;
}

struct object *object_unpacked(struct object *o) {
    if (!o || !o->packed_text) return o ? object_ref(o) : NULL;
    json_t *json = json_loads(o->packed_text, JSON_ALLOW_NUL, NULL);
    if (!json) abort(); /* we wrote it: it fails only for memory */
    return object_new(o->kind, json, o->generation);
}

void object_list_unpack(struct object_list *l) {
    for (size_t i = 0; i < l->count; i++) {
        struct object *kept = l->items[i];
        l->items[i] = object_unpacked(kept);
        object_unref(kept);
    }
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
