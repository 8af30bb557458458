/* The Pod of a sandbox (controller.md 5.3 to 5.8, with the repairs O6, O7, O9, W18, W26). Pure. */
#pragma once

#include "backend/store.h"
#include "controller/settings.h"

/* `resolved` is template_resolve()'s, `claim` the name of the workspace's claim. New reference. */
json_t *pod_build(const struct object *sandbox, const json_t *resolved, const char *claim,
                  const struct settings *settings);

/* Whether agenttier-runtime belongs into this sandbox's pod, and so its token Secret is kept.
 * harness.useHTTPExec false: never. Absent: yes where we deliver it, no where the image would have to bring
 * it. */
bool pod_wants_runtime(const json_t *resolved, const struct settings *settings);

/* Where a delivered runtime lives, in a volume of its own. */
#define RUNTIME_MOUNT "/.agenttier"
