#include "router/spec_fields.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/units.h"

#include <stdio.h>
#include <string.h>

#define FIELD_MAX     192
#define REFERENCE_MAX 512
#define PATH_LENGTH   1024

static const char *join(char out[FIELD_MAX], const char *field, const char *member) {
    snprintf(out, FIELD_MAX, "%.120s.%.64s", field, member);
    return out;
}

/* Whether the bytes of a JSON text are printable and free of blanks. */
static bool visible(const char *s) {
    for (; *s; s++) {
        if ((unsigned char)*s <= ' ' || *s == 0x7f) return false;
    }
    return true;
}

static bool known_members(const json_t *object, const char *field, const char *const *known,
                          struct error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], name) != 0)
            i++;
        char path[FIELD_MAX];
        if (!known[i]) {
            error_set_field(err, join(path, field, name), "is not a member that can be set here");
            return false;
        }
    }
    return true;
}

json_t *spec_duration(const json_t *value, const char *field, struct error *err) {
    int64_t ns = 0;
    if (!json_is_string(value)) {
        error_set_field(err, field, "must be a duration such as \"30m\" or \"1h30m\"");
        return NULL;
    }
    if (json_string_length(value) > 64 || !duration_parse(json_string_value(value), &ns)) {
        error_set_field(err, field, "is not a duration such as \"30m\" or \"1h30m\"");
        return NULL;
    }
    if (ns <= 0) {
        error_set_field(err, field, "must be greater than zero");
        return NULL;
    }
    char text[DURATION_TEXT_MAX];
    duration_format(ns, text);
    return json_string(text);
}

/* The quantity in a text or a number. */
static bool quantity_of(const json_t *value, struct quantity *out) {
    char number[40];
    const char *text = number;
    if (json_is_string(value)) {
        text = json_string_value(value);
        if (json_string_length(value) > 64 || strlen(text) != json_string_length(value)) return false;
    } else if (json_is_integer(value)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(number, sizeof number, "%.15g", json_real_value(value));
    } else {
        return false;
    }
    return quantity_parse(text, out);
}

json_t *spec_quantity(const json_t *value, const char *field, struct error *err) {
    struct quantity q;
    if (!quantity_of(value, &q)) {
        error_set_field(err, field, "must be a quantity such as \"500m\", \"2\" or \"4Gi\"");
        return NULL;
    }
    if (q.nano < 0) {
        error_set_field(err, field, "must not be negative");
        return NULL;
    }
    char text[QUANTITY_TEXT_MAX];
    quantity_format(q, text);
    return json_string(text);
}

/* ---- resources ---- */

static bool put_amount(json_t *to, const char *name, const json_t *value, const char *field,
                       struct error *err) {
    json_t *amount = spec_quantity(value, field, err);
    if (!amount) return false;
    if ((strcmp(name, "cpu") == 0 || strcmp(name, "memory") == 0) &&
        strcmp(json_string_value(amount), "0") == 0) {
        json_decref(amount);
        error_set_field(err, field, "must be greater than zero");
        return false;
    }
    json_object_set_new(to, name, amount);
    return true;
}

static bool put_amounts(json_t *to, const json_t *from, const char *field, struct error *err) {
    const char *name;
    json_t *value;
    if (!json_is_object(from)) {
        error_set_field(err, field, "must be an object of quantities");
        return false;
    }
    json_object_foreach((json_t *)from, name, value) {
        char path[FIELD_MAX];
        if (json_is_null(value)) continue;
        if (!name[0] || strlen(name) > 128 || !visible(name)) {
            error_set_field(err, field, "has a member whose name is not that of a resource");
            return false;
        }
        if (!put_amount(to, name, value, join(path, field, name), err)) return false;
    }
    return true;
}

static bool requests_within_limits(const json_t *requests, const json_t *limits, const char *field,
                                   struct error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)requests, name, value) {
        struct quantity request, limit;
        const json_t *most = json_object_get(limits, name);
        if (!most || !quantity_of(value, &request) || !quantity_of(most, &limit)) continue;
        if (quantity_compare(request, limit) > 0) {
            char path[FIELD_MAX];
            error_set_field(err, join(path, field, name), "must not be greater than the limit");
            return false;
        }
    }
    return true;
}

static bool put_claims(json_t *to, const json_t *claims, const char *field, struct error *err) {
    size_t i;
    json_t *claim;
    if (!json_is_array(claims)) {
        error_set_field(err, field, "must be a list");
        return false;
    }
    json_array_foreach(claims, i, claim) {
        if (!json_is_object(claim) || !json_str_at(claim, "name")[0]) {
            error_set_field(err, field, "must be a list of objects with a name");
            return false;
        }
    }
    if (json_array_size(claims) > 0) json_object_set_new(to, "claims", json_deep_copy(claims));
    return true;
}

