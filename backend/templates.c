/* Two folds over the rules of controller.md 6: ancestors into one template (6.2), and the
 * sandbox over that (6.3). The rules stand in tables; what is special has a function. */
#include "backend/templates.h"

#include "common/bytes.h"
#include "common/json.h"

#define MAX_DEPTH          10
#define DEFAULT_MOUNT_PATH "/workspace"

/* --- Values: what counts as there --- */

static const char *text_at(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    return text && text[0] ? text : NULL;
}

/* A list with items, an object (also an empty one), a string with text, a boolean or number. */
static json_t *present(const json_t *object, const char *name, json_type type) {
    json_t *value = json_object_get(object, name);
    if (value == NULL) return NULL;
    if (type == JSON_TRUE) return json_is_boolean(value) ? value : NULL;
    if (json_typeof(value) != type) return NULL;
    if (type == JSON_ARRAY && json_array_size(value) == 0) return NULL;
    if (type == JSON_STRING && json_string_length(value) == 0) return NULL;
    return value;
}

static void set_copy(json_t *result, const char *name, const json_t *value) {
    if (value != NULL) json_object_set_new(result, name, json_deep_copy(value));
}

/* --- The rules --- */

enum rule {
    RULE_CHILD,  /* the child's if present, else the parent's */
    RULE_PARENT, /* the parent's, whatever the child says */
    RULE_UNION,  /* by a key: the parent's order, then new ones; the child's entry wins */
    RULE_CONCAT, /* parent then child */
    RULE_NESTED, /* field by field, by a table of its own */
};

struct field {
    const char *name;
    json_type type; /* JSON_TRUE: a boolean */
    enum rule rule;
    const char *key;            /* RULE_UNION */
    const struct field *fields; /* RULE_NESTED */
};

static const struct field agent_fields[] = {
    {"entrypoint", JSON_ARRAY, RULE_CHILD, NULL, NULL},
    {"installCommand", JSON_ARRAY, RULE_CHILD, NULL, NULL},
    {"workingDir", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"maxConcurrentInvokes", JSON_INTEGER, RULE_CHILD, NULL, NULL},
    {"defaultInvokeTimeout", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"env", JSON_ARRAY, RULE_UNION, "name", NULL},
    {0},
};

static const struct field harness_fields[] = {
    {"command", JSON_ARRAY, RULE_CHILD, NULL, NULL},
    {"args", JSON_ARRAY, RULE_CHILD, NULL, NULL},
    {"workingDir", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"shell", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"systemPrompt", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"hooks", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"constraints", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"useHTTPExec", JSON_TRUE, RULE_CHILD, NULL, NULL},
    {"tools", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"skills", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"agent", JSON_OBJECT, RULE_NESTED, NULL, agent_fields},
    {0},
};

/* 6.2: template over template. inheritsFrom is left out: the chain is resolved. */
static const struct field template_fields[] = {
    {"image", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"resources", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"storage", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"network", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"security", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"timeout", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"idleTimeout", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"runtimeClass", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"description", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"mode", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"serviceAccount", JSON_STRING, RULE_PARENT, NULL, NULL},
    {"env", JSON_ARRAY, RULE_UNION, "name", NULL},
    {"files", JSON_ARRAY, RULE_UNION, "path", NULL},
    {"sidecars", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"initContainers", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"credentials", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"initScripts", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"harness", JSON_OBJECT, RULE_NESTED, NULL, harness_fields},
    {0},
};

/* 6.3: sandbox (as the child) over template. mode is the sandbox's alone, and harness, files
 * and initScripts are the template's alone: RULE_PARENT. */
static const struct field sandbox_fields[] = {
    {"image", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"resources", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"storage", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"network", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"security", JSON_OBJECT, RULE_CHILD, NULL, NULL},
    {"timeout", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"idleTimeout", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"runtimeClass", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"serviceAccount", JSON_STRING, RULE_CHILD, NULL, NULL},
    {"env", JSON_ARRAY, RULE_UNION, "name", NULL},
    {"sidecars", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"initContainers", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"credentials", JSON_ARRAY, RULE_CONCAT, NULL, NULL},
    {"harness", JSON_OBJECT, RULE_PARENT, NULL, NULL},
    {"files", JSON_ARRAY, RULE_PARENT, NULL, NULL},
    {"initScripts", JSON_ARRAY, RULE_PARENT, NULL, NULL},
    {0},
};

