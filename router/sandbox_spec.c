#include "router/sandbox_spec.h"

#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "router/spec_fields.h"

#include <stdio.h>
#include <string.h>

#define METADATA_MAX (256 * 1024) /* Kubernetes' own bound for all annotations */

void sandbox_request_free(struct sandbox_request *q) {
    json_decref(q->spec);
    q->spec = NULL;
}

/* ---- members of the spec that a client may set ---- */

static json_t *spec_flag(const json_t *value, const char *field, struct error *err) {
    if (json_is_boolean(value)) return json_boolean(json_is_true(value));
    error_set_field(err, field, "must be true or false");
    return NULL;
}

/* A sandbox may close its network, never open one that its template closes. */
static json_t *spec_network(const json_t *value, const char *field, struct error *err) {
    const json_t *internet = json_object_get(value, "allowInternet");
    if (json_object_size(value) == 1 && json_is_false(internet))
        return json_pack("{s:b}", "allowInternet", 0);
    error_set_field(err, field,
                    "can only be {\"allowInternet\": false}; anything wider is set by the template");
    return NULL;
}

struct member {
    const char *name;
    json_t *(*read)(const json_t *value, const char *field, struct error *err);
    bool beside; /* also taken beside `overrides` */
};

static const struct member members[] = {
    {"timeout", spec_duration, true}, {"idleTimeout", spec_duration, true},
    {"storage", spec_storage, true},  {"resources", spec_resources, true},
    {"env", spec_env, true},          {"image", spec_image, true},
    {"mode", spec_mode, false},       {"autoResume", spec_flag, false},
    {"network", spec_network, false},
};
#define MEMBER_COUNT (sizeof members / sizeof members[0])

static const struct member *find_member(const char *name) {
    for (size_t i = 0; i < MEMBER_COUNT; i++) {
        if (strcmp(members[i].name, name) == 0) return &members[i];
    }
    return NULL;
}

static bool is_empty_text(const json_t *value) {
    return json_is_string(value) && json_string_length(value) == 0;
}

static bool read_member(const struct member *m, const json_t *value, const char *prefix, json_t *spec,
                        struct error *err) {
    /* The reference's own clients send "" for members that the user left out. */
    if (!value || json_is_null(value) || is_empty_text(value)) return true;
    char field[64];
    snprintf(field, sizeof field, "%s%s", prefix, m->name);
    json_t *canonical = m->read(value, field, err);
    if (!canonical) return false;
    json_object_set_new(spec, m->name, canonical);
    return true;
}

static bool read_overrides(const json_t *body, json_t *spec, struct error *err) {
    json_t *overrides = NULL, *value;
    const char *name;
    if (!json_get_object(body, "overrides", &overrides, err)) return false;
    json_object_foreach(overrides, name, value) {
        const struct member *m = find_member(name);
        if (m) {
            if (!read_member(m, value, "overrides.", spec, err)) return false;
            continue;
        }
        /* Ignoring it would lose silently what the client relies on. */
        char field[128];
        snprintf(field, sizeof field, "overrides.%.64s", name);
        error_set_field(err, field, "cannot be overridden; set it in the template");
        return false;
    }
    return true;
}

/* ---- create ---- */

