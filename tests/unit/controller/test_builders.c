/* What is made from a sandbox and its template, against the bodies of controller.md 21.3. */
#include "common/bytes.h"
#include "common/json.h"
#include "common/text.h"
#include "controller/claim.h"
#include "controller/names.h"
#include "controller/network_policy.h"
#include "controller/pod.h"
#include "controller/template_steps.h"
#include "controller/token_secret.h"

#include <check.h>
#include <stdio.h>
#include <sys/wait.h>

static struct settings settings = {.default_image = "registry.example/default:1",
                                   .default_storage_size = "10Gi",
                                   .install_namespace = "agenttier",
                                   .memory_sidecar_image = "",
                                   .delivery = DELIVERY_EXEC};

static json_t *parse(const char *text) {
    struct error err = {0};
    json_t *value = json_parse(slice_of(text), &err);
    ck_assert_msg(value != NULL, "%s: %s", err.message, text);
    return value;
}

/* Sandbox `scratch` with what `spec` and `status` say. */
static struct object *scratch(const char *spec, const char *status) {
    cleanup_free char *text = xasprintf(
        "{\"apiVersion\":\"agenttier.io/v1alpha1\",\"kind\":\"Sandbox\",\"metadata\":{\"name\":\"scratch\","
        "\"namespace\":\"default\",\"uid\":\"UID\",\"resourceVersion\":\"1\"},\"spec\":%s,\"status\":%s}",
        spec, status);
    return object_new(KIND_SANDBOX, parse(text), 1);
}

static void same(const json_t *made, const char *expected) {
    cleanup_json json_t *wanted = parse(expected);
    char *a = json_dumps(made, JSON_SORT_KEYS | JSON_INDENT(1)),
         *b = json_dumps(wanted, JSON_SORT_KEYS | JSON_INDENT(1));
    ck_assert_str_eq(a, b);
    free(a);
    free(b);
}

#define OWNER                                                                                                \
    "\"ownerReferences\":[{\"apiVersion\":\"agenttier.io/"                                                   \
    "v1alpha1\",\"kind\":\"Sandbox\",\"name\":\"scratch\","                                                  \
    "\"uid\":\"UID\",\"controller\":true,\"blockOwnerDeletion\":true}]"
#define LABELS "\"agenttier.io/sandbox\":\"scratch\",\"agenttier.io/managed\":\"true\""
#define ROUTER_RULE                                                                                          \
    "{\"from\":[{\"namespaceSelector\":{\"matchLabels\":{\"kubernetes.io/metadata.name\":\"agenttier\"}},"   \
    "\"podSelector\":{\"matchLabels\":{\"app.kubernetes.io/component\":\"router\"}}}],"                      \
    "\"ports\":[{\"protocol\":\"TCP\"}]}"
#define DNS_RULE "{\"ports\":[{\"protocol\":\"UDP\",\"port\":53},{\"protocol\":\"TCP\",\"port\":53}]}"

#define GENERAL                                                                                              \
    "{\"templateName\":\"general-coding\",\"templateResourceVersion\":\"7\","                                \
    "\"image\":{\"repository\":\"ghcr.io/agenttier/sandbox-general:v0.8.1\"},"                               \
    "\"resources\":{\"requests\":{\"cpu\":\"500m\",\"memory\":\"1Gi\"},\"limits\":{\"cpu\":\"2\","           \
    "\"memory\":\"4Gi\"}},"                                                                                  \
    "\"storage\":{\"size\":\"10Gi\",\"mountPath\":\"/workspace\"},\"network\":{\"allowInternet\":true},"     \
    "\"harness\":{\"shell\":\"/bin/bash\",\"workingDir\":\"/workspace\",\"useHTTPExec\":true}}"

/* ---- claim ------------------------------------------------------------------------------------- */

START_TEST(claim_is_that_of_21_3) {
    cleanup_object struct object *o = scratch("{}", "{}");
    cleanup_json json_t *resolved = parse(GENERAL), *made = claim_build(o, resolved, NULL, &settings);
    same(made, "{\"apiVersion\":\"v1\",\"kind\":\"PersistentVolumeClaim\",\"metadata\":{\"name\":\"scratch-"
               "workspace\","
               "\"namespace\":\"default\",\"labels\":{" LABELS "}," OWNER
               "},\"spec\":{\"accessModes\":[\"ReadWriteOnce\"],"
               "\"resources\":{\"requests\":{\"storage\":\"10Gi\"}}}}");
}
END_TEST