static json_t *merge_fields(const struct field *fields, const json_t *parent, const json_t *child);

static json_t *concat(const json_t *parent, const json_t *child) {
    json_t *list = json_array();
    size_t i;
    json_t *item;
    json_array_foreach(parent, i, item) json_array_append_new(list, json_deep_copy(item));
    json_array_foreach(child, i, item) json_array_append_new(list, json_deep_copy(item));
    return list;
}

static json_t *unite(const json_t *parent, const json_t *child, const char *key) {
    json_t *list = concat(parent, NULL);
    size_t i;
    json_t *item;
    json_array_foreach(child, i, item) {
        const char *name = text_at(item, key);
        size_t at = 0;
        while (at < json_array_size(list)) {
            const char *other = text_at(json_array_get(list, at), key);
            if (name != NULL && other != NULL && strcmp(name, other) == 0) break;
            at++;
        }
        if (at < json_array_size(list)) {
            json_array_set_new(list, at, json_deep_copy(item));
        } else {
            json_array_append_new(list, json_deep_copy(item));
        }
    }
    return list;
}

static json_t *merge_field(const struct field *f, const json_t *parent, const json_t *child) {
    if (f->rule == RULE_PARENT) return parent ? json_deep_copy(parent) : NULL;
    /* What only one of them has is that one's, by every rule; but a union also drops the
     * earlier of two equal keys within one list. */
    if (child == NULL && parent == NULL) return NULL;
    switch (f->rule) {
    case RULE_UNION: return unite(parent, child, f->key);
    case RULE_CONCAT: return concat(parent, child);
    case RULE_NESTED: return merge_fields(f->fields, parent, child);
    default: return json_deep_copy(child ? child : parent);
    }
}

static json_t *merge_fields(const struct field *fields, const json_t *parent, const json_t *child) {
    json_t *result = json_object();
    for (const struct field *f = fields; f->name != NULL; f++) {
        json_t *value = merge_field(f, present(parent, f->name, f->type), present(child, f->name, f->type));
        if (value != NULL) json_object_set_new(result, f->name, value);
    }
    return result;
}

/* --- Resolution (6.1) --- */

/* Direct template first, root last. */
struct chain {
    struct object *levels[MAX_DEPTH];
    size_t depth;
};

static void chain_free(struct chain *c) {
    for (size_t i = 0; i < c->depth; i++)
        object_unref(c->levels[i]);
}
#define cleanup_chain __attribute__((cleanup(chain_free)))

struct reference {
    const char *kind, *namespace, *name;
};

static struct reference read_reference(const json_t *ref) {
    const char *kind = text_at(ref, "kind"), *namespace = text_at(ref, "namespace"),
               *name = text_at(ref, "name");
    return (struct reference){kind ? kind : "SandboxTemplate", namespace ? namespace : "", name ? name : ""};
}

