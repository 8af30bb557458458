#include "local/sync.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"

#include <signal.h>

/* How many Events one transaction removes, so that writers need not wait long. */
#define EXPIRE_BATCH 256

/* Once a minute; tombstones every tenth time. */
#define TICKS_PER_EXPIRY (60000 / SYNC_INTERVAL_MS)
#define TICKS_PER_PRUNE  (10 * TICKS_PER_EXPIRY)

static bool catch_up(struct local_store *s, struct error *err) {
    bool changed = false;
    pthread_mutex_lock(&s->write);
    bool ok = db_changed_by_others(s->db, &changed, err);
    if (ok && changed) {
        ok = db_begin_read(s->db, err) && commit_catch_up(s, err) && db_commit(s->db, err);
        if (!ok) db_rollback(s->db);
    }
    pthread_mutex_unlock(&s->write);
    return ok;
}

static bool event_is_old(const struct object *o, time_t before) {
    static const char *const times[] = {"lastTimestamp", "eventTime", "metadata.creationTimestamp"};
    for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++) {
        time_t at;
        if (rfc3339_parse(json_str_at(o->json, times[i]), &at)) return at < before;
    }
    return false;
}

bool sync_expire_events(struct local_store *s, time_t before, struct error *err) {
    /* Looked for without the write lock first: mostly there is nothing to do. */
    for (;;) {
        cleanup_object_list struct object_list events = s->store.ops->list(&s->store, KIND_EVENT, NULL);
        size_t old = 0;
        for (size_t i = 0; i < events.count && old < EXPIRE_BATCH; i++) {
            if (event_is_old(events.items[i], before)) {
                struct object *o = events.items[i];
                events.items[i] = events.items[old];
                events.items[old++] = o;
            }
        }
        if (old == 0) return true;
        cleanup_batch struct batch b = {0};
        if (!commit_begin(s, &b, err)) return false;
        for (size_t i = 0; i < old; i++) {
            struct object *o = events.items[i];
            const struct object *now = index_get(&s->index, KIND_EVENT, o->namespace, o->name);
            if (now == o && !batch_remove(s, &b, o, err)) {
                commit_cancel(s);
                return false;
            }
        }
        if (b.count == 0) {
            commit_cancel(s); /* changed or held by finalizers: next time */
            return true;
        }
        if (!commit_end(s, &b, err)) return false;
        if (old < EXPIRE_BATCH) return true;
    }
}

static bool prune(struct local_store *s, struct error *err) {
    pthread_mutex_lock(&s->write);
    bool ok =
        db_begin_write(s->db, err) && db_prune(s->db, SYNC_TOMBSTONE_SECONDS, err) && db_commit(s->db, err);
    if (!ok) db_rollback(s->db);
    pthread_mutex_unlock(&s->write);
    return ok;
}

/* Remembers why the file cannot be followed, for ready(); says it once in the log. */
static void report(struct local_store *s, const char *trouble) {
    pthread_mutex_lock(&s->wake_lock);
    bool news = strcmp(s->trouble, trouble) != 0;
    snprintf(s->trouble, sizeof(s->trouble), "%s", trouble);
    pthread_mutex_unlock(&s->wake_lock);
    if (!news) return;
    if (trouble[0] != '\0') {
        log_error("the state file cannot be followed", "error", trouble, NULL);
    } else {
        log_info("the state file can be followed again", NULL);
    }
}

/* Waits for the next tick. False: the store closes. */
static bool wait_tick(struct local_store *s) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SYNC_INTERVAL_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&s->wake_lock);
    int rc = 0;
    while (!s->stopping && rc == 0)
        rc = pthread_cond_timedwait(&s->wake, &s->wake_lock, &until);
    bool go_on = !s->stopping;
    pthread_mutex_unlock(&s->wake_lock);
    return go_on;
}

static void *sync_main(void *arg) {
    struct local_store *s = arg;
    for (unsigned tick = 1; wait_tick(s); tick++) {
        struct error err = {0};
        report(s, catch_up(s, &err) ? "" : err.message);
        error_clear(&err);
        if (tick % TICKS_PER_EXPIRY == 0 && !sync_expire_events(s, time(NULL) - SYNC_EVENT_SECONDS, &err)) {
            log_warn("old events could not be removed", "error", err.message, NULL);
            error_clear(&err);
        }
        if (tick % TICKS_PER_PRUNE == 0 && !prune(s, &err)) {
            log_warn("old deletions could not be forgotten", "error", err.message, NULL);
            error_clear(&err);
        }
    }
    return NULL;
}

bool sync_start(struct local_store *s, struct error *err) {
    /* Signals belong to the program's main thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->thread, NULL, sync_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) error_set_errno(err, rc, "cannot start the store's thread");
    return rc == 0;
}

void sync_stop(struct local_store *s) {
    pthread_mutex_lock(&s->wake_lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->wake_lock);
    pthread_join(s->thread, NULL);
}
