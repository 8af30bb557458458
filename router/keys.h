/* API keys: their records in the store, and the table of hashes that authentication reads.
 * (http-api.md 3.3, 2.16) */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"
#include "common/secret.h"
#include "router/identity.h"

/* All keys of the store by hash, kept current by a watch: a revocation is effective as soon
 * as the store has it. Thread-safe. */
struct key_cache;
struct key_cache *key_cache_new(struct store *store, const char *install_namespace);
void key_cache_free(struct key_cache *);

/* Their Secrets, as the store has them now, in the order of their names: of a user, by the record's user
 * id (W-55); made for the sandbox of that UID. */
struct object_list key_cache_of_user(struct key_cache *, const char *user_id);
struct object_list key_cache_of_sandbox(struct key_cache *, const char *uid);
/* Of all keys, those after the name `after` (NULL or "" = from the first), at most `limit`; `*more`: there
 * are others behind them. And of all those that were made for a sandbox. */
struct object_list key_cache_page(struct key_cache *, const char *after, size_t limit, bool *more);
struct object_list key_cache_scoped(struct key_cache *);
size_t key_cache_count(struct key_cache *);
/* Held while keys are counted and another one is made. */
void key_cache_mint_begin(struct key_cache *);
void key_cache_mint_end(struct key_cache *);

/* The id of a key, which is the name of its Secret: malloc'ed. */
char *api_key_id(struct slice key);

enum key_result { KEY_OK, KEY_UNKNOWN, KEY_EXPIRED };
/* From memory, never blocks; compares in constant time, checks expiry at every call.
 * KEY_OK fills `out` (free with identity_free). */
enum key_result key_cache_lookup(struct key_cache *, struct slice key, struct identity *out);
/* The same by the key's SHA-256, for who has it already. */
enum key_result key_cache_lookup_digest(struct key_cache *, const unsigned char digest[SHA256_BYTES],
                                        struct identity *out);

/* Whether it is a key that has neither been revoked nor expired. */
bool key_cache_valid(struct key_cache *, const unsigned char digest[SHA256_BYTES]);

struct key_request {
    const char *user_id, *email, *name; /* name: the label, may be "" */
    json_t *groups;                     /* only for keys made by create-key; may be NULL */
    bool admin;                         /* only for keys made by create-key --admin */
    const char *sandbox_id, *sandbox_namespace, *sandbox_uid; /* NULL = user-level key */
    unsigned action_groups;
    int64_t expires_in_ns; /* 0 = never */
};
/* Makes a key and stores its record (hash only). `key_text` gets the only copy; `record`
 * (may be NULL) a new reference to the public object of http-api.md 2.16. Blocks. */
bool key_create(struct store *store, const char *install_namespace, const struct key_request *request,
                char key_text[API_KEY_LEN + 1], json_t **record, struct error *err);

/* Removes the keys that were made for the sandbox of that UID (W-74). False: some are still there. Blocks. */
bool keys_revoke_sandbox(struct key_cache *cache, const char *uid, struct error *err);
/* Removes those of a user's keys that have expired. Blocks. */
bool keys_remove_expired(struct key_cache *cache, const char *user_id, struct error *err);
