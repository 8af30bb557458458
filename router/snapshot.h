/* VolumeSnapshots as the Router makes and shows them (http-api.md 4.6, http-api-extended.md 5.1). Pure. */
#pragma once

#include "backend/snapshots.h"
#include "router/replay.h"

#include <time.h>

#define GENERATED_NAME_MAX 63 /* it is a label's value, too */
#define SNAPSHOT_LABEL_MAX 63

#define LABEL_SNAPSHOT_KIND  "agenttier.io/snapshot-kind"
#define LABEL_SOURCE_PVC     "agenttier.io/source-pvc"
#define LABEL_SOURCE_SANDBOX "agenttier.io/source-sandbox"
#define LABEL_CLONE_TARGET   "agenttier.io/clone-target"
#define SNAPSHOT_KIND_BACKUP "scheduled-backup" /* also of those that are asked for */
/* Whose sandbox it is of: annotation of what we make. */
#define ANNOTATION_SNAPSHOT_OWNER "agenttier.io/owner"

/* BASE-WORD-TIME-RANDOM, of at most 63 characters: the base is shortened. With `key` (an Idempotency-Key's
 * hash, or NULL) BASE-WORD-KEY: a retry asks for the same name (W-85). */
void snapshot_generate_name(const char *base, const char *word, time_t now, const char *key,
                            char out[GENERATED_NAME_MAX + 1]);
/* The value of a label for a name that may be longer than a label's value (weakness 60). */
void snapshot_label_value(const char *name, char out[SNAPSHOT_LABEL_MAX + 1]);

/* The VolumeSnapshot to create of a sandbox's workspace: for a clone named `target`, or, without one, a
 * backup. `class` and `replay` may be NULL. A new reference. */
json_t *snapshot_object(const struct object *sandbox, const char *name, const char *target, const char *class,
                        const struct replay *replay);

enum snapshot_kind {
    SNAPSHOT_FOREIGN, /* of another sandbox, also an earlier one of the same name and another owner */
    SNAPSHOT_BACKUP,
    SNAPSHOT_CLONE,
};
/* What it is to the sandbox. By labels, as in 5.1; and what an earlier sandbox of the same name has left is
 * only for the same owner (weakness 54). */
enum snapshot_kind snapshot_kind_of(const struct object *snapshot, const struct object *sandbox);
bool snapshot_is_deleting(const struct object *snapshot);
/* 409 snapshot_failed or 507 insufficient_storage when it has failed; else false. */
bool snapshot_has_failed(const struct object *snapshot, struct error *err);

/* {name, createdAt, kind, readyToUse, restoreSize, error} of 5.3: a new reference. */
json_t *snapshot_entry(const struct object *snapshot, enum snapshot_kind kind);
