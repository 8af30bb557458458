/* What a sandbox may use of the machine: from `resources` of its resolved spec. */
#pragma once

#include "common/error.h"

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#define LIMITS_DEFAULT_PIDS 512

struct limits {
    int64_t cpu_millis;   /* thousandths of a core; 0 = all cores */
    int64_t memory_bytes; /* never 0 */
    int64_t pids;
};

int64_t machine_cores(void);        /* online */
int64_t machine_memory_bytes(void); /* physical */

/* Pure: resources.limits.{cpu,memory}, else resources.requests of the same name, else no limit of
 * cpu and half of the machine's memory. Memory is at most the machine's and at least 16 MiB; cpu
 * at least 0.01 core. `resources` may be NULL. false with 400 invalid_field for what is not a quantity. */
bool limits_from_resources(const json_t *resources, int64_t machine_memory, struct limits *out,
                           struct error *err);

/* For machines without writable cgroups: limits of single processes on process 1 of a sandbox, which is run
 * by `user` of this machine (and so on all that it starts). Limits are only ever lowered; where those of
 * process 1 are lower already they stay. Needs CAP_SYS_RESOURCE, or to be `user`, or CAP_SETUID and
 * CAP_SETGID. False with errno in `err`. Any thread. */
bool limits_apply_to_process(pid_t pid, uid_t user, const struct limits *limits, struct error *err);
