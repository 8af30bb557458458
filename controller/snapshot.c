#include "controller/snapshot.h"

#include "common/bytes.h"
#include "common/json.h"
#include "controller/names.h"

bool snapshot_wanted(const struct object *sandbox, const json_t *resolved) {
    return *json_str_at(sandbox->json, "status.pvcName") &&
           json_is_true(json_at(resolved, "storage.snapshotOnStop"));
}

json_t *snapshot_build(const struct object *sandbox, time_t now) {
    cleanup_free char *name = xasprintf("%s-stopsnap-%lld", sandbox->name, (long long)now);
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s, s:s}}, s:{s:{s:s}}}", "apiVersion",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].api_version, "kind", "VolumeSnapshot", "metadata",
                     "name", name, "namespace", sandbox->namespace, "labels", LABEL_SANDBOX, sandbox->name,
                     "agenttier.io/snapshot-kind", "on-stop", "spec", "source", "persistentVolumeClaimName",
                     json_str_at(sandbox->json, "status.pvcName"));
}
