#include "local/admission.h"

#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/units.h"

#include <ctype.h>

#define MAX_NAME            253
#define MAX_LABEL           63
#define MAX_ANNOTATIONS     (256 * 1024)
#define GENERATED_SUFFIX    5
#define MAX_GENERATE_PREFIX (MAX_NAME - GENERATED_SUFFIX)

/* RFC 1123 subdomain: labels with dots between. Unlike a host name's, a label of an object
 * name may be longer than 63. */
static bool subdomain_valid(struct slice s) {
    if (s.len == 0 || s.len > MAX_NAME) return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (alnum) continue;
        if (c != '-' && c != '.') return false;
        /* Hyphens and dots only between alphanumerics; two hyphens may stand together. */
        if (i == 0 || i + 1 == s.len) return false;
        char before = s.ptr[i - 1], after = s.ptr[i + 1];
        if (c == '.' && (before == '.' || before == '-' || after == '-')) return false;
    }
    return true;
}

/* At most 63 of [A-Za-z0-9_.-], alphanumeric at both ends. */
static bool qualified_part_valid(struct slice s) {
    if (s.len == 0 || s.len > MAX_LABEL) return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (isalnum((unsigned char)c)) continue;
        if ((c != '-' && c != '_' && c != '.') || i == 0 || i + 1 == s.len) return false;
    }
    return true;
}

/* "name" or "example.org/name". */
static bool qualified_name_valid(const char *text) {
    const char *slash = strchr(text, '/');
    if (slash == NULL) return qualified_part_valid(slice_of(text));
    return subdomain_valid(slice_make(text, (size_t)(slash - text))) &&
           qualified_part_valid(slice_of(slash + 1));
}

/* The text of a JSON string, or NULL when it is none or has a NUL in it. */
static const char *text_of(const json_t *value) {
    const char *text = json_string_value(value);
    return text != NULL && strlen(text) == json_string_length(value) ? text : NULL;
}

static bool absent(const json_t *value) {
    return value == NULL || json_is_null(value);
}

static bool check_name(enum kind kind, const char *field, const char *name, struct error *err) {
    if (kind == KIND_SERVICE) {
        /* RFC 1035: Services become host names. */
        if (dns_label_valid(slice_of(name)) && isalpha((unsigned char)name[0])) return true;
        error_set_field(
            err, field,
            "must be a DNS label: at most 63 lower case letters, digits and hyphens, a letter first");
        return false;
    }
    if (subdomain_valid(slice_of(name))) return true;
    error_set_field(
        err, field,
        "must be a DNS subdomain: at most 253 lower case letters, digits, hyphens and dots, with a letter "
        "or digit at both ends");
    return false;
}

static bool check_namespace(enum kind kind, const char *namespace, struct error *err) {
    if (!resource_kinds[kind].namespaced) {
        if (namespace[0] == '\0') return true;
        error_set_field(err, "metadata.namespace", "must be empty: %s is cluster-scoped",
                        resource_kinds[kind].kind);
        return false;
    }
    if (dns_label_valid(slice_of(namespace))) return true;
    error_set_field(
        err, "metadata.namespace",
        "must be a DNS label: 1 to 63 lower case letters, digits and hyphens, with a letter or digit at "
        "both ends");
    return false;
}

/* The optional string metadata.`name`; "" when absent. */
static bool metadata_string(const json_t *metadata, const char *name, const char **out, struct error *err) {
    json_t *value = json_object_get(metadata, name);
    *out = absent(value) ? "" : text_of(value);
    if (*out != NULL) return true;
    char field[64];
    snprintf(field, sizeof(field), "metadata.%s", name);
    error_set_field(err, field, "must be a string");
    return false;
}

static bool check_type_meta(enum kind kind, const json_t *given, struct error *err) {
    const struct resource_kind *expected = &resource_kinds[kind];
    if (!json_is_object(given)) {
        error_set(err, 400, ERR_BAD_REQUEST, "a %s must be a JSON object", expected->kind);
        return false;
    }
    const json_t *type = json_object_get(given, "kind"), *version = json_object_get(given, "apiVersion");
    if (!absent(type) && (text_of(type) == NULL || strcmp(text_of(type), expected->kind) != 0)) {
        error_set_field(err, "kind", "must be %s", expected->kind);
        return false;
    }
    if (!absent(version) &&
        (text_of(version) == NULL || strcmp(text_of(version), expected->api_version) != 0)) {
        error_set_field(err, "apiVersion", "must be %s", expected->api_version);
        return false;
    }
    if (!json_is_object(json_object_get(given, "metadata"))) {
        error_set_field(err, "metadata", "must be an object");
        return false;
    }
    static const char *const objects[] = {"spec", "status", "data"};
    for (size_t i = 0; i < sizeof(objects) / sizeof(*objects); i++) {
        const json_t *value = json_object_get(given, objects[i]);
        if (absent(value) || json_is_object(value)) continue;
        error_set_field(err, objects[i], "must be an object");
        return false;
    }
    return true;
}

