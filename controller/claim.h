/* The PersistentVolumeClaim of a sandbox's workspace (controller.md 5.1). Pure. */
#pragma once

#include "backend/store.h"
#include "controller/settings.h"

/* `resolved` is template_resolve()'s; `least` the size that the snapshot needs, a quantity as text or number,
 * or NULL: a CSI driver refuses a smaller claim (http-api-extended.md, weakness 56). New reference. */
json_t *claim_build(const struct object *sandbox, const json_t *resolved, const json_t *least,
                    const struct settings *settings);
