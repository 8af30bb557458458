#include "controller/backups.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "controller/names.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define LOOKS_MAX_MS 60000 /* between two looks at what is due */
#define LOOKS_MIN_MS 200
#define LOOKS        10 /* in an interval */

struct backups {
    struct backups_options o;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping, look_now;
    _Atomic bool leading;
    char trouble[512]; /* that was logged last; the thread's own */
};

/* ---- what is due
 * -------------------------------------------------------------------------------------------- */

static const char *label_of(const struct object *o, const char *name) {
    const char *text = json_string_value(json_object_get(json_at(o->json, "metadata.labels"), name));
    return text ? text : "";
}

static bool is_going(const struct object *o) {
    return *json_str_at(o->json, "metadata.deletionTimestamp") != '\0';
}

static bool is_bound(const struct object *claim) {
    return strcmp(json_str_at(claim->json, "status.phase"), "Bound") == 0;
}

static bool made_at(const struct object *o, time_t *out) {
    return rfc3339_parse(json_str_at(o->json, "metadata.creationTimestamp"), out);
}

bool backup_due(const struct object *claim, const struct object_list *snapshots, time_t now,
                int64_t interval_s) {
    if (strcmp(label_of(claim, "agenttier.io/managed"), "true") != 0 ||
        strcmp(label_of(claim, "agenttier.io/pooled"), "true") == 0 || is_going(claim) || !is_bound(claim))
        return false;
    time_t newest, its;
    char value[SNAPSHOT_LABEL_MAX + 1];
    if (!made_at(claim, &newest)) return false;
    snapshot_label_value(claim->name, value);
    for (size_t i = 0; i < snapshots->count; i++)
        if (strcmp(label_of(snapshots->items[i], LABEL_SOURCE_PVC), value) == 0 &&
            made_at(snapshots->items[i], &its) && its > newest)
            newest = its;
    return (int64_t)(now - newest) >= interval_s;
}

bool backup_expired(const struct object *snapshot, time_t now, int64_t retention_s) {
    time_t made;
    return made_at(snapshot, &made) && !is_going(snapshot) && (int64_t)(now - made) >= retention_s;
}

json_t *backup_build(const struct object *claim, const struct object *sandbox, const char *name,
                     const char *class) {
    char value[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(claim->name, value);
    json_t *labels = json_pack("{s:s, s:s, s:s}", LABEL_SNAPSHOT_KIND, SNAPSHOT_KIND_BACKUP, LABEL_SOURCE_PVC,
                               value, "agenttier.io/managed", "true");
    json_t *annotations = json_object();
    const char *owner = sandbox ? json_str_at(sandbox->json, "spec.createdBy.sub") : "";
    if (sandbox) json_object_set_new(labels, LABEL_SNAPSHOT_SOURCE_UID, json_string(sandbox->uid));
    if (*owner) json_object_set_new(annotations, ANNOTATION_SNAPSHOT_OWNER, json_string(owner));
    json_t *spec = json_pack("{s:{s:s}}", "source", "persistentVolumeClaimName", claim->name);
    if (*class) json_object_set_new(spec, "volumeSnapshotClassName", json_string(class));
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:o, s:o}, s:o}", "apiVersion",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].api_version, "kind",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].kind, "metadata", "name", name, "namespace",
                     claim->namespace, "labels", labels, "annotations", annotations, "spec", spec);
}

/* ---- a look
 * -------------------------------------------------------------------------------------------------- */

/* The sandbox that owns the claim, a reference. */
static struct object *owner_of(struct backups *b, const struct object *claim) {
    size_t i;
    json_t *ref;
    json_array_foreach(json_at(claim->json, "metadata.ownerReferences"), i, ref) {
        if (strcmp(json_str_at(ref, "kind"), "Sandbox") != 0) continue;
        struct object *o =
            b->o.store->ops->get(b->o.store, KIND_SANDBOX, claim->namespace, json_str_at(ref, "name"));
        if (o && strcmp(o->uid, json_str_at(ref, "uid")) == 0) return o;
        object_unref(o);
    }
    return NULL;
}

static void back_up(struct backups *b, const struct object *claim, time_t now) {
    char name[GENERATED_NAME_MAX + 1];
    cleanup_object struct object *sandbox = owner_of(b, claim);
    cleanup_error struct error err = {0};
    snapshot_generate_name(claim->name, "backup", now, NULL, name);
    cleanup_json json_t *snapshot = backup_build(claim, sandbox, name, b->o.class);
    if (b->o.store->ops->create(b->o.store, KIND_VOLUME_SNAPSHOT, snapshot, NULL, &err))
        log_info("workspace backed up", "namespace", claim->namespace, "claim", claim->name, "snapshot", name,
                 NULL);
    else
        log_warn("a workspace cannot be backed up", "namespace", claim->namespace, "claim", claim->name,
                 "why", err.message, NULL);
}

