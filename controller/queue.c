#include "controller/queue.h"

#include "common/bytes.h"
#include "common/units.h"

#include <pthread.h>
#include <time.h>

#define FIRST_BUCKETS  256
#define RETRY_FIRST_MS 5
#define RETRY_MAX_MS   30000
#define WORKER_STACK   (8L * 1024 * 1024) /* JSON is read and written by recursion */

struct item {
    struct item *next;       /* in its bucket */
    struct item *queue_next; /* among those that wait */
    char *key;
    void *memory;
    bool waiting, busy, again;
    unsigned failures; /* in a row */
    int64_t due;       /* monotonic ms, when it is in the heap */
    size_t heap_at;    /* index + 1; 0 = not in it */
};

struct queue {
    queue_pass_fn *pass;
    void *ctx;
    pthread_mutex_t lock;
    pthread_cond_t work; /* a key waits, or it stops or goes on */
    pthread_cond_t idle; /* a pass ended */
    pthread_cond_t tick; /* the earliest time changed */
    bool paused, stopping;
    int busy;
    size_t depth;

    struct item **buckets;
    size_t bucket_count, count;
    struct item *first, **last;
    struct item **heap; /* the earliest first */
    size_t heap_count, heap_cap;

    pthread_t *workers, timer;
    int worker_count;
};

/* ---- the table --------------------------------------------------------------------------------- */

static size_t hash(const char *key) {
    uint32_t h = 2166136261u;
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 16777619u;
    return h;
}

static void grow_table(struct queue *q) {
    size_t count = q->bucket_count ? q->bucket_count * 2 : FIRST_BUCKETS;
    struct item **buckets = xcalloc(count, sizeof *buckets);
    for (size_t i = 0; i < q->bucket_count; i++)
        for (struct item *it = q->buckets[i], *next; it; it = next) {
            next = it->next;
            struct item **at = &buckets[hash(it->key) % count];
            it->next = *at;
            *at = it;
        }
    free(q->buckets);
    q->buckets = buckets;
    q->bucket_count = count;
}

static struct item *item_of(struct queue *q, const char *key) {
    if (q->count >= q->bucket_count) grow_table(q);
    struct item **at = &q->buckets[hash(key) % q->bucket_count];
    for (struct item *it = *at; it; it = it->next)
        if (strcmp(it->key, key) == 0) return it;
    struct item *it = xcalloc(1, sizeof *it);
    it->key = xstrdup(key);
    it->next = *at;
    *at = it;
    q->count++;
    return it;
}

static void item_free(struct item *it) {
    free(it->memory);
    free(it->key);
    free(it);
}

static void forget(struct queue *q, struct item *it) {
    struct item **at = &q->buckets[hash(it->key) % q->bucket_count];
    while (*at != it)
        at = &(*at)->next;
    *at = it->next;
    q->count--;
    item_free(it);
}

/* ---- times: a heap ----------------------------------------------------------------------------- */

static void heap_put(struct queue *q, size_t i, struct item *it) {
    q->heap[i] = it;
    it->heap_at = i + 1;
}

static void heap_up(struct queue *q, size_t i, struct item *it) {
    for (size_t parent; i > 0 && q->heap[parent = (i - 1) / 2]->due > it->due; i = parent)
        heap_put(q, i, q->heap[parent]);
    heap_put(q, i, it);
}

static void heap_down(struct queue *q, size_t i, struct item *it) {
    for (size_t child; (child = 2 * i + 1) < q->heap_count; i = child) {
        if (child + 1 < q->heap_count && q->heap[child + 1]->due < q->heap[child]->due) child++;
        if (q->heap[child]->due >= it->due) break;
        heap_put(q, i, q->heap[child]);
    }
    heap_put(q, i, it);
}

static void cancel_time(struct queue *q, struct item *it) {
    if (it->heap_at == 0) return;
    size_t i = it->heap_at - 1;
    it->heap_at = 0;
    struct item *moved = q->heap[--q->heap_count];
    if (moved == it) return;
    heap_up(q, i, moved);
    if (moved->heap_at == i + 1) heap_down(q, i, moved);
}

static void set_time(struct queue *q, struct item *it, int64_t due) {
    if (q->heap_count == q->heap_cap) {
        q->heap_cap = q->heap_cap ? q->heap_cap * 2 : 64;
        q->heap = xrealloc(q->heap, q->heap_cap * sizeof *q->heap);
    }
    it->due = due;
    heap_up(q, q->heap_count++, it);
    if (q->heap[0] == it) pthread_cond_signal(&q->tick);
}

/* ---- passes ------------------------------------------------------------------------------------ */

static void enqueue(struct queue *q, struct item *it) {
    it->again = true;
    if (it->waiting || it->busy) return;
    cancel_time(q, it);
    it->waiting = true;
    it->queue_next = NULL;
    *q->last = it;
    q->last = &it->queue_next;
    q->depth++;
    pthread_cond_signal(&q->work);
}

