#include "router/template_spec.h"

#include "common/json.h"
#include "common/units.h"
#include "router/spec_fields.h"

#include <stdio.h>
#include <string.h>

#define FIELD_MAX 192

enum type {
    TYPE_STRING,
    TYPE_BOOL,
    TYPE_INT,
    TYPE_DURATION,
    TYPE_STRINGS, /* list of strings */
    TYPE_OBJECT,  /* of the members in `members`; any when NULL */
    TYPE_OBJECTS, /* list of such objects */
    TYPE_READ,    /* by the function `read`, which spec_fields.h gives */
};

struct shape {
    const char *name;
    enum type type;
    const struct shape *members;
    const char *required; /* of an object: the member that must be a string and not empty */
    json_t *(*read)(const json_t *value, const char *field, struct error *err);
};

#define END                                                                                                  \
    { NULL, TYPE_STRING, NULL, NULL, NULL }

static const struct shape reference[] = {{.name = "name", .type = TYPE_STRING},
                                         {.name = "kind", .type = TYPE_STRING},
                                         {.name = "namespace", .type = TYPE_STRING},
                                         END};
static const struct shape image[] = {{.name = "repository", .type = TYPE_STRING},
                                     {.name = "pullPolicy", .type = TYPE_STRING},
                                     {.name = "pullSecret", .type = TYPE_STRING},
                                     END};
/* A quantity's own check follows in `read`, when the unknown members are gone. */
static const struct shape resources[] = {{.name = "limits", .type = TYPE_OBJECT},
                                         {.name = "requests", .type = TYPE_OBJECT},
                                         {.name = "claims", .type = TYPE_OBJECTS, .required = "name"},
                                         {.name = "cpu", .type = TYPE_READ, .read = spec_quantity},
                                         {.name = "memory", .type = TYPE_READ, .read = spec_quantity},
                                         END};
static const struct shape storage[] = {{.name = "size", .type = TYPE_READ, .read = spec_quantity},
                                       {.name = "storageClass", .type = TYPE_STRING},
                                       {.name = "mountPath", .type = TYPE_STRING},
                                       {.name = "snapshotOnStop", .type = TYPE_BOOL},
                                       {.name = "shared", .type = TYPE_BOOL},
                                       END};
static const struct shape rule_port[] = {
    {.name = "protocol", .type = TYPE_STRING}, {.name = "port", .type = TYPE_INT}, END};
static const struct shape rule_service[] = {{.name = "name", .type = TYPE_STRING},
                                            {.name = "namespace", .type = TYPE_STRING},
                                            {.name = "port", .type = TYPE_INT},
                                            END};
static const struct shape rule[] = {
    {.name = "cidr", .type = TYPE_STRING},
    {.name = "ports", .type = TYPE_OBJECTS, .members = rule_port},
    {.name = "serviceRef", .type = TYPE_OBJECT, .members = rule_service, .required = "name"},
    END};
static const struct shape network[] = {{.name = "allowInternet", .type = TYPE_BOOL},
                                       {.name = "egressRules", .type = TYPE_OBJECTS, .members = rule},
                                       {.name = "ingressRules", .type = TYPE_OBJECTS, .members = rule},
                                       {.name = "allowedDomains", .type = TYPE_STRINGS},
                                       {.name = "allowPeerSandboxes", .type = TYPE_BOOL},
                                       {.name = "peerSandboxSelector", .type = TYPE_OBJECT},
                                       END};
static const struct shape variable[] = {{.name = "name", .type = TYPE_STRING},
                                        {.name = "value", .type = TYPE_STRING},
                                        {.name = "valueFrom", .type = TYPE_OBJECT},
                                        END};
static const struct shape agent[] = {
    {.name = "entrypoint", .type = TYPE_STRINGS},
    {.name = "installCommand", .type = TYPE_STRINGS},
    {.name = "workingDir", .type = TYPE_STRING},
    {.name = "env", .type = TYPE_OBJECTS, .members = variable, .required = "name"},
    {.name = "maxConcurrentInvokes", .type = TYPE_INT},
    {.name = "defaultInvokeTimeout", .type = TYPE_DURATION},
    END};
static const struct shape tool[] = {{.name = "name", .type = TYPE_STRING},
                                    {.name = "version", .type = TYPE_STRING},
                                    {.name = "installCommand", .type = TYPE_STRING},
                                    {.name = "verifyCommand", .type = TYPE_STRING},
                                    END};
