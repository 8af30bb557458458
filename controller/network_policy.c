/* Differences from the reference: the Router reaches every TCP port, so that previews work where policies
 * are enforced (W19); ports with a public URL are open to Ingress controllers; ingress and peer rules count
 * beside allowInternet too; a serviceRef opens the namespace of that Service, not all of them, and an
 * ingress rule that says nothing opens nothing (W20). */
#include "controller/network_policy.h"

#include "common/bytes.h"
#include "common/json.h"
#include "controller/names.h"

#define NAMESPACE_LABEL "kubernetes.io/metadata.name"
#define ROUTER_LABEL    "app.kubernetes.io/component"

static json_t *ports_of(const json_t *rule) {
    json_t *ports = json_array();
    size_t i;
    json_t *port;
    json_array_foreach(json_object_get(rule, "ports"), i, port) {
        const char *protocol = json_str_at(port, "protocol");
        json_array_append_new(ports, json_pack("{s:s, s:I}", "protocol", *protocol ? protocol : "TCP", "port",
                                               json_integer_value(json_object_get(port, "port"))));
    }
    return ports;
}

/* [{namespaceSelector}] of one namespace. */
static json_t *namespace_peer(const char *namespace) {
    return json_pack("[{s:{s:{s:s}}}]", "namespaceSelector", "matchLabels", NAMESPACE_LABEL, namespace);
}

/* A rule in one direction ("from" or "to"), or NULL when it would open what it does not name. */
static json_t *user_rule(const json_t *rule, const char *direction, const char *own_namespace) {
    const char *cidr = json_str_at(rule, "cidr");
    const json_t *service = json_object_get(rule, "serviceRef");
    json_t *peers = NULL;
    if (*cidr) {
        peers = json_pack("[{s:{s:s}}]", "ipBlock", "cidr", cidr);
    } else if (json_is_object(service)) {
        const char *namespace = json_str_at(service, "namespace");
        peers = namespace_peer(*namespace ? namespace : own_namespace);
    }
    json_t *ports = ports_of(rule);
    if (!peers && json_array_size(ports) == 0 && strcmp(direction, "from") == 0) {
        json_decref(ports);
        return NULL;
    }
    json_t *made = json_object();
    if (peers) json_object_set_new(made, direction, peers);
    if (json_array_size(ports) > 0)
        json_object_set_new(made, "ports", ports);
    else
        json_decref(ports);
    return made;
}

static void add_user_rules(json_t *out, const json_t *rules, const char *direction, const char *namespace) {
    size_t i;
    json_t *rule;
    json_array_foreach(rules, i, rule) {
        json_t *made = user_rule(rule, direction, namespace);
        if (made) json_array_append_new(out, made);
    }
}

static json_t *peer_rule(const json_t *network, const char *direction) {
    const json_t *selector = json_object_get(network, "peerSandboxSelector");
    json_t *peers = json_is_object(selector) ? json_deep_copy(selector)
                                             : json_pack("{s:{s:s}}", "matchLabels", LABEL_MANAGED, "true");
    return json_pack("{s:[{s:o}]}", direction, "podSelector", peers);
}

static json_t *egress_rules(const json_t *network, const char *namespace) {
    json_t *rules = json_pack("[{s:[{s:s, s:i}, {s:s, s:i}]}]", "ports", "protocol", "UDP", "port", 53,
                              "protocol", "TCP", "port", 53);
    if (!network) return rules;
    if (json_is_true(json_object_get(network, "allowInternet"))) {
        json_array_append_new(rules, json_object());
        return rules;
    }
    add_user_rules(rules, json_object_get(network, "egressRules"), "to", namespace);
    if (json_is_true(json_object_get(network, "allowPeerSandboxes")))
        json_array_append_new(rules, peer_rule(network, "to"));
    return rules;
}

/* Ports with a public URL: an Ingress controller can be anywhere. */
static void add_forwarded(json_t *rules, const json_t *forwarded) {
    size_t i;
    json_t *item;
    json_array_foreach(forwarded, i, item) {
        json_int_t port = json_integer_value(json_object_get(item, "port"));
        if (!*json_str_at(item, "previewUrl") || port < 1 || port > 65535) continue;
        json_array_append_new(rules, json_pack("{s:[{s:s, s:I}]}", "ports", "protocol", "TCP", "port", port));
    }
}

static json_t *ingress_rules(const struct object *sandbox, const json_t *network,
                             const struct settings *settings) {
    json_t *rules = json_array();
    add_user_rules(rules, json_object_get(network, "ingressRules"), "from", sandbox->namespace);
    if (json_is_true(json_object_get(network, "allowPeerSandboxes")))
        json_array_append_new(rules, peer_rule(network, "from"));
    add_forwarded(rules, json_at(sandbox->json, "status.forwardedPorts"));
    json_array_append_new(rules, json_pack("{s:[{s:{s:{s:s}}, s:{s:{s:s}}}], s:[{s:s}]}", "from",
                                           "namespaceSelector", "matchLabels", NAMESPACE_LABEL,
                                           settings->install_namespace, "podSelector", "matchLabels",
                                           ROUTER_LABEL, "router", "ports", "protocol", "TCP"));
    return rules;
}

json_t *network_policy_build(const struct object *sandbox, const json_t *resolved,
                             const struct settings *settings) {
    cleanup_free char *name = name_of_policy(sandbox);
    const json_t *network = json_object_get(resolved, "network");
    return json_pack("{s:s, s:s, s:o, s:{s:{s:{s:s}}, s:[s, s], s:o, s:o}}", "apiVersion",
                     "networking.k8s.io/v1", "kind", "NetworkPolicy", "metadata", metadata_of(sandbox, name),
                     "spec", "podSelector", "matchLabels", LABEL_SANDBOX, sandbox->name, "policyTypes",
                     "Egress", "Ingress", "egress", egress_rules(network, sandbox->namespace), "ingress",
                     ingress_rules(sandbox, network, settings));
}
