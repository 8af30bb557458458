#include "k8s/k8s.h"

#include "backend/warmpool.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "k8s/access.h"
#include "k8s/permissions.h"
#include "k8s/snapshots.h"
#include "k8s/store.h"
#include "k8s/token_review.h"
#include "k8s/trim.h"

#include <stdio.h>

/* Rows of permissions that one cannot do without leave the last member out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define DEFAULT_MAX_CPU    "8"
#define DEFAULT_MAX_MEMORY "16Gi"
#define GOVERNANCE_HOME                                                                                      \
    "agenttier" /* where the reference Router keeps policies, wherever it is installed (W-30) */
#define MAX_ROWS 16

struct k8s_backend {
    struct backend backend; /* first */
    struct k8s_config *config;
    struct k8s_client *client;
    struct permission_check *permissions;
    struct k8s_snapshots *snapshots;
};

static void close_backend(struct backend *backend) {
    struct k8s_backend *k = (struct k8s_backend *)backend;
    permission_check_stop(k->permissions);
    k8s_snapshots_free(k->snapshots);
    k8s_access_free(k->backend.access);
    k8s_store_close(k->backend.store);
    k8s_client_free(k->client);
    k8s_config_free(k->config);
    free(k);
}

#define HURRY_MS 2000

static void hurry(struct backend *backend) {
    k8s_client_stop_in(((struct k8s_backend *)backend)->client, HURRY_MS);
}

/* What the Router reads. */
static size_t make_rows(const struct k8s_options *o, struct k8s_watch rows[MAX_ROWS]) {
    const char *home = o->install_namespace;
    size_t n = 0;
    rows[n++] = (struct k8s_watch){.kind = KIND_SANDBOX};
    rows[n++] = (struct k8s_watch){.kind = KIND_SANDBOX_TEMPLATE};
    rows[n++] = (struct k8s_watch){.kind = KIND_CLUSTER_SANDBOX_TEMPLATE};
    rows[n++] =
        (struct k8s_watch){.kind = KIND_POD, .label_selector = "agenttier.io/managed=true", .trim = trim_pod};
    rows[n++] = (struct k8s_watch){.kind = KIND_SERVICE, .label_selector = "agenttier.io/port-forward=true"};
    rows[n++] = (struct k8s_watch){
        .kind = KIND_SECRET, .namespace = home, .label_selector = "agenttier.io/secret-purpose=api-key"};
    /* Runtime tokens are read one by one when they are needed (get, not list, on Secrets elsewhere). */
    rows[n++] = (struct k8s_watch){
        .kind = KIND_CONFIG_MAP, .namespace = home, .field_selector = "metadata.name=agenttier-governance"};
    if (strcmp(home, GOVERNANCE_HOME) != 0)
        rows[n++] = (struct k8s_watch){.kind = KIND_CONFIG_MAP,
                                       .namespace = GOVERNANCE_HOME,
                                       .field_selector = "metadata.name=agenttier-governance",
                                       .optional = true};
    rows[n++] = (struct k8s_watch){.kind = KIND_CONFIG_MAP,
                                   .namespace = home,
                                   .label_selector = "agenttier.io/component=user-preferences"};
    rows[n++] = (struct k8s_watch){
        .kind = KIND_CONFIG_MAP, .namespace = home, .field_selector = "metadata.name=" WARMPOOL_CONFIG_MAP};
    /* Promises of places in quotas: router/quota.h. */
    rows[n++] = (struct k8s_watch){
        .kind = KIND_CONFIG_MAP, .namespace = home, .label_selector = "agenttier.io/component=quota"};
    rows[n++] = (struct k8s_watch){.kind = KIND_EVENT,
                                   .field_selector = "involvedObject.kind=Sandbox",
                                   .trim = trim_event,
                                   .optional = true};
    if (o->ingresses)
        rows[n++] = (struct k8s_watch){
            .kind = KIND_INGRESS, .label_selector = "agenttier.io/port-forward=true", .optional = true};
    return n;
}

/* What the Router does with what (http-api.md 4.1). Since Kubernetes 1.35 an exec over WebSocket needs
 * create as well as get. */
static struct permission_check *check_permissions(struct k8s_backend *k, const struct k8s_options *o,
                                                  struct error *err) {
    const char *home = o->install_namespace;
    const struct permission list[] = {
        {"snapshot.storage.k8s.io", "volumesnapshots", "", NULL, "get list create delete",
         "clones and backups", true},
        {"agenttier.io", "sandboxes", "", NULL, "get list watch create patch update delete", "sandboxes"},
        {"agenttier.io", "sandboxes", "status", NULL, "patch update", "activity, ports, resume"},
        {"agenttier.io", "sandboxtemplates", "", NULL, "list watch", "templates"},
        {"agenttier.io", "clustersandboxtemplates", "", NULL, "get list watch create patch update delete",
         "templates"},
        {"", "pods", "", NULL, "get list watch", "commands and files"},
        {"", "pods", "exec", NULL, "get create", "commands and files in pods without a runtime"},
        {"", "secrets", "", NULL, "get", "commands and files by the runtime"},
        {"", "secrets", "", home, "list watch create delete", "API keys"},
        {"", "configmaps", "", home, "get list watch create patch update delete",
         "policies, preferences and the warm pool"},
        {"", "services", "", NULL, "get list watch create patch delete", "port forwards"},
        {"", "events", "", NULL, "list watch create", "events"},
        {"authentication.k8s.io", "tokenreviews", "", NULL, "create", "logins of service accounts"},
        {"networking.k8s.io", "ingresses", "", NULL, "get list watch create patch delete",
         "preview addresses"}, /* the last: only with a domain */
    };
    size_t count = sizeof list / sizeof *list - (o->ingresses ? 0 : 1);
    return permission_check_start(k->client, "agenttier-router", list, count, err);
}

