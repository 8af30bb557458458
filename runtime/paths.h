/* Paths that a client names, opened so that nothing but ordinary files of the sandbox's own file
 * systems is reached: lexically clean, through openat2 without magic links, never on
 * procfs, sysfs or other kernel file systems. (lessons S11, S12, L11) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "runtime/conn.h"

#include <sys/stat.h>

#define PATH_BYTES_MAX 4096

/* "path" of the query into `out`: absolute, "." and ".." resolved lexically, no slash at the end
 * but for "/" itself. 400 bad_path. */
bool path_from_query(const struct request *r, struct buffer *out, struct error *err);
/* The same for any text. */
bool path_clean(struct slice raw, struct buffer *out, struct error *err);

/* open(2) of a clean path with O_CLOEXEC | O_NONBLOCK added. -1 with err: 404 file_not_found,
 * 403 permission_denied, 400 not_a_directory, 507 disk_full, ... */
int path_open(const char *path, int flags, mode_t mode, struct error *err);
/* The directory that holds the last component, and that component (points into `path`). */
int path_open_parent(const char *path, bool create, mode_t umask_bits, const char **name, struct error *err);
/* The directory `path`, which must be the directory `within` or below it also after every symbolic link on
 * the way was followed; with `create` what is missing is made, never outside. 400 bad_path when it leads
 * out. Both clean. (lesson S12) */
int path_open_within(const char *within, const char *path, bool create, struct error *err);
/* Below the directory `root`, a relative path of clean components, no symlink on the way.
 * 400 bad_archive when it would leave or pass a symlink. */
int path_open_beneath(int root, const char *relative, int flags, mode_t mode, struct error *err);

/* What an errno means to the client, with the path in the message. */
void path_error(struct error *err, int errnum, const char *path);
/* False (403): the descriptor is on a kernel file system. */
bool path_on_real_fs(int fd, const char *path, struct error *err);
/* Makes a directory and its parents. *created says whether the last one is new. */
bool path_make_directories(const char *path, bool *created, struct error *err);
