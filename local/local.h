/* The backend on one machine: an SQLite store and bubblewrap sandboxes. */
#pragma once

#include "backend/backend.h"

struct local_options {
    const char *state_dir;            /* created when missing */
    const char *runtime_path;         /* the agenttier-runtime program */
    const char *install_namespace;    /* "" = "agenttier" */
    const char *max_cpu, *max_memory; /* caps, quantities; "" = this machine's */
    int64_t storage_check_ms;         /* how often workspaces are held against storage.size; 0 = never */
};

/* Opens the store (one process at a time: a second is refused, naming the first), adopts
 * the sandboxes that are running, starts the engine. NULL with err on failure. */
struct backend *local_backend_open(const struct local_options *options, struct error *err);

/* The store alone, for commands beside a running Router. */
struct store *local_store_open(const char *state_dir, struct error *err);
void local_store_close(struct store *store);
