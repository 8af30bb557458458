/* What became of bearer tokens lately, by their SHA-256: a token that was accepted costs one look-up
 * the next time, one that was refused costs nobody another question (lessons S9, S29). Tokens
 * themselves are not kept. Of bounded size, thread-safe, never blocks. */
#pragma once

#include "common/bytes.h"
#include "router/identity.h"

#define TOKEN_DIGEST_LEN 32

struct token_digest {
    unsigned char bytes[TOKEN_DIGEST_LEN];
};
struct token_digest token_digest_of(struct slice token);

struct token_cache;
/* Room for at least `entries`; the one that ends soonest gives way to a new one. */
struct token_cache *token_cache_new(size_t entries);
void token_cache_free(struct token_cache *cache); /* NULL is fine */

enum token_cache_result { TOKEN_MISSED, TOKEN_ACCEPTED, TOKEN_REFUSED };
/* TOKEN_ACCEPTED fills `out` (free with identity_free). */
enum token_cache_result token_cache_get(struct token_cache *cache, const struct token_digest *digest,
                                        struct identity *out);
/* Whether the token was accepted before, may that have ended by now: as long as its place was not needed. */
bool token_cache_knew(struct token_cache *cache, const struct token_digest *digest);
/* Remembers for `lifetime_ms`; `identity` NULL = refused. `generation` is what token_cache_generation
 * said before the token was judged: nothing is kept if the cache was cleared since. */
void token_cache_put(struct token_cache *cache, const struct token_digest *digest, unsigned generation,
                     const struct identity *identity, int64_t lifetime_ms);
unsigned token_cache_generation(struct token_cache *cache);
/* Forgets everything: what tokens were judged by has changed. */
void token_cache_clear(struct token_cache *cache);
