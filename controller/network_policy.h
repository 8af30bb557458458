/* The NetworkPolicy of a sandbox (controller.md 5.2, with the repairs of 21.4 and W20). Pure. */
#pragma once

#include "backend/store.h"
#include "controller/settings.h"

/* New reference. Reads status.forwardedPorts of the sandbox. */
json_t *network_policy_build(const struct object *sandbox, const json_t *resolved,
                             const struct settings *settings);
