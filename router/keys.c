/* API keys in the store and in memory (http-api.md 3.3). */
#include "router/keys.h"

#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "router/key_record.h"
#include "router/key_usage.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* ---- the cache: a chained hash table by the digits of the hash that are in the id, and another one
 * by the user ---- */

struct entry {
    struct entry *next, *user_next;
    uint64_t bucket, user_bucket;
    char hash[SHA256_HEX_LEN + 1];
    int64_t expires;       /* milliseconds since 1970, 0 = never */
    time_t recorded;       /* lastUsedAt as it is stored, 0 = never used */
    _Atomic int64_t noted; /* when its use was last passed on to be stored */
    struct identity identity;
};

struct key_cache {
    struct store *store;
    char *namespace;
    void *watch;
    struct key_usage *usage;
    pthread_mutex_t mint;
    pthread_rwlock_t lock; /* held for a moment only, also by event loops */
    struct entry **buckets, **user_buckets;
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
    struct entry **user_buckets = xcalloc(count, sizeof *user_buckets);
    for (size_t i = 0; i < c->bucket_count; i++) {
        for (struct entry *e = c->buckets[i], *next; e; e = next) {
            next = e->next;
            e->next = buckets[e->bucket & (count - 1)];
            buckets[e->bucket & (count - 1)] = e;
            e->user_next = user_buckets[e->user_bucket & (count - 1)];
            user_buckets[e->user_bucket & (count - 1)] = e;
        }
    }
    free(c->buckets);
    free(c->user_buckets);
    c->buckets = buckets;
    c->user_buckets = user_buckets;
    c->bucket_count = count;
}

static void drop(struct key_cache *c, const char *hex) {
    struct entry **slot = slot_of(c, hex);
    struct entry *e = *slot;
    if (!e) return;
    *slot = e->next;
    struct entry **of_user = &c->user_buckets[e->user_bucket & (c->bucket_count - 1)];
    while (*of_user != e)
        of_user = &(*of_user)->user_next;
    *of_user = e->user_next;
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
    e->recorded = key_record_last_used(record);
    key_record_identity(record, &e->identity);
    e->user_bucket = text_hash(slice_of(e->identity.sub));
    if (c->count >= c->bucket_count) grow(c);
    struct entry **slot = &c->buckets[e->bucket & (c->bucket_count - 1)];
    e->next = *slot;
    *slot = e;
    struct entry **of_user = &c->user_buckets[e->user_bucket & (c->bucket_count - 1)];
    e->user_next = *of_user;
    *of_user = e;
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
    c->user_buckets = xcalloc(c->bucket_count, sizeof *c->user_buckets);
    pthread_rwlock_init(&c->lock, NULL);
    pthread_mutex_init(&c->mint, NULL);
    c->usage = key_usage_new(store, c->namespace);
    c->watch = store->ops->watch(store, KIND_SECRET, on_secret, c);
    return c;
}

void key_cache_free(struct key_cache *c) {
    if (!c) return;
    key_usage_free(c->usage);
    c->store->ops->unwatch(c->store, c->watch);
    for (size_t i = 0; i < c->bucket_count; i++) {
        for (struct entry *e = c->buckets[i], *next; e; e = next) {
            next = e->next;
            entry_free(e);
        }
    }
    pthread_rwlock_destroy(&c->lock);
    pthread_mutex_destroy(&c->mint);
    free(c->buckets);
    free(c->user_buckets);
    free(c->namespace);
    free(c);
}

/* W-54: seldom, and never by the request itself. */
static void note_use(struct key_cache *c, struct entry *e, const char *hash, time_t now) {
    int64_t noted = atomic_load_explicit(&e->noted, memory_order_relaxed);
    if (now - e->recorded < KEY_USAGE_SECONDS || now - noted < KEY_USAGE_SECONDS) return;
    if (!atomic_compare_exchange_strong(&e->noted, &noted, (int64_t)now)) return;
    if (!key_usage_note(c->usage, hash)) atomic_store(&e->noted, 0);
}

