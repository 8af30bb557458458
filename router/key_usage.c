#include "router/key_usage.h"

#include "common/json.h"
#include "common/log.h"
#include "router/key_record.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define WAITING_MAX 4096
#define GAP_MS      20 /* between two writes */

struct note {
    char id[sizeof KEY_ID_PREFIX + KEY_ID_HEX];
    struct timespec at;
};

struct key_usage {
    struct store *store;
    char *namespace;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    size_t first, count;
    struct note *notes; /* a ring of WAITING_MAX */
};

static void write_note(struct key_usage *u, const struct note *note) {
    cleanup_error struct error err = {0};
    cleanup_object struct object *secret = u->store->ops->get(u->store, KIND_SECRET, u->namespace, note->id);
    cleanup_json json_t *patch = secret ? key_record_used_patch(secret->json, note->at) : NULL;
    if (!patch) return; /* revoked meanwhile */
    struct store_preconditions same = {.uid = secret->uid, .resource_version = secret->resource_version};
    if (u->store->ops->patch(u->store, KIND_SECRET, STORE_MAIN, u->namespace, note->id, patch, &same, NULL,
                             &err))
        return;
    /* Another replica wrote it, or the key is gone: as good. */
    if (err.status == 409 || err.status == 404) return;
    log_warn("the last use of an API key could not be written down", "key", note->id, "error", err.message,
             NULL);
}

static void *write_notes(void *arg) {
    struct key_usage *u = arg;
    pthread_mutex_lock(&u->lock);
    while (!u->stopping) {
        if (u->count == 0) {
            pthread_cond_wait(&u->changed, &u->lock);
            continue;
        }
        struct note note = u->notes[u->first];
        u->first = (u->first + 1) % WAITING_MAX;
        u->count--;
        pthread_mutex_unlock(&u->lock);
        write_note(u, &note);
        struct timespec gap = {.tv_nsec = GAP_MS * 1000000L};
        nanosleep(&gap, NULL);
        pthread_mutex_lock(&u->lock);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

struct key_usage *key_usage_new(struct store *store, const char *namespace) {
    struct key_usage *u = xcalloc(1, sizeof *u);
    u->store = store;
    u->namespace = xstrdup(namespace);
    u->notes = xcalloc(WAITING_MAX, sizeof *u->notes);
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->changed, NULL);
    u->started = pthread_create(&u->thread, NULL, write_notes, u) == 0;
    return u;
}

void key_usage_free(struct key_usage *u) {
    pthread_mutex_lock(&u->lock);
    u->stopping = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    if (u->started) pthread_join(u->thread, NULL);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u->namespace);
    free(u->notes);
    free(u);
}

bool key_usage_note(struct key_usage *u, const char *hash) {
    struct note note;
    snprintf(note.id, sizeof note.id, "%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX, hash);
    clock_gettime(CLOCK_REALTIME, &note.at);
    pthread_mutex_lock(&u->lock);
    bool room = u->started && u->count < WAITING_MAX;
    if (room) {
        u->notes[(u->first + u->count++) % WAITING_MAX] = note;
        pthread_cond_signal(&u->changed);
    }
    pthread_mutex_unlock(&u->lock);
    return room;
}
