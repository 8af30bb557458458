#include "controller/warmpool_item.h"

#include "common/bytes.h"
#include "common/json.h"
#include "controller/claim.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/token_secret.h"

#include <ctype.h>
#include <stdio.h>

#define NAME_VARIABLE  "AGENTTIER_SANDBOX"
#define TOKEN_VARIABLE "AGENTTIER_RUNTIME_TOKEN"

json_t *pool_plain_sandbox(const char *template, const char *mode, const char *namespace) {
    json_t *spec =
        json_pack("{s:{s:s, s:s}}", "templateRef", "kind", "ClusterSandboxTemplate", "name", template);
    if (*mode) json_object_set_new(spec, "mode", json_string(mode));
    return json_pack("{s:{s:s, s:s}, s:o}", "metadata", "name", "pool", "namespace", namespace, "spec", spec);
}

const char *pool_unsuitable(const char *template, const json_t *resolved) {
    cleanup_json json_t *metadata = json_pack("{s:{}}", "labels");
    metadata_label(metadata, LABEL_POOL_TEMPLATE, template);
    if (json_object_size(json_object_get(metadata, "labels")) == 0) return "its name is too long for a label";
    /* Nobody's pods reach nothing: such a step would fail, or leave out what it could not fetch. */
    if (json_array_size(json_object_get(resolved, "initScripts")) > 0) return "it has initScripts";
    if (json_array_size(json_object_get(resolved, "initContainers")) > 0) return "it has initContainers";
    cleanup_free char *text = json_dumps(resolved, JSON_COMPACT);
    return strstr(text, NAME_VARIABLE) ? "it uses " NAME_VARIABLE ", which nobody knows yet" : NULL;
}

/* ---- the pod ----------------------------------------------------------------------------------- */

/* A stand-in with a name and nothing else. */
static struct object *stand_in(const char *name, const char *namespace) {
    return object_new(KIND_SANDBOX,
                      json_pack("{s:{s:s, s:s, s:s, s:s}}", "metadata", "name", name, "namespace", namespace,
                                "uid", "", "resourceVersion", ""),
                      0);
}

/* The variables of the main container: without the name of a sandbox, and, when only likeness counts, without
 * the random value of a token. */
static void clean_env(json_t *spec, bool likeness) {
    json_t *env = json_object_get(json_array_get(json_object_get(spec, "containers"), 0), "env");
    for (size_t i = json_array_size(env); i-- > 0;) {
        json_t *variable = json_array_get(env, i);
        const char *name = json_str_at(variable, "name");
        if (strcmp(name, NAME_VARIABLE) == 0)
            json_array_remove(env, i);
        else if (likeness && strcmp(name, TOKEN_VARIABLE) == 0)
            json_object_del(variable, "value");
    }
}

/* The Pod as a sandbox of that name would get it. */
static json_t *pod_of(const char *name, const char *namespace, const char *claim, const json_t *resolved,
                      const struct settings *settings, bool likeness) {
    cleanup_object struct object *nobody = stand_in(name, namespace);
    json_t *pod = pod_build(nobody, resolved, claim, settings);
    if (pod) clean_env(json_object_get(pod, "spec"), likeness);
    return pod;
}

void pool_fit(const json_t *resolved, const struct settings *settings, char out[POOL_FIT_LEN + 1]) {
    cleanup_object struct object *nobody = stand_in("pool", "pool");
    cleanup_json json_t *pod = pod_of("pool", "pool", "pool", resolved, settings, true);
    cleanup_json json_t *claim = claim_build(nobody, resolved, NULL, settings);
    cleanup_json json_t *all =
        json_pack("{s:O?, s:O?, s:b}", "pod", json_object_get(pod, "spec"), "claim",
                  json_object_get(claim, "spec"), "runtime", pod_wants_runtime(resolved, settings));
    cleanup_free char *text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    sha256_hex(slice_of(text), out);
}

bool pool_made(const struct object *pod, const char *fit) {
    const json_t *annotations = json_at(pod->json, "metadata.annotations");
    const char *made_of = json_string_value(json_object_get(annotations, ANNOTATION_POOL_FIT));
    return made_of && (!fit || strcmp(made_of, fit) == 0);
}

void pool_generate_name(const char *template, char out[POOL_NAME_MAX]) {
    char random[17];
    random_hex(random, 8);
    snprintf(out, POOL_NAME_MAX, "pool-%.12s-%s", template, random);
    for (char *c = out; *c; c++)
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c)) *c = '-';
}

