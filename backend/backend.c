/* See backend.h. */
#include "backend/backend.h"

void token_review_free(struct token_review *review) {
    free(review->username);
    free(review->uid);
    json_decref(review->groups);
    *review = (struct token_review){0};
}
