/* The governance routes: http-api-extended.md 6.3. */
#include "common/log.h"
#include "common/text.h"
#include "router/audit.h"
#include "router/governance.h"
#include "router/handlers.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#include <string.h>

static void refuse(struct request *r, struct error *err, const char *doing) {
    error_wrap(err, "failed to %s", doing);
    reply_error(r, err);
}

void policies_list(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *policies = governance_policies(r->router->governance, &err);
    if (!policies) {
        refuse(r, &err, "list policies");
        return;
    }
    json_t *namespaces = json_array();
    const char *scope;
    json_t *policy;
    json_object_foreach(policies, scope, policy) {
        if (strcmp(scope, POLICY_CLUSTER_SCOPE) == 0) continue;
        json_array_append_new(namespaces, json_pack("{s:s, s:O}", "namespace", scope, "policy", policy));
    }
    json_t *cluster = json_object_get(policies, POLICY_CLUSTER_SCOPE);
    reply_json(r, 200,
               json_pack("{s:o, s:o}", "cluster", cluster ? json_incref(cluster) : json_null(), "namespaces",
                         namespaces));
}

void policy_get(struct request *r) {
    cleanup_error struct error err = {0};
    const char *namespace = request_param(r, "namespace");
    cleanup_json json_t *policies = governance_policies(r->router->governance, &err);
    if (!policies) {
        refuse(r, &err, "get policy");
        return;
    }
    json_t *policy = json_object_get(policies, namespace);
    json_t *shown = json_string_repaired(slice_of(namespace));
    reply_json(
        r, 200,
        json_pack("{s:o, s:o}", "namespace", shown, "policy", policy ? json_incref(policy) : json_object()));
}

/* Stores the body as the policy of a scope; the stored form, a new reference, or NULL: answered. */
static json_t *save(struct request *r, const char *scope) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *policy = policy_parse(r->body, &err);
    if (!policy) {
        error_wrap(&err, "invalid request body");
        reply_error(r, &err);
        return NULL;
    }
    if (!governance_write(r->router->governance, scope, policy, &err)) {
        refuse(r, &err, "save policy");
        return NULL;
    }
    audit_detail(r, "policy", json_deep_copy(policy));
    log_info("policy set", "scope", scope, "user", r->identity.sub, "request_id", r->request_id, NULL);
    return steal_ptr(policy);
}

void policies_put(struct request *r) {
    audit_name(r, NULL, POLICY_CLUSTER_SCOPE);
    json_t *policy = save(r, POLICY_CLUSTER_SCOPE);
    if (policy) reply_json(r, 200, json_pack("{s:s, s:o}", "scope", "cluster", "policy", policy));
}

void policy_put(struct request *r) {
    const char *namespace = request_param(r, "namespace");
    if (strcmp(namespace, POLICY_CLUSTER_SCOPE) != 0 && !dns_label_valid(slice_of(namespace))) {
        cleanup_error struct error err = {0};
        error_set_field(&err, "namespace", "must be a DNS label");
        reply_error(r, &err);
        return;
    }
    json_t *policy = save(r, namespace);
    if (policy) reply_json(r, 200, json_pack("{s:s, s:o}", "namespace", namespace, "policy", policy));
}

void policy_delete(struct request *r) {
    cleanup_error struct error err = {0};
    const char *scope = request_param(r, "namespace");
    if (!governance_write(r->router->governance, scope, NULL, &err)) {
        refuse(r, &err, "delete policy");
        return;
    }
    log_info("policy deleted", "scope", scope, "user", r->identity.sub, "request_id", r->request_id, NULL);
    reply_empty(r, 204);
}

void policy_effective(struct request *r) {
    cleanup_error struct error err = {0};
    const char *namespace = request_query(r, "namespace");
    if (!namespace || !namespace[0]) namespace = sandbox_namespace(r->router->config);
    json_t *policy = governance_effective(r->router->governance, namespace, &err);
    if (!policy) {
        refuse(r, &err, "resolve policy");
        return;
    }
    json_t *defaults = governance_defaults(r->router->governance, policy);
    json_t *shown = json_string_repaired(slice_of(namespace));
    reply_json(r, 200,
               json_pack("{s:o, s:o, s:o}", "namespace", shown, "policy", policy, "defaults", defaults));
}
