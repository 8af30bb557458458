/* The engine: makes sandboxes be what their objects say (controller.md 2, 9, 21). */
#pragma once

#include "backend/backend.h"
#include "local/state_dir.h"

struct engine_options {
    const struct state_dir *state; /* outlives the engine */
    struct store *store;           /* likewise */
    const char *runtime_path;      /* the agenttier-runtime program; copied */
    int64_t storage_check_ms;      /* how often workspaces are measured; 0 = never */
};

struct engine;
/* Puts into place what sandboxes are made of, and touches none yet. NULL with err. */
struct engine *engine_new(const struct engine_options *options, struct error *err);
/* Adopts what runs, ends strays, then starts the threads. Needs the only process of the Router: control
 * groups (version 2) are taken as they are otherwise. False with err: engine_stop() is still to be called. */
bool engine_start(struct engine *engine, struct error *err);
/* Stops the threads, if it was started, and frees it; sandboxes go on running. NULL is fine. */
void engine_stop(struct engine *engine);
/* Its snapshots of workspaces, borrowed. */
struct snapshots *engine_snapshots(struct engine *engine);
/* A runtime_locate_fn; ctx is the engine. */
bool engine_locate(void *ctx, struct object *sandbox, struct runtime_address *out, struct error *err);
