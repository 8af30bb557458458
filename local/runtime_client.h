/* A blocking call of a sandbox's runtime over its UNIX socket, for the engine's own few needs: is it
 * up, apply the template's files and scripts. Users' traffic goes through runtime access. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

struct runtime_call {
    const char *socket_path;
    int death_fd;  /* a pidfd: the call ends when it becomes readable; -1 = none */
    int cancel_fd; /* the same for an engine that is shut down; -1 = none */
    int timeout_ms;
    const char *method, *target;
    const char *content_type; /* with a body */
    struct slice body;
};

/* The status of the answer, its body (at most 16 MiB) in `body` when that is not NULL; -1 with err: 502
 * sandbox_unreachable or 504 sandbox_timeout. */
int runtime_call(const struct runtime_call *call, struct buffer *body, struct error *err);

/* What one sandbox's calls have in common. */
struct runtime_peer {
    const char *socket_path;
    int death_fd, cancel_fd;
};
/* Waits until the runtime answers /healthz. The socket listens from before the launch, so one call
 * is the wait. */
bool runtime_healthy(const struct runtime_peer *peer, int timeout_ms, struct error *err);
/* PUT /files: writes as the sandbox's user. */
bool runtime_put_file(const struct runtime_peer *peer, const char *path, struct slice content,
                      struct error *err);
/* POST /exec: true when the command ended with 0; else err with the end of its output. */
bool runtime_exec(const struct runtime_peer *peer, const json_t *command, const char *working_dir,
                  int timeout_seconds, struct error *err);
