/* Sandboxes, templates and pods of any shape: what is made of them keeps its promises, and what is said of
 * them can be shown. Input: {"sandbox", "resolved", "pod", "lease"}. */
#include "common/json.h"
#include "common/text.h"
#include "controller/claim.h"
#include "controller/lease.h"
#include "controller/names.h"
#include "controller/network_policy.h"
#include "controller/pod.h"
#include "controller/pod_state.h"
#include "controller/token_secret.h"
#include "controller/warmpool_item.h"
#include "tests/fuzz/fuzz.h"

static struct object *object_at(const json_t *input, const char *name, enum kind kind) {
    const json_t *given = json_object_get(input, name);
    return object_new(kind, json_is_object(given) ? json_deep_copy(given) : json_object(), 1);
}

static void check_containers(const json_t *list, bool privileged) {
    size_t i, k;
    json_t *c, *port;
    json_array_foreach(list, i, c) {
        if (privileged) continue;
        MUST(json_object_get(json_object_get(c, "securityContext"), "privileged") == NULL);
        MUST(!json_is_true(
            json_object_get(json_object_get(c, "securityContext"), "allowPrivilegeEscalation")));
        MUST(json_at(c, "securityContext.capabilities.add") == NULL);
        json_array_foreach(json_object_get(c, "ports"), k, port)
            MUST(json_object_get(port, "hostPort") == NULL);
    }
}

static void check_pod(const json_t *pod, const json_t *resolved) {
    static const char *const never[] = {"hostNetwork", "hostPID", "hostIPC", "hostUsers"};
    const json_t *spec = json_object_get(pod, "spec");
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        MUST(json_object_get(spec, never[i]) == NULL);
    size_t i;
    json_t *volume;
    json_array_foreach(json_object_get(spec, "volumes"), i, volume)
        MUST(json_object_get(volume, "hostPath") == NULL);
    bool privileged = json_is_true(json_at(resolved, "security.privileged"));
    const json_t *main = json_array_get(json_object_get(spec, "containers"), 0);
    MUST(strcmp(json_str_at(main, "name"), "sandbox") == 0);
    MUST(json_integer_value(json_at(main, "securityContext.runAsUser")) == 1000);
    MUST(privileged || json_is_true(json_at(main, "securityContext.readOnlyRootFilesystem")));
    check_containers(json_object_get(spec, "containers"), privileged);
    check_containers(json_object_get(spec, "initContainers"), privileged);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *input = json_parse_object(slice_make((const char *)data, size), &err);
    if (!input) return 0;
    cleanup_object struct object *sandbox = object_at(input, "sandbox", KIND_SANDBOX),
                                 *pod = object_at(input, "pod", KIND_POD);
    const json_t *resolved = json_object_get(input, "resolved");
    static const enum runtime_delivery ways[] = {DELIVERY_EXEC, DELIVERY_IMAGE, DELIVERY_NONE};
    for (size_t i = 0; i < 3; i++) {
        struct settings settings = {"image", "1Gi", "agenttier", "default", i ? "" : "mem", ways[i], 0};
        cleanup_json json_t *made = pod_build(sandbox, resolved, "claim", &settings);
        if (made) check_pod(made, resolved);
        cleanup_json json_t *claim =
            claim_build(sandbox, resolved, json_at(pod->json, "status.restoreSize"), &settings);
        MUST(claim && json_at(claim, "spec.resources.requests.storage"));
        cleanup_json json_t *policy = network_policy_build(sandbox, resolved, &settings);
        MUST(!policy || json_array_size(json_at(policy, "spec.ingress")) > 0);
        if (!json_is_object(resolved)) continue;
        cleanup_json json_t *pooled = pool_pod("t", "pool-t-1", "default", resolved, &settings);
        if (pooled) check_pod(pooled, resolved);
        MUST(!pooled || !json_at(pooled, "metadata.ownerReferences"));
        char fit[POOL_FIT_LEN + 1];
        pool_fit(resolved, &settings, fit);
        MUST(strlen(fit) == POOL_FIT_LEN);
        pool_unsuitable("t", resolved);
    }
    cleanup_free char *pool_claim_of = pool_claim_name(pod);
    MUST(pool_claim_of[0]);
    cleanup_json json_t *pools = warmpool_pools(json_object_get(input, "resolved"), NULL);
    if (pools && warmpool_check(pools, NULL)) {
        cleanup_free char *stored = warmpool_text(pools);
        cleanup_json json_t *again = json_parse_object(slice_of(stored), NULL);
        MUST(again &&
             warmpool_desired(pools, NULL) == warmpool_desired(json_object_get(again, "pools"), NULL));
    }
    struct pod_failure failure;
    char text[POD_TEXT_MAX];
    bool hopeless;
    pod_failure(pod, &failure);
    pod_obstacle(pod, &hopeless, text);
    MUST(failure.reason[0] && utf8_valid(slice_of(failure.reason)) && utf8_valid(slice_of(text)));
    pod_state(pod);
    pod_container_id(pod);
    owner_uid(pod);
    owner_name(pod);
    cleanup_free char *token = token_secret_read(pod);
    MUST(!token || !strchr(token, '\n'));
    struct lease_view view = {0};
    enum lease_step step = lease_decide(&view, json_object_get(input, "lease"), "me", 5);
    cleanup_json json_t *lease = lease_write(json_object_get(input, "lease"), "ns", "me", step);
    MUST(!json_is_object(lease) || strcmp(json_str_at(lease, "spec.holderIdentity"), "me") == 0);
    return 0;
}