static int64_t pause_after(unsigned failures) {
    int64_t ms = RETRY_FIRST_MS;
    for (unsigned i = 1; i < failures && ms < RETRY_MAX_MS; i++)
        ms *= 2;
    return ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
}

static void conclude(struct queue *q, struct item *it, int64_t next) {
    it->failures = next == PASS_FAILED ? it->failures + 1 : 0;
    /* After a failure what else is asked for waits with it: a store that is away is not asked more often. */
    if (next == PASS_FAILED) {
        it->again = false;
        set_time(q, it, monotonic_ms() + pause_after(it->failures));
    } else if (it->again || next == PASS_AGAIN) {
        enqueue(q, it);
    } else if (next == PASS_FORGET) {
        forget(q, it);
    } else if (next > 0) {
        set_time(q, it, monotonic_ms() + next);
    }
}

static void *work(void *arg) {
    struct queue *q = arg;
    pthread_mutex_lock(&q->lock);
    while (!q->stopping) {
        struct item *it = q->paused ? NULL : q->first;
        if (!it) {
            pthread_cond_wait(&q->work, &q->lock);
            continue;
        }
        q->first = it->queue_next;
        if (!q->first) q->last = &q->first;
        q->depth--;
        it->waiting = it->again = false;
        it->busy = true;
        q->busy++;
        pthread_mutex_unlock(&q->lock);
        int64_t next = q->pass(q->ctx, it->key, &it->memory);
        pthread_mutex_lock(&q->lock);
        it->busy = false;
        q->busy--;
        conclude(q, it, next);
        if (q->busy == 0) pthread_cond_broadcast(&q->idle);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static void *keep_time(void *arg) {
    struct queue *q = arg;
    pthread_mutex_lock(&q->lock);
    while (!q->stopping) {
        int64_t now = monotonic_ms();
        while (q->heap_count > 0 && q->heap[0]->due <= now)
            enqueue(q, q->heap[0]);
        if (q->heap_count == 0) {
            pthread_cond_wait(&q->tick, &q->lock);
            continue;
        }
        struct timespec until = {.tv_sec = q->heap[0]->due / 1000,
                                 .tv_nsec = q->heap[0]->due % 1000 * 1000000};
        pthread_cond_timedwait(&q->tick, &q->lock, &until);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

/* ---- the interface ----------------------------------------------------------------------------- */

struct queue *queue_start(int workers, queue_pass_fn *pass, void *ctx) {
    struct queue *q = xcalloc(1, sizeof *q);
    q->pass = pass;
    q->ctx = ctx;
    q->paused = true;
    q->last = &q->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->work, NULL);
    pthread_cond_init(&q->idle, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q->tick, &monotonic);
    pthread_condattr_destroy(&monotonic);
    q->workers = xcalloc((size_t)workers, sizeof *q->workers);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    for (; q->worker_count < workers; q->worker_count++)
        if (pthread_create(&q->workers[q->worker_count], &attr, work, q) != 0) abort();
    if (pthread_create(&q->timer, &attr, keep_time, q) != 0) abort();
    pthread_attr_destroy(&attr);
    return q;
}

void queue_stop(struct queue *q) {
    if (!q) return;
    pthread_mutex_lock(&q->lock);
    q->stopping = true;
    pthread_cond_broadcast(&q->work);
    pthread_cond_signal(&q->tick);
    pthread_mutex_unlock(&q->lock);
    for (int i = 0; i < q->worker_count; i++)
        pthread_join(q->workers[i], NULL);
    pthread_join(q->timer, NULL);
    for (size_t i = 0; i < q->bucket_count; i++)
        for (struct item *it = q->buckets[i], *next; it; it = next) {
            next = it->next;
            item_free(it);
        }
    pthread_cond_destroy(&q->work);
    pthread_cond_destroy(&q->idle);
    pthread_cond_destroy(&q->tick);
    pthread_mutex_destroy(&q->lock);
    free(q->buckets);
    free(q->heap);
    free(q->workers);
    free(q);
}

void queue_add(struct queue *q, const char *key) {
    pthread_mutex_lock(&q->lock);
    enqueue(q, item_of(q, key));
    pthread_mutex_unlock(&q->lock);
}

void queue_pause(struct queue *q, bool paused) {
    pthread_mutex_lock(&q->lock);
    q->paused = paused;
    pthread_cond_broadcast(&q->work);
    while (paused && q->busy > 0)
        pthread_cond_wait(&q->idle, &q->lock);
    pthread_mutex_unlock(&q->lock);
}

size_t queue_depth(struct queue *q) {
    pthread_mutex_lock(&q->lock);
    size_t depth = q->depth;
    pthread_mutex_unlock(&q->lock);
    return depth;
}
