/* See snapshots.h. Two kinds of work wait in one queue: passes over a VolumeSnapshot (which look for
 * themselves what is to be done) and fills. */
#include "local/snapshots.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "local/files.h"
#include "local/tree_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define COPIES        4
#define COPY_STACK    (1024 * 1024)
#define KEEP_FREE     (16LL << 20) /* the store must go on working */
#define FINALIZER     "agenttier.io/snapshot-files"
#define ATTEMPTS      5
#define PAUSE_MS      5         /* before the second, and four times as long before each further one */
#define REPEATABLE_MS 1000      /* how long a copy may take to be made once more */
#define MARKER        "filling" /* beside a workspace that is not whole */
#define LABEL_TARGET  "agenttier.io/clone-target"

struct work {
    struct work *next; /* in the queue, or of the passes under way */
    struct fill *fill; /* NULL: a pass */
    char *namespace, *name, *uid;
    bool left_over;         /* of an earlier Router */
    bool running, again;    /* under lock */
    _Atomic bool cancelled; /* polled by the copy */
};

struct fill {
    struct snapshots *owner;
    struct work *work;
    char *snapshot_uid, *dir;
    bool give;
    uid_t uid;
    void (*notify)(void *ctx);
    void *ctx;
    bool done, ended; /* under lock; ended: nobody wants to hear of it */
    bool failed;
    struct error err;
};

struct snapshots {
    struct snapshots_options o;
    pthread_t threads[COPIES];
    size_t thread_count;
    void *watch;
    bool at_start; /* what is reported now was there before us */

    pthread_mutex_t lock;
    pthread_cond_t work; /* for the threads */
    pthread_cond_t news; /* something has ended */
    bool stopping;
    struct work *queue, **queue_last;
    struct work *running; /* passes and fills that a thread has */
};

static void work_free(struct work *w) {
    free(w->namespace);
    free(w->name);
    free(w->uid);
    free(w);
}

static void enqueue(struct snapshots *s, struct work *w) {
    w->next = NULL;
    *s->queue_last = w;
    s->queue_last = &w->next;
    pthread_cond_signal(&s->work);
}

/* ---- what a snapshot is ------------------------------------------------------------------------------- */

static bool is_deleting(const struct object *o) {
    return *json_str_at(o->json, "metadata.deletionTimestamp") != '\0';
}

static bool is_settled(const struct object *o) {
    return json_is_true(json_at(o->json, "status.readyToUse")) || json_at(o->json, "status.error") != NULL;
}

static const char *label_of(const struct object *o, const char *name) {
    const char *text = json_string_value(json_object_get(json_at(o->json, "metadata.labels"), name));
    return text ? text : "";
}

static size_t finalizer_at(const json_t *list) {
    size_t i = 0;
    while (i < json_array_size(list)) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, FINALIZER) == 0) break;
        i++;
    }
    return i;
}

static bool set_finalizer(void *ctx, json_t *object, struct error *err) {
    json_t *metadata = json_object_get(object, "metadata");
    if (strcmp(json_str_at(metadata, "uid"), (const char *)ctx) != 0) {
        error_set(err, 410, "gone", "another snapshot has the name now");
        return false;
    }
    json_t *list = json_object_get(metadata, "finalizers");
    if (*json_str_at(metadata, "deletionTimestamp")) {
        json_array_remove(list, finalizer_at(list));
        return true;
    }
    if (!json_is_array(list)) json_object_set_new(metadata, "finalizers", list = json_array());
    if (finalizer_at(list) == json_array_size(list)) json_array_append_new(list, json_string(FINALIZER));
    return true;
}

/* Puts our finalizer on; takes it off one that is being deleted. */
static bool keep_finalizer(struct snapshots *s, const struct work *w, struct error *err) {
    return store_update(s->o.store, KIND_VOLUME_SNAPSHOT, STORE_MAIN, w->namespace, w->name, set_finalizer,
                        w->uid, NULL, err);
}

