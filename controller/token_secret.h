/* The Secret that guards a sandbox's runtime (controller.md 5.7). */
#pragma once

#include "backend/store.h"

/* With a new random token of 43 characters. New reference. */
json_t *token_secret_build(const struct object *sandbox);
/* The token in that Secret; malloc'ed, NULL when there is none or it is no token. Whoever is done with it
 * wipes it. */
char *token_secret_read(const struct object *secret);
/* 32 random bytes as unpadded base64url. */
#define TOKEN_LEN 43
void token_generate(char out[TOKEN_LEN + 1]);
