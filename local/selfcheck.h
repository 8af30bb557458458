/* Whether sandboxes can be made here at all, with an error that names what to do when not. */
#pragma once

#include "common/error.h"

#include <stdbool.h>

/* Runs bubblewrap once, as an unprivileged user when this process is root. */
bool selfcheck_bubblewrap(struct error *err);
