/* The state directory of the local backend: its layout and the lock that keeps it to one Router.
 *
 *   lock                       held by the Router that runs; its pid is in it
 *   bin/HASH                   copies of agenttier-runtime, execute only
 *   etc/HASH/                  the /etc of sandboxes on the host's file system
 *   images/NAME/               imported root file systems
 *   run/UID.sock               where the runtime of a sandbox listens
 *   sandboxes/UID/             state.json, lock, launch, log, workspace/
 *   snapshots/UID/             workspace/ as it was
 *   trash/                     workspaces of what was deleted until they are removed
 *   lost/                      files of sandboxes and snapshots that the store does not know
 *
 * Everything is keyed by the object's uid: a new sandbox of an old name never meets the old one's
 * files. (observed O5) */
#pragma once

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

struct state_dir {
    char *path; /* absolute, without symlinks */
    int lock_fd;
    int run_fd;     /* the directory run/ */
    bool short_run; /* DIR/run/UID.sock fits into a socket address as it is */
};

/* Creates what is missing (mode 0700). Refused when another process holds it: 503, naming its pid. */
bool state_dir_open(struct state_dir *out, const char *path, struct error *err);
void state_dir_close(struct state_dir *state);

/* PATH/SUB/NAME, malloc'ed. */
char *state_dir_path(const struct state_dir *state, const char *sub, const char *name);

#define SOCKET_PATH_MAX 104
/* Where the runtime of sandbox `uid` listens, for this process: the path itself, or when that is
 * longer than a socket address holds, through the open directory. */
void state_dir_socket(const struct state_dir *state, const char *uid, char out[SOCKET_PATH_MAX]);

/* Whether a uid can be a file name of ours: [A-Za-z0-9-], 1 to 63. */
bool state_dir_uid_valid(const char *uid);