/* ---- a copy -------------------------------------------------------------------------------------------- */

static int open_directory(const char *path, struct error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) error_set_errno(err, errno, "opening %s", path);
    return fd;
}

static bool make_directory(const char *path, struct error *err) {
    if (mkdir(path, 0700) == 0) return true;
    bool full = errno == ENOSPC || errno == EDQUOT;
    error_set_errno(err, errno, "creating %s", path);
    if (full && err) {
        err->status = 507;
        err->code = ERR_INSUFFICIENT_STORAGE;
    }
    return false;
}

/* From directory `from` to `dir`/workspace, which must not be there. `from` must still be in its place at the
 * end: who deletes something moves it away first. */
static bool copy_workspace(struct tree_copy *c, const char *from, const char *dir, struct error *err) {
    cleanup_free char *to = xasprintf("%s/workspace", dir);
    cleanup_free char *links = xasprintf("%s/links", dir);
    cleanup_close int in = open_directory(from, err);
    if (in < 0 || !tree_remove(dir, "links", err) || !make_directory(to, err) || !make_directory(links, err))
        return false;
    cleanup_close int out = open_directory(to, err);
    cleanup_close int shared = open_directory(links, err);
    if (out < 0 || shared < 0 || !tree_copy(c, in, out, shared, err)) return false;
    struct stat then, now;
    if (fstat(in, &then) != 0 || lstat(from, &now) != 0 || then.st_ino != now.st_ino ||
        then.st_dev != now.st_dev) {
        error_set(err, 409, "source_deleted", "what was being copied was deleted meanwhile");
        return false;
    }
    return tree_remove(dir, "links", err);
}

/* ---- taking a snapshot ------------------------------------------------------------------------------------
 */

/* The sandbox whose workspace is meant; by uid where the snapshot says it, so that a later sandbox of the
 * same name is not taken for it (observed O5). A reference. */
static struct object *find_source(struct snapshots *s, const struct object *snapshot) {
    const char *claim = json_str_at(snapshot->json, "spec.source.persistentVolumeClaimName");
    const char *uid = label_of(snapshot, LABEL_SNAPSHOT_SOURCE_UID);
    cleanup_object_list struct object_list all =
        s->o.store->ops->list(s->o.store, KIND_SANDBOX, snapshot->namespace);
    for (size_t i = 0; i < all.count; i++) {
        const struct object *o = all.items[i];
        if (*claim && strcmp(json_str_at(o->json, "status.pvcName"), claim) == 0 &&
            (!*uid || strcmp(o->uid, uid) == 0) && state_dir_uid_valid(o->uid))
            return object_ref(all.items[i]);
    }
    return NULL;
}

static bool workspace_changed(const char *path, struct timespec since, _Atomic bool *cancel) {
    cleanup_close int fd = open_directory(path, NULL);
    return fd >= 0 && tree_changed(fd, since, cancel);
}

/* A copy of a workspace that stood still meanwhile is the workspace of one moment. One that did not is copied
 * anew while that is quick; of one that never stands still each file is whole. */
