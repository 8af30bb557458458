/* See snapshot_take.h. */
#include "router/snapshot_take.h"

#include "common/log.h"
#include "router/sandbox_view.h"

bool snapshot_source_check(struct request *r, const char *verb, struct error *err) {
    const struct object *o = r->sandbox;
    if (!*json_str_at(o->json, "status.pvcName")) {
        error_set(err, 400, "no_workspace_volume", "sandbox %s has no PVC to %s (phase=%s)", o->name, verb,
                  sandbox_status(o->json));
        return false;
    }
    if (sandbox_is_deleting(o->json)) {
        error_set(err, 409, "wrong_phase", "cannot %s sandbox %s: it is being deleted", verb, o->name);
        return false;
    }
    return true;
}

void snapshot_discard(struct request *r, const struct object *snapshot) {
    struct store *store = r->backend->store;
    const struct store_preconditions same = {.uid = snapshot->uid};
    cleanup_error struct error err = {0};
    if (!store->ops->remove(store, KIND_VOLUME_SNAPSHOT, snapshot->namespace, snapshot->name, &same, &err) &&
        err.status != 404)
        log_warn("a snapshot that nobody needs stays", "snapshot", snapshot->name, "namespace",
                 snapshot->namespace, "error", err.message, "request_id", r->request_id, NULL);
}

struct object *snapshot_take(struct request *r, const json_t *object, struct error *err) {
    const struct snapshot_ops *ops = r->backend->snapshots;
    const char *class = json_str_at(object, "spec.volumeSnapshotClassName");
    if (!ops->check(r->backend, *class ? class : NULL, err)) return NULL;
    struct store *store = r->backend->store;
    struct object *taken = NULL, *now;
    if (!store->ops->create(store, KIND_VOLUME_SNAPSHOT, object, &taken, err)) return NULL;
    if (!ops->settle) return taken;
    ops->settle(r->backend, taken->namespace, taken->name);
    now = ops->get(r->backend, taken->namespace, taken->name, err);
    if (!now || snapshot_has_failed(now, err)) {
        snapshot_discard(r, taken);
        object_unref(steal_ptr(now));
    }
    object_unref(taken);
    return now;
}