static bool read_template(const json_t *body, struct sandbox_request *out, struct error *err) {
    json_t *ref = NULL;
    const char *plain = NULL;
    if (!json_get_object(body, "templateRef", &ref, err) || !json_get_string(body, "template", &plain, err))
        return false;
    if (ref) {
        if (!json_get_string(ref, "name", &out->template_name, err) ||
            !json_get_string(ref, "kind", &out->template_kind, err) ||
            !json_get_string(ref, "namespace", &out->template_namespace, err)) {
            error_wrap(err, "templateRef");
            return false;
        }
    }
    if (plain && plain[0]) {
        if (out->template_name && out->template_name[0] && strcmp(out->template_name, plain) != 0) {
            error_set_field(err, "template", "differs from templateRef.name");
            return false;
        }
        out->template_name = plain;
    }
    if (!out->template_name || !out->template_name[0]) {
        error_set_field(err, "templateRef.name", "is required");
        return false;
    }
    if (strlen(out->template_name) > 253) {
        error_set_field(err, "templateRef.name", "is longer than 253 characters");
        return false;
    }
    if (out->template_kind && !out->template_kind[0]) out->template_kind = NULL;
    if (out->template_namespace && !out->template_namespace[0]) out->template_namespace = NULL;
    if (out->template_kind && strcmp(out->template_kind, "ClusterSandboxTemplate") != 0 &&
        strcmp(out->template_kind, "SandboxTemplate") != 0) {
        error_set_field(err, "templateRef.kind", "must be ClusterSandboxTemplate or SandboxTemplate");
        return false;
    }
    if (out->template_namespace && !dns_label_valid(slice_of(out->template_namespace))) {
        error_set_field(err, "templateRef.namespace", "must be a DNS label");
        return false;
    }
    return true;
}

bool sandbox_request_parse(const json_t *body, struct sandbox_request *out, struct error *err) {
    memset(out, 0, sizeof *out);
    if (!json_get_string(body, "name", &out->name, err)) return false;
    if (!out->name || !out->name[0]) {
        error_set_field(err, "name", "is required");
        return false;
    }
    if (!dns_label_valid(slice_of(out->name))) {
        error_set_field(
            err, "name",
            "must be a DNS label: 1 to 63 of a-z, 0-9 and \"-\", with a letter or digit at both ends");
        return false;
    }
    if (!json_get_string(body, "namespace", &out->namespace, err)) return false;
    if (out->namespace && !out->namespace[0]) out->namespace = NULL;
    if (out->namespace && !dns_label_valid(slice_of(out->namespace))) {
        error_set_field(err, "namespace", "must be a DNS label");
        return false;
    }
    if (!read_template(body, out, err)) return false;

    cleanup_json json_t *spec = json_object();
    for (size_t i = 0; i < MEMBER_COUNT; i++) {
        if (!members[i].beside) continue;
        if (!read_member(&members[i], json_object_get(body, members[i].name), "", spec, err)) return false;
    }
    if (!read_overrides(body, spec, err)) return false;
    out->spec = steal_ptr(spec);
    return true;
}

static void set_text(json_t *object, const char *name, const char *value) {
    if (value && value[0]) json_object_set_new(object, name, json_string_repaired(slice_of(value)));
}

json_t *sandbox_created_by(const struct identity *owner) {
    json_t *created_by = json_object();
    set_text(created_by, "sub", owner->sub);
    set_text(created_by, "email", owner->email);
    set_text(created_by, "displayName", owner->name);
    return created_by;
}

json_t *sandbox_request_object(const struct sandbox_request *q, const char *namespace, const char *kind,
                               const char *mode, const struct identity *owner) {
    json_t *spec = json_deep_copy(q->spec);
    if (!json_object_get(spec, "mode"))
        json_object_set_new(spec, "mode", json_string(mode[0] ? mode : "code"));
    json_t *ref = json_pack("{s:s, s:s}", "name", q->template_name, "kind", kind);
    if (strcmp(kind, "SandboxTemplate") == 0) set_text(ref, "namespace", q->template_namespace);
    json_object_set_new(spec, "templateRef", ref);
    json_object_set_new(spec, "createdBy", sandbox_created_by(owner));
    return json_pack("{s:s, s:s, s:{s:s, s:s}, s:o}", "apiVersion", resource_kinds[KIND_SANDBOX].api_version,
                     "kind", resource_kinds[KIND_SANDBOX].kind, "metadata", "name", q->name, "namespace",
                     namespace, "spec", spec);
}

/* The members of `own` over those of `base`; own wins. */
static json_t *laid_over(const json_t *own, const json_t *base) {
    json_t *out = json_is_object(base) ? json_deep_copy(base) : json_object();
    json_object_update(out, (json_t *)own);
    return out;
}

