#include "controller/claim.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/units.h"
#include "controller/names.h"

/* malloc'ed; "" when it is neither number nor text. */
static char *quantity_text(const json_t *value) {
    return json_is_integer(value)  ? xasprintf("%lld", (long long)json_integer_value(value))
           : json_is_string(value) ? xstrdup(json_string_value(value))
                                   : xstrdup("");
}

/* The size as it was written; the default when it is none, or zero; not below `least`. */
static json_t *size_of(const json_t *storage, const json_t *least, const struct settings *settings) {
    cleanup_free char *written = quantity_text(json_object_get(storage, "size"));
    cleanup_free char *needed = quantity_text(least);
    struct quantity q, need;
    bool unset = !*written || (quantity_parse(written, &q) && q.nano == 0);
    const char *size = unset ? settings->default_storage_size : written;
    if (quantity_parse(size, &q) && quantity_parse(needed, &need) && quantity_compare(need, q) > 0)
        size = needed;
    return json_string(size);
}

json_t *claim_build(const struct object *sandbox, const json_t *resolved, const json_t *least,
                    const struct settings *settings) {
    cleanup_free char *name = name_of_claim(sandbox);
    const json_t *storage = json_object_get(resolved, "storage");
    json_t *metadata = metadata_of(sandbox, name);
    bool shared = json_is_true(json_object_get(storage, "shared"));
    json_t *spec =
        json_pack("{s:[s], s:{s:{s:o}}}", "accessModes", shared ? "ReadWriteMany" : "ReadWriteOnce",
                  "resources", "requests", "storage", size_of(storage, least, settings));
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