bool admission_key(enum kind kind, const json_t *object, const char **namespace, const char **name,
                   struct error *err) {
    if (!check_type_meta(kind, object, err)) return false;
    const json_t *metadata = json_object_get(object, "metadata");
    return metadata_string(metadata, "name", name, err) &&
           metadata_string(metadata, "namespace", namespace, err) &&
           check_name(kind, "metadata.name", *name, err) && check_namespace(kind, *namespace, err);
}

/* labels and annotations: maps of strings with qualified names as keys. */
static bool check_map(const json_t *map, const char *field, bool labels, struct error *err) {
    if (!json_is_object(map)) {
        error_set_field(err, field, "must be an object of strings");
        return false;
    }
    size_t total = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value) {
        if (!qualified_name_valid(key)) {
            error_set_field(err, field, "\"%.80s\" is not a valid key", key);
            return false;
        }
        const char *text = json_string_value(value);
        if (text == NULL) {
            error_set_field(err, field, "the value of \"%s\" must be a string", key);
            return false;
        }
        struct slice bytes = slice_make(text, json_string_length(value));
        if (labels && bytes.len > 0 && !qualified_part_valid(bytes)) {
            error_set_field(
                err, field,
                "the value of \"%s\" must be at most 63 letters, digits, '-', '_' and '.', with a letter "
                "or digit at both ends",
                key);
            return false;
        }
        total += strlen(key) + bytes.len;
    }
    if (!labels && total > MAX_ANNOTATIONS) {
        error_set_field(err, field, "must not be above 256 KiB in all");
        return false;
    }
    return true;
}

static bool check_finalizers(const json_t *list, const char *field, struct error *err) {
    size_t i;
    json_t *item;
    if (!json_is_array(list)) {
        error_set_field(err, field, "must be a list of strings");
        return false;
    }
    json_array_foreach(list, i, item) {
        if (text_of(item) != NULL && qualified_name_valid(text_of(item))) continue;
        error_set_field(err, field, "item %zu is not a valid name", i);
        return false;
    }
    return true;
}

static bool check_owners(const json_t *list, const char *field, struct error *err) {
    static const char *const members[] = {"apiVersion", "kind", "name", "uid"};
    size_t i;
    json_t *item;
    if (!json_is_array(list)) {
        error_set_field(err, field, "must be a list of objects");
        return false;
    }
    json_array_foreach(list, i, item) {
        for (size_t m = 0; m < sizeof(members) / sizeof(*members); m++) {
            const char *text = text_of(json_object_get(item, members[m]));
            if (text != NULL && text[0] != '\0') continue;
            error_set_field(err, field, "item %zu must have %s", i, members[m]);
            return false;
        }
    }
    return true;
}

/* Copies the members of metadata that a writer may set. Empty ones count as absent. */
static bool copy_settable(const json_t *given, json_t *metadata, struct error *err) {
    static const char *const names[] = {"labels", "annotations", "finalizers", "ownerReferences"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const json_t *value = json_object_get(given, names[i]);
        if (absent(value)) continue;
        char field[64];
        snprintf(field, sizeof(field), "metadata.%s", names[i]);
        bool ok = i < 2    ? check_map(value, field, i == 0, err)
                  : i == 2 ? check_finalizers(value, field, err)
                           : check_owners(value, field, err);
        if (!ok) return false;
        if (json_object_size(value) + json_array_size(value) == 0) continue;
        json_object_set_new(metadata, names[i], json_deep_copy(value));
    }
    return true;
}

/* Keys of Secrets and ConfigMaps become file names. */
static bool data_key_valid(const char *key) {
    size_t len = strlen(key);
    if (len == 0 || len > MAX_NAME || strcmp(key, ".") == 0 || strncmp(key, "..", 2) == 0) return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)key[i]) && strchr("-._", key[i]) == NULL) return false;
    }
    return true;
}