static void lower_requests(json_t *requests, const json_t *limits) {
    const char *name;
    json_t *value;
    void *next;
    json_object_foreach_safe(requests, next, name, value) {
        struct quantity request, limit;
        json_t *most = json_object_get(limits, name);
        if (!json_is_string(most) || !json_is_string(value)) continue;
        if (!quantity_parse(json_string_value(most), &limit)) continue;
        if (quantity_parse(json_string_value(value), &request) && quantity_compare(request, limit) > 0)
            json_object_set_new(requests, name, json_string(json_string_value(most)));
    }
}

void sandbox_spec_inherit(json_t *spec, const json_t *template_spec) {
    static const char *const parts[] = {"limits", "requests"};
    json_t *own = json_object_get(spec, "storage");
    const json_t *base = json_object_get(template_spec, "storage");
    if (own && base) json_object_set_new(spec, "storage", laid_over(own, base));

    own = json_object_get(spec, "resources");
    base = json_object_get(template_spec, "resources");
    if (!own || !base) return;
    cleanup_json json_t *merged = json_deep_copy(own);
    for (size_t i = 0; i < 2; i++) {
        const json_t *low = json_object_get(base, parts[i]);
        const json_t *high = json_object_get(own, parts[i]);
        if (!low) continue;
        cleanup_json json_t *none = json_object();
        json_object_set_new(merged, parts[i], laid_over(high ? high : none, low));
    }
    /* A request that the sandbox sets above a limit of the template raises the limit's meaning:
     * the sandbox's own word counts, so such a limit is dropped rather than the request. */
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(own, "requests"), name, value) {
        struct quantity request, limit;
        json_t *limits = json_object_get(merged, "limits");
        const char *most = json_string_value(json_object_get(limits, name));
        if (json_object_get(json_object_get(own, "limits"), name) || !most) continue;
        if (quantity_parse(json_string_value(value), &request) && quantity_parse(most, &limit) &&
            quantity_compare(request, limit) > 0)
            json_object_set(limits, name, value);
    }
    lower_requests(json_object_get(merged, "requests"), json_object_get(merged, "limits"));
    json_object_set(spec, "resources", merged);
}

bool sandbox_namespace_allowed(const struct identity *caller, const char *namespace,
                               const char *install_namespace, const char *sandbox_namespace) {
    if (caller->is_admin || strcmp(namespace, sandbox_namespace) == 0) return true;
    return strncmp(namespace, "kube-", 5) != 0 && strcmp(namespace, install_namespace) != 0;
}

/* The next of a comma-separated list of "NAMESPACE=GROUP"; false at its end. A part that is missing is empty.
 */
static bool next_grant(const char **list, struct slice *namespace, struct slice *group) {
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    struct slice item = slice_trim(slice_make(*list, n));
    const char *sign = memchr(item.ptr, '=', item.len);
    size_t first = sign ? (size_t)(sign - item.ptr) : item.len;
    *namespace = slice_make(item.ptr, first);
    *group = sign ? slice_make(sign + 1, item.len - first - 1) : slice_make("", 0);
    *list += n + ((*list)[n] == ',');
    return true;
}

bool sandbox_grants_valid(const char *grants) {
    struct slice namespace, group;
    while (next_grant(&grants, &namespace, &group))
        if (namespace.len == 0 || group.len == 0) return false;
    return true;
}

bool sandbox_namespace_granted(const struct identity *caller, const char *namespace, const char *grants) {
    struct slice granted, group;
    if (caller->is_admin || !grants[0]) return true;
    while (next_grant(&grants, &granted, &group)) {
        if (!slice_equal_str(granted, namespace)) continue;
        cleanup_free char *name = slice_dup(group);
        if (strcmp(name, "*") == 0 || identity_in_group(caller, name)) return true;
    }
    return false;
}

