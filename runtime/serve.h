/* One request of one connection: authentication and the table of routes. */
#pragma once

#include "runtime/conn.h"

#include <sys/types.h>

struct serve_options {
    const char *token; /* NULL = none is asked for */
    mode_t umask;
    int registry; /* the socket to process 1 */
};

void serve_connection(struct conn *c, const struct serve_options *options);