static bool check_data(enum kind kind, const json_t *data, const char *field, bool base64,
                       struct error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)data, key, value) {
        if (!data_key_valid(key)) {
            error_set_field(err, field, "\"%.80s\" is not a valid key of a %s", key,
                            resource_kinds[kind].kind);
            return false;
        }
        if (!json_is_string(value)) {
            error_set_field(err, field, "the value of \"%s\" must be a string", key);
            return false;
        }
        if (!base64) continue;
        cleanup_buffer struct buffer bytes = {0};
        if (base64_decode(slice_make(json_string_value(value), json_string_length(value)), &bytes)) continue;
        error_set_field(err, field, "the value of \"%s\" must be base64", key);
        return false;
    }
    return true;
}

/* stringData is what people write; data is what is kept. */
static bool fold_string_data(json_t *object, struct error *err) {
    const json_t *plain = json_object_get(object, "stringData");
    if (!absent(plain)) {
        if (!json_is_object(plain)) {
            error_set_field(err, "stringData", "must be an object");
            return false;
        }
        if (!check_data(KIND_SECRET, plain, "stringData", false, err)) return false;
        json_t *data = json_object_get(object, "data");
        if (!json_is_object(data)) {
            data = json_object();
            json_object_set_new(object, "data", data);
        }
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)plain, key, value) {
            cleanup_buffer struct buffer text = {0};
            base64_encode(slice_make(json_string_value(value), json_string_length(value)), &text);
            json_object_set_new(data, key, json_stringn(text.data ? text.data : "", text.len));
        }
    }
    json_object_del(object, "stringData");
    if (json_object_get(object, "type") == NULL) json_object_set_new(object, "type", json_string("Opaque"));
    return check_data(KIND_SECRET, json_object_get(object, "data"), "data", true, err);
}

static bool check_body(enum kind kind, json_t *object, struct error *err) {
    if (kind == KIND_SECRET) return fold_string_data(object, err);
    if (kind == KIND_CONFIG_MAP) return check_data(kind, json_object_get(object, "data"), "data", false, err);
    return true;
}

/* {apiVersion, kind, metadata: {}} and copies of what else `given` has. */
static json_t *start_object(enum kind kind, const json_t *given) {
    json_t *object = json_pack("{s:s, s:s, s:{}}", "apiVersion", resource_kinds[kind].api_version, "kind",
                               resource_kinds[kind].kind, "metadata");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)given, key, value) {
        bool ours =
            strcmp(key, "apiVersion") == 0 || strcmp(key, "kind") == 0 || strcmp(key, "metadata") == 0;
        if (ours || (resource_kinds[kind].has_status && strcmp(key, "status") == 0)) continue;
        /* A null is an absent member; this also keeps a merge patch's result canonical. */
        if (!json_is_null(value)) json_object_set_new(object, key, json_deep_copy(value));
    }
    return object;
}

static void generate_name(const char *prefix, char out[MAX_NAME + 1]) {
    /* Without vowels and look-alikes, as Kubernetes does. */
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    unsigned char bytes[GENERATED_SUFFIX];
    random_bytes(bytes, sizeof(bytes));
    char suffix[GENERATED_SUFFIX + 1] = {0};
    for (int i = 0; i < GENERATED_SUFFIX; i++)
        suffix[i] = alphabet[bytes[i] % (sizeof(alphabet) - 1)];
    snprintf(out, MAX_NAME + 1, "%.*s%s", MAX_GENERATE_PREFIX, prefix, suffix);
}

