#include "k8s/trim.h"

#include "common/bytes.h"
#include "common/json.h"

/* Keeps the named members of an object; `names` is NULL-terminated. */
static void keep(json_t *object, const char *const *names) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], key) != 0)
            i++;
        if (!names[i]) json_object_del(object, key);
    }
}

static void keep_each(json_t *list, const char *const *names) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) keep(item, names);
}

/* Members that say nothing: {} and []. */
static void drop_empty(json_t *object, const char *name) {
    json_t *value = json_object_get(object, name);
    bool empty = (json_is_object(value) && json_object_size(value) == 0) ||
                 (json_is_array(value) && json_array_size(value) == 0);
    if (empty) json_object_del(object, name);
}

/* Ready, and what is not as it should be. */
static void keep_telling_conditions(json_t *list) {
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *condition = json_array_get(list, i);
        if (strcmp(json_str_at(condition, "type"), "Ready") != 0 &&
            strcmp(json_str_at(condition, "status"), "True") == 0)
            json_array_remove(list, i);
    }
}

/* Volumes that are claims. */
static void keep_claims(json_t *list) {
    for (size_t i = json_array_size(list); i-- > 0;)
        if (!json_object_get(json_array_get(list, i), "persistentVolumeClaim")) json_array_remove(list, i);
}

static void drop_annotation(json_t *object, const char *name) {
    json_object_del(json_object_get(json_object_get(object, "metadata"), "annotations"), name);
}

void trim_pod(json_t *pod) {
    static const char *const spec_members[] = {"nodeName", "containers", "volumes", "hostNetwork", NULL};
    static const char *const container_members[] = {"name", "image", "ports", NULL};
    static const char *const volume_members[] = {"name", "persistentVolumeClaim", NULL};
    static const char *const status_members[] = {"phase",     "reason", "message",    "podIP",
                                                 "podIPs",    "hostIP", "conditions", "containerStatuses",
                                                 "startTime", NULL};
    static const char *const condition_members[] = {"type", "status", "reason", "message", NULL};
    static const char *const state_members[] = {"name",      "ready",   "restartCount", "state",
                                                "lastState", "started", "containerID",  NULL};
    drop_annotation(pod, "kubectl.kubernetes.io/last-applied-configuration");
    json_t *spec = json_object_get(pod, "spec"), *status = json_object_get(pod, "status");
    keep(spec, spec_members);
    keep_each(json_object_get(spec, "containers"), container_members);
    keep_claims(json_object_get(spec, "volumes"));
    keep_each(json_object_get(spec, "volumes"), volume_members);
    keep(status, status_members);
    keep_telling_conditions(json_object_get(status, "conditions"));
    keep_each(json_object_get(status, "conditions"), condition_members);
    keep_each(json_object_get(status, "containerStatuses"), state_members);
    /* One address is in podIP already. */
    if (json_array_size(json_object_get(status, "podIPs")) < 2) json_object_del(status, "podIPs");
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(spec, "containers"), i, item) drop_empty(item, "ports");
    json_array_foreach(json_object_get(status, "containerStatuses"), i, item) drop_empty(item, "lastState");
    drop_empty(spec, "volumes");
}

void trim_event(json_t *event) {
    static const char *const members[] = {"kind",
                                          "apiVersion",
                                          "metadata",
                                          "involvedObject",
                                          "reason",
                                          "message",
                                          "type",
                                          "count",
                                          "source",
                                          "firstTimestamp",
                                          "lastTimestamp",
                                          "eventTime",
                                          "reportingComponent",
                                          NULL};
    keep(event, members);
}
