#include "controller/crds.h"

#include "common/json.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "k8s/yaml_json.h"

#include <time.h>

#define COLLECTION  "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
#define DIGEST      "agenttier.io/crd-digest"
#define PATIENCE_MS 60000
#define PAUSE_MS    250

/* ---- pure -------------------------------------------------------------------------------------- */

json_t *crd_parse(const struct embedded_file *file, struct error *err) {
    json_t *crd = yaml_parse_typed(file->text, err);
    if (!crd) {
        error_wrap(err, "%s", file->name);
        return NULL;
    }
    char digest[SHA256_HEX_LEN + 1];
    sha256_hex(file->text, digest);
    json_object_set_new(json_object_get(crd, "metadata"), "annotations", json_pack("{s:s}", DIGEST, digest));
    return crd;
}

static const char *digest_of(const json_t *crd) {
    const char *text = json_string_value(json_object_get(json_at(crd, "metadata.annotations"), DIGEST));
    return text ? text : "";
}

json_t *crd_replacement(const json_t *wanted, const json_t *live) {
    if (strcmp(digest_of(wanted), digest_of(live)) == 0) return NULL;
    json_t *next = json_deep_copy(live);
    json_object_set_new(next, "spec", json_deep_copy(json_object_get(wanted, "spec")));
    static const char *const maps[] = {"labels", "annotations"}; /* what others put there stays */
    json_t *metadata = json_object_get(next, "metadata");
    for (size_t i = 0; i < 2; i++) {
        const json_t *ours = json_object_get(json_object_get(wanted, "metadata"), maps[i]);
        if (!json_is_object(json_object_get(metadata, maps[i])))
            json_object_set_new(metadata, maps[i], json_object());
        json_object_update(json_object_get(metadata, maps[i]), (json_t *)ours);
    }
    json_object_del(metadata, "managedFields");
    return next;
}

bool crd_established(const json_t *live) {
    size_t i;
    json_t *condition;
    json_array_foreach(json_at(live, "status.conditions"), i, condition) {
        if (strcmp(json_str_at(condition, "type"), "Established") == 0)
            return strcmp(json_str_at(condition, "status"), "True") == 0;
    }
    return false;
}

/* ---- the cluster ------------------------------------------------------------------------------- */

/* One look: creates, replaces, or sees whether it is served. *done: it is, and as it should be. */
static bool apply_once(struct k8s_client *client, const json_t *wanted, bool *done, struct error *err) {
    cleanup_free char *path = xasprintf(COLLECTION "/%s", json_str_at(wanted, "metadata.name"));
    cleanup_json json_t *live = NULL;
    *done = false;
    if (!k8s_call(client, "GET", path, NULL, NULL, &live, err)) {
        if (err->status != 404) return false;
        error_clear(err);
        log_info("creating a custom resource definition", "name", json_str_at(wanted, "metadata.name"), NULL);
        return k8s_call(client, "POST", COLLECTION, NULL, wanted, NULL, err);
    }
    cleanup_json json_t *next = crd_replacement(wanted, live);
    if (next) {
        log_info("replacing a custom resource definition", "name", json_str_at(wanted, "metadata.name"),
                 NULL);
        return k8s_call(client, "PUT", path, NULL, next, NULL, err);
    }
    *done = crd_established(live);
    return true;
}

static bool apply(struct k8s_client *client, const struct embedded_file *file, int64_t until,
                  struct error *err) {
    cleanup_json json_t *wanted = crd_parse(file, err);
    if (!wanted) return false;
    for (;;) {
        bool done;
        cleanup_error struct error failed = {0};
        bool ok = apply_once(client, wanted, &done, &failed);
        if (ok && done) return true;
        if (failed.status == 403) {
            log_warn("custom resource definitions are left to others: this account may not write them",
                     "name", json_str_at(wanted, "metadata.name"), "why", failed.message, NULL);
            return true;
        }
        /* Another instance can be at it, and the apiserver away. */
        bool transient = ok || failed.status == 409 || failed.status >= 500;
        if (!transient || monotonic_ms() >= until) {
            if (ok)
                error_set(err, 503, ERR_UNAVAILABLE, "%s is not served by the apiserver yet", file->name);
            else
                error_move(err, &failed);
            error_wrap(err, "applying the custom resource definitions");
            return false;
        }
        struct timespec pause = {0, PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
}

bool crds_apply(struct k8s_client *client, struct error *err) {
    int64_t until = monotonic_ms() + PATIENCE_MS;
    for (const struct embedded_file *file = crd_files; file->name; file++)
        if (!apply(client, file, until, err)) return false;
    return true;
}
