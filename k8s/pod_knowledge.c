#include "k8s/pod_knowledge.h"

#include "common/units.h"
#include "k8s/access.h"

#include <pthread.h>
#include <stdio.h>

#define BUCKETS     1024
#define NEGATIVE_MS 10000
#define FORGET_MS   600000
#define SWEEP_MS    60000

struct entry {
    struct entry *next;
    char uid[64], container_id[128];
    enum knows knows;
    struct runtime_found found;
    int64_t until; /* of KNOWS_NO_RUNTIME */
    int64_t used_at;
    int execs;
};

struct pod_knowledge {
    pthread_mutex_t lock;
    struct entry *buckets[BUCKETS];
    int execs, terminals;
    int64_t swept_at;
};

struct pod_knowledge *pod_knowledge_new(void) {
    struct pod_knowledge *k = xcalloc(1, sizeof *k);
    pthread_mutex_init(&k->lock, NULL);
    return k;
}

static void sweep(struct pod_knowledge *k, int64_t older_than) {
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct entry **at = &k->buckets[i], *e; (e = *at);) {
            if (e->execs == 0 && e->used_at < older_than) {
                *at = e->next;
                explicit_bzero(e, sizeof *e);
                free(e);
            } else {
                at = &e->next;
            }
        }
}

void pod_knowledge_free(struct pod_knowledge *k) {
    if (!k) return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct entry *e = k->buckets[i]; e; e = e->next)
            e->execs = 0;
    sweep(k, INT64_MAX);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* The entry of `uid`, made when missing. The lock is held. */
static struct entry *entry_of(struct pod_knowledge *k, const char *uid) {
    int64_t now = monotonic_ms();
    if (now - k->swept_at > SWEEP_MS) {
        k->swept_at = now;
        sweep(k, now - FORGET_MS);
    }
    size_t hash = 5381;
    for (const char *c = uid; *c; c++)
        hash = hash * 33 + (unsigned char)*c;
    struct entry **bucket = &k->buckets[hash % BUCKETS], *e = *bucket;
    while (e && strcmp(e->uid, uid) != 0)
        e = e->next;
    if (!e) {
        e = xcalloc(1, sizeof *e);
        snprintf(e->uid, sizeof e->uid, "%s", uid);
        e->next = *bucket;
        *bucket = e;
    }
    e->used_at = now;
    return e;
}

enum knows pod_knowledge_get(struct pod_knowledge *k, const char *uid, const char *container_id,
                             struct runtime_found *out) {
    pthread_mutex_lock(&k->lock);
    struct entry *e = entry_of(k, uid);
    if (e->knows == KNOWS_RUNTIME && strcmp(e->container_id, container_id) != 0) e->knows = KNOWS_NOTHING;
    if (e->knows == KNOWS_NO_RUNTIME && e->used_at >= e->until) e->knows = KNOWS_NOTHING;
    enum knows knows = e->knows;
    *out = e->found;
    out->there = knows == KNOWS_RUNTIME;
    pthread_mutex_unlock(&k->lock);
    return knows;
}

void pod_knowledge_put(struct pod_knowledge *k, const char *uid, const char *container_id,
                       const struct runtime_found *found) {
    pthread_mutex_lock(&k->lock);
    struct entry *e = entry_of(k, uid);
    e->knows = found->there ? KNOWS_RUNTIME : KNOWS_NO_RUNTIME;
    e->found = *found;
    e->until = e->used_at + NEGATIVE_MS;
    snprintf(e->container_id, sizeof e->container_id, "%s", container_id);
    pthread_mutex_unlock(&k->lock);
}

void pod_knowledge_lost(struct pod_knowledge *k, const char *uid, bool unreachable) {
    pthread_mutex_lock(&k->lock);
    struct entry *e = entry_of(k, uid);
    e->knows = unreachable ? KNOWS_NO_RUNTIME : KNOWS_NOTHING;
    e->until = e->used_at + NEGATIVE_MS;
    pthread_mutex_unlock(&k->lock);
}

bool pod_knowledge_begin_exec(struct pod_knowledge *k, const char *uid, struct error *err) {
    pthread_mutex_lock(&k->lock);
    struct entry *e = entry_of(k, uid);
    bool all = k->execs >= K8S_EXECS_MAX, ok = !all && e->execs < K8S_EXECS_SANDBOX_MAX;
    if (ok) {
        k->execs++;
        e->execs++;
    }
    pthread_mutex_unlock(&k->lock);
    if (ok) return true;
    error_set(err, 429, "too_many_execs",
              all ? "this Router has %d commands and transfers under way over pods/exec; retry in a moment"
                  : "%d commands and transfers are under way in this sandbox; retry when some have ended",
              all ? K8S_EXECS_MAX : K8S_EXECS_SANDBOX_MAX);
    err->retry_after = 1;
    return false;
}

void pod_knowledge_end_exec(struct pod_knowledge *k, const char *uid) {
    pthread_mutex_lock(&k->lock);
    struct entry *e = entry_of(k, uid);
    if (e->execs > 0) e->execs--;
    if (k->execs > 0) k->execs--;
    pthread_mutex_unlock(&k->lock);
}

bool pod_knowledge_begin_terminal(struct pod_knowledge *k, struct error *err) {
    pthread_mutex_lock(&k->lock);
    bool ok = k->terminals < K8S_TERMINALS_MAX;
    if (ok) k->terminals++;
    pthread_mutex_unlock(&k->lock);
    if (ok) return true;
    error_set(err, 429, "too_many_execs", "this Router has %d terminals over pods/exec; close some",
              K8S_TERMINALS_MAX);
    err->retry_after = 1;
    return false;
}

void pod_knowledge_end_terminal(struct pod_knowledge *k) {
    pthread_mutex_lock(&k->lock);
    if (k->terminals > 0) k->terminals--;
    pthread_mutex_unlock(&k->lock);
}

int pod_knowledge_execs(struct pod_knowledge *k) {
    pthread_mutex_lock(&k->lock);
    int n = k->execs + 2 * k->terminals;
    pthread_mutex_unlock(&k->lock);
    return n;
}
