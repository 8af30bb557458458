/* Who holds a bearer token, by TokenReview (lessons S9, I34). */
#pragma once

#include "backend/backend.h"
#include "k8s/client.h"

/* As backend.review_token. */
bool token_review(struct k8s_client *client, const char *token, const char *const *audiences,
                  struct token_review *out, struct error *err);
/* What a TokenReview's answer says: authenticated only if its status names one of the audiences that were
 * asked for, if any were. Pure. */
void token_review_read(const json_t *answer, const char *const *audiences, struct token_review *out);
