/* Control groups of sandboxes: one group per sandbox and hierarchy, below the Router's own
 * group where that is writable, else directly below the root. Version 2, version 1 and both at once. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "local/resource_limits.h"

#include <sys/types.h>

#define CGROUP_MAX 3 /* hierarchies: cpu, memory, pids */

/* Where groups can be made on this machine. Fixed after cgroup_detect. */
struct cgroup_base {
    char *path; /* absolute directory; sandboxes' groups are made in it */
    bool v2;
    bool cpu, memory, pids; /* controllers that work there */
};
struct cgroups {
    struct cgroup_base bases[CGROUP_MAX];
    size_t count;
    bool cpu, memory, pids; /* limited by some base */
};

/* Finds them, trying each out by making and removing a group. Never fails: without any, count is 0.
 * May move this process into a group `router` below its own when version 2 demands it and no
 * other process is there. */
void cgroup_detect(struct cgroups *out);
void cgroup_free(struct cgroups *groups);

/* The groups of one sandbox. */
struct cgroup_set {
    char *paths[CGROUP_MAX];   /* owned */
    int entry_fds[CGROUP_MAX]; /* a process without threads enters by writing "0"; open between create and
                                  close, else -1 */
    int v2_fd;                 /* the group itself, when it is one of version 2; else -1 */
    size_t count;
};
#define CGROUP_SET_NONE ((struct cgroup_set){.entry_fds = {-1, -1, -1}, .v2_fd = -1})
/* `name` must be one path component. Existing groups are taken over with new limits. */
bool cgroup_create(const struct cgroups *groups, const char *name, const struct limits *limits,
                   struct cgroup_set *out, struct error *err);
void cgroup_set_close(struct cgroup_set *set); /* closes and frees; the groups stay */
/* fork(), for a process without threads. Where the kernel can (version 2, Linux 5.7), the child is born in
 * the groups and *entered is true; else it has to enter by entry_fds. */
pid_t cgroup_fork(const struct cgroup_set *set, bool *entered);

/* SIGKILL for what is in the group; returns how many processes it saw. */
size_t cgroup_kill(const char *path);
/* Removes the group; false while processes are in it. A missing group is removed. */
bool cgroup_remove(const char *path);

/* Pure. The path of `controller` ("" = version 2) in the text of /proc/self/cgroup. */
bool cgroup_parse_self(const char *text, const char *controller, struct buffer *path);
/* Pure. Where `controller` ("" = version 2) is mounted, and the group that is the root of that mount,
 * in the text of /proc/self/mountinfo. */
bool cgroup_parse_mount(const char *text, const char *controller, struct buffer *mount_point,
                        struct buffer *root);
