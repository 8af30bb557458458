/* What the workspace of a clone, or of a restored backup, needs to know of its snapshot. */
#include "controller/inside.h"

#include <string.h>

/* As the apiserver has it: snapshots are not watched. A reference. */
static struct object *read_snapshot(struct pass *p, const char *name, struct error *err) {
    struct controller *c = p->c;
    if (c->snapshots.get) return c->snapshots.get(c->snapshots.ctx, p->who.namespace, name, err);
    struct object *o = c->store->ops->get(c->store, KIND_VOLUME_SNAPSHOT, p->who.namespace, name);
    if (!o) error_set(err, 404, ERR_NOT_FOUND, "the snapshot %.253s does not exist", name);
    return o;
}

/* Nothing tells when it is ready: the pass is made again in a while. */
static enum step wait_for_snapshot(struct pass *p, const struct object *snapshot, struct error *err) {
    const char *trouble = json_str_at(snapshot->json, "status.error.message");
    p->wait_ms = SNAPSHOT_LOOK_MS;
    error_set(err, 409, ERR_CONFLICT, "Waiting for the snapshot \"%.253s\" to be ready%s%.300s",
              snapshot->name, *trouble ? ": " : "", trouble);
    return STEP_WAIT;
}

enum step restore_size(struct pass *p, json_t **size, struct error *err) {
    const char *name = json_str_at(p->sandbox->json, "spec.cloneFromSnapshot");
    *size = NULL;
    if (!*name) return STEP_DONE;
    cleanup_object struct object *snapshot = read_snapshot(p, name, err);
    if (!snapshot && err->status == 403) { /* one that may not look makes it as large as it was asked for */
        error_clear(err);
        return STEP_DONE;
    }
    if (!snapshot && err->status == 501) { /* no such API: nothing to wait for */
        error_wrap(err, CLAIM_FAILED);
        return STEP_FAILED;
    }
    if (!snapshot) return step_refused(p, CLAIM_FAILED, err);
    *size = json_incref(json_at(snapshot->json, "status.restoreSize"));
    bool known = json_is_string(*size) || json_is_integer(*size);
    return known || json_is_true(json_at(snapshot->json, "status.readyToUse"))
               ? STEP_DONE
               : wait_for_snapshot(p, snapshot, err);
}
