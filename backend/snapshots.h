/* Snapshots of workspaces: VolumeSnapshot objects, which a storage driver fulfils on a cluster and the engine
 * on one machine (http-api-extended.md 5). They are made and deleted through the store; read through this,
 * because a cluster need not have them and the Router does not keep them in memory. All but `settle` may wait
 * for a network: worker threads only. */
#pragma once

#include "backend/store.h"

/* What the Router adds to the contract's labels and annotations. */
#define LABEL_SNAPSHOT_SOURCE_UID "agenttier.io/source-uid" /* of the sandbox; for O5 */

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
