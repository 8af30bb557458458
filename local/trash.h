/* What deleted sandboxes and snapshots leave: moved out of the way at once, removed by a thread of its own,
 * so that a delete does not take as long as a large workspace. */
#pragma once

#include "local/host_ids.h"
#include "local/state_dir.h"

struct trash;
/* Removes what is in trash/ already, too. */
struct trash *trash_start(const struct state_dir *state, struct host_ids *ids);
void trash_stop(struct trash *trash); /* what is left stays in trash/ for the next start */
/* Moves FOLDER/NAME there. True also when there is none. */
bool trash_take(struct trash *trash, const char *folder, const char *name, struct error *err);
