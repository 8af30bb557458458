/* See share_update.h. */
#include "router/share_update.h"

#include "common/text.h"

#include <pthread.h>

#define FOUR_LOCKS                                                                                           \
    PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER

/* Sandboxes share them, by their uids. */
static pthread_mutex_t locks[] = {FOUR_LOCKS, FOUR_LOCKS, FOUR_LOCKS, FOUR_LOCKS};

bool share_update(struct store *store, const struct object *sandbox,
                  bool (*change)(void *ctx, json_t *object, struct error *), void *ctx, struct object **out,
                  struct error *err) {
    pthread_mutex_t *lock = &locks[text_hash(slice_of(sandbox->uid)) % (sizeof locks / sizeof locks[0])];
    pthread_mutex_lock(lock);
    bool ok = store_update(store, KIND_SANDBOX, STORE_MAIN, sandbox->namespace, sandbox->name, change, ctx,
                           out, err);
    pthread_mutex_unlock(lock);
    return ok;
}
