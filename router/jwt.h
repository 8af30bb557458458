/* JSON Web Tokens as bearer credentials (http-api.md 3.4; lessons S6): taking one apart and judging
 * its claims. Pure; the signature is checked by router/jwks.h, between the two. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "common/json.h"
#include "router/identity.h"

#include <time.h>

#define JWT_MAX            ((size_t)16 * 1024) /* bytes of a token (W-25) */
#define JWT_LEEWAY_SECONDS 60                  /* clocks may differ by so much (W-25) */

struct jwt {
    json_t *header, *claims;
    struct slice signed_part; /* borrowed from the token: both parts and the dot between */
    struct buffer signature;
    const char *alg, *kid; /* of the header: what the token claims, which decides nothing alone */
};
void jwt_free(struct jwt *token);
#define cleanup_jwt __attribute__((cleanup(jwt_free)))

/* Whether the text has the shape of one: three parts and dots. */
bool jwt_shaped(struct slice text);
/* Takes it apart, without believing a word. 401 invalid_token: size, encoding, JSON (duplicate members
 * too), no alg or kid, `crit`, a type of token that is no access or id token. `out` is freed by the
 * caller with jwt_free in any case. */
bool jwt_parse(struct slice text, struct jwt *out, struct error *err);

/* What the claims must say. */
struct jwt_rules {
    const char *issuer;           /* equal to `iss`, byte for byte */
    const char *const *audiences; /* NULL-terminated: `aud` is, or holds, one of them */
};
/* Whether `aud` is, or holds, one of them. */
bool jwt_audience_valid(const json_t *claims, const char *const *audiences);
/* exp (required), nbf, iat, iss, aud, sub. 401 invalid_token with the reason. */
bool jwt_claims_valid(const json_t *claims, const struct jwt_rules *rules, time_t now, struct error *err);
/* Seconds since 1970 at which the token ends, without leeway; 0 when it does not say. */
time_t jwt_expiry(const json_t *claims);

/* The caller that valid claims stand for; free with identity_free. `group_claim` is a member's name or a
 * path with dots ("realm_access.roles"); `sub_prefix` goes before the subject ("" for none). */
void jwt_identity(const json_t *claims, const char *group_claim, const char *admin_group,
                  const char *sub_prefix, struct identity *out);
