/* Kubernetes events about sandboxes that the Router writes (http-api.md 4.7). */
#pragma once

#include "backend/store.h"

/* Best effort: what cannot be written is logged. Waits for the store: worker threads only. `type` is "Normal"
 * or "Warning"; a message longer than an Event may hold is cut. */
void sandbox_event(struct store *store, const struct object *sandbox, const char *type, const char *reason,
                   const char *message);
