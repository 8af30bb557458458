/* The objects of all watches in memory, and who wants to hear of changes. Knows nothing of HTTP: the
 * watch thread and the writers of store.c bring what they have got, in any order of arrival, and the
 * cache keeps the newest.
 *
 * Locks, in this order: `order` (a change and its callbacks, so that all see one order), `memory` (rwlock:
 * a search or a copy of references; never held during a callback). */
#pragma once

#include "backend/index.h"
#include "k8s/intern.h"
#include "k8s/store.h"

#include <pthread.h>
#include <stdatomic.h>

#define CACHE_DELETED_MAX 1024

struct cache_row {
    struct k8s_watch watch; /* its texts are owned by the row */
    struct index index;
    _Atomic bool distrusted; /* see cache_distrust */
};

struct cache_watcher {
    struct cache_watcher *next;
    enum kind kind;
    store_watch_fn *fn;
    void *ctx;
};

/* An object that is gone: whatever still arrives of it is old. A deleted one never comes back; one that a
 * selector no longer selects may, with a later version. */
struct cache_deleted {
    uint64_t hash;
    char uid[56];
    const struct cache_row *row; /* that no longer selects it; NULL: it was deleted */
    char version[24];            /* when it was selected no longer */
};

struct cache {
    pthread_mutex_t order;
    struct cache_watcher *watchers;
    uint64_t generation;
    struct cache_deleted deleted[CACHE_DELETED_MAX]; /* a ring */
    size_t deleted_next;
    struct intern texts;
    pthread_rwlock_t memory;
    struct cache_row *rows;
    size_t count;
};

void cache_init(struct cache *c, const struct k8s_watch *watches, size_t count);
void cache_free(struct cache *c);

/* ---- readers: any thread, never wait ---- */
struct object *cache_get(struct cache *c, enum kind kind, const char *namespace, const char *name);
struct object_list cache_find(struct cache *c, enum kind kind, const char *name);
struct object_list cache_list(struct cache *c, enum kind kind, const char *namespace);
size_t cache_count(struct cache *c, enum kind kind);
/* Of the last change: what was written after it is known to be newer than what was asked for before it. */
uint64_t cache_generation(struct cache *c);

void *cache_watch(struct cache *c, enum kind kind, store_watch_fn *fn, void *ctx);
void cache_unwatch(struct cache *c, void *handle);
/* As ops->settle of a store. */
void cache_settle(struct cache *c);

/* ---- what arrives; all take `json` ---- */

/* An object of a list or a watch as the cache keeps it: a new object, or NULL when it is not one of the
 * row (no name, uid or resourceVersion, another namespace). `same` (may be NULL) is returned instead, as a
 * reference, when the cache has that version already. */
struct object *cache_read(struct cache *c, const struct cache_row *row, json_t *json);
/* The same for a list, which may be long: as the index keeps it, packed. For cache_replace() only. */
struct object *cache_read_item(struct cache *c, const struct cache_row *row, json_t *json);
/* A watch event: ADDED and MODIFIED, DELETED. Takes `o`. */
void cache_put(struct cache *c, struct cache_row *row, struct object *o);
void cache_remove(struct cache *c, struct cache_row *row, struct object *o);
/* A complete list, taken at resourceVersion `version` and asked for at `generation`: what is not in it is
 * gone, unless it was written since. Takes the references and frees `items`. */
void cache_replace(struct cache *c, struct cache_row *row, struct object **items, size_t count,
                   const char *version, uint64_t generation);
/* The history of the cluster went back, as after a restore of etcd from a backup: resourceVersions that are
 * known already will come again and mean something else. What is there goes on to be read; until the next
 * cache_replace of a row, what came first counts as older, and that list replaces all that came before it. */
void cache_distrust(struct cache *c);
/* The answer of a write that began at `generation`. Returns the object as it was answered, a reference;
 * NULL when it is none. An object that the write finished off (its last finalizer) is removed. */
struct object *cache_written(struct cache *c, enum kind kind, json_t *json, uint64_t generation);
/* A delete that left nothing. `uid` of the object, or "" when the answer did not say. */
void cache_deleted(struct cache *c, enum kind kind, const char *namespace, const char *name, const char *uid);
