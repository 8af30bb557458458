/* The VolumeSnapshot that is taken of a workspace when its sandbox stops (controller.md 11.1). Pure. */
#pragma once

#include "backend/store.h"

#include <time.h>

/* Whether the sandbox, or its template, asks for one. `resolved` is template_resolve()'s. */
bool snapshot_wanted(const struct object *sandbox, const json_t *resolved);
/* New reference. It outlives the sandbox: nobody owns it. */
json_t *snapshot_build(const struct object *sandbox, time_t now);