static bool copy_source(struct snapshots *s, struct work *w, const struct object *snapshot,
                        struct tree_copy *c, struct error *err) {
    cleanup_object struct object *source = find_source(s, snapshot);
    if (!source) {
        error_set(err, 409, "source_deleted", "the sandbox of the volume %s does not exist any more",
                  json_str_at(snapshot->json, "spec.source.persistentVolumeClaimName"));
        return false;
    }
    cleanup_free char *folder = xasprintf("%s/snapshots", s->o.state->path);
    cleanup_free char *fresh_name = xasprintf("%s.new", w->uid);
    cleanup_free char *fresh = xasprintf("%s/%s", folder, fresh_name);
    cleanup_free char *final = xasprintf("%s/%s", folder, w->uid);
    cleanup_free char *dir = state_dir_path(s->o.state, "sandboxes", source->uid);
    cleanup_free char *workspace = xasprintf("%s/workspace", dir);
    if (fill_needed(dir)) {
        error_set(err, 409, "source_incomplete", "the workspace of sandbox %s is not whole", source->name);
        return false;
    }
    bool ok = true, again = true;
    for (int attempt = 1, pause_ms = PAUSE_MS; ok && again; attempt++) {
        if (attempt > 1) usleep((useconds_t)pause_ms * 1000);
        if (attempt > 1) pause_ms *= 4;
        struct timespec begun;
        int64_t since = monotonic_ms();
        clock_gettime(CLOCK_REALTIME_COARSE, &begun); /* the clock of files' times */
        *c = (struct tree_copy){
            .keep_free = KEEP_FREE, .give = s->o.own_users, .uid = SNAPSHOT_HOST_ID, .cancel = &w->cancelled};
        ok = tree_remove(folder, fresh_name, err) && make_directory(fresh, err) &&
             copy_workspace(c, workspace, fresh, err);
        again = ok && attempt < ATTEMPTS && monotonic_ms() - since < REPEATABLE_MS &&
                workspace_changed(workspace, begun, &w->cancelled);
    }
    if (ok && rename(fresh, final) == 0) return true;
    if (ok) error_set_errno(err, errno, "putting %s into place", final);
    if (!trash_take(s->o.trash, "snapshots", fresh_name, NULL)) tree_remove(folder, fresh_name, NULL);
    return false;
}

static bool report(struct snapshots *s, const struct work *w, json_t *status, struct error *err) {
    cleanup_json json_t *patch = json_pack("{s:o}", "status", status);
    const struct store_preconditions same = {.uid = w->uid};
    return s->o.store->ops->patch(s->o.store, KIND_VOLUME_SNAPSHOT, STORE_STATUS, w->namespace, w->name,
                                  patch, &same, NULL, err);
}

static json_t *ready_status(time_t taken, int64_t bytes) {
    char when[RFC3339_MAX];
    rfc3339_format(taken, when);
    cleanup_free char *size =
        bytes > 0 ? xasprintf("%lldMi", (long long)((bytes + (1 << 20) - 1) >> 20)) : xstrdup("0");
    return json_pack("{s:b, s:s, s:s}", "readyToUse", 1, "creationTime", when, "restoreSize", size);
}

static json_t *error_status(const struct error *why) {
    char when[RFC3339_MAX];
    rfc3339_format(time(NULL), when);
    return json_pack("{s:b, s:{s:s, s:s, s:s}}", "readyToUse", 0, "error", "time", when, "code", why->code,
                     "message", why->message);
}

static void take(struct snapshots *s, struct work *w, const struct object *snapshot) {
    cleanup_error struct error err = {0}, unreported = {0};
    time_t now = time(NULL);
    struct tree_copy c = {
        .keep_free = KEEP_FREE, .give = s->o.own_users, .uid = SNAPSHOT_HOST_ID, .cancel = &w->cancelled};
    int64_t begun = monotonic_ms();
    bool ok = keep_finalizer(s, w, &err);
    if (!ok && (err.status == 404 || err.status == 410)) return;
    ok = ok && copy_source(s, w, snapshot, &c, &err);
    if (!ok && strcmp(err.code, ERR_CANCELLED) == 0) return; /* the next Router, or its deletion */
    bool told = report(s, w, ok ? ready_status(now, c.bytes) : error_status(&err), &unreported);
    if (ok)
        log_info("snapshot taken", "snapshot", w->name, "namespace", w->namespace, "ms",
                 log_int(monotonic_ms() - begun), "bytes", log_int(c.bytes), NULL);
    else
        log_warn("a snapshot failed", "snapshot", w->name, "namespace", w->namespace, "why", err.message,
                 NULL);
    if (!told && unreported.status != 404)
        log_error("the outcome of a snapshot cannot be stored", "snapshot", w->name, "why",
                  unreported.message, NULL);
    if (s->o.changed) s->o.changed(s->o.ctx, w->namespace, w->name);
}