/* A sandbox has no workspace yet and is to get it from there. */
static bool is_awaited(struct backups *b, const struct object *snapshot) {
    cleanup_object_list struct object_list all =
        b->o.store->ops->list(b->o.store, KIND_SANDBOX, snapshot->namespace);
    for (size_t i = 0; i < all.count; i++) {
        const struct object *o = all.items[i];
        if (strcmp(json_str_at(o->json, "spec.cloneFromSnapshot"), snapshot->name) != 0 || is_going(o) ||
            strcmp(json_str_at(o->json, "status.phase"), "Running") == 0)
            continue;
        const char *recorded = json_str_at(o->json, "status.pvcName");
        cleanup_free char *usual = name_of_claim(o);
        cleanup_object struct object *claim = b->o.store->ops->get(
            b->o.store, KIND_PERSISTENT_VOLUME_CLAIM, snapshot->namespace, *recorded ? recorded : usual);
        if (!claim || !is_bound(claim)) return true;
    }
    return false;
}

static void prune(struct backups *b, const struct object *snapshot) {
    const struct store_preconditions same = {.uid = snapshot->uid};
    cleanup_error struct error err = {0};
    if (b->o.store->ops->remove(b->o.store, KIND_VOLUME_SNAPSHOT, snapshot->namespace, snapshot->name, &same,
                                &err))
        log_info("old snapshot removed", "namespace", snapshot->namespace, "snapshot", snapshot->name, NULL);
    else if (err.status != 404)
        log_warn("an old snapshot cannot be removed", "namespace", snapshot->namespace, "snapshot",
                 snapshot->name, "why", err.message, NULL);
}

static void prune_old(struct backups *b, const struct object_list *snapshots, time_t now) {
    for (size_t i = 0; i < snapshots->count && atomic_load(&b->leading); i++)
        if (backup_expired(snapshots->items[i], now, b->o.retention_ms / 1000) &&
            !is_awaited(b, snapshots->items[i]))
            prune(b, snapshots->items[i]);
}

static void look(struct backups *b) {
    cleanup_error struct error err = {0};
    cleanup_object_list struct object_list snapshots = {0}, of_clones = {0};
    if (!b->o.list(b->o.ctx, b->o.namespace, LABEL_SNAPSHOT_KIND, SNAPSHOT_KIND_BACKUP, &snapshots, &err) ||
        !b->o.list(b->o.ctx, b->o.namespace, LABEL_CLONE_TARGET, NULL, &of_clones, &err)) {
        /* Once for each reason, not for each look. */
        if (strcmp(b->trouble, err.message) != 0)
            log_warn("workspaces cannot be backed up", "why", err.message, NULL);
        memcpy(b->trouble, err.message, sizeof b->trouble);
        return;
    }
    b->trouble[0] = '\0';
    time_t now = time(NULL);
    cleanup_object_list struct object_list claims =
        b->o.store->ops->list(b->o.store, KIND_PERSISTENT_VOLUME_CLAIM, b->o.namespace);
    for (size_t i = 0; i < claims.count && atomic_load(&b->leading); i++)
        if (backup_due(claims.items[i], &snapshots, now, b->o.interval_ms / 1000))
            back_up(b, claims.items[i], now);
    prune_old(b, &snapshots, now);
    prune_old(b, &of_clones, now);
}

static void *run(void *arg) {
    struct backups *b = arg;
    int64_t pause_ms = b->o.interval_ms / LOOKS;
    pause_ms = pause_ms > LOOKS_MAX_MS ? LOOKS_MAX_MS : pause_ms < LOOKS_MIN_MS ? LOOKS_MIN_MS : pause_ms;
    pthread_mutex_lock(&b->lock);
    while (!b->stopping) {
        pthread_mutex_unlock(&b->lock);
        if (atomic_load(&b->leading)) look(b);
        pthread_mutex_lock(&b->lock);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += pause_ms / 1000;
        until.tv_nsec += (long)(pause_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        while (!b->stopping && !b->look_now && pthread_cond_timedwait(&b->wake, &b->lock, &until) == 0) {
        }
        b->look_now = false;
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* ---- life
 * ---------------------------------------------------------------------------------------------------- */

static void free_backups(struct backups *b) {
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

struct backups *backups_start(const struct backups_options *options, struct error *err) {
    struct backups *b = xcalloc(1, sizeof *b);
    b->o = *options;
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
    int failed = pthread_create(&b->thread, NULL, run, b);
    if (!failed) return b;
    error_set_errno(err, failed, "the thread of scheduled backups cannot start");
    free_backups(b);
    return NULL;
}

void backups_lead(struct backups *b, bool leading) {
    if (!b) return;
    atomic_store(&b->leading, leading);
    pthread_mutex_lock(&b->lock);
    b->look_now = leading;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

void backups_stop(struct backups *b) {
    if (!b) return;
    atomic_store(&b->leading, false);
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    free_backups(b);
}