START_TEST(claim_of_every_option) {
    cleanup_object struct object *o = scratch("{\"cloneFromSnapshot\":\"base-snap-1\"}", "{}");
    cleanup_json json_t *resolved =
                            parse("{\"storage\":{\"size\":\"0\",\"storageClass\":\"fast\",\"shared\":true}}"),
                        *made = claim_build(o, resolved, NULL, &settings);
    same(json_object_get(made, "spec"),
         "{\"accessModes\":[\"ReadWriteMany\"],\"resources\":{\"requests\":{\"storage\":\"10Gi\"}},"
         "\"storageClassName\":\"fast\",\"dataSource\":{\"apiGroup\":\"snapshot.storage.k8s.io\","
         "\"kind\":\"VolumeSnapshot\",\"name\":\"base-snap-1\"}}");
    ck_assert_str_eq(json_string_value(json_object_get(json_at(made, "metadata.labels"), LABEL_SNAPSHOT)),
                     "base-snap-1");
    cleanup_json json_t *number = parse("{\"storage\":{\"size\":1073741824}}"),
                        *plain = claim_build(o, number, NULL, &settings);
    ck_assert_str_eq(json_str_at(plain, "spec.resources.requests.storage"), "1073741824");
}
END_TEST

START_TEST(weakness_56_a_claim_is_as_large_as_its_snapshot) {
    static const struct {
        const char *size, *least, *made;
    } rows[] = {
        {"\"5Gi\"", "\"8Gi\"", "8Gi"}, {"\"5Gi\"", "\"5Gi\"", "5Gi"},
        {"\"5G\"", "\"5Gi\"", "5Gi"},  {"\"8Gi\"", "\"5Gi\"", "8Gi"},
        {"\"0\"", "\"11Gi\"", "11Gi"}, {"\"0\"", "\"9Gi\"", "10Gi"}, /* the default */
        {"1024", "4096", "4096"},      {"\"5Gi\"", "\"large\"", "5Gi"},
        {"\"5Gi\"", "{}", "5Gi"},      {"\"5Gi\"", "\"\"", "5Gi"},
    };
    cleanup_object struct object *o = scratch("{\"cloneFromSnapshot\":\"base-snap-1\"}", "{}");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_free char *text = xasprintf("{\"storage\":{\"size\":%s}}", rows[i].size);
        cleanup_json json_t *resolved = parse(text),
                            *least = json_loads(rows[i].least, JSON_DECODE_ANY, NULL);
        cleanup_json json_t *made = claim_build(o, resolved, least, &settings);
        ck_assert_str_eq(json_str_at(made, "spec.resources.requests.storage"), rows[i].made);
    }
}
END_TEST

/* ---- network policy ---------------------------------------------------------------------------- */

static void policy_is(const char *network, const char *status, const char *egress, const char *ingress) {
    cleanup_object struct object *o = scratch("{}", status);
    cleanup_free char *text = xasprintf("{\"network\":%s}", network);
    cleanup_json json_t *resolved = parse(text), *made = network_policy_build(o, resolved, &settings);
    ck_assert_ptr_nonnull(made);
    same(json_at(made, "spec.egress"), egress);
    same(json_at(made, "spec.ingress"), ingress);
}

START_TEST(policy_is_that_of_21_3_repaired) {
    cleanup_object struct object *o = scratch("{}", "{}");
    cleanup_json json_t *resolved = parse(GENERAL), *made = network_policy_build(o, resolved, &settings);
    same(made,
         "{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{\"name\":"
         "\"scratch-netpol\",\"namespace\":\"default\",\"labels\":{" LABELS "}," OWNER
         "},\"spec\":{\"podSelector\":"
         "{\"matchLabels\":{\"agenttier.io/sandbox\":\"scratch\"}},\"policyTypes\":[\"Egress\",\"Ingress\"],"
         "\"egress\":[" DNS_RULE ",{}],\"ingress\":[" ROUTER_RULE "]}}");
}
END_TEST

