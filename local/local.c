/* The local backend: state directory, store, engine and runtime access put together. */
#include "local/local.h"

#include "backend/runtime_access.h"
#include "common/json.h"
#include "common/units.h"
#include "local/engine.h"
#include "local/resource_limits.h"
#include "local/seed.h"
#include "local/selfcheck.h"
#include "local/snapshots.h"
#include "local/state_dir.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define SETTLE_MS    5000
#define SETTLING_MAX 2

struct local_backend {
    struct backend backend; /* first */
    struct state_dir state;
    struct engine *engine;
    _Atomic int settling; /* requests that wait for a snapshot */
};

static void close_backend(struct backend *backend) {
    struct local_backend *l = (struct local_backend *)backend;
    if (l->backend.access) runtime_access_free(l->backend.access);
    engine_stop(l->engine);
    if (l->backend.store) local_store_close(l->backend.store);
    state_dir_close(&l->state);
    free(l);
}

/* ---- snapshots ---- */

static bool snapshots_check(struct backend *backend, const char *class, struct error *err) {
    (void)backend;
    if (!class) return true;
    error_set_field(err, "snapshotClass", "cannot be chosen here: the local backend has no snapshot classes");
    return false;
}

static bool snapshots_list(struct backend *backend, const char *namespace, const char *label,
                           const char *value, struct object_list *out, struct error *err) {
    (void)err;
    *out = backend->store->ops->list(backend->store, KIND_VOLUME_SNAPSHOT, namespace);
    size_t kept = 0;
    for (size_t i = 0; i < out->count; i++) {
        struct object *o = out->items[i];
        const char *its = json_string_value(json_object_get(json_at(o->json, "metadata.labels"), label));
        if (its && strcmp(its, value) == 0)
            out->items[kept++] = o;
        else
            object_unref(o);
    }
    out->count = kept;
    return true;
}

static struct object *snapshots_get(struct backend *backend, const char *namespace, const char *name,
                                    struct error *err) {
    struct object *o = backend->store->ops->get(backend->store, KIND_VOLUME_SNAPSHOT, namespace, name);
    if (!o) error_set(err, 404, ERR_NOT_FOUND, "snapshot %s not found", name);
    return o;
}

/* Small workspaces are copied before the request is answered, which so knows how it went; a few requests at
 * a time, because a waiting one keeps a worker. */
static void snapshots_wait(struct backend *backend, const char *namespace, const char *name) {
    struct local_backend *l = (struct local_backend *)backend;
    if (atomic_fetch_add(&l->settling, 1) < SETTLING_MAX)
        snapshots_settle(engine_snapshots(l->engine), namespace, name, SETTLE_MS);
    atomic_fetch_sub(&l->settling, 1);
}

static const struct snapshot_ops snapshot_ops = {
    .check = snapshots_check, .list = snapshots_list, .get = snapshots_get, .settle = snapshots_wait};

/* ---- parts ---- */

/* The option, else what the machine has. */
static bool set_cap(char out[32], const char *option, const char *flag, int64_t machine, struct error *err) {
    struct quantity q;
    if (!option || !*option) {
        snprintf(out, 32, "%lld", (long long)machine);
        return true;
    }
    if (strlen(option) >= 32 || !quantity_parse(option, &q) || q.nano <= 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "%s=%s is not a quantity such as 4 or 8Gi", flag, option);
        return false;
    }
    snprintf(out, 32, "%s", option);
    return true;
}

/* What may be done before it is known that sandboxes can be made here. */
static bool prepare_parts(struct local_backend *l, const struct local_options *options, struct error *err) {
    l->backend.store = local_store_open(l->state.path, err);
    if (!l->backend.store || !local_store_seed(l->backend.store, err)) return false;
    const struct engine_options engine = {.state = &l->state,
                                          .store = l->backend.store,
                                          .runtime_path = options->runtime_path,
                                          .storage_check_ms = options->storage_check_ms};
    l->engine = engine_new(&engine, err);
    return l->engine != NULL;
}

static bool open_parts(struct local_backend *l, const struct local_options *options, struct error *err) {
    if (!set_cap(l->backend.default_max_cpu, options->max_cpu, "--max-cpu", machine_cores(), err) ||
        !set_cap(l->backend.default_max_memory, options->max_memory, "--max-memory", machine_memory_bytes(),
                 err) ||
        !state_dir_open(&l->state, options->state_dir, err))
        return false;
    /* Beside each other: the trial of bubblewrap takes as long as everything else at start. */
    struct selfcheck check;
    cleanup_error struct error ours = {0};
    selfcheck_begin(&check);
    bool ready = prepare_parts(l, options, &ours);
    if (!selfcheck_end(&check, err)) return false;
    if (!ready) {
        error_move(err, &ours);
        return false;
    }
    if (!engine_start(l->engine, err)) return false;
    l->backend.access = runtime_access_new(engine_locate, l->engine);
    return true;
}

struct backend *local_backend_open(const struct local_options *options, struct error *err) {
    struct local_backend *l = xcalloc(1, sizeof *l);
    l->backend.name = "local";
    l->backend.snapshots = &snapshot_ops;
    l->backend.close = close_backend;
    l->state = (struct state_dir){.lock_fd = -1, .run_fd = -1};
    if (open_parts(l, options, err)) return &l->backend;
    close_backend(&l->backend);
    return NULL;
}