/* ---- snapshots ---- */

static struct k8s_snapshots *snapshots_of(struct backend *backend) {
    return ((struct k8s_backend *)backend)->snapshots;
}

static bool snapshots_check(struct backend *backend, const char *class, struct error *err) {
    return k8s_snapshots_check(snapshots_of(backend), class, err);
}

static bool snapshots_list(struct backend *backend, const char *namespace, const char *label,
                           const char *value, struct object_list *out, struct error *err) {
    return k8s_snapshots_list(snapshots_of(backend), namespace, label, value, out, err);
}

static struct object *snapshots_get(struct backend *backend, const char *namespace, const char *name,
                                    struct error *err) {
    return k8s_snapshots_get(snapshots_of(backend), namespace, name, err);
}

static const struct snapshot_ops snapshot_ops = {
    .check = snapshots_check, .list = snapshots_list, .get = snapshots_get};

/* ---- parts ---- */

/* The option, else the built-in cap. */
static bool set_cap(char out[32], const char *option, const char *flag, const char *builtin,
                    struct error *err) {
    struct quantity q;
    const char *text = option && option[0] ? option : builtin;
    if (strlen(text) >= 32 || !quantity_parse(text, &q) || q.nano <= 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "%s=%s is not a quantity such as 4 or 8Gi", flag, text);
        return false;
    }
    snprintf(out, 32, "%s", text);
    return true;
}

static bool open_client(struct k8s_backend *k, const struct k8s_options *o, struct error *err) {
    if (!set_cap(k->backend.default_max_cpu, o->max_cpu, "--max-cpu", DEFAULT_MAX_CPU, err) ||
        !set_cap(k->backend.default_max_memory, o->max_memory, "--max-memory", DEFAULT_MAX_MEMORY, err))
        return false;
    k->config = k8s_config_load(o->kubeconfig, o->context, err);
    if (!k->config) return false;
    k->client = k8s_client_new(k->config, err);
    return k->client != NULL;
}

static bool open_parts(struct k8s_backend *k, const struct k8s_options *o, struct error *err) {
    if (!open_client(k, o, err)) return false;
    log_info("using the Kubernetes API", "server", k8s_config_server(k->config), NULL);
    struct k8s_watch rows[MAX_ROWS];
    struct k8s_store_options options = {.watches = rows, .silence_ms = o->watch_silence_ms};
    options.count = make_rows(o, rows);
    k->backend.store = k8s_store_open(k->client, &options, err);
    if (!k->backend.store) return false;
    k->backend.access = k8s_access_new(k->client, k->backend.store);
    k->snapshots = k8s_snapshots_new(k->client);
    k->backend.snapshots = &snapshot_ops;
    k->permissions = check_permissions(k, o, err);
    return k->permissions != NULL;
}

static bool review(struct backend *backend, const char *token, const char *const *audiences,
                   struct token_review *out, struct error *err) {
    return token_review(((struct k8s_backend *)backend)->client, token, audiences, out, err);
}

static void metrics(struct backend *backend, struct buffer *out) {
    k8s_store_metrics(backend->store, out);
    if (backend->access) k8s_access_metrics(backend->access, out);
}

static struct backend *opened(const struct k8s_options *options,
                              bool (*open)(struct k8s_backend *, const struct k8s_options *, struct error *),
                              struct error *err) {
    struct k8s_backend *k = xcalloc(1, sizeof *k);
    k->backend.name = "kubernetes";
    k->backend.warm_pool = true;
    k->backend.close = close_backend;
    k->backend.hurry = hurry;
    k->backend.review_token = review;
    k->backend.metrics = metrics;
    if (open(k, options, err)) return &k->backend;
    close_backend(&k->backend);
    return NULL;
}

struct backend *k8s_backend_open(const struct k8s_options *options, struct error *err) {
    return opened(options, open_parts, err);
}

static bool open_writer(struct k8s_backend *k, const struct k8s_options *o, struct error *err) {
    if (!open_client(k, o, err)) return false;
    k->backend.store = k8s_store_open(k->client, &(struct k8s_store_options){0}, err);
    return k->backend.store != NULL;
}

struct backend *k8s_backend_open_for_writing(const struct k8s_options *options, struct error *err) {
    return opened(options, open_writer, err);
}
