/* API keys in the store and in memory (http-api.md 3.3). */
#include "router/keys.h"

#include "common/json.h"
#include "common/units.h"
#include "router/key_record.h"

#include <pthread.h>
#include <string.h>

/* ---- the cache: a chained hash table by the digits of the hash that are in the id ---- */

struct entry {
    struct entry *next;
    uint64_t bucket;
    char hash[SHA256_HEX_LEN + 1];
    time_t expires; /* 0 = never */
    struct identity identity;
};

struct key_cache {
    struct store *store;
    char *namespace;
    void *watch;
    pthread_rwlock_t lock; /* held for a moment only, also by event loops */
    struct entry **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
};

/* Hashes are even; 15 digits fit. */
static uint64_t bucket_of(const char *hex) {
    char digits[16] = {0};
    memcpy(digits, hex, 15);
    return strtoull(digits, NULL, 16);
}

static struct entry **slot_of(struct key_cache *c, const char *hex) {
    struct entry **slot = &c->buckets[bucket_of(hex) & (c->bucket_count - 1)];
    while (*slot && memcmp((*slot)->hash, hex, KEY_ID_HEX) != 0)
        slot = &(*slot)->next;
    return slot;
}

static void entry_free(struct entry *e) {
    identity_free(&e->identity);
    free(e);
}

static void grow(struct key_cache *c) {
    size_t count = c->bucket_count * 2;
    struct entry **buckets = xcalloc(count, sizeof *buckets);
    for (size_t i = 0; i < c->bucket_count; i++) {
        for (struct entry *e = c->buckets[i], *next; e; e = next) {
            next = e->next;
            e->next = buckets[e->bucket & (count - 1)];
            buckets[e->bucket & (count - 1)] = e;
        }
    }
    free(c->buckets);
    c->buckets = buckets;
    c->bucket_count = count;
}

static void drop(struct key_cache *c, const char *hex) {
    struct entry **slot = slot_of(c, hex);
    struct entry *e = *slot;
    if (!e) return;
    *slot = e->next;
    c->count--;
    entry_free(e);
}

static void add(struct key_cache *c, const json_t *record) {
    struct entry *e = xcalloc(1, sizeof *e);
    const char *hash = json_str_at(record, "keyHash");
    if (strlen(hash) != SHA256_HEX_LEN) {
        free(e);
        return;
    }
    memcpy(e->hash, hash, sizeof e->hash);
    e->bucket = bucket_of(hash);
    e->expires = key_record_expiry(record);
    key_record_identity(record, &e->identity);
    if (c->count >= c->bucket_count) grow(c);
    struct entry **slot = &c->buckets[e->bucket & (c->bucket_count - 1)];
    e->next = *slot;
    *slot = e;
    c->count++;
}

static void on_secret(void *ctx, enum store_change change, struct object *secret) {
    struct key_cache *c = ctx;
    size_t prefix = strlen(KEY_ID_PREFIX);
    if (strcmp(secret->namespace, c->namespace) != 0 || strncmp(secret->name, KEY_ID_PREFIX, prefix) != 0 ||
        strlen(secret->name) != prefix + KEY_ID_HEX)
        return;
    cleanup_json json_t *record = change == STORE_DELETED ? NULL : key_record_read(secret->json);
    pthread_rwlock_wrlock(&c->lock);
    drop(c, secret->name + prefix);
    if (record) add(c, record);
    pthread_rwlock_unlock(&c->lock);
}

struct key_cache *key_cache_new(struct store *store, const char *install_namespace) {
    struct key_cache *c = xcalloc(1, sizeof *c);
    c->store = store;
    c->namespace = xstrdup(install_namespace && install_namespace[0] ? install_namespace : "agenttier");
    c->bucket_count = 64;
    c->buckets = xcalloc(c->bucket_count, sizeof *c->buckets);
    pthread_rwlock_init(&c->lock, NULL);
    c->watch = store->ops->watch(store, KIND_SECRET, on_secret, c);
    return c;
}

void key_cache_free(struct key_cache *c) {
    if (!c) return;
    c->store->ops->unwatch(c->store, c->watch);
    for (size_t i = 0; i < c->bucket_count; i++) {
        for (struct entry *e = c->buckets[i], *next; e; e = next) {
            next = e->next;
            entry_free(e);
        }
    }
    pthread_rwlock_destroy(&c->lock);
    free(c->buckets);
    free(c->namespace);
    free(c);
}

enum key_result key_cache_lookup(struct key_cache *c, struct slice key, struct identity *out) {
    char hash[SHA256_HEX_LEN + 1];
    enum key_result result = KEY_UNKNOWN;
    memset(out, 0, sizeof *out);
    if (key.len == 0) return KEY_UNKNOWN;
    sha256_hex(key, hash);
    pthread_rwlock_rdlock(&c->lock);
    const struct entry *e = *slot_of(c, hash);
    if (e && secret_equal(slice_make(e->hash, SHA256_HEX_LEN), slice_make(hash, SHA256_HEX_LEN))) {
        result = e->expires != 0 && time(NULL) >= e->expires ? KEY_EXPIRED : KEY_OK;
        if (result == KEY_OK) identity_copy(&e->identity, out);
    }
    pthread_rwlock_unlock(&c->lock);
    return result;
}

/* ---- in the store ---- */

static const char *namespace_or_default(const char *namespace) {
    return namespace && namespace[0] ? namespace : "agenttier";
}

bool key_create(struct store *store, const char *install_namespace, const struct key_request *request,
                char key_text[API_KEY_LEN + 1], json_t **record, struct error *err) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    api_key_generate(key_text);
    cleanup_json json_t *secret = key_secret_new(namespace_or_default(install_namespace), request,
                                                 slice_make(key_text, API_KEY_LEN), now);
    cleanup_object struct object *stored = NULL;
    if (!store->ops->create(store, KIND_SECRET, secret, &stored, err)) {
        error_wrap(err, "the key was not stored");
        memset(key_text, 0, API_KEY_LEN + 1);
        return false;
    }
    if (record) {
        cleanup_json json_t *full = key_record_read(stored->json);
        *record = key_record_public(full);
    }
    return true;
}

bool keys_revoke_sandbox(struct store *store, const char *install_namespace, const char *uid,
                         struct error *err) {
    bool all = true;
    cleanup_object_list struct object_list secrets =
        store->ops->list(store, KIND_SECRET, namespace_or_default(install_namespace));
    for (size_t i = 0; i < secrets.count; i++) {
        struct object *secret = secrets.items[i];
        cleanup_json json_t *record = key_record_read(secret->json);
        if (!record || strcmp(json_str_at(record, "sandboxUid"), uid) != 0) continue;
        struct store_preconditions same = {.uid = secret->uid};
        cleanup_error struct error failed = {0};
        if (store->ops->remove(store, KIND_SECRET, secret->namespace, secret->name, &same, &failed) ||
            failed.status == 404)
            continue;
        all = false;
        error_move(err, &failed);
    }
    return all;
}
