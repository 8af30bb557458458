/* Deleting a directory with all that it holds. */
#pragma once

#include "common/error.h"

/* Never follows a symlink and never enters what is mounted there: 403. `shown` is for messages. */
bool remove_tree(int dir, const char *name, const char *shown, struct error *err);