START_TEST(policy_without_network_lets_only_names_out) {
    policy_is("null", "{}", "[" DNS_RULE "]", "[" ROUTER_RULE "]");
}
END_TEST

START_TEST(policy_rules) {
    policy_is(
        "{\"egressRules\":[{\"cidr\":\"10.40.0.0/16\",\"ports\":[{\"port\":5432}]}],"
        "\"ingressRules\":[{\"cidr\":\"10.0.0.0/8\",\"ports\":[{\"port\":3000,\"protocol\":\"UDP\"}]}]}",
        "{}",
        "[" DNS_RULE ",{\"to\":[{\"ipBlock\":{\"cidr\":\"10.40.0.0/"
        "16\"}}],\"ports\":[{\"protocol\":\"TCP\",\"port\":5432}]}]",
        "[{\"from\":[{\"ipBlock\":{\"cidr\":\"10.0.0.0/"
        "8\"}}],\"ports\":[{\"protocol\":\"UDP\",\"port\":3000}]}," ROUTER_RULE "]");
}
END_TEST

START_TEST(policy_peers) {
    policy_is(
        "{\"allowPeerSandboxes\":true}", "{}",
        "[" DNS_RULE ",{\"to\":[{\"podSelector\":{\"matchLabels\":{\"agenttier.io/managed\":\"true\"}}}]}]",
        "[{\"from\":[{\"podSelector\":{\"matchLabels\":{\"agenttier.io/managed\":\"true\"}}}]}," ROUTER_RULE
        "]");
    policy_is("{\"allowPeerSandboxes\":true,\"peerSandboxSelector\":{\"matchLabels\":{\"team\":\"shop\"}}}",
              "{}", "[" DNS_RULE ",{\"to\":[{\"podSelector\":{\"matchLabels\":{\"team\":\"shop\"}}}]}]",
              "[{\"from\":[{\"podSelector\":{\"matchLabels\":{\"team\":\"shop\"}}}]}," ROUTER_RULE "]");
}
END_TEST

START_TEST(W19_forwarded_ports_and_user_rules_count_beside_allow_internet) {
    policy_is("{\"allowInternet\":true,\"ingressRules\":[{\"ports\":[{\"port\":8000}]}]}",
              "{\"forwardedPorts\":[{\"port\":3000,\"previewUrl\":\"https://sandbox-scratch-3000.example/\"},"
              "{\"port\":4000,\"previewUrl\":\"\"},{\"port\":99999,\"previewUrl\":\"x\"}]}",
              "[" DNS_RULE ",{}]",
              "[{\"ports\":[{\"protocol\":\"TCP\",\"port\":8000}]},{\"ports\":[{\"protocol\":\"TCP\","
              "\"port\":3000}]}," ROUTER_RULE "]");
}
END_TEST

START_TEST(W20_a_service_opens_its_namespace_only) {
    policy_is("{\"egressRules\":[{\"serviceRef\":{\"name\":\"ledger\",\"namespace\":\"finance\"}}],"
              "\"ingressRules\":[{},{\"serviceRef\":{\"name\":\"x\"}}]}",
              "{}",
              "[" DNS_RULE ",{\"to\":[{\"namespaceSelector\":{\"matchLabels\":{\"kubernetes.io/"
              "metadata.name\":\"finance\"}}}]}]",
              "[{\"from\":[{\"namespaceSelector\":{\"matchLabels\":{\"kubernetes.io/"
              "metadata.name\":\"default\"}}}]}," ROUTER_RULE "]");
}
END_TEST

/* ---- token ------------------------------------------------------------------------------------- */

