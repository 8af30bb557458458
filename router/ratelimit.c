/* See ratelimit.h. One table of buckets for all layers; idle ones are swept as it is used. */
#include "router/ratelimit.h"

#include "common/bytes.h"
#include "common/text.h"
#include "common/units.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>

#define TABLE_SIZE  16384
#define MAX_BUCKETS 100000
#define IDLE_MS     (30 * 60 * 1000)
#define SWEEP_MS    (10 * 60 * 1000)
/* Tokens that a bucket holds. */
#define BURST_IP        30.0
#define BURST_USER      100.0
#define BURST_EXPENSIVE 20.0
#define BURST_FAILURES  100.0

struct bucket {
    struct bucket *next;
    double tokens;
    int64_t at_ms;
    char key[];
};

struct rate_limiter {
    pthread_mutex_t lock;
    struct rate_limits limits;
    size_t count;
    int64_t swept_ms;
    struct bucket *table[TABLE_SIZE];
};

struct rate_limiter *ratelimit_new(const struct rate_limits *limits) {
    struct rate_limiter *l = xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    l->limits = *limits;
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

static struct bucket *find(struct rate_limiter *l, const char *key, double burst, int64_t now) {
    size_t slot = text_hash(slice_of(key)) % TABLE_SIZE;
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

/* A layer's rate and the bucket of one key in it. */
struct layer {
    double rate, burst;
};

static void describe(const struct layer *layer, double tokens, struct rate_state *state) {
    if (!state) return;
    state->limit = (int)layer->burst;
    state->remaining = (int)tokens;
    state->reset = (int)lesser((layer->burst - tokens) / layer->rate + 0.999, 3600);
}

/* Takes `cost` tokens when there are so many; with `keep`, only looks. */
static bool take(struct rate_limiter *l, const struct layer *layer, const char *key, double cost, bool keep,
                 struct rate_state *state, struct error *err) {
    int64_t now = monotonic_ms();
    if (cost > layer->burst) cost = layer->burst;
    pthread_mutex_lock(&l->lock);
    struct bucket *b = find(l, key, layer->burst, now);
    b->tokens = lesser(layer->burst, b->tokens + (double)(now - b->at_ms) / 1000.0 * layer->rate);
    b->at_ms = now;
    bool ok = b->tokens >= cost;
    double missing = cost - b->tokens;
    if (ok && !keep) b->tokens -= cost;
    double left = b->tokens;
    pthread_mutex_unlock(&l->lock);
    describe(layer, left, state);
    if (ok) return true;
    int seconds = (int)lesser(missing / layer->rate + 1, 3600);
    error_clear(err);
    error_set(err, 429, "rate_limited", "slow down: retry in %d seconds", seconds);
    if (err) err->retry_after = seconds;
    return false;
}

static bool take_for(struct rate_limiter *l, double rate, double burst, const char *name, const char *who,
                     double cost, bool keep, struct rate_state *state, struct error *err) {
    if (state) *state = (struct rate_state){0};
    if (!l || rate <= 0) return true;
    struct layer layer = {rate, burst};
    cleanup_free char *key = xasprintf("%s %s", name, who);
    return take(l, &layer, key, cost, keep, state, err);
}

/* A client of IPv6 has a whole /64 to send from. */
static void network_of(const char *ip, char out[64]) {
    struct in6_addr address;
    snprintf(out, 64, "%s", ip);
    if (!strchr(ip, ':') || inet_pton(AF_INET6, ip, &address) != 1) return;
    memset(address.s6_addr + 8, 0, 8);
    inet_ntop(AF_INET6, &address, out, 64);
}

bool ratelimit_ip(struct rate_limiter *l, const char *ip, struct rate_state *state, struct error *err) {
    char network[64];
    network_of(ip, network);
    return take_for(l, l ? l->limits.per_ip : 0, BURST_IP, "ip", network, 1, false, state, err);
}

bool ratelimit_user(struct rate_limiter *l, const char *sub, double cost, struct rate_state *state,
                    struct error *err) {
    return take_for(l, l ? l->limits.per_user : 0, BURST_USER, "user", sub, cost, false, state, err);
}

bool ratelimit_expensive(struct rate_limiter *l, const char *sub, struct rate_state *state,
                         struct error *err) {
    return take_for(l, l ? l->limits.expensive : 0, BURST_EXPENSIVE, "expensive", sub, 1, false, state, err);
}

static bool take_failure(struct rate_limiter *l, const char *ip, enum login_cost cost, bool keep,
                         struct error *err) {
    char network[64];
    network_of(ip, network);
    return take_for(l, l ? l->limits.failures : 0, BURST_FAILURES,
                    cost == LOGIN_ASKED ? "question" : "failure", network, 1, keep, NULL, err);
}

bool ratelimit_failure(struct rate_limiter *l, const char *ip, enum login_cost cost, struct error *err) {
    return take_failure(l, ip, cost, false, err);
}

bool ratelimit_may_fail(struct rate_limiter *l, const char *ip, enum login_cost cost, struct error *err) {
    return take_failure(l, ip, cost, true, err);
}
