/* See token_cache.h. Sets of eight entries; a digest chooses its set. */
#include "router/token_cache.h"

#include "common/secret.h"
#include "common/units.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define WAYS  8
#define LOCKS 64

struct entry {
    struct token_digest digest;
    int64_t ends_ms; /* 0 = free */
    unsigned generation;
    struct identity *identity; /* NULL = refused */
};

struct token_cache {
    size_t set_count; /* a power of two */
    _Atomic unsigned generation;
    pthread_rwlock_t locks[LOCKS];
    struct entry (*sets)[WAYS];
};

struct token_digest token_digest_of(struct slice token) {
    struct token_digest digest = {0};
    sha256_bytes(token, digest.bytes);
    return digest;
}

struct token_cache *token_cache_new(size_t entries) {
    struct token_cache *c = xcalloc(1, sizeof *c);
    c->set_count = 1;
    while (c->set_count * WAYS < entries)
        c->set_count *= 2;
    c->sets = xcalloc(c->set_count, sizeof *c->sets);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_rwlock_init(&c->locks[i], NULL);
    return c;
}

static void entry_clear(struct entry *e) {
    if (e->identity) identity_free(e->identity);
    free(e->identity);
    memset(e, 0, sizeof *e);
}

void token_cache_free(struct token_cache *c) {
    if (!c) return;
    for (size_t i = 0; i < c->set_count; i++)
        for (size_t w = 0; w < WAYS; w++)
            entry_clear(&c->sets[i][w]);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_rwlock_destroy(&c->locks[i]);
    free(c->sets);
    free(c);
}

static size_t set_of(const struct token_cache *c, const struct token_digest *digest) {
    uint64_t word;
    memcpy(&word, digest->bytes, sizeof word);
    return (size_t)(word & (c->set_count - 1));
}

static bool same(const struct entry *e, const struct token_digest *digest) {
    return e->ends_ms != 0 && CRYPTO_memcmp(e->digest.bytes, digest->bytes, TOKEN_DIGEST_LEN) == 0;
}

enum token_cache_result token_cache_get(struct token_cache *c, const struct token_digest *digest,
                                        struct identity *out) {
    enum token_cache_result result = TOKEN_MISSED;
    size_t set = set_of(c, digest);
    unsigned generation = atomic_load(&c->generation);
    int64_t now = monotonic_ms();
    memset(out, 0, sizeof *out);
    pthread_rwlock_rdlock(&c->locks[set % LOCKS]);
    for (size_t w = 0; w < WAYS && result == TOKEN_MISSED; w++) {
        const struct entry *e = &c->sets[set][w];
        if (!same(e, digest) || e->generation != generation || now >= e->ends_ms) continue;
        result = e->identity ? TOKEN_ACCEPTED : TOKEN_REFUSED;
        if (e->identity) identity_copy(e->identity, out);
    }
    pthread_rwlock_unlock(&c->locks[set % LOCKS]);
    return result;
}

bool token_cache_knew(struct token_cache *c, const struct token_digest *digest) {
    size_t set = set_of(c, digest);
    bool knew = false;
    pthread_rwlock_rdlock(&c->locks[set % LOCKS]);
    for (size_t w = 0; w < WAYS; w++) {
        const struct entry *e = &c->sets[set][w];
        knew = knew || (e->identity && CRYPTO_memcmp(e->digest.bytes, digest->bytes, TOKEN_DIGEST_LEN) == 0);
    }
    pthread_rwlock_unlock(&c->locks[set % LOCKS]);
    return knew;
}

/* The entry of that digest, or else the one that is missed least. */
static struct entry *choose(struct entry *set, const struct token_digest *digest, unsigned generation) {
    struct entry *soonest = &set[0];
    for (size_t w = 0; w < WAYS; w++) {
        if (same(&set[w], digest)) return &set[w];
        if (set[w].generation != generation) set[w].ends_ms = 0;
        if (set[w].ends_ms < soonest->ends_ms) soonest = &set[w];
    }
    return soonest;
}

void token_cache_put(struct token_cache *c, const struct token_digest *digest, unsigned generation,
                     const struct identity *identity, int64_t lifetime_ms) {
    if (lifetime_ms <= 0) return;
    size_t set = set_of(c, digest);
    struct identity *copy = NULL;
    if (identity) {
        copy = xcalloc(1, sizeof *copy);
        identity_copy(identity, copy);
    }
    pthread_rwlock_wrlock(&c->locks[set % LOCKS]);
    struct entry *e = choose(c->sets[set], digest, generation);
    entry_clear(e);
    *e = (struct entry){.digest = *digest,
                        .ends_ms = monotonic_ms() + lifetime_ms,
                        .generation = generation,
                        .identity = copy};
    pthread_rwlock_unlock(&c->locks[set % LOCKS]);
}

unsigned token_cache_generation(struct token_cache *c) {
    return atomic_load(&c->generation);
}

/* What is there of an older generation is not found any more and gives way first. */
void token_cache_clear(struct token_cache *c) {
    atomic_fetch_add(&c->generation, 1);
}