START_TEST(token_secret) {
    cleanup_object struct object *o = scratch("{}", "{}");
    cleanup_json json_t *made = token_secret_build(o, NULL), *again = token_secret_build(o, NULL);
    ck_assert_str_eq(json_str_at(made, "metadata.name"), "scratch-runtime-token");
    ck_assert_str_eq(json_string_value(json_object_get(json_at(made, "metadata.labels"), LABEL_PURPOSE)),
                     "runtime-token");
    ck_assert_str_eq(json_str_at(made, "type"), "Opaque");
    json_object_set_new(json_object_get(made, "metadata"), "uid", json_string("u"));
    cleanup_object struct object *secret = object_new(KIND_SECRET, json_incref(made), 1);
    cleanup_free char *token = token_secret_read(secret);
    ck_assert_uint_eq(strlen(token), 43);
    ck_assert_uint_eq(strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"), 43);
    ck_assert_str_ne(json_str_at(made, "data.token"), json_str_at(again, "data.token"));
}
END_TEST

START_TEST(a_token_that_is_none_is_not_read) {
    static const char *const bad[] = {"{}", "{\"token\":\"\"}", "{\"token\":\"!!\"}", "{\"token\":\"YQpi\"}"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_free char *text = xasprintf("{\"metadata\":{\"name\":\"s\"},\"data\":%s}", bad[i]);
        cleanup_object struct object *secret = object_new(KIND_SECRET, parse(text), 1);
        ck_assert_ptr_null(token_secret_read(secret));
    }
}
END_TEST

/* ---- pod --------------------------------------------------------------------------------------- */

static json_t *pod_of(const char *spec, const char *resolved_text) {
    cleanup_object struct object *o = scratch(spec, "{}");
    cleanup_json json_t *resolved = parse(resolved_text);
    json_t *pod = pod_build(o, resolved, "scratch-workspace", &settings);
    ck_assert_ptr_nonnull(pod);
    return pod;
}

static json_t *main_container(const json_t *pod) {
    return json_array_get(json_at(pod, "spec.containers"), 0);
}

static const char *variable(const json_t *container, const char *name) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(container, "env"), i,
                       entry) if (strcmp(json_str_at(entry, "name"), name) == 0) return json_str_at(entry,
                                                                                                    "value");
    return NULL;
}

START_TEST(O9_pod_is_that_of_21_3_without_an_init_container) {
    cleanup_json json_t *pod = pod_of("{}", GENERAL);
    json_t *env = json_object_get(main_container(pod), "env");
    /* The token that nobody knows is another one each time. */
    json_t *last = json_array_get(env, json_array_size(env) - 1);
    ck_assert_str_eq(json_str_at(last, "name"), "AGENTTIER_RUNTIME_TOKEN");
    ck_assert_uint_eq(strlen(json_str_at(last, "value")), 43);
    json_array_remove(env, json_array_size(env) - 1);
    same(pod, "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"scratch-pod\",\"namespace\":"
              "\"default\","
              "\"labels\":{" LABELS ",\"agenttier.io/template\":\"general-coding\"},"
              "\"annotations\":{\"agenttier.io/runtime-delivery\":\"exec\"}," OWNER "},"
              "\"spec\":{\"restartPolicy\":\"Never\",\"terminationGracePeriodSeconds\":2,"
              "\"enableServiceLinks\":false,"
              "\"automountServiceAccountToken\":false,"
              "\"securityContext\":{\"runAsUser\":1000,\"runAsGroup\":1000,\"fsGroup\":1000,"
              "\"fsGroupChangePolicy\":\"OnRootMismatch\",\"seccompProfile\":{\"type\":\"RuntimeDefault\"}},"
              "\"containers\":[{\"name\":\"sandbox\",\"image\":\"ghcr.io/agenttier/"
              "sandbox-general:v0.8.1\",\"stdin\":true,"
              "\"tty\":true,\"workingDir\":\"/"
              "workspace\",\"resources\":{\"requests\":{\"cpu\":\"500m\",\"memory\":\"1Gi\"},"
              "\"limits\":{\"cpu\":\"2\",\"memory\":\"4Gi\"}},"
              "\"env\":[{\"name\":\"HOME\",\"value\":\"/"
              "workspace\"},{\"name\":\"AGENTTIER_SANDBOX\",\"value\":\"scratch\"}],"
              "\"securityContext\":{\"runAsNonRoot\":true,\"runAsUser\":1000,\"runAsGroup\":1000,"
              "\"readOnlyRootFilesystem\":true,\"allowPrivilegeEscalation\":false,\"capabilities\":{\"drop\":"
              "[\"ALL\"]},"
              "\"seccompProfile\":{\"type\":\"RuntimeDefault\"}},"
              "\"volumeMounts\":[{\"name\":\"workspace\",\"mountPath\":\"/"
              "workspace\"},{\"name\":\"tmp\",\"mountPath\":\"/tmp\"},"
              "{\"name\":\"runtime\",\"mountPath\":\"/.agenttier\"}]}],"
              "\"volumes\":[{\"name\":\"workspace\",\"persistentVolumeClaim\":{\"claimName\":\"scratch-"
              "workspace\"}},"
              "{\"name\":\"tmp\",\"emptyDir\":{\"medium\":\"Memory\",\"sizeLimit\":\"256Mi\"}},"
              "{\"name\":\"runtime\",\"emptyDir\":{\"sizeLimit\":\"32Mi\"}}]}}");
}
END_TEST

