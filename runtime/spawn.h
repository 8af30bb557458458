/* Starts one command, as quickly as the kernel can: vfork and exec. */
#pragma once

#include "common/error.h"

#include <sys/types.h>

struct spawn_request {
    char *const *argv; /* NULL-terminated, not empty */
    char *const *env;  /* the whole environment; its PATH is searched for argv[0] */
    const char *dir;   /* NULL = this process's */
    int in, out, err;  /* become 0, 1, 2; -1 = as they are here */
    bool terminal;     /* `in` is one, and controls the command's session */
};

/* The pid, or -1 and a message that names the program or directory and the reason. The
 * command gets a session of its own, default signals and no other descriptor. */
pid_t spawn(const struct spawn_request *request, struct error *err);
