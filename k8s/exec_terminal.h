/* ACCESS_TERMINAL over pods/exec, for pods without agenttier-runtime (http-api.md 2.12, 5.5, 5.6). A POSIX
 * shell is all that an image must have; stty, and tmux for sessions, are used where they are. */
#pragma once

#include "backend/access.h"
#include "k8s/config.h"
#include "k8s/pod_place.h"

/* As exec_access_open. `on_gone(owner)` is called once nothing of the terminal is left in the pod, or nobody
 * can tell: seconds after the stream was closed. */
struct access_stream *exec_terminal_open(struct k8s_config *config, uv_loop_t *loop,
                                         const struct pod_place *place, const json_t *args,
                                         const struct access_events *events, void *ctx,
                                         void (*on_gone)(void *), void *owner, struct error *err);
