/* Events of sandboxes (controller.md 3), written by a thread of their own so that no sandbox waits for them,
 * and pruned where nobody else does it: an hour, and so many per sandbox. */
#pragma once

#include "backend/store.h"

#define EVENTS_PER_SANDBOX 50
#define EVENTS_MAX_AGE_S   3600

struct events;
/* `prune`: keep to the limits above; false on a cluster, whose apiserver forgets events itself. */
struct events *events_start(struct store *store, bool prune);
void events_stop(struct events *events); /* writes what is waiting */

/* `type` is "Normal" or "Warning". Never fails: what cannot be written is logged. */
void events_emit(struct events *events, const struct object *sandbox, const char *type, const char *reason,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
