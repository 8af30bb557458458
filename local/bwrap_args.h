/* The arguments of bubblewrap for one sandbox. Pure. */
#pragma once

#include "common/bytes.h"
#include "local/rootfs.h"

#define SANDBOX_ID        1000
#define SANDBOX_HOME      "/home/sandbox"
#define SANDBOX_RUNTIME   "/.agenttier/runtime"
#define SANDBOX_WORKSPACE "/workspace"
#define SANDBOX_PATH      "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

struct env_entry {
    char *name, *value;
};

/* Where bubblewrap finds things, and what the sandbox is to look like. All borrowed. */
struct bwrap_plan {
    const char *hostname;
    /* paths as bubblewrap's process sees them */
    const char *workspace;
    const char *runtime;
    const char *root; /* of an image; NULL = the host's system */
    const char *etc;  /* generated; only with the host's system */
    const struct root_entries *entries;
    char *const *etc_shown; /* only with the host's system; NULL-terminated */
    const char *mount_path; /* a second place of the workspace, or NULL */
    const char *working_dir;
    const struct env_entry *env;
    size_t env_count;
    /* descriptors that bubblewrap inherits */
    int info_fd, seccomp_fd, hosts_fd;
};

/* Appends NUL-terminated arguments, as `bwrap --args FD` reads them, without the program's name
 * and without the command (bubblewrap takes that from its own arguments only).
 * False: one of the strings cannot be an argument. */
bool bwrap_args(const struct bwrap_plan *plan, struct buffer *out);

/* Whether a workspace can be shown there too: absolute, no empty or dot component, not a place that a
 * sandbox needs for something else. */
bool mount_path_valid(const char *path);