START_TEST(defaults_apply_without_a_template) {
    cleanup_json json_t *pod = pod_of("{}", "{\"templateName\":\"\",\"storage\":{\"mountPath\":\"/data\"}}");
    const json_t *c = main_container(pod);
    ck_assert_str_eq(json_str_at(c, "image"), "registry.example/default:1");
    ck_assert_str_eq(json_str_at(c, "workingDir"), "/data");
    ck_assert_str_eq(variable(c, "HOME"), "/data");
    ck_assert_ptr_null(json_object_get(c, "resources"));
    ck_assert_ptr_null(json_at(pod, "spec.initContainers"));
}
END_TEST

START_TEST(O7_no_token_of_ours_is_in_the_environment) {
    cleanup_json json_t *pod =
        pod_of("{}", "{\"env\":[{\"name\":\"AGENTTIER_RUNTIME_TOKEN\",\"value\":\"mine\"},"
                     "{\"name\":\"HOME\",\"value\":\"/tmp\"},{\"name\":\"A\",\"value\":\"1\"}]}");
    char *text = json_dumps(main_container(pod), 0);
    ck_assert_ptr_null(strstr(text, "secretKeyRef"));
    ck_assert_ptr_null(strstr(text, "mine"));
    free(text);
    ck_assert_str_eq(variable(main_container(pod), "HOME"), "/tmp");
    ck_assert_str_eq(variable(main_container(pod), "A"), "1");
    ck_assert(json_is_false(json_at(pod, "spec.automountServiceAccountToken")));
}
END_TEST

START_TEST(an_account_that_was_asked_for_brings_its_token) {
    cleanup_json json_t *pod = pod_of("{}", "{\"serviceAccount\":\"shop-bedrock\"}");
    ck_assert_str_eq(json_str_at(pod, "spec.serviceAccountName"), "shop-bedrock");
    ck_assert_ptr_null(json_at(pod, "spec.automountServiceAccountToken"));
}
END_TEST

START_TEST(delivery_modes) {
    static const char yes[] = "{\"harness\":{\"useHTTPExec\":true}}",
                      no[] = "{\"harness\":{\"useHTTPExec\":false}}", absent[] = "{}";
    struct settings s = settings;
    cleanup_json json_t *on = parse(yes), *off = parse(no), *unsaid = parse(absent);
    ck_assert(pod_wants_runtime(on, &s) && pod_wants_runtime(unsaid, &s) && !pod_wants_runtime(off, &s));
    s.delivery = DELIVERY_IMAGE;
    ck_assert(pod_wants_runtime(on, &s) && !pod_wants_runtime(unsaid, &s) && !pod_wants_runtime(off, &s));
    s.delivery = DELIVERY_NONE;
    ck_assert(!pod_wants_runtime(on, &s) && !pod_wants_runtime(unsaid, &s));
    cleanup_json json_t *without = pod_of("{}", no);
    ck_assert_uint_eq(json_array_size(json_at(without, "spec.volumes")), 2);
    ck_assert_ptr_null(json_object_get(json_at(without, "metadata.annotations"), ANNOTATION_DELIVERY));
    settings.delivery = DELIVERY_IMAGE;
    cleanup_json json_t *image = pod_of("{}", yes);
    settings.delivery = DELIVERY_EXEC;
    json_t *env = json_object_get(main_container(image), "env");
    same(json_array_get(env, json_array_size(env) - 1),
         "{\"name\":\"AGENTTIER_RUNTIME_TOKEN\",\"valueFrom\":{\"secretKeyRef\":{\"name\":\"scratch-runtime-"
         "token\",\"key\":\"token\"}}}");
}
END_TEST