char *api_key_id(struct slice key) {
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(key, hash);
    return xasprintf("%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX, hash);
}

/* Of key_record_expiry(). */
static bool has_passed(int64_t expiry) {
    return expiry != 0 && realtime_ms() >= expiry;
}

enum key_result key_cache_lookup(struct key_cache *c, struct slice key, struct identity *out) {
    unsigned char digest[SHA256_BYTES];
    memset(out, 0, sizeof *out);
    if (key.len == 0) return KEY_UNKNOWN;
    sha256_bytes(key, digest);
    return key_cache_lookup_digest(c, digest, out);
}

enum key_result key_cache_lookup_digest(struct key_cache *c, const unsigned char digest[SHA256_BYTES],
                                        struct identity *out) {
    char hash[SHA256_HEX_LEN + 1];
    enum key_result result = KEY_UNKNOWN;
    memset(out, 0, sizeof *out);
    hex_encode(digest, SHA256_BYTES, hash);
    pthread_rwlock_rdlock(&c->lock);
    struct entry *e = *slot_of(c, hash);
    if (e && secret_equal(slice_make(e->hash, SHA256_HEX_LEN), slice_make(hash, SHA256_HEX_LEN))) {
        result = has_passed(e->expires) ? KEY_EXPIRED : KEY_OK;
        if (result == KEY_OK) identity_copy(&e->identity, out);
        if (result == KEY_OK) note_use(c, e, hash, time(NULL));
    }
    pthread_rwlock_unlock(&c->lock);
    return result;
}

bool key_cache_valid(struct key_cache *c, const unsigned char digest[SHA256_BYTES]) {
    char hash[SHA256_HEX_LEN + 1];
    hex_encode(digest, SHA256_BYTES, hash);
    pthread_rwlock_rdlock(&c->lock);
    const struct entry *e = *slot_of(c, hash);
    bool valid = e && secret_equal(slice_make(e->hash, SHA256_HEX_LEN), slice_make(hash, SHA256_HEX_LEN)) &&
                 !has_passed(e->expires);
    pthread_rwlock_unlock(&c->lock);
    return valid;
}

size_t key_cache_count(struct key_cache *c) {
    pthread_rwlock_rdlock(&c->lock);
    size_t count = c->count;
    pthread_rwlock_unlock(&c->lock);
    return count;
}

void key_cache_mint_begin(struct key_cache *c) {
    pthread_mutex_lock(&c->mint);
}

void key_cache_mint_end(struct key_cache *c) {
    pthread_mutex_unlock(&c->mint);
}

/* ---- lists: names under the lock, objects after it ---- */

struct names {
    char (*items)[sizeof KEY_ID_PREFIX + KEY_ID_HEX];
    size_t count, room;
};

static void add_name(struct names *names, const struct entry *e) {
    if (names->count == names->room) {
        names->room = names->room ? names->room * 2 : 16;
        names->items = xrealloc(names->items, names->room * sizeof *names->items);
    }
    snprintf(names->items[names->count++], sizeof *names->items, "%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX,
             e->hash);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

static struct object_list objects_of(struct key_cache *c, struct names *names) {
    struct object_list list = {0};
    if (names->count > 0) {
        qsort(names->items, names->count, sizeof *names->items, compare_names);
        list.items = xcalloc(names->count, sizeof *list.items);
    }
    for (size_t i = 0; i < names->count; i++) {
        struct object *secret = c->store->ops->get(c->store, KIND_SECRET, c->namespace, names->items[i]);
        if (secret) list.items[list.count++] = secret;
    }
    free(names->items);
    return list;
}

struct object_list key_cache_of_user(struct key_cache *c, const char *user_id) {
    struct names names = {0};
    pthread_rwlock_rdlock(&c->lock);
    uint64_t bucket = text_hash(slice_of(user_id));
    for (const struct entry *e = c->user_buckets[bucket & (c->bucket_count - 1)]; e; e = e->user_next)
        if (strcmp(e->identity.sub, user_id) == 0) add_name(&names, e);
    pthread_rwlock_unlock(&c->lock);
    return objects_of(c, &names);
}

struct object_list key_cache_of_sandbox(struct key_cache *c, const char *uid) {
    struct names names = {0};
    pthread_rwlock_rdlock(&c->lock);
    for (size_t i = 0; i < c->bucket_count; i++)
        for (const struct entry *e = c->buckets[i]; e; e = e->next)
            if (e->identity.sandbox_uid && strcmp(e->identity.sandbox_uid, uid) == 0) add_name(&names, e);
    pthread_rwlock_unlock(&c->lock);
    return objects_of(c, &names);
}

static bool is_scoped(const struct entry *e) {
    return e->identity.sandbox_id != NULL;
}

/* Of those that are `wanted`; NULL: all. */
static struct names names_of(struct key_cache *c, bool (*wanted)(const struct entry *)) {
    struct names names = {0};
    pthread_rwlock_rdlock(&c->lock);
    for (size_t i = 0; i < c->bucket_count; i++)
        for (const struct entry *e = c->buckets[i]; e; e = e->next)
            if (!wanted || wanted(e)) add_name(&names, e);
    pthread_rwlock_unlock(&c->lock);
    return names;
}

struct object_list key_cache_scoped(struct key_cache *c) {
    struct names names = names_of(c, is_scoped);
    return objects_of(c, &names);
}

struct object_list key_cache_page(struct key_cache *c, const char *after, size_t limit, bool *more) {
    struct names names = names_of(c, NULL);
    size_t first = 0;
    if (names.count > 0) qsort(names.items, names.count, sizeof *names.items, compare_names);
    while (after && first < names.count && strcmp(names.items[first], after) <= 0)
        first++;
    size_t left = names.count - first;
    *more = left > limit;
    names.count = *more ? limit : left;
    if (first > 0 && names.count > 0)
        memmove(names.items, names.items + first, names.count * sizeof *names.items);
    return objects_of(c, &names);
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

/* Removes these Secrets, as they are; who was quicker is fine. */
static bool remove_all(struct store *store, const struct object_list *secrets,
                       bool (*wanted)(const struct object *), struct error *err) {
    bool all = true;
    for (size_t i = 0; i < secrets->count; i++) {
        struct object *secret = secrets->items[i];
        struct store_preconditions same = {.uid = secret->uid};
        cleanup_error struct error failed = {0};
        if (wanted && !wanted(secret)) continue;
        if (store->ops->remove(store, KIND_SECRET, secret->namespace, secret->name, &same, &failed) ||
            failed.status == 404)
            continue;
        all = false;
        error_clear(err);
        error_move(err, &failed);
    }
    return all;
}

bool keys_revoke_sandbox(struct key_cache *c, const char *uid, struct error *err) {
    cleanup_object_list struct object_list secrets = key_cache_of_sandbox(c, uid);
    return remove_all(c->store, &secrets, NULL, err);
}

static bool has_expired(const struct object *secret) {
    cleanup_json json_t *record = key_record_read(secret->json);
    return record && has_passed(key_record_expiry(record));
}

bool keys_remove_expired(struct key_cache *c, const char *user_id, struct error *err) {
    cleanup_object_list struct object_list secrets = key_cache_of_user(c, user_id);
    return remove_all(c->store, &secrets, has_expired, err);
}
