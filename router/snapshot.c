/* See snapshot.h. */
#include "router/snapshot.h"

#include "common/json.h"
#include "common/units.h"
#include "router/sandbox_view.h"

#include <stdio.h>
#include <string.h>

static void put_label(json_t *labels, const char *name, const char *value) {
    char text[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(value, text);
    json_object_set_new(labels, name, json_string(text));
}

json_t *snapshot_object(const struct object *sandbox, const char *name, const char *target, const char *class,
                        const struct replay *replay) {
    const char *pvc = json_str_at(sandbox->json, "status.pvcName");
    const char *owner = json_str_at(sandbox->json, "spec.createdBy.sub");
    json_t *labels = json_object(), *annotations = replay ? replay_annotations(replay) : json_object();
    put_label(labels, LABEL_SNAPSHOT_SOURCE_UID, sandbox->uid);
    if (target) {
        put_label(labels, LABEL_SOURCE_SANDBOX, sandbox->name);
        put_label(labels, LABEL_CLONE_TARGET, target);
    } else {
        put_label(labels, LABEL_SNAPSHOT_KIND, SNAPSHOT_KIND_BACKUP);
        put_label(labels, LABEL_SOURCE_PVC, pvc);
        put_label(labels, "agenttier.io/managed", "true");
    }
    if (*owner) json_object_set_new(annotations, ANNOTATION_SNAPSHOT_OWNER, json_string(owner));
    json_t *spec = json_pack("{s:{s:s}}", "source", "persistentVolumeClaimName", pvc);
    if (class) json_object_set_new(spec, "volumeSnapshotClassName", json_string(class));
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:o, s:o}, s:o}", "apiVersion",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].api_version, "kind",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].kind, "metadata", "name", name, "namespace",
                     sandbox->namespace, "labels", labels, "annotations", annotations, "spec", spec);
}

/* ---- whose it is --------------------------------------------------------------------------------------- */

static const char *label_of(const struct object *o, const char *name) {
    const char *text = json_string_value(json_object_get(json_at(o->json, "metadata.labels"), name));
    return text ? text : "";
}

static bool label_names(const struct object *snapshot, const char *label, const char *name) {
    char value[SNAPSHOT_LABEL_MAX + 1];
    if (!*name) return false;
    snapshot_label_value(name, value);
    return strcmp(label_of(snapshot, label), value) == 0;
}

static bool same_origin(const struct object *snapshot, const struct object *sandbox) {
    const char *uid = label_of(snapshot, LABEL_SNAPSHOT_SOURCE_UID);
    if (*uid && strcmp(uid, sandbox->uid) == 0) return true;
    const char *owner = sandbox_annotation(snapshot->json, ANNOTATION_SNAPSHOT_OWNER);
    if (*owner) return strcmp(owner, json_str_at(sandbox->json, "spec.createdBy.sub")) == 0;
    if (*uid) return false;
    /* Made by somebody who does not say of which sandbox: not of one that came later. */
    time_t taken, made;
    return rfc3339_parse(json_str_at(snapshot->json, "metadata.creationTimestamp"), &taken) &&
           rfc3339_parse(json_str_at(sandbox->json, "metadata.creationTimestamp"), &made) && taken >= made;
}

enum snapshot_kind snapshot_kind_of(const struct object *snapshot, const struct object *sandbox) {
    enum snapshot_kind kind = SNAPSHOT_FOREIGN;
    if (label_names(snapshot, LABEL_SOURCE_PVC, json_str_at(sandbox->json, "status.pvcName")))
        kind = SNAPSHOT_BACKUP;
    else if (label_names(snapshot, LABEL_SOURCE_SANDBOX, sandbox->name))
        kind = SNAPSHOT_CLONE;
    else if (strcmp(label_of(snapshot, LABEL_SNAPSHOT_KIND), SNAPSHOT_KIND_STOP) == 0 &&
             label_names(snapshot, LABEL_STOPPED_SANDBOX, sandbox->name))
        kind = SNAPSHOT_STOP;
    return same_origin(snapshot, sandbox) ? kind : SNAPSHOT_FOREIGN;
}

bool snapshot_is_deleting(const struct object *snapshot) {
    return *json_str_at(snapshot->json, "metadata.deletionTimestamp") != '\0';
}

bool snapshot_has_failed(const struct object *snapshot, struct error *err) {
    if (!json_at(snapshot->json, "status.error")) return false;
    const char *why = json_str_at(snapshot->json, "status.error.message");
    if (strcmp(json_str_at(snapshot->json, "status.error.code"), "insufficient_storage") == 0)
        error_set(err, 507, "insufficient_storage", "the workspace cannot be copied: %.300s", why);
    else
        error_set(err, 409, "snapshot_failed", "snapshot %s failed: %.300s", snapshot->name,
                  *why ? why : "the storage driver does not say why");
    return true;
}

/* ---- as shown -------------------------------------------------------------------------------------------
 */

json_t *snapshot_entry(const struct object *snapshot, enum snapshot_kind kind) {
    const char *shown = kind == SNAPSHOT_CLONE  ? "clone"
                        : kind == SNAPSHOT_STOP ? SNAPSHOT_KIND_STOP
                                                : SNAPSHOT_KIND_BACKUP;
    json_t *out = json_pack("{s:s, s:s, s:b}", "name", snapshot->name, "kind", shown, "readyToUse",
                            json_is_true(json_at(snapshot->json, "status.readyToUse")));
    time_t at;
    char text[RFC3339_MAX];
    if (rfc3339_parse(json_str_at(snapshot->json, "status.creationTime"), &at) ||
        rfc3339_parse(json_str_at(snapshot->json, "metadata.creationTimestamp"), &at)) {
        rfc3339_format(at, text);
        json_object_set_new(out, "createdAt", json_string(text));
    }
    json_t *size = json_at(snapshot->json, "status.restoreSize");
    if (json_is_string(size) || json_is_integer(size)) json_object_set(out, "restoreSize", size);
    if (json_at(snapshot->json, "status.error"))
        json_object_set_new(out, "error", json_string(json_str_at(snapshot->json, "status.error.message")));
    return out;
}