json_t *spec_resources(const json_t *value, const char *field, struct error *err) {
    static const char *const known[] = {"limits", "requests", "claims", "cpu", "memory", NULL};
    if (!json_is_object(value)) {
        error_set_field(err, field, "must be an object such as {\"cpu\": \"2\", \"memory\": \"4Gi\"}");
        return NULL;
    }
    if (!known_members(value, field, known, err)) return NULL;
    cleanup_json json_t *limits = json_object();
    cleanup_json json_t *requests = json_object();
    cleanup_json json_t *out = json_object();
    char path[FIELD_MAX];
    const json_t *part = json_object_get(value, "limits");
    if (part && !json_is_null(part) && !put_amounts(limits, part, join(path, field, "limits"), err))
        return NULL;
    part = json_object_get(value, "requests");
    if (part && !json_is_null(part) && !put_amounts(requests, part, join(path, field, "requests"), err))
        return NULL;
    part = json_object_get(value, "claims");
    if (part && !json_is_null(part) && !put_claims(out, part, join(path, field, "claims"), err)) return NULL;
    for (size_t i = 3; known[i]; i++) {
        part = json_object_get(value, known[i]);
        if (!part || json_is_null(part)) continue;
        join(path, field, known[i]);
        if (json_object_get(limits, known[i])) {
            error_set_field(err, path, "is given twice: here and in limits");
            return NULL;
        }
        if (!put_amount(limits, known[i], part, path, err)) return NULL;
    }
    if (!requests_within_limits(requests, limits, join(path, field, "requests"), err)) return NULL;
    if (json_object_size(limits) > 0) json_object_set(out, "limits", limits);
    if (json_object_size(requests) > 0) json_object_set(out, "requests", requests);
    return steal_ptr(out);
}

/* ---- env ---- */

/* Kubernetes' rule for names of environment variables. */
static bool env_name_valid(const char *s) {
    if (!s[0] || strlen(s) > 256 || (s[0] >= '0' && s[0] <= '9')) return false;
    for (; *s; s++) {
        bool ok = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                  *s == '_' || *s == '-' || *s == '.';
        if (!ok) return false;
    }
    return true;
}

/* Adds or replaces: of two with one name the later one counts. */
static bool put_env(json_t *list, const char *name, const json_t *value, const char *field,
                    struct error *err) {
    char path[FIELD_MAX];
    if (!env_name_valid(name)) {
        error_set_field(err, field, "has a name that is not that of an environment variable");
        return false;
    }
    join(path, field, name);
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
        error_set_field(err, path, "must be a string");
        return false;
    }
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        if (strcmp(json_str_at(item, "name"), name) != 0) continue;
        json_object_set_new(item, "value", json_string(json_string_value(value)));
        return true;
    }
    json_array_append_new(list, json_pack("{s:s, s:s}", "name", name, "value", json_string_value(value)));
    return true;
}

static bool put_env_item(json_t *list, const json_t *item, const char *field, struct error *err) {
    static const char *const known[] = {"name", "value", NULL};
    if (!json_is_object(item) || !json_is_string(json_object_get(item, "name"))) {
        error_set_field(err, field, "must be a list of {\"name\", \"value\"}");
        return false;
    }
    if (!known_members(item, field, known, err)) return false;
    const char *name = json_string_value(json_object_get(item, "name"));
    json_t *value = json_object_get(item, "value");
    cleanup_json json_t *empty = json_string("");
    return put_env(list, name, value && !json_is_null(value) ? value : empty, field, err);
}

json_t *spec_env(const json_t *value, const char *field, struct error *err) {
    cleanup_json json_t *list = json_array();
    size_t i;
    const char *name;
    json_t *item;
    if (json_is_array(value)) {
        json_array_foreach(value, i, item) {
            if (!put_env_item(list, item, field, err)) return NULL;
        }
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, name, item) {
            if (json_is_null(item)) continue;
            if (!put_env(list, name, item, field, err)) return NULL;
        }
    } else {
        error_set_field(err, field, "must be an object of strings or a list of {\"name\", \"value\"}");
        return NULL;
    }
    return steal_ptr(list);
}

/* ---- storage, image, mode ---- */

/* Absolute, without "." and ".." segments. */
static bool path_valid(const char *s) {
    if (s[0] != '/' || strlen(s) > PATH_LENGTH) return false;
    for (const char *p = s; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f || *p == ':') return false;
        if (*p != '/' || p[1] != '.') continue;
        const char *end = p[2] == '.' ? p + 3 : p + 2;
        if (*end == '/' || *end == '\0') return false;
    }
    return true;
}

static bool put_size(json_t *to, const json_t *size, const char *field, struct error *err) {
    json_t *text = spec_quantity(size, field, err);
    if (!text) return false;
    /* "0" means "not set" to whoever reads it (http-api.md 4.2): leave it out. */
    if (strcmp(json_string_value(text), "0") == 0)
        json_decref(text);
    else
        json_object_set_new(to, "size", text);
    return true;
}

