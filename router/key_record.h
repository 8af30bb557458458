/* An API key as it is stored: a Secret whose record says whose it is and what it may do.
 * Pure mappings. (http-api.md 2.16, 3.3) */
#pragma once

#include "common/bytes.h"
#include "router/keys.h"

#include <time.h>

#define KEY_ID_PREFIX  "agenttier-apikey-"
#define KEY_ID_HEX     40 /* digits of the hash in the id */
#define KEY_LABEL_MAX  200
#define KEY_USER_LABEL "agenttier.io/api-key-user"
#define KEY_PURPOSE    "agenttier.io/secret-purpose"

/* The record of a key's Secret: a new reference, or NULL when the Secret is not that of a key, or
 * its hash and name do not belong together. */
json_t *key_record_read(const json_t *secret);

/* The identity a record stands for; free with identity_free. What the record does not say is not granted. */
void key_record_identity(const json_t *record, struct identity *out);
/* When it expires, in milliseconds since 1970: 0 = never, 1 (long ago) when the text cannot be read. */
int64_t key_record_expiry(const json_t *record);

/* When it was last used, as far as it was written down: 0 = never. */
time_t key_record_last_used(const json_t *record);
/* A merge patch that writes down a use; a new reference, NULL when the Secret is not that of a key. */
json_t *key_record_used_patch(const json_t *secret, struct timespec at);

/* The object of GET /user/api-keys: a new reference. */
json_t *key_record_public(const json_t *record);

/* The Secret of a new key: a new reference. */
json_t *key_secret_new(const char *namespace, const struct key_request *request, struct slice key,
                       struct timespec now);

/* A user id as a label value: http-api.md 3.3. `out` has 64 bytes. */
void key_user_label(const char *user_id, char out[64]);

/* Bits of the action groups in a list of names. 400 for a name that cannot be granted. */
bool action_groups_parse(const json_t *list, const char *field, unsigned *out, struct error *err);
/* The names: a new reference. */
json_t *action_groups_json(unsigned groups);
#define ACTION_GROUPS_ALL (((1u << GROUP_COUNT) - 1u) & ~((1u << GROUP_RUN_COMMAND) - 1u))

/* The body of POST /user/api-keys. Texts are borrowed from it. */
struct key_body {
    const char *name;       /* "" when not given */
    const char *sandbox_id; /* NULL = user-level key */
    unsigned groups;
    int64_t expires_in_ns; /* 0 = never */
};
/* `max_lifetime_ns` 0 = none; else keys that would live longer are refused, and those that do not say get it.
 * 400: unknown members, wrong types, groups without a sandbox. W-21: `scopes` and `actionGroups` mean
 * the same. */
bool key_body_parse(const json_t *body, int64_t max_lifetime_ns, struct key_body *out, struct error *err);
