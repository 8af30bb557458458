/* Making and removing snapshots for a request. Waits for the store: worker threads only. */
#pragma once

#include "router/request.h"
#include "router/snapshot.h"

/* Whether r->sandbox has a workspace to be copied, for `verb` ("clone", "back up"): 400 no_workspace_volume,
 * 409 while it is being deleted. */
bool snapshot_source_check(struct request *r, const char *verb, struct error *err);
/* Creates it, where the backend can (struct snapshot_ops), and waits for the outcome where that comes at
 * once: of one that has failed nothing is left. A reference. */
struct object *snapshot_take(struct request *r, const json_t *object, struct error *err);
/* Removes what nobody has got to know of; failures are logged. */
void snapshot_discard(struct request *r, const struct object *snapshot);
