/* Port forwards as resources and as answers: the pure half of ports.c. */
#include "common/http1.h"
#include "common/json.h"
#include "common/text.h"
#include "router/ports.h"

#include <stdio.h>
#include <string.h>

static bool only_digits(const char *s) {
    return s[0] && s[strspn(s, "0123456789")] == '\0';
}

bool port_request_parse(const json_t *body, struct port_request *out, struct error *err) {
    json_int_t port = 0;
    memset(out, 0, sizeof *out);
    const json_t *given = json_object_get(body, "port");
    if (!given || json_is_null(given)) {
        error_set_field(err, "port", "is required: a number from 1 to 65535");
        return false;
    }
    if (!json_get_int(body, "port", 1, 65535, &port, err)) return false;
    if (!json_get_string(body, "name", &out->name, err) ||
        !json_get_string(body, "protocol", &out->protocol, err))
        return false;
    if (out->name && !out->name[0]) out->name = NULL;
    if (out->protocol && !out->protocol[0]) out->protocol = NULL;
    if (out->name && only_digits(out->name)) {
        /* DELETE .../ports/{number or name} must mean one thing. */
        error_set_field(err, "name", "must not consist of digits only: it would look like a port");
        return false;
    }
    if (out->name && !dns_label_valid(slice_of(out->name))) {
        error_set_field(err, "name", "must be a DNS label: 1 to 63 of a-z, 0-9 and \"-\"");
        return false;
    }
    if (out->protocol &&
        (strlen(out->protocol) > PORT_PROTOCOL_MAX || !http1_token_valid(slice_of(out->protocol)))) {
        error_set_field(err, "protocol", "must be a word such as http, https or tcp");
        return false;
    }
    out->port = (int)port;
    return true;
}

bool port_target_parse(const char *text, int *port, struct error *err) {
    uint64_t n = 0;
    *port = 0;
    if (!only_digits(text)) {
        if (dns_label_valid(slice_of(text))) return true;
        error_set_field(err, "port", "must be a port number or the name of a forward");
        return false;
    }
    if (!slice_parse_u64(slice_of(text), 65535, &n) || n == 0) {
        error_set_field(err, "port", "must be a number from 1 to 65535");
        return false;
    }
    *port = (int)n;
    return true;
}

json_t *port_service(const struct object *sandbox, int port, const char *name, const char *protocol,
                     struct error *err) {
    char number[8], full[128];
    snprintf(number, sizeof number, "%d", port);
    int len = snprintf(full, sizeof full, "pf-%s-%d", sandbox->name, port);
    if (len > 63) {
        error_set_field(err, "port",
                        "cannot be forwarded: pf-%s-%d is longer than the 63 characters of a Service name",
                        sandbox->name, port);
        return NULL;
    }
    const struct resource_kind *kind = &resource_kinds[KIND_SANDBOX];
    json_t *owner =
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:b}", "apiVersion", kind->api_version, "kind", kind->kind,
                  "name", sandbox->name, "uid", sandbox->uid, "controller", 1, "blockOwnerDeletion", 1);
    json_t *metadata =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:s}, s:{s:s, s:s}, s:[o]}", "name", full, "namespace",
                  sandbox->namespace, "labels", "agenttier.io/port-forward", "true", "agenttier.io/sandbox",
                  sandbox->name, "agenttier.io/port", number, "annotations", ANNOTATION_PORT_NAME, name,
                  ANNOTATION_PORT_PROTOCOL, protocol, "ownerReferences", owner);
    json_t *spec = json_pack("{s:s, s:{s:s}, s:[{s:s, s:i, s:i, s:s}]}", "type", "ClusterIP", "selector",
                             "agenttier.io/sandbox", sandbox->name, "ports", "name", "http", "port", port,
                             "targetPort", port, "protocol", "TCP");
    return json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", resource_kinds[KIND_SERVICE].api_version, "kind",
                     resource_kinds[KIND_SERVICE].kind, "metadata", metadata, "spec", spec);
}

static const char *annotation(const json_t *service, const char *name) {
    const char *text = json_string_value(json_object_get(json_at(service, "metadata.annotations"), name));
    return text ? text : "";
}

int port_of(const json_t *service) {
    json_int_t port =
        json_integer_value(json_object_get(json_array_get(json_at(service, "spec.ports"), 0), "port"));
    return port >= 1 && port <= 65535 ? (int)port : 0;
}

const char *port_name(const json_t *service, char scratch[8]) {
    const char *name = annotation(service, ANNOTATION_PORT_NAME);
    if (name[0]) return name;
    snprintf(scratch, 8, "%d", port_of(service));
    return scratch;
}

const char *port_protocol(const json_t *service) {
    const char *protocol = annotation(service, ANNOTATION_PORT_PROTOCOL);
    return protocol[0] ? protocol : "http";
}

json_t *port_json(const json_t *service, const char *sandbox, const char *base_url,
                  const char *preview_domain) {
    char scratch[8];
    int port = port_of(service);
    cleanup_free char *preview = xasprintf("%s/api/v1/sandboxes/%s/preview/%d/", base_url, sandbox, port);
    cleanup_free char *internal =
        xasprintf("http://%s.%s.svc.cluster.local:%d", json_str_at(service, "metadata.name"),
                  json_str_at(service, "metadata.namespace"), port);
    json_t *out = json_pack("{s:s, s:i, s:s}", "name", port_name(service, scratch), "port", port, "protocol",
                            port_protocol(service));
    json_object_set_new(out, "previewUrl", json_string_repaired(slice_of(preview)));
    json_object_set_new(out, "internalUrl", json_string(internal));
    while (preview_domain[0] == '.' || preview_domain[0] == ' ')
        preview_domain++;
    if (preview_domain[0]) {
        struct slice domain = slice_trim(slice_of(preview_domain));
        cleanup_free char *ingress =
            xasprintf("https://sandbox-%s-%d.%.*s/", sandbox, port, (int)domain.len, domain.ptr);
        json_object_set_new(out, "ingressUrl", json_string_repaired(slice_of(ingress)));
    }
    return out;
}
