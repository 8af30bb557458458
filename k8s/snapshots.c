#include "k8s/snapshots.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/units.h"
#include "k8s/paths.h"

#include <pthread.h>
#include <string.h>

#define GROUP          "snapshot.storage.k8s.io"
#define API            "/apis/" GROUP "/v1"
#define CLASSES        API "/volumesnapshotclasses"
#define DEFAULT_CLASS  "snapshot.storage.kubernetes.io/is-default-class"
#define PRESENT_FOR_MS 30000
#define ABSENT_FOR_MS  2000 /* it may be being installed */
#define NAMES_SHOWN    10

struct known {
    bool snapshots, classes; /* whether their kinds are there */
    int64_t until;           /* monotonic ms */
};

struct k8s_snapshots {
    struct k8s_client *client;
    pthread_mutex_t lock;
    struct known known;
};

struct k8s_snapshots *k8s_snapshots_new(struct k8s_client *client) {
    struct k8s_snapshots *s = xcalloc(1, sizeof *s);
    s->client = client;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void k8s_snapshots_free(struct k8s_snapshots *s) {
    if (!s) return;
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- what the cluster has
 * ----------------------------------------------------------------------------------- */

bool snapshot_group_present(const json_t *groups) {
    size_t i, k;
    json_t *group, *version;
    json_array_foreach(json_object_get(groups, "groups"), i, group) {
        if (strcmp(json_str_at(group, "name"), GROUP) != 0) continue;
        json_array_foreach(json_object_get(group, "versions"), k, version) {
            if (strcmp(json_str_at(version, "version"), "v1") == 0) return true;
        }
    }
    return false;
}

bool snapshot_resource_present(const json_t *resources, const char *plural) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(resources, "resources"), i, item) {
        if (strcmp(json_str_at(item, "name"), plural) == 0) return true;
    }
    return false;
}

static bool not_supported(struct error *err) {
    error_set(
        err, 501, "snapshots_not_supported",
        "this cluster has no VolumeSnapshot API (snapshot.storage.k8s.io/v1), which clones and backups need: "
        "install the CRDs of kubernetes-csi/external-snapshotter, a snapshot controller, and a "
        "VolumeSnapshotClass for a CSI driver that has snapshots");
    return false;
}

/* The list of groups first: of a group that is not there an apiserver says no more than "404". */
static bool discover(struct k8s_snapshots *s, struct known *out, struct error *err) {
    cleanup_json json_t *groups = NULL, *resources = NULL;
    cleanup_error struct error failed = {0};
    *out = (struct known){0};
    if (k8s_call(s->client, "GET", "/apis", NULL, NULL, &groups, &failed) &&
        (!snapshot_group_present(groups) ||
         k8s_call(s->client, "GET", API, NULL, NULL, &resources, &failed))) {
        out->snapshots = snapshot_resource_present(resources, resource_kinds[KIND_VOLUME_SNAPSHOT].plural);
        out->classes = snapshot_resource_present(resources, "volumesnapshotclasses");
    } else if (failed.status == 403) { /* one may be kept from asking, and yet use them */
        out->snapshots = out->classes = true;
    } else {
        error_move(err, &failed);
        return false;
    }
    out->until = monotonic_ms() + (out->snapshots && out->classes ? PRESENT_FOR_MS : ABSENT_FOR_MS);
    return true;
}

static bool api_is_there(struct k8s_snapshots *s, bool *classes, struct error *err) {
    pthread_mutex_lock(&s->lock);
    struct known known = s->known;
    pthread_mutex_unlock(&s->lock);
    if (known.until <= monotonic_ms()) {
        if (!discover(s, &known, err)) return false;
        pthread_mutex_lock(&s->lock);
        s->known = known;
        pthread_mutex_unlock(&s->lock);
    }
    if (classes) *classes = known.classes;
    return known.snapshots || not_supported(err);
}

