/* Claims to names of ports: {"web": {"port": 8000, "at": 1800000000}} as text in an annotation. See ports.h.
 */
#include "common/json.h"
#include "router/ports.h"
#include "router/sandbox_view.h"

#include <string.h>

/* The claims; what is no claim is left out. A new reference. */
static json_t *read_claims(const json_t *sandbox) {
    const char *text = sandbox_annotation(sandbox, ANNOTATION_PORT_NAMES);
    json_t *claims = text[0] ? json_parse_object(slice_of(text), NULL) : NULL;
    const char *name;
    json_t *value;
    void *next;
    if (!claims) return json_object();
    json_object_foreach_safe(claims, next, name, value) {
        json_int_t port = json_integer_value(json_object_get(value, "port"));
        if (port < 1 || port > 65535) json_object_del(claims, name);
    }
    return claims;
}

static void write_claims(json_t *sandbox, const json_t *claims) {
    json_t *metadata = json_object_get(sandbox, "metadata");
    json_t *annotations = json_object_get(metadata, "annotations");
    if (json_object_size(claims) == 0) {
        json_object_del(annotations, ANNOTATION_PORT_NAMES);
        return;
    }
    if (!json_is_object(annotations))
        json_object_set_new(metadata, "annotations", annotations = json_object());
    cleanup_free char *text = json_dumps(claims, JSON_COMPACT | JSON_SORT_KEYS);
    json_object_set_new(annotations, ANNOTATION_PORT_NAMES, json_string(text));
}

static int port_in(const json_t *claim) {
    return (int)json_integer_value(json_object_get(claim, "port"));
}

static bool is_fresh(const json_t *claim, time_t now) {
    json_int_t at = json_integer_value(json_object_get(claim, "at"));
    return at <= now + PORT_CLAIM_FRESH_S && now - at < PORT_CLAIM_FRESH_S;
}

int port_name_claim(json_t *sandbox, const char *name, int port, time_t now, port_is_named_fn *is_named,
                    void *ctx) {
    cleanup_json json_t *claims = read_claims(sandbox);
    const char *other;
    json_t *claim;
    void *next;
    json_object_foreach_safe(claims, next, other, claim) {
        bool counts = is_fresh(claim, now) || is_named(ctx, port_in(claim), other);
        if (!counts || port_in(claim) == port) json_object_del(claims, other);
    }
    const json_t *holder = json_object_get(claims, name);
    if (holder) return port_in(holder);
    json_object_set_new(claims, name, json_pack("{s:i, s:I}", "port", port, "at", (json_int_t)now));
    write_claims(sandbox, claims);
    return 0;
}

int port_name_claimed(const json_t *sandbox, const char *name) {
    cleanup_json json_t *claims = read_claims(sandbox);
    return port_in(json_object_get(claims, name));
}

bool port_name_release(json_t *sandbox, int port) {
    cleanup_json json_t *claims = read_claims(sandbox);
    size_t before = json_object_size(claims);
    const char *name;
    json_t *claim;
    void *next;
    json_object_foreach_safe(claims, next, name, claim) {
        if (port_in(claim) == port) json_object_del(claims, name);
    }
    if (json_object_size(claims) == before) return false;
    write_claims(sandbox, claims);
    return true;
}