static const struct shape content[] = {{.name = "content", .type = TYPE_STRING},
                                       {.name = "configMapRef", .type = TYPE_OBJECT},
                                       {.name = "secretRef", .type = TYPE_OBJECT},
                                       {.name = "path", .type = TYPE_STRING},
                                       END};
static const struct shape skill[] = {
    {.name = "name", .type = TYPE_STRING}, {.name = "content", .type = TYPE_OBJECT, .members = content}, END};
static const struct shape hooks[] = {{.name = "onStart", .type = TYPE_STRING},
                                     {.name = "onStop", .type = TYPE_STRING},
                                     {.name = "onIdle", .type = TYPE_STRING},
                                     {.name = "onResume", .type = TYPE_STRING},
                                     END};
static const struct shape harness[] = {
    {.name = "command", .type = TYPE_STRINGS},
    {.name = "args", .type = TYPE_STRINGS},
    {.name = "workingDir", .type = TYPE_STRING},
    {.name = "shell", .type = TYPE_STRING},
    {.name = "tools", .type = TYPE_OBJECTS, .members = tool, .required = "name"},
    {.name = "systemPrompt", .type = TYPE_OBJECT, .members = content},
    {.name = "skills", .type = TYPE_OBJECTS, .members = skill, .required = "name"},
    {.name = "hooks", .type = TYPE_OBJECT, .members = hooks},
    {.name = "constraints", .type = TYPE_OBJECT},
    {.name = "useHTTPExec", .type = TYPE_BOOL},
    {.name = "agent", .type = TYPE_OBJECT, .members = agent},
    END};
static const struct shape file[] = {{.name = "path", .type = TYPE_STRING},
                                    {.name = "content", .type = TYPE_STRING},
                                    {.name = "configMapRef", .type = TYPE_OBJECT},
                                    {.name = "secretRef", .type = TYPE_OBJECT},
                                    {.name = "mode", .type = TYPE_INT},
                                    END};
static const struct shape credential[] = {{.name = "secretName", .type = TYPE_STRING},
                                          {.name = "mountAs", .type = TYPE_STRING},
                                          {.name = "mountPath", .type = TYPE_STRING},
                                          {.name = "envPrefix", .type = TYPE_STRING},
                                          END};
static const struct shape security[] = {{.name = "privileged", .type = TYPE_BOOL}, END};

static const struct shape spec_members[] = {
    {.name = "inheritsFrom", .type = TYPE_OBJECT, .members = reference, .required = "name"},
    {.name = "mode", .type = TYPE_READ, .read = spec_mode},
    {.name = "description", .type = TYPE_STRING},
    {.name = "image", .type = TYPE_OBJECT, .members = image, .read = spec_image},
    {.name = "resources", .type = TYPE_OBJECT, .members = resources, .read = spec_resources},
    {.name = "storage", .type = TYPE_OBJECT, .members = storage, .read = spec_storage},
    {.name = "network", .type = TYPE_OBJECT, .members = network},
    {.name = "env", .type = TYPE_OBJECTS, .members = variable, .required = "name"},
    {.name = "timeout", .type = TYPE_DURATION},
    {.name = "idleTimeout", .type = TYPE_DURATION},
    {.name = "runtimeClass", .type = TYPE_STRING},
    {.name = "harness", .type = TYPE_OBJECT, .members = harness},
    {.name = "initScripts", .type = TYPE_STRINGS},
    {.name = "files", .type = TYPE_OBJECTS, .members = file, .required = "path"},
    {.name = "credentials", .type = TYPE_OBJECTS, .members = credential, .required = "secretName"},
    {.name = "sidecars", .type = TYPE_OBJECTS, .required = "name"},
    {.name = "initContainers", .type = TYPE_OBJECTS, .required = "name"},
    {.name = "security", .type = TYPE_OBJECT, .members = security},
    {.name = "serviceAccount", .type = TYPE_STRING},
    END};

static json_t *wrong(struct error *err, const char *field, const char *what) {
    error_set_field(err, field, "must be %s", what);
    return NULL;
}

/* 0 means "no limit" in a template, where the reference keeps it. */
static json_t *read_duration(const json_t *value, const char *field, struct error *err) {
    int64_t ns;
    const char *text = json_string_value(value);
    if (!text || strlen(text) > 64 || !duration_parse(text, &ns) || ns < 0)
        return wrong(err, field, "a duration such as \"30m\" or \"1h30m\"");
    char canonical[DURATION_TEXT_MAX];
    duration_format(ns, canonical);
    return json_string(canonical);
}