START_TEST(W18_one_volume_for_each_file_credential) {
    cleanup_json json_t *pod = pod_of(
        "{}", "{\"credentials\":[{\"secretName\":\"shop-db\",\"mountAs\":\"env\",\"envPrefix\":\"DB_\"},"
              "{\"secretName\":\"shop.tls\",\"mountAs\":\"file\",\"mountPath\":\"/etc/shop/tls\"},"
              "{\"secretName\":\"shop.tls\",\"mountAs\":\"file\",\"mountPath\":\"/etc/other\"},"
              "{\"secretName\":\"nowhere\",\"mountAs\":\"file\"},{\"secretName\":\"plain\"}]}");
    same(json_object_get(main_container(pod), "envFrom"),
         "[{\"secretRef\":{\"name\":\"shop-db\"},\"prefix\":\"DB_\"},{\"secretRef\":{\"name\":\"plain\"}}]");
    const json_t *volumes = json_at(pod, "spec.volumes");
    ck_assert_uint_eq(json_array_size(volumes), 5);
    same(json_array_get(volumes, 2), "{\"name\":\"cred-1\",\"secret\":{\"secretName\":\"shop.tls\"}}");
    same(json_array_get(volumes, 3), "{\"name\":\"cred-2\",\"secret\":{\"secretName\":\"shop.tls\"}}");
    same(json_array_get(json_object_get(main_container(pod), "volumeMounts"), 2),
         "{\"name\":\"cred-1\",\"mountPath\":\"/etc/shop/tls\",\"readOnly\":true}");
}
END_TEST

START_TEST(W26_what_users_add_cannot_reach_out_of_the_pod) {
    cleanup_json json_t *pod = pod_of(
        "{}",
        "{\"sidecars\":[{\"name\":\"s\",\"image\":\"i\",\"securityContext\":{\"privileged\":true,"
        "\"allowPrivilegeEscalation\":true,\"capabilities\":{\"add\":[\"SYS_ADMIN\"],\"drop\":[\"MKNOD\"]}},"
        "\"ports\":[{\"containerPort\":80,\"hostPort\":80,\"hostIP\":\"0.0.0.0\"}]}],"
        "\"initContainers\":[{\"name\":\"w\",\"image\":\"i\",\"command\":[\"/bin/warm\"]}],"
        "\"hostNetwork\":true}");
    same(json_array_get(json_at(pod, "spec.containers"), 1),
         "{\"name\":\"s\",\"image\":\"i\",\"securityContext\":{\"allowPrivilegeEscalation\":false,"
         "\"capabilities\":{\"drop\":[\"MKNOD\"]}},\"ports\":[{\"containerPort\":80}]}");
    same(json_array_get(json_at(pod, "spec.initContainers"), 0),
         "{\"name\":\"w\",\"image\":\"i\",\"command\":[\"/bin/"
         "warm\"],\"securityContext\":{\"allowPrivilegeEscalation\":false}}");
    ck_assert_ptr_null(json_at(pod, "spec.hostNetwork"));
}
END_TEST

START_TEST(privileged_drops_the_hardening_only) {
    cleanup_json json_t *pod = pod_of("{}", "{\"security\":{\"privileged\":true}}");
    same(json_object_get(main_container(pod), "securityContext"), "{\"runAsUser\":1000,\"runAsGroup\":1000}");
    ck_assert_ptr_null(json_at(pod, "spec.securityContext.seccompProfile"));
}
END_TEST

