/* Backups of a sandbox's workspace: listed, made, restored to a new sandbox, deleted.
 * (http-api-extended.md 5.3 to 5.6; W-11, W-12, W-85, weaknesses 53 to 57, 64) */
#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/router.h"
#include "router/sandbox_copy.h"
#include "router/sandbox_event.h"
#include "router/sandbox_view.h"
#include "router/snapshot_take.h"

#include <string.h>
#include <time.h>

#define LABEL_RESTORED_FROM "agenttier.io/restored-from"
#define NOT_FOUND           "snapshot not found"
#define PRUNED              NOT_FOUND " (it may have been pruned)"

/* ---- list ---- */

static bool add_entries(struct request *r, const char *label, const char *name, enum snapshot_kind kind,
                        json_t *out, struct error *err) {
    char value[SNAPSHOT_LABEL_MAX + 1];
    cleanup_object_list struct object_list found = {0};
    snapshot_label_value(name, value);
    if (!r->backend->snapshots->list(r->backend, r->sandbox->namespace, label, value, &found, err))
        return false;
    for (size_t i = 0; i < found.count; i++)
        if (snapshot_kind_of(found.items[i], r->sandbox) == kind && !snapshot_is_deleting(found.items[i]))
            json_array_append_new(out, snapshot_entry(found.items[i], kind));
    return true;
}

void backups_list(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *entries = json_array();
    const char *pvc = json_str_at(r->sandbox->json, "status.pvcName");
    if ((*pvc && !add_entries(r, LABEL_SOURCE_PVC, pvc, SNAPSHOT_BACKUP, entries, &err)) ||
        !add_entries(r, LABEL_SOURCE_SANDBOX, r->sandbox->name, SNAPSHOT_CLONE, entries, &err) ||
        !add_entries(r, LABEL_STOPPED_SANDBOX, r->sandbox->name, SNAPSHOT_STOP, entries, &err)) {
        reply_error(r, &err);
        return;
    }
    reply_json(r, 200, json_pack("{s:O}", "backups", entries));
}

/* ---- make ---- */

/* What an earlier attempt with the key has made: a reference in `*out`. False with 409: another body has the
 * key. */
static bool find_replay(struct request *r, const struct replay *replay, const char *name, struct object **out,
                        struct error *err) {
    cleanup_object struct object *there =
        r->backend->snapshots->get(r->backend, r->sandbox->namespace, name, NULL);
    *out = NULL;
    if (!there) return true;
    if (replay_match(there, replay) == REPLAY_SAME) {
        *out = steal_ptr(there);
        return true;
    }
    replay_conflict(there, err);
    return false;
}

static struct object *make_backup(struct request *r, bool *replayed, struct error *err) {
    char class[256], name[GENERATED_NAME_MAX + 1];
    struct replay replay;
    bool replayable = false;
    *replayed = false;
    if (!snapshot_source_check(r, "back up", err) ||
        !copy_text(r->body, "snapshotClass", class, sizeof class, err) ||
        !replay_read(r, &replay, &replayable, err))
        return NULL;
    if (replayable) replay_scope(&replay, "backup", r->sandbox->uid);
    snapshot_generate_name(json_str_at(r->sandbox->json, "status.pvcName"), "backup", time(NULL),
                           replayable ? replay.key : NULL, name);
    audit_detail(r, "snapshotName", json_string(name));
    struct object *before = NULL;
    if (replayable && !find_replay(r, &replay, name, &before, err)) return NULL;
    *replayed = before != NULL;
    if (before) return before;
    cleanup_json json_t *object =
        snapshot_object(r->sandbox, name, NULL, *class ? class : NULL, replayable ? &replay : NULL);
    struct object *taken = snapshot_take(r, object, err);
    if (taken || !replayable || strcmp(err->code, ERR_ALREADY_EXISTS) != 0) return taken;
    /* The same request, at the same time on another connection. */
    error_clear(err);
    if (!find_replay(r, &replay, name, &before, err)) return NULL;
    *replayed = before != NULL;
    if (!before) error_set(err, 409, ERR_CONFLICT, "the backup of this Idempotency-Key is being deleted");
    return before;
}

void backups_create(struct request *r) {
    cleanup_error struct error err = {0};
    bool replayed;
    cleanup_object struct object *backup = make_backup(r, &replayed, &err);
    if (!backup) {
        reply_error(r, &err);
        return;
    }
    if (replayed) {
        reply_header(r, "Idempotency-Replayed", "true");
    } else {
        sandbox_event(r->backend->store, r->sandbox, "Normal", "BackupCreated", backup->name);
        log_info("backup made", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "snapshot",
                 backup->name, "user", r->identity.sub, "request_id", r->request_id, NULL);
    }
    reply_json(r, 201, snapshot_entry(backup, SNAPSHOT_BACKUP));
}

