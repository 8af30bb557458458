/* The local store's inside: the file, the memory, and the one way by which a change gets
 * from a writer to both and to the watchers.
 *
 * Locks, in the order in which they are taken:
 *   write   a whole write, with its wait for the disk; also the synchronising thread
 *   order   memory is changed and watchers are called, so that all see one order. A watch
 *           replays what exists under it, so there is no gap and nothing twice
 *   memory  (rwlock) the index. Readers hold it for a search or a copy of references, and
 *           never while a watcher runs: a watcher may read the store
 * Only a holder of `write` changes the index, so it may read it without `memory`. */
#pragma once

#include "local/db.h"
#include "backend/index.h"

#include <pthread.h>
#include <stdatomic.h>

struct watcher {
    struct watcher *next;
    enum kind kind;
    store_watch_fn *fn;
    void *ctx;
};

struct local_store {
    struct store store; /* first */

    pthread_mutex_t write;
    struct db *db;
    uint64_t version; /* of the last change that is in memory */

    pthread_mutex_t order;
    struct watcher *watchers;

    pthread_rwlock_t memory;
    struct index index;

    /* The synchronising thread (sync.c). */
    pthread_t thread;
    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    bool stopping;
    char trouble[512]; /* under wake_lock: why the file cannot be followed, or "" */
};

/* One change of a transaction. */
struct change {
    struct object *object; /* the new one, or the last one before its deletion; a reference */
    uint64_t version;
    char *text; /* to be stored; NULL for a deletion and for what another process stored */
    bool deleted;
};

struct batch {
    struct change *items;
    size_t count, cap;
    uint64_t version; /* the last given */
};
void batch_free(struct batch *b);
#define cleanup_batch __attribute__((cleanup(batch_free)))

/* Takes `write`, begins a transaction and takes in what other processes have committed. A
 * batch for it starts out empty. False: nothing is held. */
bool commit_begin(struct local_store *s, struct batch *b, struct error *err);
/* Ends a transaction without a change, and gives up `write`. */
void commit_cancel(struct local_store *s);
/* Stores the batch, then changes memory, then calls the watchers; gives up `write`. False:
 * nothing has changed anywhere. */
bool commit_end(struct local_store *s, struct batch *b, struct error *err);

/* Adds a new or changed object to the batch under the next version. Takes `json`. Returns
 * it borrowed, or NULL with err 413 too_large. */
struct object *batch_put(struct batch *b, enum kind kind, json_t *json, struct error *err);
/* Adds a deletion of `o` (in its last form), and of what only it owns. Objects with
 * finalizers are marked instead. Needs `write`. */
bool batch_remove(struct local_store *s, struct batch *b, struct object *o, struct error *err);

/* Takes in what other processes have committed. In a transaction. */
bool commit_catch_up(struct local_store *s, struct error *err);
/* Loads everything into an empty index. */
bool commit_load(struct db *db, struct index *index, uint64_t *version, struct error *err);