START_TEST(other_fields) {
    cleanup_json json_t *pod =
        pod_of("{\"createdBy\":{\"sub\":\"x\",\"email\":\"rosa@shop.example\"}}",
               "{\"templateName\":\"a-name-that-is-longer-than-the-sixty-three-characters-of-a-label-value\","
               "\"image\":{\"repository\":\"r:1\",\"pullPolicy\":\"Never\",\"pullSecret\":\"reg\"},"
               "\"runtimeClass\":\"gvisor\","
               "\"harness\":{\"command\":[\"/app\"],\"args\":[\"--serve\"],\"workingDir\":\"/srv\"}}");
    const json_t *c = main_container(pod);
    ck_assert_str_eq(json_str_at(pod, "spec.runtimeClassName"), "gvisor");
    same(json_at(pod, "spec.imagePullSecrets"), "[{\"name\":\"reg\"}]");
    ck_assert_str_eq(json_str_at(c, "imagePullPolicy"), "Never");
    same(json_object_get(c, "command"), "[\"/app\"]");
    same(json_object_get(c, "args"), "[\"--serve\"]");
    ck_assert_str_eq(json_str_at(c, "workingDir"), "/srv");
    /* A command of its own may have something to save. */
    ck_assert_int_eq(json_integer_value(json_at(pod, "spec.terminationGracePeriodSeconds")), 10);
    ck_assert_str_eq(
        json_string_value(json_object_get(json_at(pod, "metadata.annotations"), ANNOTATION_EMAIL)),
        "rosa@shop.example");
    ck_assert_ptr_null(json_object_get(json_at(pod, "metadata.labels"), LABEL_TEMPLATE));
}
END_TEST

START_TEST(memory_sidecar_only_in_agent_mode) {
    settings.memory_sidecar_image = "mem:1";
    cleanup_json json_t *agent =
                            pod_of("{}", "{\"mode\":\"agent\",\"storage\":{\"mountPath\":\"/workspace\"}}"),
                        *code = pod_of("{}", "{\"mode\":\"code\"}");
    settings.memory_sidecar_image = "";
    ck_assert_uint_eq(json_array_size(json_at(code, "spec.containers")), 1);
    const json_t *c = json_array_get(json_at(agent, "spec.containers"), 1);
    ck_assert_str_eq(json_str_at(c, "name"), "mem0");
    ck_assert_str_eq(variable(c, "MEM0_DATA_DIR"), "/workspace/.agenttier/memory");
    ck_assert_str_eq(variable(main_container(agent), "MEM0_BASE_URL"), "http://localhost:8000");
}
END_TEST

/* ---- files and scripts ------------------------------------------------------------------------- */

