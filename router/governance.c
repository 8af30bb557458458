/* See governance.h. */
#include "router/governance.h"

#include "backend/templates.h"
#include "common/json.h"
#include "common/log.h"
#include "router/sandbox_spec.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define CONFIG_MAP       "agenttier-governance"
#define LEGACY_NAMESPACE "agenttier"
#define WRITE_ATTEMPTS   8

/* One of the two places where the ConfigMap may be. */
struct place {
    char *namespace;
    bool present;
    enum policy_state state;
    json_t *policies; /* what is, or was last, good */
};

struct governance {
    struct backend *backend;
    bool fail_closed;
    void *watch;
    _Atomic bool synced;     /* the store could be read once */
    pthread_mutex_t writing; /* one Router does not compete with itself */
    pthread_rwlock_t lock;   /* of what follows; held for a moment only */
    struct place places[2];  /* by precedence */
    size_t place_count;
};

/* ---- following the store ---- */

/* A store calls back in order, one change after the other: only here is a place changed, so it can be read
 * without the lock. What takes time is done before the lock is taken: event loops wait for it. */
static void read_place(struct governance *g, struct place *p, const struct object *o) {
    cleanup_error struct error problem = {0};
    struct place new = {.namespace = p->namespace, .present = true};
    new.policies = policy_map_read(json_str_at(o->json, "data.policies"), p->policies, &new.state, &problem);
    if (new.state != POLICY_SOUND)
        log_error(new.state == POLICY_KEPT
                      ? "a governance policy cannot be read; what was last good holds on"
                      : "a governance policy cannot be read; this part of it limits nothing",
                  "namespace", p->namespace, "config_map", CONFIG_MAP, "problem", problem.message, NULL);
    json_t *old = p->policies;
    pthread_rwlock_wrlock(&g->lock);
    *p = new;
    pthread_rwlock_unlock(&g->lock);
    json_decref(old);
}

static void forget_place(struct governance *g, struct place *p) {
    json_t *old = p->policies;
    pthread_rwlock_wrlock(&g->lock);
    *p = (struct place){.namespace = p->namespace};
    pthread_rwlock_unlock(&g->lock);
    json_decref(old);
}

static void on_config_map(void *ctx, enum store_change change, struct object *o) {
    struct governance *g = ctx;
    if (strcmp(o->name, CONFIG_MAP) != 0) return;
    for (size_t i = 0; i < g->place_count; i++) {
        struct place *p = &g->places[i];
        if (strcmp(o->namespace, p->namespace) != 0) continue;
        if (change == STORE_DELETED)
            forget_place(g, p);
        else
            read_place(g, p, o);
    }
}

struct governance *governance_new(struct backend *backend, const char *install_namespace, bool fail_closed) {
    struct governance *g = xcalloc(1, sizeof *g);
    g->backend = backend;
    g->fail_closed = fail_closed;
    pthread_rwlock_init(&g->lock, NULL);
    pthread_mutex_init(&g->writing, NULL);
    g->places[g->place_count++].namespace = xstrdup(install_namespace);
    if (strcmp(install_namespace, LEGACY_NAMESPACE) != 0)
        g->places[g->place_count++].namespace = xstrdup(LEGACY_NAMESPACE);
    g->watch = backend->store->ops->watch(backend->store, KIND_CONFIG_MAP, on_config_map, g);
    return g;
}

void governance_free(struct governance *g) {
    if (!g) return;
    g->backend->store->ops->unwatch(g->backend->store, g->watch);
    for (size_t i = 0; i < g->place_count; i++) {
        free(g->places[i].namespace);
        json_decref(g->places[i].policies);
    }
    pthread_rwlock_destroy(&g->lock);
    pthread_mutex_destroy(&g->writing);
    free(g);
}

/* ---- reading ---- */

/* Under the lock. NULL: no policies are stored. */
static const struct place *in_force(const struct governance *g) {
    for (size_t i = 0; i < g->place_count; i++)
        if (g->places[i].present) return &g->places[i];
    return NULL;
}

/* An empty cache is not the same as no policies. */
static bool known(struct governance *g, struct error *err) {
    if (atomic_load(&g->synced)) return true;
    struct store *store = g->backend->store;
    if (!store->ops->ready(store, err)) return false;
    atomic_store(&g->synced, true);
    return true;
}

