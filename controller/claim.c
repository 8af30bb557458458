#include "controller/claim.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/units.h"
#include "controller/names.h"

/* The size as it was written, number or text; the default when it is none, or zero. */
static json_t *size_of(const json_t *storage, const struct settings *settings) {
    const json_t *size = json_object_get(storage, "size");
    cleanup_free char *text = json_is_integer(size)  ? xasprintf("%lld", (long long)json_integer_value(size))
                              : json_is_string(size) ? xstrdup(json_string_value(size))
                                                     : xstrdup("");
    struct quantity q;
    bool unset = !*text || (quantity_parse(text, &q) && q.nano == 0);
    return json_string(unset ? settings->default_storage_size : text);
}

json_t *claim_build(const struct object *sandbox, const json_t *resolved, const struct settings *settings) {
    cleanup_free char *name = name_of_claim(sandbox);
    const json_t *storage = json_object_get(resolved, "storage");
    json_t *metadata = metadata_of(sandbox, name);
    bool shared = json_is_true(json_object_get(storage, "shared"));
    json_t *spec =
        json_pack("{s:[s], s:{s:{s:o}}}", "accessModes", shared ? "ReadWriteMany" : "ReadWriteOnce",
                  "resources", "requests", "storage", size_of(storage, settings));
    const char *class = json_str_at(storage, "storageClass");
    if (*class) json_object_set_new(spec, "storageClassName", json_string(class));
    const char *snapshot = json_str_at(sandbox->json, "spec.cloneFromSnapshot");
    if (*snapshot) {
        metadata_label(metadata, LABEL_SNAPSHOT, snapshot);
        json_object_set_new(spec, "dataSource",
                            json_pack("{s:s, s:s, s:s}", "apiGroup", "snapshot.storage.k8s.io", "kind",
                                      "VolumeSnapshot", "name", snapshot));
    }
    return json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", "v1", "kind", "PersistentVolumeClaim", "metadata",
                     metadata, "spec", spec);
}
