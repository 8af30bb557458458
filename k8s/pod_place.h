/* Where a sandbox's container is, as the store's cache knows it, and what became of it. Pure. A place is
 * bound to the pod's UID and to the container's id: another pod of the same name, or at the same address, is
 * another place (lessons S15, S16). */
#pragma once

#include "backend/store.h"
#include "common/error.h"

#include <stdbool.h>
#include <stdint.h>

struct k8s_client;

struct pod_place {
    char namespace[64], pod[254], container[64];
    char uid[64];           /* of the pod */
    char container_id[128]; /* "" = not told */
    char ip[46];            /* "" = none yet */
    bool host_network;
    struct k8s_client *client; /* pod_exec.h asks it whether the pod is still this one; NULL: it does not */
};

/* The place of a Running sandbox in `pod`, the pod that its status names (NULL: there is none). 409
 * sandbox_not_running: it is not there, not running, being deleted, or another sandbox's. */
bool pod_place_find(const struct object *sandbox, const struct object *pod, struct pod_place *out,
                    struct error *err);

/* Whether the place is no more, given what the cache has of that name now (NULL: nothing). `err` says
 * why, always 502: pod_deleted, pod_evicted, out_of_memory, node_lost, container_restarted, pod_ended. */
bool pod_place_gone(const struct pod_place *place, const struct object *pod, struct error *err);

/* Whether the pod is being deleted: 502 pod_deleted. */
bool pod_place_ending(const struct object *pod, struct error *err);

/* Whether one may connect to the place from here: it has an address of its own that is no loopback,
 * link-local or multicast address and not the node's. 502 sandbox_unreachable. */
bool pod_place_dialable(const struct pod_place *place, struct error *err);

/* What the pod's annotations say of its runtime. */
enum pod_runtime {
    POD_RUNTIME_UNKNOWN, /* controller.md 19: its Secret and /healthz tell */
    POD_RUNTIME_COMING,  /* agenttier-controller sends it: not yet there */
    POD_RUNTIME_READY
};
enum pod_runtime pod_runtime_of(const struct object *pod, const struct pod_place *place);
