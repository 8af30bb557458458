/* Whether this machine lets us make sandboxes: a trial of bubblewrap in a process beside the start. */
#pragma once

#include "common/error.h"

#include <sys/types.h>

struct selfcheck {
    pid_t pid;
    int output;
    bool installed;
};

/* Starts the trial. Each call needs one of selfcheck_end(). */
void selfcheck_begin(struct selfcheck *check);
/* Waits for it, at most 10 s. False with what is missing and how to give it. */
bool selfcheck_end(struct selfcheck *check, struct error *err);
