#include "controller/pod_state.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "controller/names.h"

#include <stdio.h>
#include <string.h>

static void set_text(char out[POD_TEXT_MAX], const char *head, const char *text) {
    int n = snprintf(out, POD_TEXT_MAX, "%s%s%s", head, *head && *text ? ": " : "", text);
    /* Cut between characters. */
    if (n >= POD_TEXT_MAX)
        out[POD_TEXT_MAX - 1 - utf8_incomplete_tail(slice_make(out, POD_TEXT_MAX - 1))] = '\0';
}

static const json_t *condition(const struct object *pod, const char *type) {
    size_t i;
    json_t *c;
    json_array_foreach(json_at(pod->json, "status.conditions"), i,
                       c) if (strcmp(json_str_at(c, "type"), type) == 0) return c;
    return NULL;
}

static const json_t *container_status(const struct object *pod, const char *name) {
    size_t i;
    json_t *c;
    json_array_foreach(json_at(pod->json, "status.containerStatuses"), i, c) {
        if (strcmp(json_str_at(c, "name"), name) == 0) return c;
    }
    return NULL;
}

enum pod_state pod_state(const struct object *pod) {
    if (*json_str_at(pod->json, "metadata.deletionTimestamp")) return POD_ENDING;
    const char *phase = json_str_at(pod->json, "status.phase");
    if (strcmp(phase, "Failed") == 0) return POD_FAILED;
    if (strcmp(phase, "Succeeded") == 0) return POD_SUCCEEDED;
    if (strcmp(phase, "Running") != 0) return POD_PENDING;
    /* With sidecars that go on, the pod does not end when the sandbox does. */
    const json_t *ended = json_at(container_status(pod, MAIN_CONTAINER), "state.terminated");
    if (json_is_object(ended))
        return json_integer_value(json_object_get(ended, "exitCode")) == 0 ? POD_SUCCEEDED : POD_FAILED;
    return strcmp(json_str_at(condition(pod, "Ready"), "status"), "True") == 0 ? POD_READY : POD_PENDING;
}

/* "reason: message"; without a message its exit code. */
static void describe_end(const json_t *ended, const char *container, char out[POD_TEXT_MAX]) {
    const char *reason = json_str_at(ended, "reason"), *message = json_str_at(ended, "message");
    char head[256], code[48] = "";
    snprintf(head, sizeof head, "%s%.63s%s%.80s", *container ? "init container " : "", container,
             *container ? ": " : "", *reason ? reason : "Unknown failure");
    if (!*message && strcmp(reason, "OOMKilled") != 0)
        snprintf(code, sizeof code, "exit code %lld",
                 (long long)json_integer_value(json_object_get(ended, "exitCode")));
    set_text(out, head, *message ? message : code);
}

void pod_failure(const struct object *pod, struct pod_failure *out) {
    *out = (struct pod_failure){.infrastructure = true};
    const char *reason = json_str_at(pod->json, "status.reason");
    /* Evicted, NodeLost, Terminated (node shutdown), UnexpectedAdmissionError, ...: not what ran inside. */
    if (*reason) {
        set_text(out->reason, reason, json_str_at(pod->json, "status.message"));
        return;
    }
    const json_t *main = container_status(pod, MAIN_CONTAINER);
    const json_t *ended = json_at(main, "state.terminated");
    if (ended) {
        const char *why = json_str_at(ended, "reason");
        out->infrastructure = strcmp(why, "Error") != 0 && strcmp(why, "Completed") != 0;
        describe_end(ended, "", out->reason);
        return;
    }
    size_t i;
    json_t *c;
    json_array_foreach(json_at(pod->json, "status.initContainerStatuses"), i, c) {
        ended = json_at(c, "state.terminated");
        if (!ended || json_integer_value(json_object_get(ended, "exitCode")) == 0) continue;
        out->infrastructure = strcmp(json_str_at(ended, "reason"), "Error") != 0;
        describe_end(ended, json_str_at(c, "name"), out->reason);
        return;
    }
    if (strcmp(json_str_at(main, "state.waiting.reason"), "CrashLoopBackOff") == 0)
        set_text(out->reason, "", "CrashLoopBackOff");
    else
        set_text(out->reason, "", "Unknown failure");
}

static bool is_one_of(const char *text, const char *const *list) {
    for (; *list; list++)
        if (strcmp(text, *list) == 0) return true;
    return false;
}

/* What a container waits for, when that is more than its turn. */
static bool container_obstacle(const json_t *statuses, bool *hopeless, char out[POD_TEXT_MAX]) {
    static const char *const usual[] = {"", "ContainerCreating", "PodInitializing", NULL};
    static const char *const final[] = {"InvalidImageName", "ErrImageNeverPull", NULL};
    size_t i;
    json_t *c;
    json_array_foreach(statuses, i, c) {
        const char *reason = json_str_at(c, "state.waiting.reason");
        if (is_one_of(reason, usual)) continue;
        *hopeless = is_one_of(reason, final);
        set_text(out, reason, json_str_at(c, "state.waiting.message"));
        return true;
    }
    return false;
}

void pod_obstacle(const struct object *pod, bool *hopeless, char out[POD_TEXT_MAX]) {
    *hopeless = false;
    out[0] = '\0';
    if (container_obstacle(json_at(pod->json, "status.initContainerStatuses"), hopeless, out)) return;
    if (container_obstacle(json_at(pod->json, "status.containerStatuses"), hopeless, out)) return;
    const json_t *scheduled = condition(pod, "PodScheduled");
    if (strcmp(json_str_at(scheduled, "status"), "False") == 0)
        set_text(out, json_str_at(scheduled, "reason"), json_str_at(scheduled, "message"));
}

const char *pod_container_id(const struct object *pod) {
    const json_t *main = container_status(pod, MAIN_CONTAINER);
    return json_is_object(json_at(main, "state.running")) ? json_str_at(main, "containerID") : "";
}

bool pod_has_runtime(const struct object *pod, const char *container) {
    const json_t *annotations = json_at(pod->json, "metadata.annotations");
    const char *ready = json_string_value(json_object_get(annotations, ANNOTATION_RUNTIME_READY));
    return ready && strcmp(ready, container) == 0;
}

int64_t pod_created_at(const struct object *pod) {
    time_t at;
    return rfc3339_parse(json_str_at(pod->json, "metadata.creationTimestamp"), &at) ? at : 0;
}
