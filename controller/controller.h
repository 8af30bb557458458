/* The controller: makes pods, volumes and network policies match Sandbox objects (controller.md 2, 21). It
 * works on a store of resources alone and knows no cluster: the watches of the store tell it what changed,
 * passes on worker threads write what is missing. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"
#include "controller/settings.h"

struct controller;

/* Brings agenttier-runtime into a running pod; NULL where nothing does. Called from passes, often for the
 * same pod: must be quick and remember what it has under way. The token is in that Secret of the pod's
 * namespace, which the object of the uid `owner` must control. */
struct runtime_bringer {
    void (*bring)(void *ctx, struct object *pod, const char *secret, const char *owner);
    void *ctx;
};

/* Reads a VolumeSnapshot, of which there is no watch: a reference, or NULL with an error. May wait. NULL
 * where the store has them. */
struct snapshot_reader {
    struct object *(*get)(void *ctx, const char *namespace, const char *name, struct error *err);
    void *ctx;
};

struct controller_options {
    struct store *store;
    struct settings settings;
    int workers;
    bool prune_events; /* where no apiserver does it */
    struct runtime_bringer bringer;
    struct snapshot_reader snapshots;
};

/* Begins to watch; makes no pass before controller_lead(true). */
struct controller *controller_start(const struct controller_options *options);
/* Leadership: with false it returns when no pass is under way. */
void controller_lead(struct controller *c, bool leading);
void controller_stop(struct controller *c); /* sandboxes go on running */
/* Has a pass made for a sandbox. Any thread. */
void controller_look_at(struct controller *c, const char *namespace, const char *name);

/* Prometheus text. */
void controller_metrics(struct controller *c, struct buffer *out);
