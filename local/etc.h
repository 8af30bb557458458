/* The /etc of sandboxes that run on the host's own system: made up, so that nothing of the
 * machine's configuration or secrets shows, with the few files without which programs do not run. */
#pragma once

#include "local/state_dir.h"

/* Makes DIR/etc/HASH (or finds it) and gives HASH in `name` (malloc'ed by the caller's size). */
bool etc_generate(const struct state_dir *state, char *name, size_t size, struct error *err);

/* Directories of the host's /etc that are shown as they are, where they exist: public data of packages.
 * Names relative to /etc, NULL-terminated, malloc'ed array of malloc'ed strings. */
char **etc_shown(void);
void etc_shown_free(char **list);
