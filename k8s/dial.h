/* A TCP connection to a pod's port, as a stream of ACCESS_DIAL. The address is the cache's, never a
 * caller's (lessons S15). */
#pragma once

#include "backend/access.h"
#include "k8s/pod_place.h"

/* 502 port_closed: nothing listens; 504 sandbox_timeout; 502 sandbox_unreachable. */
struct access_stream *pod_dial_open(uv_loop_t *loop, const struct pod_place *place, const json_t *args,
                                    const struct access_events *events, void *ctx, struct error *err);
