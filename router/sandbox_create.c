/* See sandbox_create.h. */
#include "router/sandbox_create.h"

#include "backend/templates.h"
#include "common/log.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_view.h"

#include <string.h>

struct object *sandbox_request_template(struct store *store, const struct sandbox_request *q,
                                        const char *namespace, const char **kind) {
    const char *in = q->template_namespace ? q->template_namespace : namespace;
    bool either = q->template_kind == NULL;
    struct object *found = NULL;
    if (either || strcmp(q->template_kind, "ClusterSandboxTemplate") == 0) {
        *kind = "ClusterSandboxTemplate";
        found = store->ops->get(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", q->template_name);
        if (found || !either) return found;
    }
    found = store->ops->get(store, KIND_SANDBOX_TEMPLATE, in, q->template_name);
    if (found || !either) *kind = "SandboxTemplate";
    return found;
}

struct policy_usage sandbox_usage(struct store *store, const char *namespace, const char *sub) {
    struct policy_usage usage = {0};
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, namespace);
    for (size_t i = 0; i < all.count; i++) {
        const struct sandbox_view *v = sandbox_view_get(all.items[i]);
        if (strcmp(v->status, "Deleting") == 0 || strcmp(v->status, "Error") == 0) continue;
        usage.total++;
        if (v->owner[0] && strcmp(v->owner, sub) == 0) usage.of_user++;
        if (strcmp(json_str_at(all.items[i]->json, "spec.mode"), "agent") == 0) usage.agents++;
    }
    return usage;
}

bool sandbox_create_permitted(struct router *router, const struct identity *caller, const char *namespace,
                              struct error *err) {
    const struct config *config = router->config;
    if (sandbox_namespace_allowed(caller, namespace, install_namespace(config), sandbox_namespace(config)))
        return true;
    error_set(err, 403, "namespace_not_allowed", "namespace %s is reserved for the platform", namespace);
    return false;
}

bool sandbox_admit(struct router *router, const struct identity *caller, const json_t *object,
                   struct object **out, struct error *err) {
    struct store *store = router->backend->store;
    const char *namespace = json_str_at(object, "metadata.namespace");
    struct policy policy = policy_default(router->backend);
    bool counted =
        policy.max_sandboxes_total > 0 || policy.max_sandboxes_per_user > 0 || policy.max_agent_sandboxes > 0;
    struct policy_usage usage = {0};
    if (counted) usage = sandbox_usage(store, namespace, caller->sub);
    json_t *violations =
        policy_evaluate(&policy, json_object_get(object, "spec"), &usage, POLICY_RULES_CREATE);
    if (violations) {
        policy_error(err, violations);
        return false;
    }
    /* The policy looks at what the sandbox itself sets; only then is what it leaves to the template filled
     * in. A template that does not resolve shows when the sandbox starts (2.4). */
    cleanup_json json_t *full = json_deep_copy(object);
    cleanup_json json_t *resolved = template_resolve(store, full, NULL);
    if (resolved) sandbox_spec_inherit(json_object_get(full, "spec"), resolved);
    return store->ops->create(store, KIND_SANDBOX, full, out, err);
}

json_t *sandbox_batch_violations(struct router *router, const struct identity *caller, const char *namespace,
                                 int64_t count, int64_t agents) {
    struct policy policy = policy_default(router->backend);
    struct policy_usage usage = {0};
    if (policy.max_sandboxes_total > 0 || policy.max_sandboxes_per_user > 0 || policy.max_agent_sandboxes > 0)
        usage = sandbox_usage(router->backend->store, namespace, caller->sub);
    return policy_evaluate_batch(&policy, &usage, count, agents);
}

/* Somebody has the name: a retry of this very request, or a conflict. */
static bool name_taken(struct store *store, const char *namespace, const char *name,
                       const struct replay *replay, struct object **out, struct error *err) {
    cleanup_object struct object *there = store->ops->get(store, KIND_SANDBOX, namespace, name);
    enum replay_match match = there && replay ? replay_match(there, replay) : REPLAY_UNRELATED;
    error_clear(err);
    if (match == REPLAY_SAME) {
        *out = steal_ptr(there);
        return true;
    }
    /* A sibling: two items of one batch have the name. */
    if (match == REPLAY_OTHER_BODY && !replay_is_sibling(there, replay)) {
        replay_conflict(there, err);
    } else if (there && sandbox_is_deleting(there->json)) {
        error_set(err, 409, ERR_ALREADY_EXISTS, "sandbox %s is being deleted; retry", name);
        err->retry_after = 1;
    } else {
        error_set(err, 409, ERR_ALREADY_EXISTS, "sandbox %s already exists in namespace %s", name, namespace);
    }
    return false;
}

/* The object of a request, its namespaces checked, or NULL with err. */
static json_t *object_of(struct router *router, const struct identity *caller,
                         const struct sandbox_request *q, const char *namespace, const struct replay *replay,
                         struct error *err) {
    if (!sandbox_create_permitted(router, caller, namespace, err)) return NULL;
    if (q->template_namespace && strcmp(q->template_namespace, namespace) != 0 &&
        !sandbox_create_permitted(router, caller, q->template_namespace, err))
        return NULL;
    const char *kind = NULL;
    cleanup_object struct object *template =
        sandbox_request_template(router->backend->store, q, namespace, &kind);
    const char *mode = template ? json_str_at(template->json, "spec.mode") : "";
    json_t *object = sandbox_request_object(q, namespace, kind, mode, caller);
    if (replay)
        json_object_set_new(json_object_get(object, "metadata"), "annotations", replay_annotations(replay));
    return object;
}

bool sandbox_create(struct router *router, const struct identity *caller, const struct sandbox_request *q,
                    const struct replay *replay, struct object **out, bool *replayed, struct error *err) {
    const char *namespace = q->namespace ? q->namespace : sandbox_namespace(router->config);
    cleanup_json json_t *object = object_of(router, caller, q, namespace, replay, err);
    *replayed = false;
    if (!object) return false;
    if (sandbox_admit(router, caller, object, out, err)) return true;
    if (strcmp(err->code, ERR_ALREADY_EXISTS) != 0) return false;
    *replayed = name_taken(router->backend->store, namespace, q->name, replay, out, err);
    return *replayed;
}
