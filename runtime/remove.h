/* Deleting a directory with all that it holds. */
#pragma once

#include "common/error.h"

/* Never follows a symlink and never leaves the file system of `name`. `shown` is for messages. */
bool remove_tree(int dir, const char *name, const char *shown, struct error *err);
