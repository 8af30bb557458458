/* The writer of events. */
#include "backend/events.h"

#include "common/json.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#define WAITING_MAX   4096
#define PRUNE_EVERY_S 60
#define RETRY_S       1
#define ATTEMPTS      120 /* two minutes of a store that is away */

struct waiting {
    struct waiting *next;
    json_t *object;
    int attempts;
};

struct events {
    struct store *store;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct waiting *first, **last;
    size_t count;
    bool stopping;
    bool gave_up; /* this thread's */
    bool prune;
    bool written; /* since the last pruning */
};

static bool older(time_t now, const json_t *event) {
    time_t at;
    return rfc3339_parse(json_str_at(event, "lastTimestamp"), &at) && at + EVENTS_MAX_AGE_S < now;
}

/* By sandbox, the youngest first. */
static int by_sandbox_and_age(const void *a, const void *b) {
    const json_t *x = (*(struct object *const *)a)->json, *y = (*(struct object *const *)b)->json;
    int order = strcmp(json_str_at(x, "involvedObject.uid"), json_str_at(y, "involvedObject.uid"));
    return order ? order : strcmp(json_str_at(y, "lastTimestamp"), json_str_at(x, "lastTimestamp"));
}

static void prune(struct events *e) {
    cleanup_object_list struct object_list all = e->store->ops->list(e->store, KIND_EVENT, NULL);
    if (all.count > 1) qsort(all.items, all.count, sizeof *all.items, by_sandbox_and_age);
    time_t now = time(NULL);
    const char *sandbox = "";
    size_t younger = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct object *o = all.items[i];
        const char *uid = json_str_at(o->json, "involvedObject.uid");
        younger = strcmp(uid, sandbox) == 0 ? younger + 1 : 0;
        sandbox = uid;
        if (older(now, o->json) || younger >= EVENTS_PER_SANDBOX)
            e->store->ops->remove(e->store, KIND_EVENT, o->namespace, o->name, NULL, NULL);
    }
}

/* False: the store does not answer now. What it refuses is logged and done with. */
static bool write_one(struct events *e, const json_t *object) {
    cleanup_error struct error err = {0};
    if (e->store->ops->create(e->store, KIND_EVENT, object, NULL, &err)) return true;
    /* An answer that was lost: it is there. */
    if (err.code && strcmp(err.code, ERR_ALREADY_EXISTS) == 0) return true;
    if (err.status == 429 || err.status >= 500) return false;
    log_warn("event not written", "reason", json_str_at(object, "reason"), "why", err.message, NULL);
    return true;
}

/* Until then, or until we stop. With the lock. */
static void pause_for(struct events *e, int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    while (!e->stopping && pthread_cond_timedwait(&e->wake, &e->lock, &until) == 0)
        ;
}

/* Writes the first of those that wait. With the lock, which is given up meanwhile. */
static void write_first(struct events *e) {
    struct waiting *w = e->first; /* only this thread takes it out */
    pthread_mutex_unlock(&e->lock);
    bool done = !e->gave_up && write_one(e, w->object);
    pthread_mutex_lock(&e->lock);
    if (!done && !e->stopping && ++w->attempts < ATTEMPTS) {
        pause_for(e, RETRY_S);
        return;
    }
    e->gave_up = e->stopping && !done; /* the end does not wait for each of the others */
    if (!done)
        log_warn("event not written: the store does not answer", "reason", json_str_at(w->object, "reason"),
                 NULL);
    e->first = w->next;
    if (!e->first) e->last = &e->first;
    e->count--;
    e->written = e->prune;
    json_decref(w->object);
    free(w);
}

static void *run(void *arg) {
    struct events *e = arg;
    int64_t prune_at = monotonic_ms() + PRUNE_EVERY_S * 1000;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        if (e->first) {
            write_first(e);
            continue;
        }
        if (e->stopping) break;
        if (e->written && monotonic_ms() >= prune_at) {
            e->written = false;
            prune_at = monotonic_ms() + PRUNE_EVERY_S * 1000;
            pthread_mutex_unlock(&e->lock);
            prune(e);
            pthread_mutex_lock(&e->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += PRUNE_EVERY_S;
        pthread_cond_timedwait(&e->wake, &e->lock, &until);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

struct events *events_start(struct store *store, bool prune) {
    struct events *e = xcalloc(1, sizeof *e);
    e->store = store;
    e->last = &e->first;
    e->prune = prune;
    e->written = prune; /* old ones may be there */
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&e->thread, NULL, run, e) != 0) abort();
    return e;
}

void events_stop(struct events *e) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    free(e);
}

void events_emit(struct events *e, const struct object *sandbox, const char *type, const char *reason,
                 const char *fmt, ...) {
    char message[1024], now[RFC3339_MAX], suffix[17];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    rfc3339_format(time(NULL), now);
    random_hex(suffix, 8);
    cleanup_free char *name = xasprintf("%s.%s", sandbox->name, suffix);
    json_t *object = json_pack(
        "{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:s}, s:s, s:s, s:o, s:{s:s}, s:s, s:s, s:i}",
        "apiVersion", "v1", "kind", "Event", "metadata", "name", name, "namespace", sandbox->namespace,
        "involvedObject", "kind", "Sandbox", "apiVersion", "agenttier.io/v1alpha1", "namespace",
        sandbox->namespace, "name", sandbox->name, "uid", sandbox->uid, "type", type, "reason", reason,
        "message", json_string_repaired(slice_of(message)), "source", "component", "agenttier-controller",
        "firstTimestamp", now, "lastTimestamp", now, "count", 1);
    struct waiting *w = xcalloc(1, sizeof *w);
    w->object = object;
    pthread_mutex_lock(&e->lock);
    bool full = e->count >= WAITING_MAX;
    if (!full) {
        *e->last = w;
        e->last = &w->next;
        e->count++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (full) {
        log_warn("event dropped: too many are waiting", "sandbox", sandbox->name, "reason", reason, NULL);
        json_decref(object);
        free(w);
    }
}