/* Runs an init container's command here, as Kubernetes would start it: $$ is $. */
static int run(const json_t *command) {
    char *argv[64] = {0};
    size_t i;
    json_t *item;
    json_array_foreach(command, i, item) {
        cleanup_buffer struct buffer b = {0};
        const char *text = json_string_value(item);
        for (size_t k = 0; text[k]; k++) {
            buffer_append_char(&b, text[k]);
            if (text[k] == '$' && text[k + 1] == '$') k++;
        }
        argv[i] = strdup(buffer_cstr(&b));
    }
    pid_t pid = fork();
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    for (size_t k = 0; argv[k]; k++)
        free(argv[k]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char *content_of(const char *path) {
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    cleanup_buffer struct buffer b = {0};
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;)
        buffer_append(&b, part, n);
    fclose(f);
    buffer_cstr(&b);
    return buffer_steal(&b, NULL);
}

START_TEST(W37_files_of_any_size_are_written_exactly) {
    char dir[] = "/tmp/controller-files-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    cleanup_free char *big = malloc(300001), *quoted = xasprintf("%s/a b/$HOME '\"/x", dir),
                      *large = xasprintf("%s/large", dir);
    for (int i = 0; i < 300000; i++)
        big[i] = (char)('a' + i % 26);
    big[300000] = '\0';
    cleanup_json json_t *files = json_pack("[{s:s, s:s, s:i}, {s:s, s:s}, {s:s, s:s}]", "path", quoted,
                                           "content", "say $(id) \\ '\"\n", "mode", 0600, "path", large,
                                           "content", big, "path", "/nowhere", "content", "");
    cleanup_json json_t *command = files_command(files);
    size_t i;
    json_t *item;
    json_array_foreach(command, i, item) ck_assert_uint_lt(json_string_length(item), 128 * 1024);
    ck_assert_int_eq(run(command), 0);
    cleanup_free char *small = content_of(quoted), *whole = content_of(large);
    ck_assert_str_eq(small, "say $(id) \\ '\"\n");
    ck_assert_str_eq(whole, big);
    cleanup_free char *rm = xasprintf("rm -rf '%s'", dir);
    ck_assert_int_eq(system(rm), 0);
}
END_TEST

START_TEST(scripts_run_in_order_until_one_fails) {
    char path[] = "/tmp/controller-script-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    cleanup_free char *first = xasprintf("X=1; echo $X > %s", path),
                      *second = xasprintf("echo $$$X >> %s; false", path),
                      *third = xasprintf("echo never >> %s", path);
    cleanup_json json_t *scripts = json_pack("[s, s, s]", first, second, third),
                        *command = scripts_command(scripts);
    ck_assert_int_eq(run(command), 1);
    cleanup_free char *out = content_of(path);
    ck_assert(strncmp(out, "1\n", 2) == 0);
    ck_assert_ptr_null(strstr(out, "never"));
    ck_assert_int_gt(atoi(out + 2), 10); /* $$ is the shell's process id, and $X follows it */
    unlink(path);
    cleanup_json json_t *none = parse("[\"\"]");
    ck_assert_ptr_null(scripts_command(none));
    ck_assert_ptr_null(scripts_command(NULL));
    ck_assert_ptr_null(files_command(NULL));
}
END_TEST

START_TEST(init_containers_stand_in_order) {
    cleanup_json json_t *pod =
        pod_of("{}", "{\"image\":{\"repository\":\"r:1\"},\"storage\":{\"mountPath\":\"/workspace\"},"
                     "\"files\":[{\"path\":\"/workspace/a\",\"content\":\"x\"}],\"initScripts\":[\"true\"],"
                     "\"initContainers\":[{\"name\":\"w\"}],\"env\":[{\"name\":\"A\",\"value\":\"1\"}]}");
    const json_t *list = json_at(pod, "spec.initContainers");
    ck_assert_uint_eq(json_array_size(list), 3);
    const json_t *files = json_array_get(list, 0), *scripts = json_array_get(list, 1);
    ck_assert_str_eq(json_str_at(files, "name"), "file-deployer");
    ck_assert_str_eq(json_str_at(files, "image"), "r:1");
    ck_assert(json_is_true(json_at(files, "securityContext.readOnlyRootFilesystem")));
    ck_assert_str_eq(json_str_at(scripts, "name"), "init-scripts");
    ck_assert_ptr_null(json_at(scripts, "securityContext.readOnlyRootFilesystem"));
    ck_assert_str_eq(variable(scripts, "A"), "1");
    ck_assert_ptr_null(variable(scripts, "AGENTTIER_RUNTIME_TOKEN"));
    ck_assert_str_eq(json_str_at(json_array_get(list, 2), "name"), "w");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("builders");
    TCase *tc = tcase_create("builders");
    tcase_add_test(tc, claim_is_that_of_21_3);
    tcase_add_test(tc, claim_of_every_option);
    tcase_add_test(tc, weakness_56_a_claim_is_as_large_as_its_snapshot);
    tcase_add_test(tc, policy_is_that_of_21_3_repaired);
    tcase_add_test(tc, policy_without_network_lets_only_names_out);
    tcase_add_test(tc, policy_rules);
    tcase_add_test(tc, policy_peers);
    tcase_add_test(tc, W19_forwarded_ports_and_user_rules_count_beside_allow_internet);
    tcase_add_test(tc, W20_a_service_opens_its_namespace_only);
    tcase_add_test(tc, token_secret);
    tcase_add_test(tc, a_token_that_is_none_is_not_read);
    tcase_add_test(tc, O9_pod_is_that_of_21_3_without_an_init_container);
    tcase_add_test(tc, defaults_apply_without_a_template);
    tcase_add_test(tc, O7_no_token_of_ours_is_in_the_environment);
    tcase_add_test(tc, an_account_that_was_asked_for_brings_its_token);
    tcase_add_test(tc, delivery_modes);
    tcase_add_test(tc, W18_one_volume_for_each_file_credential);
    tcase_add_test(tc, W26_what_users_add_cannot_reach_out_of_the_pod);
    tcase_add_test(tc, privileged_drops_the_hardening_only);
    tcase_add_test(tc, other_fields);
    tcase_add_test(tc, memory_sidecar_only_in_agent_mode);
    tcase_add_test(tc, W37_files_of_any_size_are_written_exactly);
    tcase_add_test(tc, scripts_run_in_order_until_one_fails);
    tcase_add_test(tc, init_containers_stand_in_order);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
