#include "controller/pod.h"

#include "common/bytes.h"
#include "common/json.h"
#include "controller/names.h"
#include "controller/pod_container.h"

#define USER_ID 1000
/* Process 1 of most sandboxes only keeps the pod up and ignores SIGTERM: waiting for it would only delay stop
 * and resume (O6). A command that the template gives may have something to save. */
#define GRACE_S         2
#define COMMAND_GRACE_S 10

bool pod_wants_runtime(const json_t *resolved, const struct settings *settings) {
    const json_t *asked = json_at(resolved, "harness.useHTTPExec");
    if (json_is_boolean(asked) && !json_is_true(asked)) return false;
    if (settings->delivery == DELIVERY_IMAGE) return json_is_true(asked);
    return settings->delivery == DELIVERY_EXEC;
}

static json_t *volumes(const json_t *resolved, const char *claim, const struct settings *settings) {
    json_t *list =
        json_pack("[{s:s, s:{s:s}}, {s:s, s:{s:s, s:s}}]", "name", "workspace", "persistentVolumeClaim",
                  "claimName", claim, "name", "tmp", "emptyDir", "medium", "Memory", "sizeLimit", "256Mi");
    size_t i;
    json_t *credential;
    json_array_foreach(json_object_get(resolved, "credentials"), i, credential) {
        if (strcmp(json_str_at(credential, "mountAs"), "file") != 0 || !*json_str_at(credential, "mountPath"))
            continue;
        /* By number: a Secret's name can be too long for a volume's, and have dots (W18). */
        cleanup_free char *name = xasprintf("cred-%zu", i);
        json_array_append_new(list, json_pack("{s:s, s:{s:s}}", "name", name, "secret", "secretName",
                                              json_str_at(credential, "secretName")));
    }
    if (settings->delivery == DELIVERY_EXEC && pod_wants_runtime(resolved, settings))
        json_array_append_new(
            list, json_pack("{s:s, s:{s:s}}", "name", "runtime", "emptyDir", "sizeLimit", "32Mi"));
    return list;
}

static json_t *metadata(const struct object *sandbox, const json_t *resolved,
                        const struct settings *settings) {
    cleanup_free char *name = name_of_pod(sandbox);
    json_t *m = metadata_of(sandbox, name);
    metadata_label(m, LABEL_TEMPLATE, json_str_at(resolved, "templateName"));
    json_t *annotations = json_object();
    const json_t *owner = json_at(sandbox->json, "spec.createdBy");
    if (json_is_object(owner))
        json_object_set_new(annotations, ANNOTATION_EMAIL, json_string(json_str_at(owner, "email")));
    if (settings->delivery == DELIVERY_EXEC && pod_wants_runtime(resolved, settings))
        json_object_set_new(annotations, ANNOTATION_DELIVERY, json_string("exec"));
    json_object_set_new(m, "annotations", annotations);
    return m;
}

static json_t *pod_security(bool privileged) {
    json_t *context = json_pack("{s:i, s:i, s:i, s:s}", "runAsUser", USER_ID, "runAsGroup", USER_ID,
                                "fsGroup", USER_ID, "fsGroupChangePolicy", "OnRootMismatch");
    if (!privileged)
        json_object_set_new(context, "seccompProfile", json_pack("{s:s}", "type", "RuntimeDefault"));
    return context;
}

static json_t *containers(const struct object *sandbox, const json_t *resolved,
                          const struct settings *settings) {
    json_t *list = json_pack("[o]", container_main(sandbox, resolved, settings));
    size_t i;
    json_t *written;
    json_array_foreach(json_object_get(resolved, "sidecars"), i, written)
        json_array_append_new(list, container_guarded(written, container_privileged(resolved)));
    if (settings->memory_sidecar_image[0] && strcmp(json_str_at(resolved, "mode"), "agent") == 0)
        json_array_append_new(list, container_memory(resolved, settings));
    return list;
}

json_t *pod_build(const struct object *sandbox, const json_t *resolved, const char *claim,
                  const struct settings *settings) {
    bool own_command = json_array_size(json_at(resolved, "harness.command")) > 0;
    json_t *spec =
        json_pack("{s:s, s:i, s:b, s:o, s:o, s:o}", "restartPolicy", "Never", "terminationGracePeriodSeconds",
                  own_command ? COMMAND_GRACE_S : GRACE_S, "enableServiceLinks", 0, "securityContext",
                  pod_security(container_privileged(resolved)), "containers",
                  containers(sandbox, resolved, settings), "volumes", volumes(resolved, claim, settings));
    json_t *init = container_init_list(sandbox, resolved, settings);
    if (json_array_size(init) > 0)
        json_object_set_new(spec, "initContainers", init);
    else
        json_decref(init);
    /* A token of Kubernetes is in the pod only where somebody chose an account for it (O7). */
    const char *account = json_str_at(resolved, "serviceAccount");
    if (*account)
        json_object_set_new(spec, "serviceAccountName", json_string(account));
    else
        json_object_set_new(spec, "automountServiceAccountToken", json_false());
    const char *class = json_str_at(resolved, "runtimeClass");
    if (*class) json_object_set_new(spec, "runtimeClassName", json_string(class));
    const char *pull_secret = json_str_at(resolved, "image.pullSecret");
    if (*pull_secret)
        json_object_set_new(spec, "imagePullSecrets", json_pack("[{s:s}]", "name", pull_secret));
    return json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", "v1", "kind", "Pod", "metadata",
                     metadata(sandbox, resolved, settings), "spec", spec);
}