/* Of a clone that was never answered: its Router died before it made the Sandbox. */
static bool is_abandoned(struct snapshots *s, const struct object *snapshot) {
    if (!*label_of(snapshot, LABEL_TARGET)) return false;
    cleanup_object_list struct object_list all =
        s->o.store->ops->list(s->o.store, KIND_SANDBOX, snapshot->namespace);
    for (size_t i = 0; i < all.count; i++)
        if (strcmp(json_str_at(all.items[i]->json, "spec.cloneFromSnapshot"), snapshot->name) == 0)
            return false;
    return true;
}

static void erase(struct snapshots *s, const struct work *w) {
    cleanup_error struct error err = {0};
    cleanup_free char *fresh = xasprintf("%s.new", w->uid);
    if (!trash_take(s->o.trash, "snapshots", w->uid, &err) ||
        !trash_take(s->o.trash, "snapshots", fresh, &err))
        log_warn("files of a deleted snapshot are still in place", "snapshot", w->name, "why", err.message,
                 NULL);
    else if (!keep_finalizer(s, w, &err) && err.status != 404 && err.status != 410)
        log_warn("a deleted snapshot cannot be removed yet", "snapshot", w->name, "why", err.message, NULL);
}

/* What its object asks for now. */
static void pass(struct snapshots *s, struct work *w) {
    cleanup_object struct object *o =
        s->o.store->ops->get(s->o.store, KIND_VOLUME_SNAPSHOT, w->namespace, w->name);
    if (!o || strcmp(o->uid, w->uid) != 0 || is_deleting(o)) {
        erase(s, w);
        return;
    }
    if (is_settled(o)) return;
    if (w->left_over && is_abandoned(s, o)) {
        const struct store_preconditions same = {.uid = w->uid};
        cleanup_error struct error err = {0};
        if (!s->o.store->ops->remove(s->o.store, KIND_VOLUME_SNAPSHOT, w->namespace, w->name, &same, &err))
            log_warn("the snapshot of an interrupted clone stays", "snapshot", w->name, "why", err.message,
                     NULL);
        return;
    }
    take(s, w, o);
}

/* ---- filling
 * ------------------------------------------------------------------------------------------------ */

bool fill_needed(const char *dir) {
    cleanup_free char *workspace = xasprintf("%s/workspace", dir);
    cleanup_free char *marker = xasprintf("%s/" MARKER, dir);
    struct stat st;
    return lstat(workspace, &st) != 0 || lstat(marker, &st) == 0;
}

static bool do_copy(struct snapshots *s, struct fill *f, _Atomic bool *cancel, struct error *err) {
    cleanup_free char *marker = xasprintf("%s/" MARKER, f->dir);
    cleanup_free char *snapshot = state_dir_path(s->o.state, "snapshots", f->snapshot_uid);
    cleanup_free char *from = xasprintf("%s/workspace", snapshot);
    struct tree_copy c = {.keep_free = KEEP_FREE, .give = f->give, .uid = f->uid, .cancel = cancel};
    if (!file_write(marker, slice_of(""), 0600, err) || !tree_remove(f->dir, "workspace", err)) return false;
    if (copy_workspace(&c, from, f->dir, err)) {
        if (unlink(marker) == 0) return true;
        error_set_errno(err, errno, "removing %s", marker);
    }
    /* Its top stays, with its owner: the user id is taken as long as a file of it may be there. */
    cleanup_free char *workspace = xasprintf("%s/workspace", f->dir);
    tree_remove(f->dir, "links", NULL);
    if (tree_remove(f->dir, "workspace", NULL) && mkdir(workspace, 0700) == 0 && f->give &&
        lchown(workspace, f->uid, (gid_t)f->uid) != 0)
        log_warn("an empty workspace cannot be given away", "path", workspace, NULL);
    return false;
}