static struct object *fetch(struct store *store, struct reference ref, const char *own_namespace,
                            struct error *err) {
    enum kind kind;
    const char *namespace = "";
    if (strcmp(ref.kind, "SandboxTemplate") == 0) {
        kind = KIND_SANDBOX_TEMPLATE;
        namespace = ref.namespace[0] ? ref.namespace : own_namespace;
    } else if (strcmp(ref.kind, "ClusterSandboxTemplate") == 0) {
        kind = KIND_CLUSTER_SANDBOX_TEMPLATE;
    } else {
        error_set(
            err, 404, "template_not_found",
            "template \"%s\" has the unknown kind \"%s\": use SandboxTemplate or ClusterSandboxTemplate",
            ref.name, ref.kind);
        return NULL;
    }
    struct object *o = store->ops->get(store, kind, namespace, ref.name);
    if (o != NULL) return o;
    if (kind == KIND_CLUSTER_SANDBOX_TEMPLATE) {
        error_set(err, 404, "template_not_found", "ClusterSandboxTemplate \"%s\" not found", ref.name);
        return NULL;
    }
    /* The commonest slip: the kind left out, whose default is the namespaced one. */
    cleanup_object struct object *cluster =
        store->ops->get(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", ref.name);
    error_set(err, 404, "template_not_found", "SandboxTemplate \"%s\" not found in namespace \"%s\"%s",
              ref.name, namespace, cluster ? "; there is a ClusterSandboxTemplate of that name" : "");
    return NULL;
}

/* The same reference as written leads to the same template: the keys of cycle detection. */
static bool same_reference(struct reference a, struct reference b) {
    return strcmp(a.kind, b.kind) == 0 && strcmp(a.namespace, b.namespace) == 0 &&
           strcmp(a.name, b.name) == 0;
}

static bool resolve_chain(struct store *store, const json_t *ref, const char *namespace, struct chain *chain,
                          struct error *err) {
    struct reference seen[MAX_DEPTH]; /* points into the chain's objects */
    while (json_is_object(ref)) {
        struct reference now = read_reference(ref);
        if (chain->depth == MAX_DEPTH) {
            error_set(err, 400, "template_too_deep", "template \"%s\" inherits through more than %d levels",
                      seen[0].name, MAX_DEPTH);
            return false;
        }
        for (size_t i = 0; i < chain->depth; i++) {
            if (!same_reference(seen[i], now)) continue;
            error_set(err, 400, "template_circular",
                      "circular inheritance: template \"%s\" inherits from itself", now.name);
            return false;
        }
        struct object *o = fetch(store, now, namespace, err);
        if (o == NULL) return false;
        seen[chain->depth] = now;
        chain->levels[chain->depth++] = o;
        ref = json_at(o->json, "spec.inheritsFrom");
    }
    return true;
}

static json_t *merge_chain(const struct chain *chain) {
    json_t *merged = NULL;
    for (size_t i = chain->depth; i-- > 0;) {
        json_t *next = merge_fields(template_fields, merged, json_object_get(chain->levels[i]->json, "spec"));
        /* serviceAccount is the root's alone: the fold takes the parent's, and the root has none. */
        if (merged == NULL) {
            set_copy(next, "serviceAccount",
                     present(json_object_get(chain->levels[i]->json, "spec"), "serviceAccount", JSON_STRING));
        }
        json_decref(merged);
        merged = next;
    }
    return merged ? merged : json_object();
}

/* The mount path has a rule of its own, apart from the storage object it stands in. */
static void set_mount_path(json_t *result, const json_t *own, const json_t *inherited) {
    const char *path = text_at(json_object_get(own, "storage"), "mountPath");
    if (path == NULL) path = text_at(json_object_get(inherited, "storage"), "mountPath");
    json_t *storage = json_object_get(result, "storage");
    if (storage == NULL) {
        storage = json_object();
        json_object_set_new(result, "storage", storage);
    }
    json_object_set_new(storage, "mountPath", json_string(path ? path : DEFAULT_MOUNT_PATH));
}

json_t *template_resolve(struct store *store, const json_t *sandbox, struct error *err) {
    const json_t *spec = json_object_get(sandbox, "spec");
    cleanup_chain struct chain chain = {0};
    if (!resolve_chain(store, json_object_get(spec, "templateRef"),
                       json_str_at(sandbox, "metadata.namespace"), &chain, err)) {
        error_wrap(err, "Template resolution failed");
        return NULL;
    }
    cleanup_json json_t *template = merge_chain(&chain);
    json_t *result = merge_fields(sandbox_fields, template, spec);
    set_mount_path(result, spec, template);
    set_copy(result, "mode", present(spec, "mode", JSON_STRING));
    const struct object *direct = chain.depth > 0 ? chain.levels[0] : NULL;
    json_object_set_new(result, "templateName", json_string(direct ? direct->name : ""));
    json_object_set_new(result, "templateResourceVersion",
                        json_string(direct ? direct->resource_version : ""));
    return result;
}
