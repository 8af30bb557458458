#include "controller/snapshot.h"

#include "backend/snapshots.h"
#include "common/bytes.h"
#include "common/json.h"
#include "controller/names.h"

bool snapshot_wanted(const struct object *sandbox, const json_t *resolved) {
    return *json_str_at(sandbox->json, "status.pvcName") &&
           json_is_true(json_at(resolved, "storage.snapshotOnStop"));
}

json_t *snapshot_build(const struct object *sandbox, time_t now) {
    cleanup_free char *name = xasprintf("%s-stopsnap-%lld", sandbox->name, (long long)now);
    const char *owner = json_str_at(sandbox->json, "spec.createdBy.sub");
    char of[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(sandbox->name, of);
    json_t *annotations = json_object();
    if (*owner) json_object_set_new(annotations, ANNOTATION_SNAPSHOT_OWNER, json_string(owner));
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s, s:s, s:s}, s:o}, s:{s:{s:s}}}", "apiVersion",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].api_version, "kind", "VolumeSnapshot", "metadata",
                     "name", name, "namespace", sandbox->namespace, "labels", LABEL_STOPPED_SANDBOX, of,
                     LABEL_SNAPSHOT_KIND, SNAPSHOT_KIND_STOP, LABEL_SNAPSHOT_SOURCE_UID, sandbox->uid,
                     "annotations", annotations, "spec", "source", "persistentVolumeClaimName",
                     json_str_at(sandbox->json, "status.pvcName"));
}