json_t *admission_create(enum kind kind, const json_t *given, time_t now, struct error *err) {
    if (!check_type_meta(kind, given, err)) return NULL;
    const json_t *asked = json_object_get(given, "metadata");
    const char *name, *prefix, *namespace, *version;
    if (!metadata_string(asked, "name", &name, err) ||
        !metadata_string(asked, "generateName", &prefix, err) ||
        !metadata_string(asked, "namespace", &namespace, err) ||
        !metadata_string(asked, "resourceVersion", &version, err)) {
        return NULL;
    }
    if (version[0] != '\0') {
        error_set_field(err, "metadata.resourceVersion", "must not be set on an object to be created");
        return NULL;
    }
    char generated[MAX_NAME + 1];
    if (name[0] == '\0' && prefix[0] != '\0') {
        generate_name(prefix, generated);
        name = generated;
    }
    const char *field = name == generated ? "metadata.generateName" : "metadata.name";
    if (!check_name(kind, field, name, err) || !check_namespace(kind, namespace, err)) return NULL;

    cleanup_json json_t *object = start_object(kind, given);
    json_t *metadata = json_object_get(object, "metadata");
    char uid[UUID_LEN + 1], created[RFC3339_MAX];
    uuid_generate(uid);
    rfc3339_format(now, created);
    json_object_set_new(metadata, "name", json_string(name));
    if (prefix[0] != '\0') json_object_set_new(metadata, "generateName", json_string(prefix));
    if (namespace[0] != '\0') json_object_set_new(metadata, "namespace", json_string(namespace));
    json_object_set_new(metadata, "uid", json_string(uid));
    json_object_set_new(metadata, "generation", json_integer(1));
    json_object_set_new(metadata, "creationTimestamp", json_string(created));
    if (!copy_settable(asked, metadata, err) || !check_body(kind, object, err)) return NULL;
    return steal_ptr(object);
}

/* An object that is being deleted may lose finalizers, not get new ones. */
static bool check_new_finalizers(const json_t *before, const json_t *after, struct error *err) {
    size_t i, k;
    json_t *item, *old;
    json_array_foreach(json_object_get(after, "finalizers"), i, item) {
        bool known = false;
        json_array_foreach(json_object_get(before, "finalizers"), k, old) known =
            known || json_equal(old, item);
        if (known) continue;
        error_set_field(err, "metadata.finalizers",
                        "no finalizer can be added while the object is being deleted");
        return false;
    }
    return true;
}

static json_t *update_main(enum kind kind, const json_t *existing, const json_t *given, struct error *err) {
    static const char *const kept[] = {
        "name",           "generateName",      "namespace",         "uid",
        "generation",     "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
        "resourceVersion"};
    cleanup_json json_t *object = start_object(kind, given);
    json_t *metadata = json_object_get(object, "metadata");
    const json_t *before = json_object_get(existing, "metadata");
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
        const json_t *value = json_object_get(before, kept[i]);
        if (value) json_object_set_new(metadata, kept[i], json_deep_copy(value));
    }
    if (!copy_settable(json_object_get(given, "metadata"), metadata, err)) return NULL;
    if (json_object_get(before, "deletionTimestamp") && !check_new_finalizers(before, metadata, err))
        return NULL;
    const json_t *status = resource_kinds[kind].has_status ? json_object_get(existing, "status") : NULL;
    if (status) json_object_set_new(object, "status", json_deep_copy(status));
    if (!check_body(kind, object, err)) return NULL;

    const json_t *old_spec = json_object_get(existing, "spec"), *new_spec = json_object_get(object, "spec");
    if (old_spec != new_spec && (old_spec == NULL || new_spec == NULL || !json_equal(old_spec, new_spec))) {
        json_int_t generation = json_integer_value(json_object_get(before, "generation"));
        json_object_set_new(metadata, "generation", json_integer(generation + 1));
    }
    return steal_ptr(object);
}

json_t *admission_update(enum kind kind, enum store_part part, const json_t *existing, const json_t *given,
                         struct error *err) {
    if (!check_type_meta(kind, given, err)) return NULL;
    if (part == STORE_MAIN) return update_main(kind, existing, given, err);
    if (!resource_kinds[kind].has_status) {
        error_set(err, 400, ERR_BAD_REQUEST, "a %s has no status of its own", resource_kinds[kind].kind);
        return NULL;
    }
    json_t *object = json_deep_copy(existing);
    const json_t *status = json_object_get(given, "status");
    if (absent(status)) {
        json_object_del(object, "status");
    } else {
        json_object_set_new(object, "status", json_deep_copy(status));
    }
    return object;
}

json_t *admission_mark_deleted(const json_t *existing, time_t now) {
    json_t *object = json_deep_copy(existing);
    json_t *metadata = json_object_get(object, "metadata");
    char at[RFC3339_MAX];
    rfc3339_format(now, at);
    json_object_set_new(metadata, "deletionTimestamp", json_string(at));
    json_object_set_new(metadata, "deletionGracePeriodSeconds", json_integer(0));
    json_int_t generation = json_integer_value(json_object_get(metadata, "generation"));
    json_object_set_new(metadata, "generation", json_integer(generation + 1));
    return object;
}

bool admission_has_finalizers(const json_t *object) {
    return json_array_size(json_at(object, "metadata.finalizers")) > 0;
}
