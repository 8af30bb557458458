/* What a new state file starts out with. */
#pragma once

#include "backend/store.h"

/* Creates the built-in cluster templates (backend/templates.h) when the file has never been
 * seeded, so that one that an administrator deleted or changed stays so. Called by
 * local_backend_open() after local_store_open(); `store` is from there. */
bool local_store_seed(struct store *store, struct error *err);
