#include "controller/names.h"

#include "common/bytes.h"
#include "common/json.h"

#include <ctype.h>

char *name_of_pod(const struct object *s) {
    return xasprintf("%s-pod", s->name);
}
char *name_of_claim(const struct object *s) {
    return xasprintf("%s-workspace", s->name);
}
char *name_of_policy(const struct object *s) {
    return xasprintf("%s-netpol", s->name);
}
char *name_of_token(const struct object *s) {
    return xasprintf("%s-runtime-token", s->name);
}
char *name_of_scoped_key(const struct object *s) {
    return xasprintf("%s-scoped-key", s->name);
}

json_t *metadata_of(const struct object *s, const char *name) {
    return json_pack("{s:s, s:s, s:{s:s, s:s}, s:[{s:s, s:s, s:s, s:s, s:b, s:b}]}", "name", name,
                     "namespace", s->namespace, "labels", LABEL_SANDBOX, s->name, LABEL_MANAGED, "true",
                     "ownerReferences", "apiVersion", resource_kinds[KIND_SANDBOX].api_version, "kind",
                     "Sandbox", "name", s->name, "uid", s->uid, "controller", 1, "blockOwnerDeletion", 1);
}

/* At most 63 of [A-Za-z0-9_.-], alphanumeric at both ends; or nothing. */
static bool label_value_valid(const char *text) {
    size_t n = strlen(text);
    if (n == 0) return true;
    if (n > 63 || !isalnum((unsigned char)text[0]) || !isalnum((unsigned char)text[n - 1])) return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("-_.", text[i])) return false;
    return true;
}

void metadata_label(json_t *metadata, const char *key, const char *value) {
    if (label_value_valid(value))
        json_object_set_new(json_object_get(metadata, "labels"), key, json_string(value));
}

static const json_t *owner(const struct object *object) {
    size_t i;
    json_t *ref;
    json_array_foreach(json_at(object->json, "metadata.ownerReferences"), i, ref) {
        if (strcmp(json_str_at(ref, "kind"), "Sandbox") == 0 &&
            json_is_true(json_object_get(ref, "controller")) &&
            strncmp(json_str_at(ref, "apiVersion"), "agenttier.io/", 13) == 0)
            return ref;
    }
    return NULL;
}

const char *owner_uid(const struct object *object) {
    const json_t *ref = owner(object);
    return ref ? json_str_at(ref, "uid") : "";
}

const char *owner_name(const struct object *object) {
    const json_t *ref = owner(object);
    return ref ? json_str_at(ref, "name") : NULL;
}

bool is_owned_by(const struct object *object, const struct object *sandbox) {
    return strcmp(owner_uid(object), sandbox->uid) == 0;
}

bool is_controlled_by(const struct object *object, const char *uid) {
    size_t i;
    json_t *ref;
    json_array_foreach(json_at(object->json, "metadata.ownerReferences"), i, ref) {
        if (json_is_true(json_object_get(ref, "controller")) && strcmp(json_str_at(ref, "uid"), uid) == 0)
            return true;
    }
    return false;
}
