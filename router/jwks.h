/* The public keys of an issuer (RFC 7517) and the check of a signature with one of them (http-api.md
 * 3.4; lessons S6, S7). The key says which algorithm it is for; a token that says another is refused.
 * Pure: the bytes come from router/oidc.c. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <stdint.h>

#define JWKS_MAX      ((size_t)1 << 20) /* bytes of a document */
#define JWKS_KEYS_MAX 100               /* more are ignored */

/* An immutable set of keys, shared between threads. */
struct jwks;
/* The keys of a document that can be used: RSA of 2048 to 8192 bits (RS256, PS256 when the key says so),
 * P-256 (ES256), Ed25519 (EdDSA), with a kid, for signatures. Others are skipped. 502 when none is left:
 * there is no empty set. One reference. */
struct jwks *jwks_parse(struct slice text, struct error *err);
struct jwks *jwks_ref(struct jwks *set);
void jwks_unref(struct jwks *set); /* NULL is fine */
size_t jwks_count(const struct jwks *set);
/* Whether both were made from documents that say the same of usable keys. */
bool jwks_same(const struct jwks *a, const struct jwks *b);

enum jwks_result {
    JWKS_OK,
    JWKS_UNKNOWN_KEY,   /* no key has the kid */
    JWKS_WRONG_ALG,     /* the key is for another algorithm than the token says */
    JWKS_BAD_SIGNATURE, /* it was not made with that key */
};
enum jwks_result jwks_verify(const struct jwks *set, const char *kid, const char *alg,
                             struct slice signed_part, struct slice signature);
