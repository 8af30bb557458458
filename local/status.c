/* What the engine writes to the store: status, finalizer, annotation. Every write insists on the object it
 * was made for, so that neither a resume nor a new sandbox of the same name is overwritten. */
#include "local/engine_inside.h"

#include "common/json.h"
#include "common/log.h"
#include "common/units.h"

#include <string.h>
#include <time.h>

#define ATTEMPTS 8

char *now_text(char out[40]) {
    rfc3339_format(time(NULL), out);
    return out;
}

static enum write_result failed(struct entry *s, const char *what, const struct error *err) {
    if (err->status == 404) return WRITE_STALE;
    log_warn("the store refused a write; it is tried again", "sandbox", s->name, "write", what, "why",
             err->message, NULL);
    return WRITE_FAILED;
}

enum write_result write_status(struct engine *e, struct entry *s, const char *phase, json_t *patch) {
    cleanup_json json_t *whole = json_pack("{s:o}", "status", patch);
    if (!whole) return WRITE_FAILED;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        cleanup_error struct error err = {0};
        cleanup_object struct object *now = e->store->ops->get(e->store, KIND_SANDBOX, s->namespace, s->name);
        if (!now || strcmp(now->uid, s->uid) != 0) return WRITE_STALE;
        if (phase && strcmp(json_str_at(now->json, "status.phase"), phase) != 0) return WRITE_STALE;
        struct store_preconditions same = {.uid = s->uid, .resource_version = now->resource_version};
        if (e->store->ops->patch(e->store, KIND_SANDBOX, STORE_STATUS, s->namespace, s->name, whole, &same,
                                 NULL, &err))
            return WRITE_DONE;
        if (!err.code || strcmp(err.code, ERR_CONFLICT) != 0) return failed(s, "status", &err);
    }
    return WRITE_STALE;
}

/* A change of the main resource, with the uid checked. */
static enum write_result change_main(struct engine *e, struct entry *s, const char *what,
                                     bool (*change)(void *, json_t *, struct error *)) {
    cleanup_error struct error err = {0};
    if (store_update(e->store, KIND_SANDBOX, STORE_MAIN, s->namespace, s->name, change, s, NULL, &err))
        return WRITE_DONE;
    return err.status == 410 ? WRITE_STALE : failed(s, what, &err);
}

static bool same_sandbox(const struct entry *s, json_t *object, struct error *err) {
    if (strcmp(json_str_at(object, "metadata.uid"), s->uid) == 0) return true;
    error_set(err, 410, "gone", "another sandbox has the name now");
    return false;
}

static size_t finalizer_at(const json_t *list) {
    size_t i = 0;
    while (i < json_array_size(list)) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, FINALIZER) == 0) break;
        i++;
    }
    return i;
}

static bool with_finalizer(void *ctx, json_t *object, struct error *err) {
    if (!same_sandbox(ctx, object, err)) return false;
    json_t *metadata = json_object_get(object, "metadata");
    json_t *list = json_object_get(metadata, "finalizers");
    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(metadata, "finalizers", list);
    }
    if (finalizer_at(list) == json_array_size(list)) json_array_append_new(list, json_string(FINALIZER));
    return true;
}

static bool without_finalizer(void *ctx, json_t *object, struct error *err) {
    if (!same_sandbox(ctx, object, err)) return false;
    json_t *list = json_at(object, "metadata.finalizers");
    json_array_remove(list, finalizer_at(list));
    return true;
}

static bool without_action(void *ctx, json_t *object, struct error *err) {
    if (!same_sandbox(ctx, object, err)) return false;
    json_object_del(json_at(object, "metadata.annotations"), ACTION_ANNOTATION);
    return true;
}

enum write_result add_finalizer(struct engine *e, struct entry *s) {
    return change_main(e, s, "finalizer", with_finalizer);
}
enum write_result remove_finalizer(struct engine *e, struct entry *s) {
    return change_main(e, s, "finalizer", without_finalizer);
}
enum write_result remove_action(struct engine *e, struct entry *s) {
    return change_main(e, s, "annotation", without_action);
}
