/* Small file system operations that more than one part of local/ needs. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <sys/types.h>

/* Appends the whole file (symlinks are followed), at most `max` bytes. False with err: also when longer. */
bool file_read(const char *path, size_t max, struct buffer *out, struct error *err);
/* Creates or replaces the file with exactly these bytes and that mode, whatever the umask is. */
bool file_write(const char *path, struct slice content, mode_t mode, struct error *err);
/* As mkdir -p for the last component and its parents, mode 0755; existing directories are fine. */
bool directory_make(const char *path, struct error *err);
/* Removes `name` below directory `parent`, whatever it is and however deep, never following a
 * symlink and with a bounded number of open files. True when it is gone. */
bool tree_remove(const char *parent, const char *name, struct error *err);
