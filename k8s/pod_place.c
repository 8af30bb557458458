#include "k8s/pod_place.h"

#include "common/bytes.h"
#include "common/json.h"

#include <arpa/inet.h>
#include <stdio.h>

#define CONTAINER "sandbox" /* http-api.md 5.1 */

static bool refuse(struct error *err, const struct object *sandbox, const char *why) {
    error_set(err, 409, "sandbox_not_running", "sandbox \"%s\" is not running: %s", sandbox->name, why);
    return false;
}

static const json_t *container_of(const json_t *pod) {
    const json_t *all = json_at(pod, "status.containerStatuses");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *one = json_array_get(all, i);
        if (strcmp(json_str_at(one, "name"), CONTAINER) == 0) return one;
    }
    return NULL;
}

/* Whether the pod says that it belongs to another Sandbox, or to none. */
static bool of_another(const struct object *sandbox, const struct object *pod) {
    const json_t *owners = json_at(pod->json, "metadata.ownerReferences");
    for (size_t i = 0; i < json_array_size(owners); i++) {
        const json_t *owner = json_array_get(owners, i);
        if (strcmp(json_str_at(owner, "kind"), "Sandbox") == 0)
            return strcmp(json_str_at(owner, "uid"), sandbox->uid) != 0;
    }
    const json_t *labels = json_at(pod->json, "metadata.labels");
    const char *label = json_string_value(json_object_get(labels, "agenttier.io/sandbox"));
    return !label || strcmp(label, sandbox->name) != 0;
}

static bool copy(char *out, size_t cap, const char *text) {
    return snprintf(out, cap, "%s", text) < (int)cap;
}

bool pod_place_find(const struct object *sandbox, const struct object *pod, struct pod_place *out,
                    struct error *err) {
    if (!pod) return refuse(err, sandbox, "its pod is not there");
    if (of_another(sandbox, pod)) return refuse(err, sandbox, "the pod of its name is not its own");
    if (json_at(pod->json, "metadata.deletionTimestamp"))
        return refuse(err, sandbox, "its pod is being deleted");
    if (strcmp(json_str_at(pod->json, "status.phase"), "Running") != 0)
        return refuse(err, sandbox, "its pod does not run yet, or no longer");
    const json_t *container = container_of(pod->json);
    *out = (struct pod_place){.host_network = json_is_true(json_at(pod->json, "spec.hostNetwork"))};
    if (!copy(out->namespace, sizeof out->namespace, pod->namespace) ||
        !copy(out->pod, sizeof out->pod, pod->name) || !copy(out->uid, sizeof out->uid, pod->uid) ||
        !copy(out->container, sizeof out->container, CONTAINER) ||
        !copy(out->container_id, sizeof out->container_id, json_str_at(container, "containerID")) ||
        !copy(out->ip, sizeof out->ip, json_str_at(pod->json, "status.podIP")))
        return refuse(err, sandbox, "its pod has names that are too long");
    return true;
}

static bool gone(struct error *err, const char *code, const char *text) {
    error_set(err, 502, code, "%s", text);
    return true;
}

static bool node_lost(const json_t *pod) {
    const char *reason = json_str_at(pod, "status.reason");
    if (strcmp(reason, "NodeLost") == 0 || strcmp(reason, "NodeShutdown") == 0) return true;
    const json_t *conditions = json_at(pod, "status.conditions");
    for (size_t i = 0; i < json_array_size(conditions); i++) {
        const json_t *c = json_array_get(conditions, i);
        if (strcmp(json_str_at(c, "type"), "Ready") == 0 &&
            strcmp(json_str_at(c, "reason"), "NodeNotReady") == 0)
            return true;
    }
    return false;
}

bool pod_place_gone(const struct pod_place *place, const struct object *pod, struct error *err) {
    if (!pod || strcmp(pod->uid, place->uid) != 0)
        return gone(err, "pod_deleted", "the sandbox's pod was deleted");
    const char *phase = json_str_at(pod->json, "status.phase");
    const json_t *container = container_of(pod->json);
    const char *id = json_str_at(container, "containerID");
    bool restarted = place->container_id[0] && id[0] && strcmp(id, place->container_id) != 0;
    const char *why =
        json_str_at(container, restarted ? "lastState.terminated.reason" : "state.terminated.reason");
    if (strcmp(json_str_at(pod->json, "status.reason"), "Evicted") == 0)
        return gone(err, "pod_evicted", "the sandbox's pod was evicted from its node");
    if (strcmp(why, "OOMKilled") == 0)
        return gone(err, "out_of_memory", "the sandbox used more memory than it may and was ended");
    if (node_lost(pod->json)) return gone(err, "node_lost", "the node of the sandbox's pod is not reachable");
    if (restarted) return gone(err, "container_restarted", "the sandbox's container was restarted");
    if (json_at(container, "state.terminated") || strcmp(phase, "Failed") == 0 ||
        strcmp(phase, "Succeeded") == 0)
        return gone(err, "pod_ended", "the sandbox's pod has ended");
    return false;
}

bool pod_place_ending(const struct object *pod, struct error *err) {
    if (!pod || !json_at(pod->json, "metadata.deletionTimestamp")) return false;
    return gone(err, "pod_deleted", "the sandbox's pod is being deleted");
}

bool pod_place_dialable(const struct pod_place *place, struct error *err) {
    struct in_addr v4;
    struct in6_addr v6;
    bool fine = false;
    if (inet_pton(AF_INET, place->ip, &v4) == 1) {
        uint32_t a = ntohl(v4.s_addr);
        fine = a >> 24 != 0 && a >> 24 != 127 && a >> 16 != 0xa9fe && a >> 28 < 0xe;
    } else if (inet_pton(AF_INET6, place->ip, &v6) == 1) {
        fine = !IN6_IS_ADDR_UNSPECIFIED(&v6) && !IN6_IS_ADDR_LOOPBACK(&v6) && !IN6_IS_ADDR_LINKLOCAL(&v6) &&
               !IN6_IS_ADDR_MULTICAST(&v6) && !IN6_IS_ADDR_V4MAPPED(&v6) && !IN6_IS_ADDR_V4COMPAT(&v6);
    }
    if (fine && !place->host_network) return true;
    error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "%s",
              place->host_network ? "ports of pods on their node's network are not reached through the Router"
              : place->ip[0]      ? "the sandbox's pod has an address that is not a pod's"
                                  : "the sandbox's pod has no address yet");
    return false;
}

enum pod_runtime pod_runtime_of(const struct object *pod, const struct pod_place *place) {
    const json_t *annotations = json_at(pod->json, "metadata.annotations");
    const char *how = json_string_value(json_object_get(annotations, "agenttier.io/runtime-delivery"));
    const char *ready = json_string_value(json_object_get(annotations, "agenttier.io/runtime-ready"));
    if (!how || strcmp(how, "exec") != 0) return POD_RUNTIME_UNKNOWN;
    bool listens = ready && place->container_id[0] && strcmp(ready, place->container_id) == 0;
    return listens ? POD_RUNTIME_READY : POD_RUNTIME_COMING;
}
