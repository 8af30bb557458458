#include "controller/inside.h"

#include "common/log.h"
#include "controller/names.h"
#include "controller/warmpool_item.h"

#include <sys/resource.h>

void controller_look_at(struct controller *c, const char *namespace, const char *name) {
    cleanup_free char *key = xasprintf("%s/%s", namespace, name);
    queue_add(c->queue, key);
}

/* ---- what the watches ask for ------------------------------------------------------------------ */

static void on_sandbox(void *ctx, enum store_change change, struct object *o) {
    (void)change;
    controller_look_at(ctx, o->namespace, o->name);
}

static void on_owned(void *ctx, enum store_change change, struct object *o) {
    (void)change;
    const char *owner = owner_name(o);
    if (owner && *owner) controller_look_at(ctx, o->namespace, owner);
}

static void on_pod(void *ctx, enum store_change change, struct object *pod) {
    if (!pool_pod_changed(ctx, pod)) on_owned(ctx, change, pod);
}

static void on_policy(void *ctx, enum store_change change, struct object *policy) {
    if (owner_name(policy))
        on_owned(ctx, change, policy);
    else if (strcmp(policy->name, POOL_POLICY) == 0)
        pools_look_at(ctx);
}

static void on_config_map(void *ctx, enum store_change change, struct object *map) {
    (void)change;
    struct controller *c = ctx;
    if (strcmp(map->name, WARMPOOL_CONFIG_MAP) == 0 &&
        strcmp(map->namespace, c->settings.install_namespace) == 0)
        pools_look_at(c);
}

/* Sandboxes that wait for a template, and those whose limits it may change; and pools, of it or of its heirs.
 */
static void on_template(void *ctx, enum store_change change, struct object *template) {
    (void)change;
    (void)template;
    struct controller *c = ctx;
    if (!c->leading) return; /* all of them are looked at when we lead */
    pools_look_at(c);
    cleanup_object_list struct object_list all = c->store->ops->list(c->store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        const struct object *o = all.items[i];
        const char *phase = json_str_at(o->json, "status.phase");
        bool waits = strcmp(phase, "Error") == 0 &&
                     strncmp(json_str_at(o->json, "status.message"), "Template resolution failed", 26) == 0;
        if (waits || strcmp(phase, "Running") == 0) controller_look_at(c, o->namespace, o->name);
    }
}

static const struct {
    enum kind kind;
    store_watch_fn *fn;
} watched[] = {
    {KIND_CLUSTER_SANDBOX_TEMPLATE, on_template},
    {KIND_SANDBOX_TEMPLATE, on_template},
    {KIND_SANDBOX, on_sandbox},
    {KIND_POD, on_pod},
    {KIND_PERSISTENT_VOLUME_CLAIM, on_owned},
    {KIND_NETWORK_POLICY, on_policy},
    {KIND_CONFIG_MAP, on_config_map},
};

/* ---- start and stop ---------------------------------------------------------------------------- */

struct controller *controller_start(const struct controller_options *options) {
    struct controller *c = xcalloc(1, sizeof *c);
    c->store = options->store;
    c->settings = options->settings;
    c->bringer = options->bringer;
    c->snapshots = options->snapshots;
    c->events = events_start(c->store, options->prune_events);
    c->queue = queue_start(options->workers, reconcile, c);
    c->pools = queue_start(1, pool_pass, c);
    for (size_t i = 0; i < sizeof watched / sizeof *watched; i++)
        c->watches[c->watch_count++] = c->store->ops->watch(c->store, watched[i].kind, watched[i].fn, c);
    return c;
}

void controller_lead(struct controller *c, bool leading) {
    if (c->leading == leading) return;
    c->leading = leading;
    if (leading) {
        /* Another leader may have been at work: nothing that is remembered is trusted to be complete. */
        cleanup_object_list struct object_list all = c->store->ops->list(c->store, KIND_SANDBOX, NULL);
        for (size_t i = 0; i < all.count; i++)
            controller_look_at(c, all.items[i]->namespace, all.items[i]->name);
        pools_look_at(c);
    }
    queue_pause(c->queue, !leading);
    queue_pause(c->pools, !leading);
}

