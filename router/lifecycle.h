/* Stop, resume and delete of one sandbox, as the single routes and the bulk route do them
 * (http-api.md 2.4, 2.7). They wait for the store: worker threads only. */
#pragma once

#include "backend/store.h"

struct router;

/* Asks for a stop; done when it is under way already. 409 wrong_phase unless Running, 404 when the sandbox is
 * gone. */
bool lifecycle_stop(struct router *router, const struct object *sandbox, struct error *err);

/* Stop and resume one after the other is one wish: waits for a stop that is under way, at most so long. */
#define LIFECYCLE_STOP_WAIT_MS 10000
/* Asks for a start. `deadline_ms` (of monotonic_ms) ends the waiting for a stop. 409 wrong_phase unless
 * Stopped or Error, 404 when the sandbox is gone; 403 policy_violation for one in Error, which did not count,
 * when the quota has no place for it. */
bool lifecycle_resume(struct router *router, const struct object *sandbox, int64_t deadline_ms,
                      struct error *err);

/* Deletes it and revokes the keys that were made for it; done when it was gone already. */
bool lifecycle_delete(struct router *router, const struct object *sandbox, struct error *err);
