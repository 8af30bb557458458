/* What a Pod's status says about a sandbox (controller.md 9, with the repairs W8, W9, W10). Pure: a status is
 * written by others and may be of any shape. */
#pragma once

#include "backend/store.h"

enum pod_state {
    POD_PENDING,   /* being scheduled, pulled, started; or started and not ready yet */
    POD_READY,     /* runs, and its condition Ready is true */
    POD_SUCCEEDED, /* its container `sandbox`, or all of them, ended without an error */
    POD_FAILED,
    POD_ENDING /* is being deleted, whatever else it says (W3) */
};
enum pod_state pod_state(const struct object *pod);

#define POD_TEXT_MAX 400
struct pod_failure {
    bool infrastructure; /* not the command's own doing: worth another attempt */
    char reason[POD_TEXT_MAX];
};
/* Why a POD_FAILED failed: the Pod's own reason first, then its container `sandbox`, then its init
 * containers. */
void pod_failure(const struct object *pod, struct pod_failure *out);

/* What keeps a POD_PENDING from getting ready, as text for status.message; "" as long as nothing is unusual.
 * `*hopeless`: it will not get better by waiting. */
void pod_obstacle(const struct object *pod, bool *hopeless, char out[POD_TEXT_MAX]);

/* The id of the running container `sandbox`, as in its status; "" when it does not run. */
const char *pod_container_id(const struct object *pod);
/* Whether the pod is marked as having agenttier-runtime in that container. */
bool pod_has_runtime(const struct object *pod, const char *container);
/* Unix time at which it was made, 0 when it does not say. */
int64_t pod_created_at(const struct object *pod);
