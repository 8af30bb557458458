/* Process 1: accepts connections, gives each a process of its own, reaps whatever ends, and
 * keeps the registry of commands. It parses nothing that a client sends. */
#pragma once

#include "runtime/serve.h"

#define CONNECTIONS_MAX 256
#define CHILDREN_MAX    512 /* with those that only keep an outcome or read for background children */

struct server_options {
    int listen_fd;
    bool local; /* a UNIX socket */
    int grace_seconds;
    struct serve_options serve;
};

/* Until SIGTERM or SIGINT; then ends everything. Returns the exit status. Signals are
 * blocked from here on, in all processes but commands. */
int server_run(const struct server_options *options);
