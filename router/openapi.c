/* See openapi.h. The schemas stand in router/openapi_schemas.c. */
#include "router/openapi.h"

#include "common/json.h"
#include "router/openapi_schemas.h"
#include "router/route.h"

#include <pthread.h>
#include <stdio.h>

static const char *auth_name(enum route_auth auth) {
    switch (auth) {
    case AUTH_PUBLIC: return "public";
    case AUTH_USER: return "user";
    case AUTH_ADMIN: return "admin";
    case AUTH_SANDBOX_READ: return "read";
    case AUTH_SANDBOX_WATCH: return "watch";
    case AUTH_SANDBOX_VIEW: return "viewer";
    case AUTH_SANDBOX_USE: return "collaborator";
    case AUTH_SANDBOX_OWNER: return "owner";
    case AUTH_SANDBOX_SHARE: return "share";
    }
    return "none";
}

/* {"application/json": {"schema": ...}} for a schema's name, or bytes or text. */
static json_t *content_of(const char *schema) {
    if (strcmp(schema, "text") == 0) return json_pack("{s{s{ss}}}", "text/plain", "schema", "type", "string");
    if (strcmp(schema, "binary") == 0) return json_pack("{s{s{}}}", "application/octet-stream", "schema");
    char ref[96];
    snprintf(ref, sizeof ref, "#/components/schemas/%s", schema);
    return json_pack("{s{s{ss}}}", "application/json", "schema", "$ref", ref);
}

static void add_parameter(json_t *list, const char *in, const char *name, struct slice type,
                          const char *description, bool required) {
    json_t *p = json_object();
    json_object_set_new(p, "name", json_string(name));
    json_object_set_new(p, "in", json_string(in));
    json_object_set_new(p, "required", json_boolean(required));
    if (description[0]) json_object_set_new(p, "description", json_string(description));
    json_t *schema = json_object();
    json_object_set_new(schema, "type", json_stringn(type.ptr, type.len));
    json_object_set_new(p, "schema", schema);
    json_array_append_new(list, p);
}

/* Members are "type: description". */
static void add_documented(json_t *list, const char *in, const json_t *members) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)members, name, value) {
        const char *text = json_string_value(value);
        const char *colon = strchr(text, ':');
        add_parameter(list, in, name, slice_make(text, (size_t)(colon - text)), colon + 2,
                      strstr(text, "(required)") != NULL);
    }
}

/* "/a/{id}/{path...}" as OpenAPI writes it, its parameters added to `list`. */
static char *openapi_path(const char *pattern, json_t *list) {
    struct buffer out = {0};
    for (const char *t = pattern; *t; t++) {
        if (*t != '{') {
            buffer_append_char(&out, *t);
            continue;
        }
        const char *close = strchr(t, '}');
        bool rest = close - t > 4 && memcmp(close - 3, "...", 3) == 0;
        bool encoded = close[-1] == '+';
        size_t mark = rest ? 3 : encoded ? 1 : 0;
        cleanup_free char *name = slice_dup(slice_make(t + 1, (size_t)(close - t) - 1 - mark));
        buffer_printf(&out, "{%s}", name);
        add_parameter(list, "path", name, slice_of("string"),
                      rest      ? "may hold slashes"
                      : encoded ? "percent-encoded, slashes too"
                                : "",
                      true);
        t = close;
    }
    return buffer_steal(&out, NULL);
}

static json_t *responses_of(const json_t *doc, bool authenticated) {
    json_t *out = json_object();
    const char *status;
    json_t *schema;
    json_object_foreach(json_object_get(doc, "responses"), status, schema) {
        json_t *r = json_pack("{ss}", "description",
                              status[0] == '1'   ? "the connection is a WebSocket now"
                              : status[0] == '2' ? "success"
                              : status[0] == '3' ? "not modified"
                                                 : "refused");
        if (json_is_string(schema)) json_object_set_new(r, "content", content_of(json_string_value(schema)));
        json_object_set_new(out, status, r);
    }
    if (!authenticated) return out;
    static const char *const refused[] = {"401", "403", "429", "503"};
    for (size_t i = 0; i < 4; i++)
        if (!json_object_get(out, refused[i]))
            json_object_set_new(
                out, refused[i],
                json_pack("{ssso}", "description", "refused", "content", content_of("Error")));
    return out;
}

static json_t *operation_of(const struct route *route, const char *method, json_t *parameters,
                            const json_t *doc) {
    json_t *op = json_object();
    cleanup_free char *id = strcmp(route->method, "*") == 0 ? xasprintf("%s_%s", route->operation_id, method)
                                                            : xstrdup(route->operation_id);
    json_object_set_new(op, "operationId", json_string(id));
    json_object_set_new(op, "summary", json_string(route->summary));
    json_object_set_new(op, "x-auth", json_string(auth_name(route->auth)));
    const char *group = route->group == GROUP_ANY ? "any" : action_group_names[route->group];
    if (group) json_object_set_new(op, "x-action-group", json_string(group));
    if (route->audit) json_object_set_new(op, "x-audit", json_string(route->audit));
    if (route->auth == AUTH_PUBLIC) json_object_set_new(op, "security", json_array());
    if (json_array_size(parameters)) json_object_set(op, "parameters", parameters);
    const char *request = json_string_value(json_object_get(doc, "request"));
    if (request)
        json_object_set_new(op, "requestBody",
                            json_pack("{sbso}", "required", route->body != BODY_JSON_OPTIONAL, "content",
                                      content_of(request)));
    json_object_set_new(op, "responses", responses_of(doc, route->auth != AUTH_PUBLIC));
    return op;
}

static void add_route(json_t *paths, const struct route *route) {
    static const char *const every[] = {"get", "put", "post", "delete", "patch"};
    cleanup_json json_t *doc = json_loads(route->doc ? route->doc : "{}", 0, NULL);
    cleanup_json json_t *parameters = json_array();
    cleanup_free char *path = openapi_path(route->pattern, parameters);
    add_documented(parameters, "query", json_object_get(doc, "query"));
    add_documented(parameters, "header", json_object_get(doc, "headers"));
    json_t *item = json_object_get(paths, path);
    if (!item) json_object_set_new(paths, path, item = json_object());
    bool any = strcmp(route->method, "*") == 0;
    for (size_t i = 0; i < 5; i++)
        if (any || strcasecmp(route->method, every[i]) == 0)
            json_object_set_new(item, every[i], operation_of(route, every[i], parameters, doc));
}

static json_t *build(void) {
    json_t *paths = json_object();
    for (size_t i = 0; i < route_count; i++)
        add_route(paths, &routes[i]);
    json_t *document = json_loads(openapi_frame, 0, NULL);
    json_object_set_new(json_object_get(document, "info"), "version", json_string(AGENTTIER_VERSION));
    json_object_set_new(document, "paths", paths);
    json_object_set_new(json_object_get(document, "components"), "schemas",
                        json_loads(openapi_schemas, 0, NULL));
    return document;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *document;
static size_t document_len;

struct slice openapi_document(void) {
    pthread_mutex_lock(&lock);
    if (!document) {
        cleanup_json json_t *built = build();
        document = json_dump_line(built, &document_len);
    }
    pthread_mutex_unlock(&lock);
    return slice_make(document, document_len);
}

void openapi_free(void) {
    free(document);
    document = NULL;
}
