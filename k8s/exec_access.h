/* Streams of backend/access.h over pods/exec, for pods without agenttier-runtime: everything but
 * ACCESS_DIAL. A POSIX shell and the usual tools, as of busybox, are all that an image must have. */
#pragma once

#include "backend/access.h"
#include "k8s/config.h"
#include "k8s/pod_place.h"

/* As access_open. `on_gone(owner)` is called once, when the stream is over, for whoever counts
 * them: at the latest when it is closed, but for a command that is closed before it began and for a
 * terminal, which go on until they can be ended. Not when NULL is returned. */
struct access_stream *exec_access_open(struct k8s_config *config, uv_loop_t *loop,
                                       const struct pod_place *place, enum access_op op, const json_t *args,
                                       const struct access_events *events, void *ctx, void (*on_gone)(void *),
                                       void *owner, struct error *err);