json_t *governance_policies(struct governance *g, struct error *err) {
    if (!known(g, err)) return NULL;
    pthread_rwlock_rdlock(&g->lock);
    const struct place *p = in_force(g);
    json_t *out = p ? json_deep_copy(p->policies) : json_object();
    pthread_rwlock_unlock(&g->lock);
    return out;
}

json_t *governance_effective(struct governance *g, const char *namespace, struct error *err) {
    if (!known(g, err)) return NULL;
    json_t *out = NULL;
    pthread_rwlock_rdlock(&g->lock);
    const struct place *p = in_force(g);
    const json_t *policies = p ? p->policies : NULL;
    if (!p || p->state != POLICY_LOST || !g->fail_closed)
        out = policy_overlay(json_object_get(policies, POLICY_CLUSTER_SCOPE),
                             json_object_get(policies, namespace));
    pthread_rwlock_unlock(&g->lock);
    if (!out)
        error_set(err, 503, "policy_unavailable",
                  "a stored governance policy cannot be read, and --policy-fail-closed is set");
    return out;
}

json_t *governance_defaults(struct governance *g, const json_t *effective) {
    struct policy p = policy_default(g->backend);
    json_t *out = json_object();
    if (p.max_cpu && !json_object_get(effective, "maxCpu"))
        json_object_set_new(out, "maxCpu", json_string(p.max_cpu));
    if (p.max_memory && !json_object_get(effective, "maxMemory"))
        json_object_set_new(out, "maxMemory", json_string(p.max_memory));
    return out;
}

/* ---- writing ---- */

/* The ConfigMap that is in force, as the store has it; a reference or NULL. */
static struct object *stored(struct governance *g) {
    struct store *store = g->backend->store;
    for (size_t i = 0; i < g->place_count; i++) {
        struct object *o = store->ops->get(store, KIND_CONFIG_MAP, g->places[i].namespace, CONFIG_MAP);
        if (o) return o;
    }
    return NULL;
}

/* The new text of data.policies; NULL with err. */
static char *changed_text(const struct object *old, const char *scope, const json_t *policy,
                          struct error *err) {
    const char *text = old ? json_str_at(old->json, "data.policies") : "";
    cleanup_json json_t *map = text[0] ? json_parse_object(slice_of(text), NULL) : json_object();
    if (!map) {
        error_set(err, 500, "policy_unreadable",
                  "the ConfigMap %s/%s holds text that is not JSON; repair or delete it first",
                  old->namespace, old->name);
        return NULL;
    }
    if (policy)
        json_object_set_new(map, scope, json_deep_copy(policy));
    else
        json_object_del(map, scope);
    return json_dumps(map, JSON_COMPACT);
}

static bool try_write(struct governance *g, const char *scope, const json_t *policy, struct error *err) {
    struct store *store = g->backend->store;
    cleanup_object struct object *old = stored(g);
    if (!old && !policy) return true;
    cleanup_free char *text = changed_text(old, scope, policy, err);
    if (!text) return false;
    if (!old) {
        cleanup_json json_t *fresh =
            json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap",
                      "metadata", "name", CONFIG_MAP, "namespace", g->places[0].namespace, "labels",
                      "agenttier.io/component", "governance", "data", "policies", text);
        return store->ops->create(store, KIND_CONFIG_MAP, fresh, NULL, err);
    }
    cleanup_json json_t *patch = json_pack("{s:{s:s}}", "data", "policies", text);
    struct store_preconditions same = {.uid = old->uid, .resource_version = old->resource_version};
    return store->ops->patch(store, KIND_CONFIG_MAP, STORE_MAIN, old->namespace, old->name, patch, &same,
                             NULL, err);
}

static bool write_with_retries(struct governance *g, const char *scope, const json_t *policy,
                               struct error *err) {
    for (int attempt = 1;; attempt++) {
        cleanup_error struct error failed = {0};
        if (try_write(g, scope, policy, &failed)) return true;
        /* Another Router wrote, or made the first one, after we looked. */
        bool again = strcmp(failed.code, ERR_CONFLICT) == 0 || strcmp(failed.code, ERR_ALREADY_EXISTS) == 0 ||
                     strcmp(failed.code, ERR_NOT_FOUND) == 0;
        if (!again || attempt == WRITE_ATTEMPTS) {
            error_move(err, &failed);
            return false;
        }
        struct timespec pause = {0, (1L << attempt) * 1000000L};
        nanosleep(&pause, NULL);
    }
}