struct fill *fill_begin(struct snapshots *s, const struct fill_plan *plan) {
    struct fill *f = xcalloc(1, sizeof *f);
    f->owner = s;
    f->snapshot_uid = xstrdup(plan->snapshot_uid);
    f->dir = xstrdup(plan->dir);
    f->give = plan->give;
    f->uid = plan->uid;
    f->notify = plan->done;
    f->ctx = plan->ctx;
    f->work = xcalloc(1, sizeof *f->work);
    f->work->fill = f;
    pthread_mutex_lock(&s->lock);
    enqueue(s, f->work);
    pthread_mutex_unlock(&s->lock);
    return f;
}

enum fill_state fill_look(struct fill *f, struct error *err) {
    struct snapshots *s = f->owner;
    pthread_mutex_lock(&s->lock);
    enum fill_state state = !f->done ? FILL_GOING : f->failed ? FILL_FAILED : FILL_DONE;
    pthread_mutex_unlock(&s->lock);
    if (state == FILL_FAILED) error_move(err, &f->err);
    return state;
}

void fill_end(struct fill *f) {
    if (!f) return;
    struct snapshots *s = f->owner;
    pthread_mutex_lock(&s->lock);
    f->ended = true;
    atomic_store(&f->work->cancelled, true);
    if (!f->done && !f->work->running) { /* still in the queue */
        struct work **at = &s->queue;
        while (*at != f->work)
            at = &(*at)->next;
        *at = f->work->next;
        if (!*at) s->queue_last = at;
        f->done = true;
    }
    while (!f->done)
        pthread_cond_wait(&s->news, &s->lock);
    pthread_mutex_unlock(&s->lock);
    work_free(f->work);
    error_clear(&f->err);
    free(f->snapshot_uid);
    free(f->dir);
    free(f);
}

/* ---- threads
 * ------------------------------------------------------------------------------------------------- */

static struct work *find_pass(struct work *list, const char *uid) {
    while (list && (list->fill || strcmp(list->uid, uid) != 0))
        list = list->next;
    return list;
}

static void on_change(void *ctx, enum store_change change, struct object *o) {
    struct snapshots *s = ctx;
    bool gone = change == STORE_DELETED || is_deleting(o);
    if (!state_dir_uid_valid(o->uid) || (is_settled(o) && !gone)) return;
    pthread_mutex_lock(&s->lock);
    struct work *running = find_pass(s->running, o->uid);
    if (running) {
        running->again = true;
        if (gone) atomic_store(&running->cancelled, true);
    } else if (!find_pass(s->queue, o->uid)) {
        struct work *w = xcalloc(1, sizeof *w);
        w->namespace = xstrdup(o->namespace);
        w->name = xstrdup(o->name);
        w->uid = xstrdup(o->uid);
        w->left_over = s->at_start;
        enqueue(s, w);
    }
    pthread_mutex_unlock(&s->lock);
}

static void forget_running(struct snapshots *s, struct work *w) {
    struct work **at = &s->running;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->running = false;
}

/* Both with the lock held, which is let go meanwhile. */
static void do_fill(struct snapshots *s, struct work *w) {
    struct fill *f = w->fill;
    cleanup_error struct error err = {0};
    pthread_mutex_unlock(&s->lock);
    bool ok = do_copy(s, f, &w->cancelled, &err);
    pthread_mutex_lock(&s->lock);
    forget_running(s, w);
    f->failed = !ok;
    error_move(&f->err, &err);
    /* Under the lock, so that it does not come after fill_end(). */
    if (!f->ended && f->notify) f->notify(f->ctx);
    f->done = true;
}

static void do_pass(struct snapshots *s, struct work *w) {
    do {
        w->again = false;
        pthread_mutex_unlock(&s->lock);
        pass(s, w);
        pthread_mutex_lock(&s->lock);
    } while (w->again && !s->stopping);
    forget_running(s, w);
    work_free(w);
}

