/* The containers of a sandbox's Pod. Pure; all return new references. */
#pragma once

#include "backend/store.h"
#include "controller/settings.h"

json_t *container_main(const struct object *sandbox, const json_t *resolved, const struct settings *settings);
/* [file-deployer, init-scripts, the user's], as far as there are any (controller.md 5.5). */
json_t *container_init_list(const struct object *sandbox, const json_t *resolved,
                            const struct settings *settings);
/* The optional memory sidecar (5.8). */
json_t *container_memory(const json_t *resolved, const struct settings *settings);
/* A container as a user wrote it, less what would reach out of the pod (W26): privileged, added capabilities,
 * privilege escalation, host ports. Verbatim with `privileged`. */
json_t *container_guarded(const json_t *written, bool privileged);

const char *container_mount_path(const json_t *resolved);
bool container_privileged(const json_t *resolved);