bool governance_write(struct governance *g, const char *scope, const json_t *policy, struct error *err) {
    if (!known(g, err)) return false;
    pthread_mutex_lock(&g->writing);
    bool ok = write_with_retries(g, scope, policy, err);
    pthread_mutex_unlock(&g->writing);
    return ok;
}

/* ---- checking ---- */

/* The values of the sandbox's template, without its own: NULL when it does not resolve, which shows when the
 * sandbox starts (http-api.md 2.4). */
static json_t *template_values(struct governance *g, const json_t *object) {
    json_t *ref = json_deep_copy(json_at(object, "spec.templateRef"));
    cleanup_json json_t *bare =
        json_pack("{s:{s:s}, s:{s:o?}}", "metadata", "namespace", json_str_at(object, "metadata.namespace"),
                  "spec", "templateRef", ref);
    json_t *values = template_resolve(g->backend->store, bare, NULL);
    return values ? values : json_object();
}

/* For `name`, what the sandbox itself says instead of what holds with its template. */
static void only_own(json_t *examined, const json_t *own, const char *name) {
    static const char *const parts[] = {"limits", "requests"};
    json_t *resources = json_object_get(examined, "resources");
    for (size_t i = 0; i < 2; i++) {
        const json_t *said =
            json_object_get(json_object_get(json_object_get(own, "resources"), parts[i]), name);
        json_t *part = json_object_get(resources, parts[i]);
        if (!json_is_object(part)) continue;
        if (said)
            json_object_set_new(part, name, json_deep_copy(said));
        else
            json_object_del(part, name);
    }
}

/* The effective policy with the built-in caps where it sets none; those look only at what `own` says. */
static struct policy with_defaults(struct governance *g, const json_t *effective, const json_t *own,
                                   json_t *examined) {
    struct policy p = policy_view(effective), built_in = policy_default(g->backend);
    if (!p.max_cpu && built_in.max_cpu) {
        p.max_cpu = built_in.max_cpu;
        only_own(examined, own, "cpu");
    }
    if (!p.max_memory && built_in.max_memory) {
        p.max_memory = built_in.max_memory;
        only_own(examined, own, "memory");
    }
    return p;
}

json_t *governance_check(struct governance *g, const json_t *effective, json_t *object,
                         const struct policy_usage *usage) {
    json_t *spec = json_object_get(object, "spec");
    cleanup_json json_t *own = json_deep_copy(spec);
    cleanup_json json_t *resolved = template_values(g, object);
    sandbox_spec_inherit(spec, resolved);
    json_object_update(resolved, spec);
    cleanup_json json_t *examined = json_deep_copy(resolved);
    struct policy p = with_defaults(g, effective, own, examined);
    json_t *violations = policy_evaluate(&p, examined, usage, POLICY_RULES_CREATE);
    if (violations) return violations;
    struct policy filling = policy_view(effective);
    policy_fill(&filling, resolved, spec);
    return NULL;
}

json_t *governance_check_change(struct governance *g, const json_t *effective, const json_t *sandbox,
                                json_t *change) {
    cleanup_json json_t *resolved = template_values(g, sandbox);
    cleanup_json json_t *examined = json_object(), *filled = json_object();
    const char *name;
    json_t *value;
    json_object_foreach(change, name, value) {
        const json_t *now = json_is_null(value) ? json_object_get(resolved, name) : value;
        if (now) json_object_set_new(examined, name, json_deep_copy(now));
    }
    struct policy filling = policy_view(effective);
    struct policy p = with_defaults(g, effective, change, examined);
    json_t *violations = policy_evaluate(&p, examined, NULL, POLICY_RULES_VALUES);
    if (violations) return violations;
    policy_fill(&filling, examined, filled);
    void *next;
    json_object_foreach_safe(change, next, name, value) {
        json_t *more = json_object_get(filled, name);
        if (more) json_object_set(change, name, more);
    }
    return NULL;
}
