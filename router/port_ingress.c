/* Ingresses of port forwards: an address of its own for each preview (http-api.md 4.5, W-96). */
#include "common/json.h"
#include "router/ports.h"

#include <stdio.h>
#include <string.h>

#define ATTEMPTS_MAX 4

/* " .example.com " is "example.com". */
static struct slice domain_of(const struct port_publishing *to) {
    struct slice domain = slice_trim(slice_of(to->domain));
    while (domain.len > 0 && domain.ptr[0] == '.')
        domain = slice_make(domain.ptr + 1, domain.len - 1);
    return domain;
}

static json_t *metadata_of(const struct object *sandbox, int port) {
    char number[8];
    snprintf(number, sizeof number, "%d", port);
    cleanup_free char *name = xasprintf("pf-%s-%d", sandbox->name, port);
    const struct resource_kind *kind = &resource_kinds[KIND_SANDBOX];
    json_t *owner =
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:b}", "apiVersion", kind->api_version, "kind", kind->kind,
                  "name", sandbox->name, "uid", sandbox->uid, "controller", 1, "blockOwnerDeletion", 1);
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:s}, s:[o]}", "name", name, "namespace", sandbox->namespace,
                     "labels", "agenttier.io/port-forward", "true", "agenttier.io/sandbox", sandbox->name,
                     "agenttier.io/port", number, "ownerReferences", owner);
}

json_t *port_ingress(const struct object *sandbox, int port, const struct port_publishing *to,
                     struct error *err) {
    struct slice domain = domain_of(to);
    cleanup_free char *label = xasprintf("sandbox-%s-%d", sandbox->name, port);
    if (strlen(label) > 63) {
        error_set_field(err, "port",
                        "cannot be published: %s is longer than the 63 characters of a host's label", label);
        return NULL;
    }
    cleanup_free char *host = xasprintf("%s.%.*s", label, (int)domain.len, domain.ptr);
    cleanup_free char *service = xasprintf("pf-%s-%d", sandbox->name, port);
    json_t *path = json_pack("{s:s, s:s, s:{s:{s:s, s:{s:i}}}}", "path", "/", "pathType", "Prefix", "backend",
                             "service", "name", service, "port", "number", port);
    json_t *spec = json_pack("{s:[{s:s, s:{s:[o]}}]}", "rules", "host", host, "http", "paths", path);
    if (to->class_name && to->class_name[0])
        json_object_set_new(spec, "ingressClassName", json_string(to->class_name));
    if (to->tls_secret && to->tls_secret[0])
        json_object_set_new(spec, "tls",
                            json_pack("[{s:[s], s:s}]", "hosts", host, "secretName", to->tls_secret));
    const struct resource_kind *kind = &resource_kinds[KIND_INGRESS];
    return json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", kind->api_version, "kind", kind->kind, "metadata",
                     metadata_of(sandbox, port), "spec", spec);
}

static struct object *find(struct store *store, const struct object *sandbox, int port) {
    cleanup_free char *name = xasprintf("pf-%s-%d", sandbox->name, port);
    return store->ops->get(store, KIND_INGRESS, sandbox->namespace, name);
}

static bool take_away(struct store *store, const struct object *ingress, struct error *err) {
    struct store_preconditions same = {.uid = ingress->uid};
    cleanup_error struct error failed = {0};
    if (store->ops->remove(store, KIND_INGRESS, ingress->namespace, ingress->name, &same, &failed) ||
        failed.status == 404)
        return true;
    error_move(err, &failed);
    return false;
}

static bool publish_once(struct store *store, const struct object *sandbox, int port, const json_t *wanted,
                         struct error *err) {
    cleanup_object struct object *there = find(store, sandbox, port);
    if (there && port_belongs_to(there, sandbox)) {
        json_t *spec = json_object_get(wanted, "spec");
        if (json_equal(json_object_get(there->json, "spec"), spec)) return true;
        /* Members that are no longer wanted go, too. */
        static const char *const optional[] = {"ingressClassName", "tls"};
        cleanup_json json_t *patch = json_pack("{s:o}", "spec", json_deep_copy(spec));
        for (size_t i = 0; i < 2; i++)
            if (!json_object_get(spec, optional[i]))
                json_object_set_new(json_object_get(patch, "spec"), optional[i], json_null());
        struct store_preconditions same = {.uid = there->uid};
        return store->ops->patch(store, KIND_INGRESS, STORE_MAIN, there->namespace, there->name, patch, &same,
                                 NULL, err);
    }
    /* What an earlier sandbox of the name left behind has its labels. */
    const json_t *labels = there ? json_at(there->json, "metadata.labels") : NULL;
    const char *of = json_string_value(json_object_get(labels, "agenttier.io/sandbox"));
    if (there && of && strcmp(of, sandbox->name) == 0 && !take_away(store, there, err)) return false;
    return store->ops->create(store, KIND_INGRESS, wanted, NULL, err);
}

bool port_publish(struct store *store, const struct object *sandbox, int port,
                  const struct port_publishing *to, struct error *err) {
    if (domain_of(to).len == 0) return true;
    cleanup_json json_t *wanted = port_ingress(sandbox, port, to, err);
    if (!wanted) return false;
    for (int attempt = 1;; attempt++) {
        cleanup_error struct error failed = {0};
        if (publish_once(store, sandbox, port, wanted, &failed)) return true;
        /* Somebody made or removed it meanwhile. */
        bool again = (failed.status == 409 || failed.status == 404) && attempt < ATTEMPTS_MAX;
        if (again) continue;
        error_move(err, &failed);
        return false;
    }
}

bool port_unpublish(struct store *store, const struct object *sandbox, int port,
                    const struct port_publishing *to, struct error *err) {
    if (domain_of(to).len == 0) return true;
    cleanup_object struct object *there = find(store, sandbox, port);
    return !there || !port_belongs_to(there, sandbox) || take_away(store, there, err);
}
