/* POST /sandboxes/{id}/clone: a snapshot of the workspace, and a sandbox that starts out with it.
 * (http-api.md 2.6, 4.6; http-api-extended.md 5.2) */
#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/router.h"
#include "router/sandbox_copy.h"
#include "router/sandbox_view.h"
#include "router/snapshot_take.h"

#include <string.h>
#include <time.h>

#define LABEL_CLONED_FROM "agenttier.io/cloned-from"

static void reply_accepted(struct request *r, const struct sandbox_copy *copy) {
    cleanup_free char *message =
        xasprintf("Clone in progress. Poll GET /api/v1/sandboxes/%s for status; it starts when its workspace "
                  "has been filled from the snapshot.",
                  copy->sandbox->name);
    if (copy->replayed) reply_header(r, "Idempotency-Replayed", "true");
    reply_json(r, 202,
               json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", copy->sandbox->name, "namespace",
                         copy->sandbox->namespace, "snapshot",
                         json_str_at(copy->sandbox->json, "spec.cloneFromSnapshot"), "clonedFrom",
                         r->sandbox->name, "phase", "Pending", "message", message));
}

/* Best effort: the label says the same. */
static void set_origin(struct request *r, const struct object *clone) {
    cleanup_json json_t *patch = json_pack("{s:{s:s}}", "status", "clonedFrom", r->sandbox->name);
    const struct store_preconditions same = {.uid = clone->uid};
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    if (!store->ops->patch(store, KIND_SANDBOX, STORE_STATUS, clone->namespace, clone->name, patch, &same,
                           NULL, &err))
        log_warn("the origin of a clone is not in its status", "sandbox", clone->name, "error", err.message,
                 NULL);
}

static bool make_clone(struct request *r, struct sandbox_copy *copy, struct error *err) {
    char class[256], snapshot[GENERATED_NAME_MAX + 1];
    if (!snapshot_source_check(r, "clone", err) ||
        !copy_text(r->body, "snapshotClass", class, sizeof class, err) ||
        !sandbox_copy_begin(r, "clone", r->sandbox->uid, copy, err))
        return false;
    if (copy->replayed) return true;
    snapshot_generate_name(r->sandbox->name, "snap", time(NULL), NULL, snapshot);
    audit_detail(r, "clonedFrom", audit_string(r->sandbox->name));
    audit_detail(r, "snapshotName", json_string(snapshot));
    if (!sandbox_copy_check(r, r->sandbox, snapshot, LABEL_CLONED_FROM, copy, err)) return false;
    cleanup_json json_t *object =
        snapshot_object(r->sandbox, snapshot, copy->name, *class ? class : NULL, NULL);
    cleanup_object struct object *taken = snapshot_take(r, object, err);
    if (!taken) return false;
    bool made_nothing = false;
    if (sandbox_copy_store(r, copy, &made_nothing, err)) {
        if (copy->replayed) snapshot_discard(r, taken);
        return true;
    }
    if (made_nothing) snapshot_discard(r, taken);
    return false;
}

void sandbox_clone(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_copy struct sandbox_copy copy = {0};
    if (!make_clone(r, &copy, &err)) {
        reply_error(r, &err);
        return;
    }
    if (!copy.replayed) {
        set_origin(r, copy.sandbox);
        log_info("sandbox cloned", "sandbox", copy.sandbox->name, "namespace", copy.sandbox->namespace,
                 "source", r->sandbox->name, "user", r->identity.sub, "request_id", r->request_id, NULL);
    }
    reply_accepted(r, &copy);
}
