/* Starts the processes of a sandbox: detached from the Router, in control groups, under a user id of
 * its own when the Router is root, inside bubblewrap. */
#pragma once

#include "local/bwrap_args.h"
#include "local/cgroup.h"
#include "local/process.h"

#include <sys/types.h>

struct launch_plan {
    const char *dir;                              /* sandboxes/UID */
    const char *socket_path;                      /* where the runtime is to listen */
    const char *workspace, *runtime, *root, *etc; /* paths on this machine; see bwrap_plan */
    const char *hostname, *mount_path, *working_dir;
    char *const *etc_shown;
    const struct env_entry *env;
    size_t env_count;
    bool own_user; /* switch to host_uid; this process is root then */
    uid_t host_uid;
    const struct cgroup_set *cgroups;
    struct slice seccomp; /* the filter's bytes */
    int lock_fd;          /* flock()ed: whoever is part of this sandbox inherits it */
    int timeout_ms;
};

struct launched {
    struct process_id monitor; /* bubblewrap */
    struct process_id init;    /* process 1 of the sandbox */
};

/* Returns when bubblewrap has made the namespaces; process 1 is about to become the runtime. On
 * failure nothing of it is left running; `err` has bubblewrap's own words when there are any. */
bool launch(const struct launch_plan *plan, struct launched *out, struct error *err);

/* The end of what the sandbox's start said on standard error (DIR/log), for an error message. */
void launch_read_log(const char *dir, char *out, size_t size);

/* Takes the lock of a sandbox's directory: -1 without err when a process of an earlier launch still has
 * it, -1 with err on failure. */
int launch_lock(const char *dir, struct error *err);
/* After a Router died between two steps: the process that was started last according to
 * DIR/launch, pid 0 when there is none. */
struct process_id launch_recorded(const char *dir);
