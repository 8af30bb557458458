/* The Secret that guards a sandbox's runtime (controller.md 5.7). */
#pragma once

#include "backend/store.h"

/* With `token`, or, without one (NULL), with a new random one of 43 characters. New reference. */
json_t *token_secret_build(const struct object *sandbox, const char *token);
/* The same with that metadata (taken), to which its label is added. */
json_t *token_secret_with(json_t *metadata, const char *token);
/* The token in that Secret; malloc'ed, NULL when there is none or it is no token. Whoever is done with it
 * wipes it. */
char *token_secret_read(const struct object *secret);
/* 32 random bytes as unpadded base64url. */
#define TOKEN_LEN 43
void token_generate(char out[TOKEN_LEN + 1]);
