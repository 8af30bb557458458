#include "router/sandbox_view.h"

#include "common/json.h"
#include "common/units.h"

#include <string.h>
#include <time.h>

#define STOP_FRESH_S 60

bool sandbox_is_deleting(const json_t *sandbox) {
    return json_str_at(sandbox, "metadata.deletionTimestamp")[0] != '\0';
}

const char *sandbox_status(const json_t *sandbox) {
    if (sandbox_is_deleting(sandbox)) return "Deleting";
    const char *phase = json_str_at(sandbox, "status.phase");
    return phase[0] ? phase : "Creating";
}

const char *sandbox_template(const json_t *sandbox) {
    const char *resolved = json_str_at(sandbox, "status.resolvedTemplate");
    return resolved[0] ? resolved : json_str_at(sandbox, "spec.templateRef.name");
}

const char *sandbox_annotation(const json_t *sandbox, const char *name) {
    const char *text = json_string_value(json_object_get(json_at(sandbox, "metadata.annotations"), name));
    return text ? text : "";
}

bool sandbox_is_stopping(const json_t *sandbox) {
    if (strcmp(sandbox_status(sandbox), "Running") != 0) return false;
    if (strcmp(sandbox_annotation(sandbox, ANNOTATION_ACTION), "stop") == 0) return true;
    /* The annotation goes before the sandbox does; the time of the request stays. */
    time_t at;
    if (!rfc3339_parse(sandbox_annotation(sandbox, ANNOTATION_STOPPED_AT), &at)) return false;
    time_t age = time(NULL) - at;
    return age >= 0 && age < STOP_FRESH_S;
}

static json_t *text_at(const json_t *object, const char *path) {
    return json_string(json_str_at(object, path));
}

/* UTC with whole seconds (W-39); what is not a timestamp is shown as it is. */
static json_t *time_at(const json_t *object, const char *path) {
    const char *text = json_str_at(object, path);
    time_t seconds;
    char canonical[RFC3339_MAX];
    if (!rfc3339_parse(text, &seconds)) return json_string(text);
    rfc3339_format(seconds, canonical);
    return json_string(canonical);
}

json_t *sandbox_json(const json_t *sandbox) {
    json_t *out = json_object();
    json_object_set_new(out, "sandboxId", text_at(sandbox, "metadata.name"));
    json_object_set_new(out, "name", text_at(sandbox, "metadata.name"));
    json_object_set_new(out, "namespace", text_at(sandbox, "metadata.namespace"));
    json_object_set_new(out, "status", json_string(sandbox_status(sandbox)));
    json_object_set_new(out, "podName", text_at(sandbox, "status.podName"));
    json_object_set_new(out, "pvcName", text_at(sandbox, "status.pvcName"));
    json_object_set_new(out, "templateRef", json_string(sandbox_template(sandbox)));
    json_object_set_new(out, "template", json_string(sandbox_template(sandbox)));
    const char *mode = json_str_at(sandbox, "spec.mode");
    json_object_set_new(out, "mode", json_string(mode[0] ? mode : "code"));
    json_object_set_new(out, "createdAt", time_at(sandbox, "metadata.creationTimestamp"));
    json_object_set_new(out, "message", text_at(sandbox, "status.message"));
    if (json_is_object(json_at(sandbox, "spec.createdBy"))) {
        json_object_set_new(out, "createdBy",
                            json_pack("{s:o, s:o}", "email", text_at(sandbox, "spec.createdBy.email"),
                                      "displayName", text_at(sandbox, "spec.createdBy.displayName")));
    }
    if (json_str_at(sandbox, "status.lastActivityTimestamp")[0])
        json_object_set_new(out, "lastActivityAt", time_at(sandbox, "status.lastActivityTimestamp"));
    return out;
}

json_t *sandbox_created_json(const json_t *sandbox) {
    json_t *out = json_object();
    const char *template = json_str_at(sandbox, "spec.templateRef.name");
    json_object_set_new(out, "sandboxId", text_at(sandbox, "metadata.name"));
    json_object_set_new(out, "name", text_at(sandbox, "metadata.name"));
    json_object_set_new(out, "namespace", text_at(sandbox, "metadata.namespace"));
    /* A constant: also when it runs at once, and when the answer is replayed later. */
    json_object_set_new(out, "status", json_string("Creating"));
    json_object_set_new(out, "templateRef", json_string(template));
    json_object_set_new(out, "template", json_string(template));
    json_object_set_new(out, "createdAt", time_at(sandbox, "metadata.creationTimestamp"));
    return out;
}

static void *make_view(const struct object *o) {
    struct sandbox_view *v = xcalloc(1, sizeof *v);
    cleanup_json json_t *shown = sandbox_json(o->json);
    size_t len = 0;
    v->memory[0] = json_dump_line(shown, &len);
    v->json = slice_make(v->memory[0], len - 1);
    v->owner = v->memory[1] = xstrdup(json_str_at(o->json, "spec.createdBy.sub"));
    v->status = v->memory[2] = xstrdup(sandbox_status(o->json));
    v->template = v->memory[3] = xstrdup(sandbox_template(o->json));
    v->replay_key = v->memory[4] = xstrdup(sandbox_annotation(o->json, ANNOTATION_REPLAY_KEY));
    v->shared = json_array_size(json_at(o->json, "spec.sharing.users")) > 0 ||
                json_array_size(json_at(o->json, "spec.sharing.groups")) > 0;
    v->has_links = json_array_size(json_at(o->json, "spec.sharing.shareLinks")) > 0;
    return v;
}

static void free_view(void *view) {
    struct sandbox_view *v = view;
    for (size_t i = 0; i < sizeof v->memory / sizeof v->memory[0]; i++)
        free(v->memory[i]);
    free(v);
}

const struct sandbox_view *sandbox_view_get(struct object *sandbox) {
    return object_view(sandbox, make_view, free_view);
}