static json_t *read_strings(const json_t *value, const char *field, struct error *err) {
    size_t i;
    json_t *item;
    if (!json_is_array(value)) return wrong(err, field, "a list of strings");
    json_array_foreach(value, i, item) {
        if (!json_is_string(item)) return wrong(err, field, "a list of strings");
    }
    return json_deep_copy(value);
}

static json_t *read_value(const json_t *value, const struct shape *shape, const char *field,
                          struct error *err);

/* The known members of an object, each in canonical form. As deep as the shapes are. */
static json_t *read_members(const json_t *value, const struct shape *members, const char *field,
                            struct error *err) {
    cleanup_json json_t *out = json_object();
    for (const struct shape *m = members; m->name; m++) {
        const json_t *member = json_object_get(value, m->name);
        if (!member || json_is_null(member)) continue;
        char path[FIELD_MAX];
        snprintf(path, sizeof path, "%.120s.%.60s", field, m->name);
        json_t *canonical = read_value(member, m, path, err);
        if (!canonical) return NULL;
        json_object_set_new(out, m->name, canonical);
    }
    return steal_ptr(out);
}

static json_t *read_object(const json_t *value, const struct shape *shape, const char *field,
                           struct error *err) {
    if (!json_is_object(value)) {
        /* The short forms of image and storage: a plain text. */
        if (shape->read && json_is_string(value)) return shape->read(value, field, err);
        return wrong(err, field, "an object");
    }
    if (shape->required) {
        const json_t *name = json_object_get(value, shape->required);
        char path[FIELD_MAX];
        snprintf(path, sizeof path, "%.120s.%.60s", field, shape->required);
        if (!json_is_string(name) || json_string_length(name) == 0)
            return wrong(err, path, "a string, not empty");
    }
    cleanup_json json_t *known =
        shape->members ? read_members(value, shape->members, field, err) : json_deep_copy(value);
    if (!known) return NULL;
    return shape->read ? shape->read(known, field, err) : steal_ptr(known);
}

static json_t *read_objects(const json_t *value, const struct shape *shape, const char *field,
                            struct error *err) {
    if (!json_is_array(value)) return wrong(err, field, "a list of objects");
    cleanup_json json_t *out = json_array();
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item) {
        char path[FIELD_MAX];
        snprintf(path, sizeof path, "%.160s[%zu]", field, i);
        json_t *canonical = read_object(item, shape, path, err);
        if (!canonical) return NULL;
        json_array_append_new(out, canonical);
    }
    return steal_ptr(out);
}

static json_t *read_value(const json_t *value, const struct shape *shape, const char *field,
                          struct error *err) {
    switch (shape->type) {
    case TYPE_STRING:
        if (!json_is_string(value)) return wrong(err, field, "a string");
        return json_deep_copy(value);
    case TYPE_BOOL:
        if (!json_is_boolean(value)) return wrong(err, field, "true or false");
        return json_boolean(json_is_true(value));
    case TYPE_INT:
        if (!json_is_integer(value) || json_integer_value(value) < INT32_MIN ||
            json_integer_value(value) > INT32_MAX)
            return wrong(err, field, "a whole number");
        return json_integer(json_integer_value(value));
    case TYPE_DURATION: return read_duration(value, field, err);
    case TYPE_STRINGS: return read_strings(value, field, err);
    case TYPE_OBJECT: return read_object(value, shape, field, err);
    case TYPE_OBJECTS: return read_objects(value, shape, field, err);
    case TYPE_READ: return shape->read(value, field, err);
    }
    return wrong(err, field, "of a known type");
}

json_t *template_spec_parse(const json_t *spec, struct error *err) {
    if (!json_is_object(spec)) return wrong(err, "spec", "an object");
    return read_members(spec, spec_members, "spec", err);
}

bool template_name_valid(const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++) {
        bool alnum = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9');
        bool inner = i > 0 && i + 1 < n && (name[i] == '-' || (name[i] == '.' && name[i - 1] != '.'));
        if (!alnum && !inner) return false;
    }
    return n >= 1 && n <= 63;
}

json_t *template_json(const json_t *template) {
    json_t *spec = json_at(template, "spec");
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", json_str_at(template, "metadata.name"),
                     "description", json_str_at(template, "spec.description"), "image",
                     json_str_at(template, "spec.image.repository"), "resourceVersion",
                     json_str_at(template, "metadata.resourceVersion"), "spec",
                     spec ? json_deep_copy(spec) : json_object());
}
