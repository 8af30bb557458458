/* Snapshots of workspaces: VolumeSnapshot objects, which a storage driver fulfils on a cluster and the engine
 * on one machine (http-api-extended.md 5). They are made and deleted through the store; read through this,
 * because a cluster need not have them and the Router does not keep them in memory. All but `settle` may wait
 * for a network: worker threads only. */
#pragma once

#include "backend/store.h"

#include <time.h>

#define GENERATED_NAME_MAX 63 /* it is a label's value, too */
#define SNAPSHOT_LABEL_MAX 63

#define LABEL_SNAPSHOT_KIND  "agenttier.io/snapshot-kind"
#define LABEL_SOURCE_PVC     "agenttier.io/source-pvc"
#define SNAPSHOT_KIND_BACKUP "scheduled-backup" /* also of those that are asked for */
#define SNAPSHOT_KIND_STOP   "on-stop"
/* The sandbox of one that was taken when it stopped. */
#define LABEL_STOPPED_SANDBOX "agenttier.io/sandbox"
/* The sandbox that one was made for by a clone. */
#define LABEL_CLONE_TARGET "agenttier.io/clone-target"
/* What we add to the contract's labels and annotations: of which sandbox it is (O5), and of whom. */
#define LABEL_SNAPSHOT_SOURCE_UID "agenttier.io/source-uid"
#define ANNOTATION_SNAPSHOT_OWNER "agenttier.io/owner"

/* BASE-WORD-TIME-RANDOM, of at most 63 characters: the base is shortened. With `key` (an Idempotency-Key's
 * hash, or NULL) BASE-WORD-KEY: a retry asks for the same name (W-85). */
void snapshot_generate_name(const char *base, const char *word, time_t now, const char *key,
                            char out[GENERATED_NAME_MAX + 1]);
/* The value of a label for a name that may be longer than a label's value (weakness 60). */
void snapshot_label_value(const char *name, char out[SNAPSHOT_LABEL_MAX + 1]);

/* Whether the sandbox, or its template, asks for a snapshot at each stop, and has a workspace. `resolved` is
 * template_resolve()'s. Pure. */
bool snapshot_on_stop_wanted(const struct object *sandbox, const json_t *resolved);
/* The VolumeSnapshot to create then (controller.md 11.1): a new reference. Nobody owns it. Pure. */
json_t *snapshot_on_stop(const struct object *sandbox, const char *name);

struct backend;
struct snapshot_ops {
    /* Whether a snapshot of class `class` (NULL = the default one) can be made: else 501
     * snapshots_not_supported or no_snapshot_class, 409 no_default_snapshot_class, 400 invalid_field, each
     * saying what is missing; 503. */
    bool (*check)(struct backend *backend, const char *class, struct error *err);
    /* Those of a namespace whose label has that value. 501 without the API. */
    bool (*list)(struct backend *backend, const char *namespace, const char *label, const char *value,
                 struct object_list *out, struct error *err);
    /* One; NULL with 404 or 501. A reference. */
    struct object *(*get)(struct backend *backend, const char *namespace, const char *name,
                          struct error *err);
    /* Waits a moment for it to be ready or to fail, where that takes moments. NULL: it never does. */
    void (*settle)(struct backend *backend, const char *namespace, const char *name);
};
