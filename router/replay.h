/* Idempotency-Key of requests that create sandboxes: a retry finds what the first attempt made, from the
 * annotations of the sandboxes themselves, on any replica. (lessons I8, I31) */
#pragma once

#include "common/secret.h"
#include "router/request.h"

/* A key as it is kept: hashed with the caller, so that keys of two callers never meet. */
struct replay {
    char key[SHA256_HEX_LEN + 1];
    char digest[SHA256_HEX_LEN + 16]; /* of the body; of a part of it: replay_part() */
};

/* Reads the header; `*given` = false when there is none. 400 for a text that is no key. */
bool replay_read(struct request *r, struct replay *out, bool *given, struct error *err);
/* Ties it to one operation on one thing, which the body does not name. */
void replay_scope(struct replay *replay, const char *operation, const char *target);
/* The replay of the i-th of several sandboxes that one body creates. */
struct replay replay_part(const struct replay *whole, size_t i);

enum replay_match {
    REPLAY_UNRELATED,
    REPLAY_SAME,       /* made by an earlier attempt of this very request */
    REPLAY_OTHER_BODY, /* made with the same key by another request */
};
enum replay_match replay_match(const struct object *sandbox, const struct replay *replay);
/* Whether it was made with the key by another part of the same body. */
bool replay_is_sibling(const struct object *sandbox, const struct replay *whole);
/* The sandbox that was made with the key, in any namespace; NULL: none. Returns a reference. */
struct object *replay_find(struct store *store, const struct replay *replay);
/* 409 idempotency_key_reused, for a REPLAY_OTHER_BODY. */
void replay_conflict(const struct object *sandbox, struct error *err);
/* The annotations to create a sandbox with: a new reference. */
json_t *replay_annotations(const struct replay *replay);
