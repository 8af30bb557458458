/* The sockets of runtime_access.c: non-blocking connections, and descriptors that come over
 * them. Nothing here waits. */
#pragma once

#include "backend/backend.h"

/* A non-blocking, close-on-exec socket whose connection is under way or made; -1 with 502
 * sandbox_unreachable. `*again`: the listener's queue is full, try again soon (-1, no error). */
int runtime_socket_connect(const struct runtime_address *to, bool *again, struct error *err);

/* recv(2) that keeps at most one descriptor in *passed (-1 before; closes any other that comes
 * and sets *surplus). Returns as recv. */
ssize_t runtime_socket_recv(int fd, void *buf, size_t len, int *passed, bool *surplus);

/* Whether a descriptor that a sandbox sent is what it was said to be: a regular file that
 * holds `end` bytes; a TCP socket (made non-blocking). */
bool runtime_fd_is_file(int fd, uint64_t end);
bool runtime_fd_is_connection(int fd);
