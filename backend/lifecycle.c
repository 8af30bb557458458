/* See lifecycle.h. */
#include "backend/lifecycle.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define BACKOFF_BASE_S 10
#define BACKOFF_MAX_S  160
#define RESTARTABLE    "before restart attempt"
#define ATTEMPTS       8

const char *sandbox_action(const struct object *o) {
    const char *text =
        json_string_value(json_object_get(json_at(o->json, "metadata.annotations"), SANDBOX_ACTION));
    return text ? text : "";
}

bool sandbox_action_is(const struct object *o, const char *action) {
    return strcmp(sandbox_action(o), action) == 0;
}

static size_t finalizer_at(const json_t *list) {
    size_t i = 0;
    while (i < json_array_size(list)) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, SANDBOX_FINALIZER) == 0) break;
        i++;
    }
    return i;
}

bool sandbox_has_finalizer(const struct object *o) {
    const json_t *list = json_at(o->json, "metadata.finalizers");
    return finalizer_at(list) < json_array_size(list);
}

int64_t sandbox_backoff_s(int64_t count) {
    int64_t s = BACKOFF_BASE_S;
    for (int64_t i = 0; i < count && s < BACKOFF_MAX_S; i++)
        s *= 2;
    return s < BACKOFF_MAX_S ? s : BACKOFF_MAX_S;
}

void sandbox_restart_message(char out[SANDBOX_MESSAGE_MAX], const char *reason, int64_t count) {
    snprintf(out, SANDBOX_MESSAGE_MAX, "Pod failed (%.400s), waiting %llds " RESTARTABLE " %lld/%d", reason,
             (long long)sandbox_backoff_s(count), (long long)count, SANDBOX_RESTART_LIMIT);
}

bool sandbox_restartable(const struct object *o) {
    return strstr(json_str_at(o->json, "status.message"), RESTARTABLE) &&
           json_integer_value(json_at(o->json, "status.restartCount")) < SANDBOX_RESTART_LIMIT;
}

void sandbox_plain_message(char *text) {
    for (char *at = text; (at = strstr(at, RESTARTABLE)) != NULL;)
        *at = 'B';
}

int64_t sandbox_limit_ms(const json_t *spec, const char *name) {
    int64_t ns;
    const char *text = json_str_at(spec, name);
    return *text && duration_parse(text, &ns) && ns > 0 ? ns / 1000000 : 0;
}

int64_t sandbox_remaining_ms(const struct object *o, const char *field, int64_t limit_ms) {
    time_t since;
    if (limit_ms == 0 || !rfc3339_parse(json_str_at(o->json, field), &since)) return INT64_MAX;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t passed = (int64_t)(now.tv_sec - since) * 1000 + now.tv_nsec / 1000000;
    return passed >= limit_ms ? 0 : limit_ms - passed;
}

char *sandbox_now(char out[40]) {
    rfc3339_format(time(NULL), out);
    return out;
}

/* ---- writes ------------------------------------------------------------------------------------ */

static enum write_result failed(struct sandbox_ref who, const char *what, const struct error *err) {
    if (err->status == 404 || err->status == 410) return WRITE_STALE;
    log_warn("the store refused a write; it is tried again", "sandbox", who.name, "namespace", who.namespace,
             "write", what, "why", err->message, NULL);
    return WRITE_FAILED;
}

enum write_result sandbox_write_status(struct store *store, struct sandbox_ref who, const char *phase,
                                       json_t *patch) {
    cleanup_json json_t *whole = json_pack("{s:o}", "status", patch);
    if (!whole) return WRITE_FAILED;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        cleanup_error struct error err = {0};
        cleanup_object struct object *now = store->ops->get(store, KIND_SANDBOX, who.namespace, who.name);
        if (!now || strcmp(now->uid, who.uid) != 0) return WRITE_STALE;
        if (phase && strcmp(json_str_at(now->json, "status.phase"), phase) != 0) return WRITE_STALE;
        struct store_preconditions same = {.uid = who.uid, .resource_version = now->resource_version};
        if (store->ops->patch(store, KIND_SANDBOX, STORE_STATUS, who.namespace, who.name, whole, &same, NULL,
                              &err))
            return WRITE_DONE;
        if (!err.code || strcmp(err.code, ERR_CONFLICT) != 0) return failed(who, "status", &err);
        /* A watch cache may still show what has just been refused: give it time to move on. */
        struct timespec pause = {0, (1L << attempt) * 1000000L};
        nanosleep(&pause, NULL);
    }
    return WRITE_STALE;
}

/* A change of the main resource, with the uid checked by `change`. */
static enum write_result change_main(struct store *store, struct sandbox_ref who, const char *what,
                                     bool (*change)(void *, json_t *, struct error *), void *ctx) {
    cleanup_error struct error err = {0};
    if (store_update(store, KIND_SANDBOX, STORE_MAIN, who.namespace, who.name, change, ctx, NULL, &err))
        return WRITE_DONE;
    if (err.code && strcmp(err.code, ERR_CONFLICT) == 0) return WRITE_STALE;
    return failed(who, what, &err);
}

static bool same_sandbox(const struct sandbox_ref *who, json_t *object, struct error *err) {
    if (strcmp(json_str_at(object, "metadata.uid"), who->uid) == 0) return true;
    error_set(err, 410, "gone", "another sandbox has the name now");
    return false;
}

static bool with_finalizer(void *ctx, json_t *object, struct error *err) {
    if (!same_sandbox(ctx, object, err)) return false;
    json_t *metadata = json_object_get(object, "metadata");
    json_t *list = json_object_get(metadata, "finalizers");
    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(metadata, "finalizers", list);
    }
    if (finalizer_at(list) == json_array_size(list))
        json_array_append_new(list, json_string(SANDBOX_FINALIZER));
    return true;
}

static bool without_finalizer(void *ctx, json_t *object, struct error *err) {
    if (!same_sandbox(ctx, object, err)) return false;
    json_t *list = json_at(object, "metadata.finalizers");
    json_array_remove(list, finalizer_at(list));
    return true;
}

struct request {
    struct sandbox_ref who;
    const char *action;
};

static bool without_action(void *ctx, json_t *object, struct error *err) {
    const struct request *request = ctx;
    if (!same_sandbox(&request->who, object, err)) return false;
    json_t *annotations = json_at(object, "metadata.annotations");
    const char *now = json_string_value(json_object_get(annotations, SANDBOX_ACTION));
    if (now && strcmp(now, request->action) == 0) json_object_del(annotations, SANDBOX_ACTION);
    return true;
}

enum write_result sandbox_add_finalizer(struct store *store, struct sandbox_ref who) {
    return change_main(store, who, "finalizer", with_finalizer, &who);
}
enum write_result sandbox_remove_finalizer(struct store *store, struct sandbox_ref who) {
    return change_main(store, who, "finalizer", without_finalizer, &who);
}
enum write_result sandbox_remove_action(struct store *store, struct sandbox_ref who, const char *action) {
    struct request request = {who, action};
    return change_main(store, who, "annotation", without_action, &request);
}
