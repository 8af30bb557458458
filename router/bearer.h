/* Bearer tokens that are no API keys: of OIDC issuers and of the cluster's service accounts, with a
 * memory of what they turned out to be (http-api.md 3.4; lessons S6, S9). */
#pragma once

#include "backend/backend.h"
#include "router/config.h"
#include "router/identity.h"
#include "router/token_cache.h"

struct bearer;
/* Made from the configuration; NULL with 400 for what it cannot mean. Starts the issuers' threads. */
struct bearer *bearer_new(const struct config *config, struct backend *backend, struct error *err);
void bearer_free(struct bearer *bearer); /* NULL is fine */

enum bearer_result {
    BEARER_OK,        /* `out` is filled in; free with identity_free */
    BEARER_REFUSED,   /* err: 401 invalid_token, or 503 when nothing can be known now */
    BEARER_MUST_WAIT, /* only bearer_verify can tell */
};
/* From memory; never waits. For loops. `digest` is the token's. */
enum bearer_result bearer_check(struct bearer *bearer, struct slice token, const struct token_digest *digest,
                                struct identity *out, struct error *err);
/* To the end: may fetch keys or ask the cluster. Worker threads only. Never BEARER_MUST_WAIT. */
enum bearer_result bearer_verify(struct bearer *bearer, struct slice token, struct identity *out,
                                 struct error *err);

/* Whether the token was good before, as far as memory goes back. */
bool bearer_knew(struct bearer *bearer, const struct token_digest *digest);

/* Whether a token logs its holder in here, or would while it lives: nobody else must see it. From memory. */
bool bearer_is_ours(struct bearer *bearer, struct slice token);

void bearer_render_metrics(struct bearer *bearer, struct buffer *out);
/* Lines for /readyz on what is missing; nothing when all is well. */
void bearer_render_state(struct bearer *bearer, struct buffer *out);