static void *run(void *arg) {
    struct snapshots *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        struct work *w = s->queue;
        if (!w) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        s->queue = w->next;
        if (!s->queue) s->queue_last = &s->queue;
        w->next = s->running;
        s->running = w;
        w->running = true;
        if (w->fill)
            do_fill(s, w);
        else
            do_pass(s, w);
        pthread_cond_broadcast(&s->news);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void snapshots_settle(struct snapshots *s, const char *namespace, const char *name, int timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    bool late = false;
    pthread_mutex_lock(&s->lock);
    while (!late && !s->stopping) {
        cleanup_object struct object *o =
            s->o.store->ops->get(s->o.store, KIND_VOLUME_SNAPSHOT, namespace, name);
        if (!o || is_settled(o)) break;
        late = pthread_cond_timedwait(&s->news, &s->lock, &until) != 0;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Directories of an earlier Router: half-made ones go; those that no object has are kept for a person to look
 * at, because only a store that was lost or replaced brings this about. */
static void sweep(struct snapshots *s) {
    cleanup_free char *folder = xasprintf("%s/snapshots", s->o.state->path);
    cleanup_object_list struct object_list all =
        s->o.store->ops->list(s->o.store, KIND_VOLUME_SNAPSHOT, NULL);
    DIR *dir = opendir(folder);
    if (!dir) return;
    struct dirent *e;
    while ((e = readdir(dir))) {
        bool known = false, half = strchr(e->d_name, '.') != NULL;
        if (e->d_name[0] == '.') continue;
        for (size_t i = 0; i < all.count && !known; i++)
            known = strcmp(all.items[i]->uid, e->d_name) == 0;
        cleanup_error struct error err = {0};
        cleanup_free char *from = xasprintf("%s/%s", folder, e->d_name);
        cleanup_free char *lost = state_dir_path(s->o.state, "lost", e->d_name);
        if (half && !trash_take(s->o.trash, "snapshots", e->d_name, &err))
            log_warn("an unfinished snapshot stays in place", "why", err.message, NULL);
        else if (!half && !known && rename(from, lost) == 0)
            log_warn("a snapshot that the store does not know is kept", "path", lost, NULL);
    }
    closedir(dir);
}

struct snapshots *snapshots_start(const struct snapshots_options *options, struct error *err) {
    struct snapshots *s = xcalloc(1, sizeof *s);
    s->o = *options;
    s->queue_last = &s->queue;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sweep(s);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, COPY_STACK);
    int rc = 0;
    while (rc == 0 && s->thread_count < COPIES) {
        rc = pthread_create(&s->threads[s->thread_count], &attr, run, s);
        if (rc == 0) s->thread_count++;
    }
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        error_set_errno(err, rc, "starting the threads that copy workspaces");
        snapshots_stop(s);
        snapshots_free(s);
        return NULL;
    }
    /* Nobody else writes yet. */
    s->at_start = true;
    s->watch = s->o.store->ops->watch(s->o.store, KIND_VOLUME_SNAPSHOT, on_change, s);
    pthread_mutex_lock(&s->lock);
    s->at_start = false;
    pthread_mutex_unlock(&s->lock);
    return s;
}

void snapshots_stop(struct snapshots *s) {
    if (!s) return;
    if (s->watch) s->o.store->ops->unwatch(s->o.store, s->watch);
    s->watch = NULL;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    for (struct work *w = s->running; w; w = w->next)
        atomic_store(&w->cancelled, true);
    pthread_cond_broadcast(&s->work);
    pthread_cond_broadcast(&s->news);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    s->thread_count = 0;
}

void snapshots_free(struct snapshots *s) {
    if (!s) return;
    for (struct work *w = s->queue, *next; w; w = next) {
        next = w->next;
        if (!w->fill) work_free(w);
    }
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->news);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
