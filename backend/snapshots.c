/* Names and labels of snapshots, and those of stops: see snapshots.h. Pure. */
#include "backend/snapshots.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/secret.h"

#include <stdio.h>
#include <string.h>

#define KEY_CHARACTERS    12
#define RANDOM_CHARACTERS 6 /* half as many bytes */
#define HASH_CHARACTERS   10

/* The first characters of a name, as many as fit; no separator at the end, no dots. */
static void shortened(const char *name, size_t most, char *out) {
    size_t n = strlen(name) < most ? strlen(name) : most;
    memcpy(out, name, n);
    while (n > 0 && (out[n - 1] == '-' || out[n - 1] == '.'))
        n--;
    out[n] = '\0';
    for (char *p = out; *p; p++)
        if (*p == '.') *p = '-';
}

void snapshot_generate_name(const char *base, const char *word, time_t now, const char *key,
                            char out[GENERATED_NAME_MAX + 1]) {
    char suffix[48], random[RANDOM_CHARACTERS + 1];
    random_hex(random, RANDOM_CHARACTERS / 2);
    if (key)
        snprintf(suffix, sizeof suffix, "-%s-%.*s", word, KEY_CHARACTERS, key);
    else
        snprintf(suffix, sizeof suffix, "-%s-%lld-%s", word, (long long)now, random);
    shortened(base, GENERATED_NAME_MAX - strlen(suffix), out);
    memcpy(out + strlen(out), suffix, strlen(suffix) + 1);
}

void snapshot_label_value(const char *name, char out[SNAPSHOT_LABEL_MAX + 1]) {
    if (strlen(name) <= SNAPSHOT_LABEL_MAX) {
        snprintf(out, SNAPSHOT_LABEL_MAX + 1, "%s", name);
        return;
    }
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(name), hash);
    shortened(name, SNAPSHOT_LABEL_MAX - 1 - HASH_CHARACTERS, out);
    size_t n = strlen(out);
    out[n] = '-';
    memcpy(out + n + 1, hash, HASH_CHARACTERS);
    out[n + 1 + HASH_CHARACTERS] = '\0';
}

bool snapshot_on_stop_wanted(const struct object *sandbox, const json_t *resolved) {
    return *json_str_at(sandbox->json, "status.pvcName") &&
           json_is_true(json_at(resolved, "storage.snapshotOnStop"));
}

json_t *snapshot_on_stop(const struct object *sandbox, const char *name) {
    const char *owner = json_str_at(sandbox->json, "spec.createdBy.sub");
    char of[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(sandbox->name, of);
    json_t *annotations = json_object();
    if (*owner) json_object_set_new(annotations, ANNOTATION_SNAPSHOT_OWNER, json_string(owner));
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s, s:s, s:s}, s:o}, s:{s:{s:s}}}", "apiVersion",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].api_version, "kind",
                     resource_kinds[KIND_VOLUME_SNAPSHOT].kind, "metadata", "name", name, "namespace",
                     sandbox->namespace, "labels", LABEL_STOPPED_SANDBOX, of, LABEL_SNAPSHOT_KIND,
                     SNAPSHOT_KIND_STOP, LABEL_SNAPSHOT_SOURCE_UID, sandbox->uid, "annotations", annotations,
                     "spec", "source", "persistentVolumeClaimName",
                     json_str_at(sandbox->json, "status.pvcName"));
}
