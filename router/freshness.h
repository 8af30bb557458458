/* What is answered from a store that cannot be read yet, or that has lost touch with what it mirrors
 * (observed.md O3: reads go on and say how old they are; 404 only from knowledge). */
#pragma once

#include "common/error.h"
#include "router/request.h"

#define FRESHNESS_MARK_MS  5000 /* older answers carry Age and Warning */
#define FRESHNESS_DOUBT_MS 2000 /* from then on, what is not found may be there */

/* Before a request is worked on: 503 while the store has not been read once; else marks answers of an
 * old store. Public routes always pass. */
bool freshness_check(struct request *r, struct error *err);
/* Turns a 404 in `err` into 503 unavailable when the store has lost touch. `what` was not found. */
void freshness_doubt(struct store *store, const char *what, struct error *err);
