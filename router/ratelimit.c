/* See ratelimit.h. One table of buckets for both layers; idle ones are swept as it is used. */
#include "router/ratelimit.h"

#include "common/bytes.h"
#include "common/units.h"

#include <pthread.h>
#include <stdio.h>

#define TABLE_SIZE  16384
#define MAX_BUCKETS 100000
#define IDLE_MS     (30 * 60 * 1000)
#define SWEEP_MS    (10 * 60 * 1000)
#define BURST_IP    30.0
#define BURST_USER  100.0

struct bucket {
    struct bucket *next;
    double tokens;
    int64_t at_ms;
    char key[];
};

struct rate_limiter {
    pthread_mutex_t lock;
    double per_ip, per_user;
    size_t count;
    int64_t swept_ms;
    struct bucket *table[TABLE_SIZE];
};

struct rate_limiter *ratelimit_new(double per_ip, double per_user) {
    if (per_ip <= 0 && per_user <= 0) return NULL;
    struct rate_limiter *l = xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    l->per_ip = per_ip;
    l->per_user = per_user;
    l->swept_ms = monotonic_ms();
    return l;
}

static void sweep(struct rate_limiter *l, int64_t older_than) {
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        for (struct bucket **at = &l->table[i]; *at;) {
            struct bucket *b = *at;
            if (b->at_ms > older_than) {
                at = &b->next;
                continue;
            }
            *at = b->next;
            free(b);
            l->count--;
        }
    }
}

void ratelimit_free(struct rate_limiter *l) {
    if (!l) return;
    sweep(l, INT64_MAX);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static double lesser(double a, double b) {
    return a < b ? a : b;
}

static size_t hash(const char *key) {
    size_t h = 1469598103934665603ULL;
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 1099511628211ULL;
    return h % TABLE_SIZE;
}

static struct bucket *find(struct rate_limiter *l, const char *key, double burst, int64_t now) {
    size_t slot = hash(key);
    for (struct bucket *b = l->table[slot]; b; b = b->next)
        if (strcmp(b->key, key) == 0) return b;
    if (now - l->swept_ms > SWEEP_MS || l->count >= MAX_BUCKETS) {
        sweep(l, l->count >= MAX_BUCKETS ? now - 1000 : now - IDLE_MS);
        l->swept_ms = now;
    }
    if (l->count >= MAX_BUCKETS) sweep(l, INT64_MAX);
    size_t n = strlen(key) + 1;
    struct bucket *b = xcalloc(1, sizeof *b + n);
    memcpy(b->key, key, n);
    b->tokens = burst;
    b->at_ms = now;
    b->next = l->table[slot];
    l->table[slot] = b;
    l->count++;
    return b;
}

static bool take(struct rate_limiter *l, const char *key, double rate, double burst, double cost,
                 struct error *err) {
    int64_t now = monotonic_ms();
    if (cost > burst) cost = burst;
    pthread_mutex_lock(&l->lock);
    struct bucket *b = find(l, key, burst, now);
    b->tokens = lesser(burst, b->tokens + (double)(now - b->at_ms) / 1000.0 * rate);
    b->at_ms = now;
    bool ok = b->tokens >= cost;
    double missing = cost - b->tokens;
    if (ok) b->tokens -= cost;
    pthread_mutex_unlock(&l->lock);
    if (ok) return true;
    double wait = lesser(missing / rate + 1, 3600);
    int seconds = (int)wait;
    error_set(err, 429, "rate_limited", "slow down: retry in %d seconds", seconds);
    err->retry_after = seconds;
    return false;
}

bool ratelimit_ip(struct rate_limiter *l, const char *ip, struct error *err) {
    if (!l || l->per_ip <= 0) return true;
    char key[80];
    snprintf(key, sizeof key, "ip %s", ip);
    return take(l, key, l->per_ip, BURST_IP, 1, err);
}

bool ratelimit_user(struct rate_limiter *l, const char *sub, double cost, struct error *err) {
    if (!l || l->per_user <= 0) return true;
    cleanup_free char *key = xasprintf("user %s", sub);
    return take(l, key, l->per_user, BURST_USER, cost, err);
}
