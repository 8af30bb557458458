/* The workspace of a clone or of a restored backup: filled from a snapshot before the first start. */
#include "local/engine_inside.h"

#include "common/json.h"
#include "common/log.h"

#include <errno.h>
#include <sys/stat.h>

/* The ready snapshot, a reference. NULL: not yet, or err. */
static struct object *find_snapshot(struct engine *e, const struct entry *s, const char *name,
                                    struct error *err) {
    cleanup_object struct object *o = e->store->ops->get(e->store, KIND_VOLUME_SNAPSHOT, s->namespace, name);
    if (!o || *json_str_at(o->json, "metadata.deletionTimestamp"))
        error_set(err, 409, "snapshot_missing", "snapshot %s does not exist any more", name);
    else if (json_at(o->json, "status.error"))
        error_set(err, 409, "snapshot_failed", "snapshot %s failed: %s", name,
                  json_str_at(o->json, "status.error.message"));
    else if (!json_is_true(json_at(o->json, "status.readyToUse")))
        return NULL;
    else if (!state_dir_uid_valid(o->uid))
        error_set(err, 500, ERR_INTERNAL, "snapshot %s has a uid that names no files", name);
    else
        return steal_ptr(o);
    return NULL;
}

static void on_done(void *ctx) {
    struct entry *s = ctx;
    pthread_mutex_lock(&s->engine->lock);
    engine_enqueue(s->engine, s);
    pthread_mutex_unlock(&s->engine->lock);
}

static bool begin(struct engine *e, struct entry *s, const struct object *snapshot, struct error *err) {
    if (mkdir(s->dir, 0700) != 0 && errno != EEXIST) {
        error_set_errno(err, errno, "creating %s", s->dir);
        return false;
    }
    if (!take_host_id(e, &s->record, err)) return false;
    s->record.initialized = true; /* a template's files and scripts are in it, as their user left them */
    if (!record_save(s->dir, &s->record, err)) return false;
    const struct fill_plan plan = {.snapshot_uid = snapshot->uid,
                                   .dir = s->dir,
                                   .give = s->record.own_user,
                                   .uid = s->record.host_uid,
                                   .done = on_done,
                                   .ctx = s};
    s->fill = fill_begin(e->snapshots, &plan);
    log_debug("a workspace is being filled", "sandbox", s->name, "snapshot", snapshot->name, NULL);
    return true;
}

enum fill_state fill_workspace(struct engine *e, struct entry *s, const struct object *sandbox,
                               struct error *err) {
    const char *name = json_str_at(sandbox->json, "spec.cloneFromSnapshot");
    if (!*name) return FILL_DONE;
    enum fill_state state = FILL_DONE;
    if (s->fill) {
        state = fill_look(s->fill, err);
        if (state != FILL_GOING) fill_workspace_end(s);
    } else if (fill_needed(s->dir)) {
        cleanup_object struct object *snapshot = find_snapshot(e, s, name, err);
        bool ok = snapshot ? begin(e, s, snapshot, err) : err->status == 0;
        state = ok ? FILL_GOING : FILL_FAILED;
    }
    if (state == FILL_FAILED) error_wrap(err, "PVC creation failed");
    return state;
}

void fill_workspace_end(struct entry *s) {
    fill_end(s->fill);
    s->fill = NULL;
}

void fill_snapshot_changed(void *ctx, const char *namespace, const char *name) {
    struct engine *e = ctx;
    cleanup_object_list struct object_list all = e->store->ops->list(e->store, KIND_SANDBOX, namespace);
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < all.count; i++) {
        if (strcmp(json_str_at(all.items[i]->json, "spec.cloneFromSnapshot"), name) != 0) continue;
        struct entry *s = engine_entry(e, all.items[i]);
        if (s) engine_enqueue(e, s);
    }
    pthread_mutex_unlock(&e->lock);
}