/* ---- PATCH ---- */

/* A label or annotation key: [prefix/]name, and not one of ours (W-07). */
static bool metadata_key_valid(const char *key, const char *field, struct error *err) {
    const char *slash = strchr(key, '/');
    const char *name = slash ? slash + 1 : key;
    size_t n = strlen(name), prefix = slash ? (size_t)(slash - key) : 0;
    bool ok = n >= 1 && n <= 63 && (!slash || (prefix >= 1 && prefix <= 253));
    for (size_t i = 0; ok && i < n; i++) {
        char c = name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        ok = alnum || ((c == '-' || c == '_' || c == '.') && i > 0 && i + 1 < n);
    }
    for (size_t i = 0; ok && i < prefix; i++) {
        char c = key[i];
        ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
    }
    if (!ok) {
        error_set_field(err, field, "has a key that is not a valid Kubernetes key");
        return false;
    }
    static const char reserved[] = "agenttier.io";
    size_t r = sizeof reserved - 1;
    if (prefix >= r && strncmp(slash - r, reserved, r) == 0 &&
        (prefix == r || slash[-(ptrdiff_t)r - 1] == '.')) {
        error_set_field(err, field, "must not have keys under agenttier.io/: they belong to the platform");
        return false;
    }
    return true;
}

static bool label_value_valid(const char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++) {
        bool alnum =
            (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9');
        if (!alnum && !((s[i] == '-' || s[i] == '_' || s[i] == '.') && i > 0 && i + 1 < n)) return false;
    }
    return n <= 63;
}

static bool patch_map(const json_t *body, const char *field, bool labels, json_t *metadata, json_t *applied,
                      struct error *err) {
    json_t *map = NULL, *value;
    const char *key;
    size_t total = 0;
    if (!json_get_object(body, field, &map, err)) return false;
    if (!map) return true;
    json_object_foreach(map, key, value) {
        if (!metadata_key_valid(key, field, err)) return false;
        if (json_is_null(value)) continue;
        const char *text = json_string_value(value);
        if (!text || (labels && !label_value_valid(text))) {
            error_set_field(err, field,
                            labels ? "must map keys to label values of at most 63 characters, or null"
                                   : "must map keys to strings, or null");
            return false;
        }
        total += strlen(key) + json_string_length(value);
    }
    if (total > METADATA_MAX) {
        error_set_field(err, field, "is larger than 256 KiB");
        return false;
    }
    json_object_set_new(metadata, field, json_deep_copy(map));
    json_object_set_new(applied, field, json_string("immediately"));
    return true;
}

static bool patch_member(const json_t *body, const char *name, const char *when, json_t *spec,
                         json_t *applied, struct error *err) {
    const json_t *value = json_object_get(body, name);
    if (!value || is_empty_text(value)) return true;
    json_t *canonical = json_is_null(value) ? json_null() : find_member(name)->read(value, name, err);
    if (!canonical) return false;
    json_object_set_new(spec, name, canonical);
    json_object_set_new(applied, name, json_string(when));
    return true;
}

json_t *sandbox_patch_parse(const json_t *body, json_t **applied_out, struct error *err) {
    cleanup_json json_t *applied = json_object();
    cleanup_json json_t *spec = json_object();
    cleanup_json json_t *metadata = json_object();
    if (!patch_member(body, "idleTimeout", "immediately", spec, applied, err) ||
        !patch_member(body, "timeout", "immediately", spec, applied, err) ||
        !patch_member(body, "resources", "on-restart", spec, applied, err) ||
        !patch_map(body, "labels", true, metadata, applied, err) ||
        !patch_map(body, "annotations", false, metadata, applied, err))
        return NULL;
    if (json_object_size(applied) == 0) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "nothing to change: give idleTimeout, timeout, resources, labels or annotations");
        return NULL;
    }
    *applied_out = steal_ptr(applied);
    return json_pack("{s:O, s:O}", "metadata", metadata, "spec", spec);
}
