/* The PersistentVolumeClaim of a sandbox's workspace (controller.md 5.1). Pure. */
#pragma once

#include "backend/store.h"
#include "controller/settings.h"

/* `resolved` is template_resolve()'s. New reference. */
json_t *claim_build(const struct object *sandbox, const json_t *resolved, const struct settings *settings);
