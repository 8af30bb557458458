/* VolumeSnapshots as the Router makes and shows them (http-api.md 4.6, http-api-extended.md 5.1). Pure. */
#pragma once

#include "backend/snapshots.h"
#include "router/replay.h"

#include <time.h>

#define LABEL_SOURCE_SANDBOX "agenttier.io/source-sandbox"

/* The VolumeSnapshot to create of a sandbox's workspace: for a clone named `target`, or, without one, a
 * backup. `class` and `replay` may be NULL. A new reference. */
json_t *snapshot_object(const struct object *sandbox, const char *name, const char *target, const char *class,
                        const struct replay *replay);

enum snapshot_kind {
    SNAPSHOT_FOREIGN, /* of another sandbox, also an earlier one of the same name and another owner */
    SNAPSHOT_BACKUP,
    SNAPSHOT_CLONE,
    SNAPSHOT_STOP, /* taken by the controller when the sandbox stopped */
};
/* What it is to the sandbox. By labels, as in 5.1, and those of stops, too (weakness 64); and what an earlier
 * sandbox of the same name has left is only for the same owner (weakness 54). */
enum snapshot_kind snapshot_kind_of(const struct object *snapshot, const struct object *sandbox);
bool snapshot_is_deleting(const struct object *snapshot);
/* 409 snapshot_failed or 507 insufficient_storage when it has failed; else false. */
bool snapshot_has_failed(const struct object *snapshot, struct error *err);

/* {name, createdAt, kind, readyToUse, restoreSize, error} of 5.3: a new reference. */
json_t *snapshot_entry(const struct object *snapshot, enum snapshot_kind kind);