/* ---- one of them ---- */

/* The snapshot of the path, a reference; NULL with 404 (`missing`), also when it is another sandbox's. */
static struct object *find_snapshot(struct request *r, const char *missing, struct error *err) {
    struct object *o =
        r->backend->snapshots->get(r->backend, r->sandbox->namespace, request_param(r, "snapshotName"), err);
    if (o && snapshot_kind_of(o, r->sandbox) != SNAPSHOT_FOREIGN) return o;
    if (o || err->status == 404) {
        error_clear(err);
        error_set(err, 404, "snapshot_not_found", "%s", missing);
    }
    object_unref(o);
    return NULL;
}

/* ---- restore ---- */

static bool restore(struct request *r, struct sandbox_copy *copy, struct error *err) {
    cleanup_object struct object *snapshot = find_snapshot(r, PRUNED, err);
    if (!snapshot) return false;
    if (snapshot_is_deleting(snapshot)) {
        error_set(err, 409, "snapshot_deleting", "snapshot is being deleted");
        return false;
    }
    audit_detail(r, "restoredFrom", audit_string(r->sandbox->name));
    return !snapshot_has_failed(snapshot, err) &&
           sandbox_copy_begin(r, "restore", snapshot->uid, copy, err) &&
           (copy->replayed ||
            (sandbox_copy_check(r, r->sandbox, snapshot->name, LABEL_RESTORED_FROM, copy, err) &&
             sandbox_copy_store(r, copy, NULL, err)));
}

void backup_restore(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_copy struct sandbox_copy copy = {0};
    if (!restore(r, &copy, &err)) {
        reply_error(r, &err);
        return;
    }
    if (copy.replayed)
        reply_header(r, "Idempotency-Replayed", "true");
    else
        log_info("backup restored", "sandbox", copy.sandbox->name, "namespace", copy.sandbox->namespace,
                 "source", r->sandbox->name, "snapshot", request_param(r, "snapshotName"), "user",
                 r->identity.sub, "request_id", r->request_id, NULL);
    cleanup_free char *message =
        xasprintf("Restore in progress. Poll GET /api/v1/sandboxes/%s for status.", copy.sandbox->name);
    reply_json(r, 202,
               json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", copy.sandbox->name, "namespace",
                         copy.sandbox->namespace, "restoredFrom", r->sandbox->name, "snapshot",
                         json_str_at(copy.sandbox->json, "spec.cloneFromSnapshot"), "phase", "Pending",
                         "message", message));
}

/* ---- delete ---- */

/* A sandbox that still waits for its first workspace from it. */
static bool is_needed(struct request *r, const struct object *snapshot, struct error *err) {
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, snapshot->namespace);
    for (size_t i = 0; i < all.count; i++) {
        const json_t *o = all.items[i]->json;
        if (strcmp(json_str_at(o, "spec.cloneFromSnapshot"), snapshot->name) != 0 ||
            strcmp(sandbox_status(o), "Creating") != 0 || *json_str_at(o, "status.pvcName"))
            continue;
        error_set(err, 409, "snapshot_in_use",
                  "sandbox %s is being filled from this snapshot: retry when it is running, or delete it",
                  all.items[i]->name);
        err->retry_after = 1;
        return true;
    }
    return false;
}

void backup_delete(struct request *r) {
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    cleanup_object struct object *snapshot = find_snapshot(r, NOT_FOUND, &err);
    const struct store_preconditions same = {.uid = snapshot ? snapshot->uid : NULL};
    if (!snapshot || is_needed(r, snapshot, &err) ||
        !store->ops->remove(store, KIND_VOLUME_SNAPSHOT, snapshot->namespace, snapshot->name, &same, &err)) {
        if (snapshot && err.status == 404) error_set(&err, 404, "snapshot_not_found", "%s", NOT_FOUND);
        reply_error(r, &err);
        return;
    }
    sandbox_event(store, r->sandbox, "Normal", "BackupPruned", snapshot->name);
    log_info("backup deleted", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "snapshot",
             snapshot->name, "user", r->identity.sub, "request_id", r->request_id, NULL);
    reply_json(r, 200, json_pack("{s:s, s:s}", "status", "deleted", "name", snapshot->name));
}
