/* See sandbox_create.h. */
#include "router/sandbox_create.h"

#include "common/log.h"
#include "router/governance.h"
#include "router/quota.h"
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

bool sandbox_create_permitted(struct router *router, const struct identity *caller, const char *namespace,
                              struct error *err) {
    const struct config *config = router->config;
    if (!sandbox_namespace_allowed(caller, namespace, install_namespace(config), sandbox_namespace(config)))
        error_set(err, 403, "namespace_not_allowed", "namespace %s is reserved for the platform", namespace);
    else if (!sandbox_namespace_granted(caller, namespace, config->namespace_groups))
        error_set(err, 403, "namespace_not_allowed", "none of your groups may use namespace %s", namespace);
    else
        return true;
    return false;
}

/* Whether it is certain that the sandbox was not created. */
static bool certainly_not_created(const struct error *err) {
    return err->status >= 400 && err->status < 500;
}

/* Stores the checked object under a place in the quota. */
static bool create_counted(struct router *router, const struct policy *policy, const char *sub,
                           json_t *object, struct object **out, struct error *err) {
    const char *namespace = json_str_at(object, "metadata.namespace");
    bool agent = strcmp(json_str_at(object, "spec.mode"), "agent") == 0;
    char claim[QUOTA_CLAIM_LEN + 1];
    json_t *violations = NULL;
    if (!quota_promise(router->quota, policy, namespace, sub, agent, claim, &violations, err)) {
        if (violations) policy_error(err, violations);
        return false;
    }
    json_t *metadata = json_object_get(object, "metadata");
    if (!json_is_object(json_object_get(metadata, "annotations")))
        json_object_set_new(metadata, "annotations", json_object());
    json_object_set_new(json_object_get(metadata, "annotations"), ANNOTATION_QUOTA_CLAIM, json_string(claim));
    struct store *store = router->backend->store;
    cleanup_error struct error failed = {0};
    if (store->ops->create(store, KIND_SANDBOX, object, out, &failed)) return true;
    if (certainly_not_created(&failed)) quota_give_up(router->quota, namespace, claim);
    error_move(err, &failed);
    return false;
}

json_t *sandbox_policy(struct router *router, const char *namespace, const char *sub,
                       struct policy_usage *usage, struct error *err) {
    json_t *effective = governance_effective(router->governance, namespace, err);
    struct policy policy = policy_view(effective);
    *usage = (struct policy_usage){0};
    if (quota_applies(&policy)) *usage = quota_usage(router->quota, namespace, sub);
    return effective;
}

/* The object with what template and policy fill in, checked; and the policy of its namespace. New references.
 */
static bool check(struct router *router, const struct identity *caller, const json_t *object,
                  json_t **effective, json_t **full, struct error *err) {
    struct policy_usage usage;
    *effective = sandbox_policy(router, json_str_at(object, "metadata.namespace"), caller->sub, &usage, err);
    if (!*effective) return false;
    *full = json_deep_copy(object);
    /* Who another sandbox is shared with has no access to its copies (W-12). */
    json_object_del(json_object_get(*full, "spec"), "sharing");
    json_t *violations = governance_check(router->governance, *effective, *full, &usage);
    if (violations) policy_error(err, violations);
    return violations == NULL;
}

bool sandbox_admissible(struct router *router, const struct identity *caller, const json_t *object,
                        struct error *err) {
    cleanup_json json_t *effective = NULL, *full = NULL;
    return check(router, caller, object, &effective, &full, err);
}

bool sandbox_admit(struct router *router, const struct identity *caller, const json_t *object,
                   struct object **out, struct error *err) {
    struct store *store = router->backend->store;
    cleanup_json json_t *effective = NULL, *full = NULL;
    if (!check(router, caller, object, &effective, &full, err)) return false;
    struct policy policy = policy_view(effective);
    return quota_applies(&policy) ? create_counted(router, &policy, caller->sub, full, out, err)
                                  : store->ops->create(store, KIND_SANDBOX, full, out, err);
}

bool sandbox_readmit(struct router *router, const struct object *sandbox, char claim[QUOTA_CLAIM_LEN + 1],
                     struct error *err) {
    claim[0] = '\0';
    cleanup_json json_t *effective = governance_effective(router->governance, sandbox->namespace, err);
    if (!effective) return false;
    struct policy policy = policy_view(effective);
    if (!quota_applies(&policy)) return true;
    bool agent = strcmp(json_str_at(sandbox->json, "spec.mode"), "agent") == 0;
    json_t *violations = NULL;
    if (quota_promise(router->quota, &policy, sandbox->namespace,
                      json_str_at(sandbox->json, "spec.createdBy.sub"), agent, claim, &violations, err))
        return true;
    if (violations) policy_error(err, violations);
    return false;
}

void sandbox_readmitted(struct router *router, const struct object *sandbox, const char *claim,
                        const struct error *failed) {
    if (!claim[0]) return;
    if (failed) {
        if (certainly_not_created(failed)) quota_give_up(router->quota, sandbox->namespace, claim);
        return;
    }
    struct store *store = router->backend->store;
    struct store_preconditions same = {.uid = sandbox->uid};
    cleanup_json json_t *patch =
        json_pack("{s:{s:{s:s}}}", "metadata", "annotations", ANNOTATION_QUOTA_CLAIM, claim);
    cleanup_error struct error err = {0};
    if (!store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, sandbox->namespace, sandbox->name, patch, &same,
                           NULL, &err))
        log_warn("a resumed sandbox counts twice in its quota for some seconds", "sandbox", sandbox->name,
                 "namespace", sandbox->namespace, "error", err.message, NULL);
}

json_t *sandbox_batch_violations(struct router *router, const struct identity *caller, const char *namespace,
                                 int64_t count, int64_t agents) {
    struct policy_usage usage;
    /* Without a policy to be had, each of them is refused on its own. */
    cleanup_json json_t *effective = sandbox_policy(router, namespace, caller->sub, &usage, NULL);
    struct policy policy = policy_view(effective);
    return policy_evaluate_batch(&policy, &usage, count, agents);
}

bool sandbox_name_taken(struct store *store, const char *namespace, const char *name,
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
    /* The same request at the same time on another connection may have taken the last place. */
    if (replay && strcmp(err->code, "policy_violation") == 0) {
        struct object *there =
            router->backend->store->ops->get(router->backend->store, KIND_SANDBOX, namespace, q->name);
        *replayed = there && replay_match(there, replay) == REPLAY_SAME;
        if (!*replayed) {
            object_unref(there);
            return false;
        }
        error_clear(err);
        *out = there;
        return true;
    }
    if (strcmp(err->code, ERR_ALREADY_EXISTS) != 0) return false;
    *replayed = sandbox_name_taken(router->backend->store, namespace, q->name, replay, out, err);
    return *replayed;
}