/* "a, b, ..." */
static void add_names(struct buffer *out, const json_t *list) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(list, "items"), i, item) {
        if (i == NAMES_SHOWN) {
            buffer_append_str(out, ", ...");
            break;
        }
        buffer_printf(out, "%s%.63s", i ? ", " : "", json_str_at(item, "metadata.name"));
    }
    buffer_cstr(out);
}

bool snapshot_class_usable(const json_t *list, const char *class, struct error *err) {
    cleanup_buffer struct buffer names = {0};
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(list, "items"), i, item) {
        const json_t *annotations = json_at(item, "metadata.annotations");
        const char *flag = json_string_value(json_object_get(annotations, DEFAULT_CLASS));
        if (class ? strcmp(json_str_at(item, "metadata.name"), class) == 0
                  : flag && strcmp(flag, "true") == 0)
            return true;
    }
    add_names(&names, list);
    if (i == 0)
        error_set(
            err, 501, "no_snapshot_class",
            "this cluster has no VolumeSnapshotClass, which clones and backups need: create one for the CSI "
            "driver of the workspaces");
    else if (class)
        error_set_field(err, "snapshotClass", "there is no VolumeSnapshotClass %.63s here; there are: %s",
                        class, names.data);
    else
        error_set(err, 409, "no_default_snapshot_class",
                  "no VolumeSnapshotClass is marked as the default (annotation " DEFAULT_CLASS
                  "): name one by snapshotClass: %s",
                  names.data);
    return false;
}

bool k8s_snapshots_check(struct k8s_snapshots *s, const char *class, struct error *err) {
    bool classes = false;
    if (!api_is_there(s, &classes, err)) return false;
    cleanup_json json_t *list = NULL;
    cleanup_error struct error failed = {0};
    if (!classes || k8s_call(s->client, "GET", CLASSES, NULL, NULL, &list, &failed))
        return snapshot_class_usable(list, class, err);
    if (failed.status == 403) return true; /* then the snapshot controller decides */
    error_move(err, &failed);
    return false;
}

/* ---- reading ---- */

static struct object *object_of(json_t *json) {
    if (*json_str_at(json, "metadata.name") && *json_str_at(json, "metadata.uid"))
        return object_new(KIND_VOLUME_SNAPSHOT, json_incref(json), 0);
    return NULL;
}

bool k8s_snapshots_list(struct k8s_snapshots *s, const char *namespace, const char *label, const char *value,
                        struct object_list *out, struct error *err) {
    *out = (struct object_list){0};
    if (!api_is_there(s, NULL, err)) return false;
    cleanup_buffer struct buffer path = {0};
    cleanup_free char *selector = xasprintf("%s%s%s", label, value ? "=" : "", value ? value : "");
    cleanup_json json_t *answer = NULL;
    k8s_path(KIND_VOLUME_SNAPSHOT, namespace, NULL, NULL, &path);
    k8s_path_query(&path, "labelSelector", selector);
    if (!k8s_call(s->client, "GET", buffer_cstr(&path), NULL, NULL, &answer, err)) return false;
    const json_t *items = json_object_get(answer, "items");
    out->items = xcalloc(json_array_size(items) + 1, sizeof *out->items);
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item) {
        struct object *o = object_of(item);
        if (o) out->items[out->count++] = o;
    }
    return true;
}

struct object *k8s_snapshots_get(struct k8s_snapshots *s, const char *namespace, const char *name,
                                 struct error *err) {
    if (!api_is_there(s, NULL, err)) return NULL;
    cleanup_buffer struct buffer path = {0};
    cleanup_json json_t *answer = NULL;
    k8s_path(KIND_VOLUME_SNAPSHOT, namespace, name, NULL, &path);
    if (!k8s_call(s->client, "GET", buffer_cstr(&path), NULL, NULL, &answer, err)) return NULL;
    struct object *o = object_of(answer);
    if (!o)
        error_set(err, 502, "bad_answer", "the Kubernetes API answered something else than a VolumeSnapshot");
    return o;
}