void controller_stop(struct controller *c) {
    if (!c) return;
    controller_lead(c, false);
    for (size_t i = 0; i < c->watch_count; i++)
        c->store->ops->unwatch(c->store, c->watches[i]);
    queue_stop(c->queue);
    queue_stop(c->pools);
    events_stop(c->events);
    free(c);
}

/* ---- metrics ----------------------------------------------------------------------------------- */

static void metric(struct buffer *out, const char *name, const char *type, const char *help) {
    buffer_printf(out, "# HELP agenttier_controller_%s %s\n# TYPE agenttier_controller_%s %s\n", name, help,
                  name, type);
}

static void count(struct buffer *out, const char *name, const char *help, uint64_t n) {
    metric(out, name, "counter", help);
    buffer_printf(out, "agenttier_controller_%s %llu\n", name, (unsigned long long)n);
}

static void gauge(struct buffer *out, const char *name, const char *help, uint64_t n) {
    metric(out, name, "gauge", help);
    buffer_printf(out, "agenttier_controller_%s %llu\n", name, (unsigned long long)n);
}

static void sandboxes_by_phase(struct controller *c, struct buffer *out) {
    static const char *const phases[] = {"Creating", "Running", "Stopped", "Error", "other"};
    uint64_t counts[5] = {0};
    cleanup_object_list struct object_list all = c->store->ops->list(c->store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        const char *phase = json_str_at(all.items[i]->json, "status.phase");
        size_t k = 0;
        while (k < 4 && strcmp(phase, phases[k]) != 0)
            k++;
        counts[*phase ? k : 0]++;
    }
    metric(out, "sandboxes", "gauge", "Sandboxes by phase.");
    for (size_t k = 0; k < 5; k++)
        buffer_printf(out, "agenttier_controller_sandboxes{phase=\"%s\"} %llu\n", phases[k],
                      (unsigned long long)counts[k]);
}

void controller_metrics(struct controller *c, struct buffer *out) {
    buffer_printf(out,
                  "# HELP agenttier_build_info The running version.\n# TYPE agenttier_build_info gauge\n"
                  "agenttier_build_info{version=\"%s\"} 1\n",
                  AGENTTIER_VERSION);
    gauge(out, "leader", "Whether this instance leads.", c->leading ? 1 : 0);
    gauge(out, "queue_depth", "Sandboxes that wait for a pass.", queue_depth(c->queue));
    count(out, "passes_total", "Passes over sandboxes.", c->passes);
    count(out, "passes_failed_total", "Passes that were tried again later.", c->failed_passes);
    count(out, "pods_created_total", "Pods that were made.", c->pods_created);
    count(out, "restarts_total", "Sandboxes that were restarted after a failure.", c->restarts);
    gauge(out, "warmpool_ready", "Pods of the warm pool that a sandbox can take.", pool_ready(c));
    count(out, "warmpool_pods_created_total", "Pods that were made for the warm pool.", c->pool_pods);
    count(out, "warmpool_pods_failed_total", "Pods of the warm pool that failed.", c->pool_failures);
    count(out, "warmpool_claims_total", "Pods of the warm pool that sandboxes took.", c->pool_claims);
    /* Named as in http-api-extended.md 15.2. */
    buffer_printf(
        out,
        "# HELP agenttier_warmpool_claim_conflicts_total Pods of the warm pool that changed while a "
        "sandbox took them.\n# TYPE agenttier_warmpool_claim_conflicts_total counter\n"
        "agenttier_warmpool_claim_conflicts_total %llu\n",
        (unsigned long long)c->pool_conflicts);
    metric(out, "pass_seconds_total", "counter", "Time spent in passes.");
    buffer_printf(out, "agenttier_controller_pass_seconds_total %.6f\n", (double)c->pass_ns / 1e9);
    sandboxes_by_phase(c, out);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    buffer_printf(
        out,
        "# HELP process_cpu_seconds_total User and system time.\n# TYPE process_cpu_seconds_total counter\n"
        "process_cpu_seconds_total %.3f\n",
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}