static json_t *pool_labels(const char *template) {
    return json_pack("{s:s, s:s, s:s}", LABEL_MANAGED, "true", LABEL_POOLED, "true", LABEL_POOL_TEMPLATE,
                     template);
}

json_t *pool_pod(const char *template, const char *name, const char *namespace, const json_t *resolved,
                 const struct settings *settings) {
    char fit[POOL_FIT_LEN + 1];
    pool_fit(resolved, settings, fit);
    cleanup_free char *claim = xasprintf("%s-pvc", name);
    json_t *pod = pod_of(name, namespace, claim, resolved, settings, false);
    if (!pod) return NULL;
    json_t *annotations = json_incref(json_at(pod, "metadata.annotations"));
    json_object_set_new(annotations, ANNOTATION_POOL_FIT, json_string(fit));
    json_object_set_new(pod, "metadata",
                        json_pack("{s:s, s:s, s:o, s:o}", "name", name, "namespace", namespace, "labels",
                                  pool_labels(template), "annotations", annotations));
    return pod;
}

/* ---- what belongs to it ------------------------------------------------------------------------ */

char *pool_claim_name(const struct object *pod) {
    size_t i;
    json_t *volume;
    json_array_foreach(json_at(pod->json, "spec.volumes"), i, volume) {
        const char *name = json_str_at(volume, "persistentVolumeClaim.claimName");
        if (*name) return xstrdup(name);
    }
    return xasprintf("%s-pvc", pod->name);
}

char *pool_token_name(const struct object *pod) {
    return xasprintf("%s-runtime-token", pod->name);
}

static json_t *owned_metadata(const struct object *pod, const char *name, json_t *labels) {
    return json_pack("{s:s, s:s, s:o, s:[{s:s, s:s, s:s, s:s, s:b, s:b}]}", "name", name, "namespace",
                     pod->namespace, "labels", labels, "ownerReferences", "apiVersion", "v1", "kind", "Pod",
                     "name", pod->name, "uid", pod->uid, "controller", 1, "blockOwnerDeletion", 0);
}

json_t *pool_claim(const char *template, const struct object *pod, const json_t *resolved,
                   const struct settings *settings) {
    cleanup_object struct object *nobody = stand_in(pod->name, pod->namespace);
    cleanup_free char *name = pool_claim_name(pod);
    json_t *claim = claim_build(nobody, resolved, NULL, settings);
    json_object_set_new(claim, "metadata", owned_metadata(pod, name, pool_labels(template)));
    return claim;
}

json_t *pool_token(const struct object *pod) {
    cleanup_free char *name = pool_token_name(pod);
    return token_secret_with(owned_metadata(pod, name, json_pack("{s:s}", LABEL_MANAGED, "true")), NULL);
}

json_t *pool_policy(const char *namespace) {
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:{s:{s:s}}, s:[s, s]}}", "apiVersion",
                     "networking.k8s.io/v1", "kind", "NetworkPolicy", "metadata", "name", POOL_POLICY,
                     "namespace", namespace, "labels", LABEL_MANAGED, "true", "spec", "podSelector",
                     "matchLabels", LABEL_POOLED, "true", "policyTypes", "Egress", "Ingress");
}

/* ---- handing over ------------------------------------------------------------------------------ */

static json_t *own_metadata(const struct object *sandbox) {
    json_t *metadata = metadata_of(sandbox, "");
    json_object_del(metadata, "name");
    json_object_del(metadata, "namespace");
    json_t *labels = json_object_get(metadata, "labels");
    json_object_set_new(labels, LABEL_POOLED, json_null());
    json_object_set_new(labels, LABEL_POOL_TEMPLATE, json_null());
    return metadata;
}

json_t *pool_pod_patch(const struct object *sandbox, const json_t *resolved) {
    json_t *metadata = own_metadata(sandbox);
    metadata_label(metadata, LABEL_TEMPLATE, json_str_at(resolved, "templateName"));
    const json_t *owner = json_at(sandbox->json, "spec.createdBy");
    if (json_is_object(owner))
        json_object_set_new(metadata, "annotations",
                            json_pack("{s:s}", ANNOTATION_EMAIL, json_str_at(owner, "email")));
    return json_pack("{s:o}", "metadata", metadata);
}

json_t *pool_claim_patch(const struct object *sandbox) {
    return json_pack("{s:o}", "metadata", own_metadata(sandbox));
}
