/* Templates for all namespaces (http-api.md 2.14, http-api-extended.md 12.2). */
#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/sandbox_view.h"
#include "router/template_spec.h"

#include <string.h>

/* Text of the API's object with a final newline, rendered once per stored object. */
struct template_view {
    char *text;
    size_t len;
};

static void *make_view(const struct object *o) {
    struct template_view *v = xcalloc(1, sizeof *v);
    cleanup_json json_t *shown = template_json(o->json);
    v->text = json_dump_line(shown, &v->len);
    return v;
}

static void free_view(void *view) {
    struct template_view *v = view;
    free(v->text);
    free(v);
}

static void reply_template(struct request *r, int status, struct object *template) {
    const struct template_view *v = object_view(template, make_view, free_view);
    reply_view(r, status, template, v->text, v->len);
}

static void not_found(struct error *err) {
    error_set(err, 404, "template_not_found", "template not found");
}

void templates_list(struct request *r) {
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_CLUSTER_SANDBOX_TEMPLATE, NULL);
    struct buffer text = {0};
    buffer_append_str(&text, "{\"templates\":[");
    for (size_t i = 0; i < all.count; i++) {
        const struct template_view *v = object_view(all.items[i], make_view, free_view);
        if (i > 0) buffer_append_char(&text, ',');
        buffer_append(&text, v->text, v->len - 1);
    }
    buffer_append_str(&text, "]}\n");
    size_t len = 0;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "application/json", data, len);
}

static struct object *find(struct request *r, struct error *err) {
    struct store *store = r->backend->store;
    struct object *found =
        store->ops->get(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", request_param(r, "name"));
    if (!found) not_found(err);
    return found;
}

void template_get(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_object struct object *found = find(r, &err);
    if (found)
        reply_template(r, 200, found);
    else
        reply_error(r, &err);
}

static void changed(struct request *r, const char *event, const char *name) {
    log_info(event, "template", name, "user", r->identity.sub, "request_id", r->request_id, NULL);
}

/* ---- create ---- */

static json_t *read_create(const json_t *body, struct error *err) {
    const char *name = NULL;
    json_t *given = NULL;
    if (!json_get_string(body, "name", &name, err)) return NULL;
    if (!name || !name[0]) {
        error_set_field(err, "name", "is required");
        return NULL;
    }
    if (!template_name_valid(name)) {
        error_set_field(err, "name",
                        "must be 1 to 63 of a-z, 0-9, \"-\" and \".\", with a letter or digit at both ends");
        return NULL;
    }
    if (!json_get_object(body, "spec", &given, err)) return NULL;
    json_t *spec = given ? template_spec_parse(given, err) : json_object();
    if (!spec) return NULL;
    const struct resource_kind *kind = &resource_kinds[KIND_CLUSTER_SANDBOX_TEMPLATE];
    return json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:o}", "apiVersion", kind->api_version, "kind", kind->kind,
                     "metadata", "name", name, "labels", "agenttier.io/managed", "true", "spec", spec);
}

void templates_create(struct request *r) {
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    cleanup_json json_t *template = read_create(r->body, &err);
    cleanup_object struct object *created = NULL;
    if (!template || !store->ops->create(store, KIND_CLUSTER_SANDBOX_TEMPLATE, template, &created, &err)) {
        reply_error(r, &err);
        return;
    }
    audit_name(r, NULL, created->name);
    changed(r, "template created", created->name);
    reply_template(r, 201, created);
}

/* ---- replace ---- */

struct replacement {
    const json_t *spec;
    const char *resource_version; /* NULL = whatever is there */
};

static bool replace_spec(void *ctx, json_t *object, struct error *err) {
    const struct replacement *with = ctx;
    const char *current = json_str_at(object, "metadata.resourceVersion");
    if (with->resource_version && strcmp(with->resource_version, current) != 0) {
        error_set(err, 409, ERR_CONFLICT,
                  "the template was changed: it is at resourceVersion %s, not %s; read it again", current,
                  with->resource_version);
        return false;
    }
    json_object_set_new(object, "spec", json_deep_copy(with->spec));
    return true;
}

static bool put(struct request *r, struct object **out, struct error *err) {
    cleanup_object struct object *there = find(r, err);
    json_t *given = NULL;
    if (!there || !json_get_object(r->body, "spec", &given, err)) return false;
    if (!given) {
        error_set_field(err, "spec", "is required: it replaces the template's spec");
        return false;
    }
    struct replacement with = {0};
    if (!json_get_string(r->body, "resourceVersion", &with.resource_version, err)) return false;
    if (with.resource_version && !with.resource_version[0]) with.resource_version = NULL;
    cleanup_json json_t *spec = template_spec_parse(given, err);
    if (!spec) return false;
    with.spec = spec;
    return store_update(r->backend->store, KIND_CLUSTER_SANDBOX_TEMPLATE, STORE_MAIN, "", there->name,
                        replace_spec, &with, out, err);
}

void template_put(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_object struct object *written = NULL;
    if (!put(r, &written, &err)) {
        reply_error(r, &err);
        return;
    }
    changed(r, "template replaced", written->name);
    reply_template(r, 200, written);
}

/* ---- delete ---- */

static bool refers_to(const json_t *reference, const char *name) {
    /* Without a kind the schema means a namespaced template. */
    return strcmp(json_str_at(reference, "kind"), "ClusterSandboxTemplate") == 0 &&
           strcmp(json_str_at(reference, "name"), name) == 0;
}

/* Whether a running or starting sandbox, or another template, is built on it (W-83). */
static bool in_use(struct store *store, const char *name, struct error *err) {
    cleanup_object_list struct object_list sandboxes = store->ops->list(store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < sandboxes.count; i++) {
        const json_t *sandbox = sandboxes.items[i]->json;
        const char *status = sandbox_status(sandbox);
        if (strcmp(status, "Running") != 0 && strcmp(status, "Creating") != 0) continue;
        if (strcmp(json_str_at(sandbox, "spec.templateRef.kind"), "SandboxTemplate") == 0) continue;
        if (strcmp(sandbox_template(sandbox), name) != 0) continue;
        error_set(err, 409, "template_in_use", "cannot delete template: sandbox \"%s\" is still using it",
                  sandboxes.items[i]->name);
        return true;
    }
    static const enum kind kinds[] = {KIND_CLUSTER_SANDBOX_TEMPLATE, KIND_SANDBOX_TEMPLATE};
    for (size_t k = 0; k < 2; k++) {
        cleanup_object_list struct object_list templates = store->ops->list(store, kinds[k], NULL);
        for (size_t i = 0; i < templates.count; i++) {
            if (!refers_to(json_at(templates.items[i]->json, "spec.inheritsFrom"), name)) continue;
            error_set(err, 409, "template_in_use", "cannot delete template: template \"%s\" inherits from it",
                      templates.items[i]->name);
            return true;
        }
    }
    return false;
}

void template_delete(struct request *r) {
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    cleanup_object struct object *there = find(r, &err);
    if (!there || in_use(store, there->name, &err)) {
        reply_error(r, &err);
        return;
    }
    struct store_preconditions same = {.uid = there->uid};
    if (!store->ops->remove(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", there->name, &same, &err)) {
        if (err.status == 404) not_found(&err);
        reply_error(r, &err);
        return;
    }
    changed(r, "template deleted", there->name);
    reply_empty(r, 204);
}
