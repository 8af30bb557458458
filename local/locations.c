/* The table of running sandboxes' sockets. */
#include "local/locations.h"

#include "common/bytes.h"

#include <pthread.h>
#include <stdio.h>

#define BUCKETS 1024

struct location {
    struct location *next;
    char *uid;
    char *socket_path;
};
struct locations {
    pthread_rwlock_t lock;
    struct location *buckets[BUCKETS];
};

static size_t bucket_of(const char *uid) {
    uint32_t h = 2166136261u;
    for (; *uid; uid++)
        h = (h ^ (unsigned char)*uid) * 16777619u;
    return h % BUCKETS;
}

struct locations *locations_new(void) {
    struct locations *l = xcalloc(1, sizeof *l);
    pthread_rwlock_init(&l->lock, NULL);
    return l;
}

static void free_location(struct location *at) {
    free(at->uid);
    free(at->socket_path);
    free(at);
}

void locations_free(struct locations *l) {
    if (!l) return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct location *at = l->buckets[i], *next; at; at = next) {
            next = at->next;
            free_location(at);
        }
    pthread_rwlock_destroy(&l->lock);
    free(l);
}

static struct location **find(struct locations *l, const char *uid) {
    struct location **at = &l->buckets[bucket_of(uid)];
    while (*at && strcmp((*at)->uid, uid) != 0)
        at = &(*at)->next;
    return at;
}

void locations_put(struct locations *l, const char *uid, const char *socket_path) {
    pthread_rwlock_wrlock(&l->lock);
    struct location **at = find(l, uid);
    if (!*at) {
        *at = xcalloc(1, sizeof **at);
        (*at)->uid = xstrdup(uid);
    }
    free((*at)->socket_path);
    (*at)->socket_path = xstrdup(socket_path);
    pthread_rwlock_unlock(&l->lock);
}

void locations_remove(struct locations *l, const char *uid) {
    pthread_rwlock_wrlock(&l->lock);
    struct location **at = find(l, uid);
    struct location *dead = *at;
    if (dead) *at = dead->next;
    pthread_rwlock_unlock(&l->lock);
    if (dead) free_location(dead);
}

bool locations_get(struct locations *l, const char *uid, char *out, size_t size) {
    pthread_rwlock_rdlock(&l->lock);
    const struct location *at = *find(l, uid);
    bool found = at && strlen(at->socket_path) < size;
    if (found) snprintf(out, size, "%s", at->socket_path);
    pthread_rwlock_unlock(&l->lock);
    return found;
}