static bool put_flag(json_t *to, const json_t *from, const char *name, const char *field, struct error *err) {
    const json_t *value = json_object_get(from, name);
    if (!value || json_is_null(value)) return true;
    if (!json_is_boolean(value)) {
        char path[FIELD_MAX];
        error_set_field(err, join(path, field, name), "must be true or false");
        return false;
    }
    json_object_set_new(to, name, json_boolean(json_is_true(value)));
    return true;
}

json_t *spec_storage(const json_t *value, const char *field, struct error *err) {
    static const char *const known[] = {"size",           "storageClass", "mountPath",
                                        "snapshotOnStop", "shared",       NULL};
    cleanup_json json_t *out = json_object();
    char path[FIELD_MAX];
    if (json_is_string(value)) return put_size(out, value, field, err) ? steal_ptr(out) : NULL;
    if (!json_is_object(value)) {
        error_set_field(err, field, "must be an object such as {\"size\": \"20Gi\"}");
        return NULL;
    }
    if (!known_members(value, field, known, err)) return NULL;
    const json_t *size = json_object_get(value, "size");
    if (size && !json_is_null(size) && !put_size(out, size, join(path, field, "size"), err)) return NULL;
    if (!put_flag(out, value, "snapshotOnStop", field, err) || !put_flag(out, value, "shared", field, err))
        return NULL;
    const json_t *text = json_object_get(value, "storageClass");
    if (text && !json_is_null(text)) {
        const char *s = json_string_value(text);
        if (!s || strlen(s) > 253 || !visible(s)) {
            error_set_field(err, join(path, field, "storageClass"), "must be the name of a storage class");
            return NULL;
        }
        if (s[0]) json_object_set_new(out, "storageClass", json_string(s));
    }
    text = json_object_get(value, "mountPath");
    if (text && !json_is_null(text)) {
        const char *s = json_string_value(text);
        if (!s || (s[0] && !path_valid(s))) {
            error_set_field(err, join(path, field, "mountPath"), "must be an absolute path without \"..\"");
            return NULL;
        }
        if (s[0]) json_object_set_new(out, "mountPath", json_string(s));
    }
    return steal_ptr(out);
}

static bool reference_valid(const char *s) {
    return s && s[0] && strlen(s) <= REFERENCE_MAX && visible(s);
}

json_t *spec_image(const json_t *value, const char *field, struct error *err) {
    static const char *const known[] = {"repository", "pullPolicy", "pullSecret", NULL};
    static const char *const policies[] = {"Always", "IfNotPresent", "Never", NULL};
    char path[FIELD_MAX];
    if (json_is_string(value)) {
        if (!reference_valid(json_string_value(value))) {
            error_set_field(err, field, "must be an image reference without blanks");
            return NULL;
        }
        return json_pack("{s:s}", "repository", json_string_value(value));
    }
    if (!json_is_object(value)) {
        error_set_field(err, field,
                        "must be an image reference or an object such as {\"repository\": \"...\"}");
        return NULL;
    }
    if (!known_members(value, field, known, err)) return NULL;
    const char *repository = json_string_value(json_object_get(value, "repository"));
    if (!reference_valid(repository)) {
        error_set_field(err, join(path, field, "repository"), "must be an image reference without blanks");
        return NULL;
    }
    cleanup_json json_t *out = json_pack("{s:s}", "repository", repository);
    const json_t *policy = json_object_get(value, "pullPolicy");
    if (policy && !json_is_null(policy)) {
        const char *s = json_string_value(policy);
        size_t i = 0;
        while (s && policies[i] && strcmp(policies[i], s) != 0)
            i++;
        if (!s || (s[0] && !policies[i])) {
            error_set_field(err, join(path, field, "pullPolicy"), "must be Always, IfNotPresent or Never");
            return NULL;
        }
        if (s[0]) json_object_set_new(out, "pullPolicy", json_string(s));
    }
    const json_t *secret = json_object_get(value, "pullSecret");
    if (secret && !json_is_null(secret)) {
        const char *s = json_string_value(secret);
        if (!s || strlen(s) > 253 || !visible(s)) {
            error_set_field(err, join(path, field, "pullSecret"), "must be the name of a secret");
            return NULL;
        }
        if (s[0]) json_object_set_new(out, "pullSecret", json_string(s));
    }
    return steal_ptr(out);
}

json_t *spec_mode(const json_t *value, const char *field, struct error *err) {
    const char *s = json_string_value(value);
    if (!s || (strcmp(s, "code") != 0 && strcmp(s, "agent") != 0)) {
        error_set_field(err, field, "must be \"code\" or \"agent\"");
        return NULL;
    }
    return json_string(s);
}
