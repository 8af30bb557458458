/* Changes of spec.sharing. */
#pragma once

#include "backend/store.h"

/* store_update of a sandbox. One Router does not compete with itself: changes of one sandbox wait for each
 * other, so that only another replica or the controller can make an attempt vain. Not from a `change`. */
bool share_update(struct store *store, const struct object *sandbox,
                  bool (*change)(void *ctx, json_t *object, struct error *), void *ctx, struct object **out,
                  struct error *err);
