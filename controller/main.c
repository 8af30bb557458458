/* agenttier-controller: reads flags, connects, leads, works until SIGTERM. */
#include "backend/warmpool.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "controller/backups.h"
#include "controller/controller.h"
#include "controller/crds.h"
#include "controller/lease.h"
#include "controller/options.h"
#include "controller/probes.h"
#include "controller/rights.h"
#include "controller/sender.h"
#include "k8s/snapshots.h"
#include "k8s/store.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define RUNTIME_MAX    (32 * 1024 * 1024)
#define NAMESPACES_MAX 32

struct program {
    const struct options *options;
    struct k8s_config *config;
    struct k8s_client *client;
    struct store *store;
    struct sender *sender;
    struct controller *controller;
    struct lease *lease;
    struct permission_check *rights;
    struct k8s_snapshots *snapshots;
    struct backups *backups; /* NULL: none are scheduled */
    struct probes *health, *metrics;
    bool pooling; /* --sandbox-namespace is one of those that are served */
};

static int fail(const struct error *err, int status) {
    fprintf(stderr, "agenttier-controller: %s\n", err->message);
    return status;
}

/* ---- health and metrics ------------------------------------------------------------------------ */

/* Both say that the process serves; a replica that does not lead is as ready as the one that does. */
static int answer_health(void *ctx, const char *path, struct buffer *out) {
    (void)ctx;
    if (strcmp(path, "/healthz") != 0 && strcmp(path, "/readyz") != 0) return 404;
    buffer_append_str(out, "ok");
    return 200;
}

static int answer_metrics(void *ctx, const char *path, struct buffer *out) {
    struct program *p = ctx;
    if (strcmp(path, "/metrics") != 0) return 404;
    controller_metrics(p->controller, out);
    if (p->sender) sender_metrics(p->sender, out);
    return 200;
}

/* ---- the parts --------------------------------------------------------------------------------- */

/* agenttier-runtime stands beside this program unless --runtime says otherwise. */
static char *runtime_path(const struct options *o) {
    if (*o->runtime_path) return xstrdup(o->runtime_path);
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return xstrdup("agenttier-runtime");
    self[n] = '\0';
    return xasprintf("%.*s/agenttier-runtime", (int)(strrchr(self, '/') - self), self);
}

static bool read_runtime(const struct options *o, struct buffer *out, struct error *err) {
    cleanup_free char *path = runtime_path(o);
    out->limit = RUNTIME_MAX;
    FILE *f = fopen(path, "re");
    if (!f) {
        error_set(err, 500, ERR_INTERNAL,
                  "the program agenttier-runtime is not at %s: say where it is with --runtime, "
                  "or do without with --runtime-delivery=none",
                  path);
        return false;
    }
    char part[65536];
    bool ok = true;
    for (size_t n; ok && (n = fread(part, 1, sizeof part, f)) > 0;)
        ok = buffer_append(out, part, n);
    ok = ok && !ferror(f) && out->len > 0;
    fclose(f);
    if (!ok) error_set(err, 500, ERR_INTERNAL, "%s cannot be read, or is above 32 MiB", path);
    return ok;
}

/* What is kept in memory, in one namespace (NULL: in all). */
static size_t add_rows(struct k8s_watch *rows, size_t n, const char *namespace) {
    static const char managed[] = "agenttier.io/managed=true";
    rows[n++] = (struct k8s_watch){.kind = KIND_SANDBOX, .namespace = namespace};
    rows[n++] = (struct k8s_watch){.kind = KIND_POD, .namespace = namespace, .label_selector = managed};
    rows[n++] = (struct k8s_watch){
        .kind = KIND_PERSISTENT_VOLUME_CLAIM, .namespace = namespace, .label_selector = managed};
    rows[n++] =
        (struct k8s_watch){.kind = KIND_NETWORK_POLICY, .namespace = namespace, .label_selector = managed};
    return n;
}

static bool open_store(struct program *p, struct error *err) {
    struct k8s_watch rows[4 * NAMESPACES_MAX + 3];
    const char *namespaces[NAMESPACES_MAX + 1] = {NULL};
    cleanup_free char *list = xstrdup(p->options->watch_namespaces);
    size_t n = 0, count = 0;
    char *rest = list;
    /* Templates can be anywhere: a sandbox names their namespace. */
    rows[n++] = (struct k8s_watch){.kind = KIND_SANDBOX_TEMPLATE};
    rows[n++] = (struct k8s_watch){.kind = KIND_CLUSTER_SANDBOX_TEMPLATE};
    rows[n++] = (struct k8s_watch){.kind = KIND_CONFIG_MAP,
                                   .namespace = p->options->namespace,
                                   .field_selector = "metadata.name=" WARMPOOL_CONFIG_MAP,
                                   .optional = true};
    for (char *name; (name = strsep(&rest, ",")) && *list;) {
        if (!dns_label_valid(slice_of(name)) || count == NAMESPACES_MAX) {
            error_set(err, 400, ERR_BAD_REQUEST,
                      "--watch-namespaces=%s is not a list of at most %d namespaces",
                      p->options->watch_namespaces, NAMESPACES_MAX);
            return false;
        }
        n = add_rows(rows, n, name);
        namespaces[count++] = name;
        p->pooling = p->pooling || strcmp(name, p->options->sandbox_namespace) == 0;
    }
    if (count == 0) {
        n = add_rows(rows, n, NULL);
        p->pooling = true;
    }
    struct k8s_store_options options = {.watches = rows, .count = n};
    p->store = k8s_store_open(p->client, &options, err);
    if (p->store) p->rights = rights_check(p->client, p->options, namespaces, err);
    return p->rights != NULL;
}

static bool list_snapshots(void *ctx, const char *namespace, const char *label, const char *value,
                           struct object_list *out, struct error *err) {
    return k8s_snapshots_list(((struct program *)ctx)->snapshots, namespace, label, value, out, err);
}

static struct object *read_snapshot(void *ctx, const char *namespace, const char *name, struct error *err) {
    return k8s_snapshots_get(((struct program *)ctx)->snapshots, namespace, name, err);
}

static bool start_backups(struct program *p, struct error *err) {
    const struct options *o = p->options;
    if (!o->backup_snapshots) return true;
    const struct backups_options options = {.store = p->store,
                                            .list = list_snapshots,
                                            .ctx = p,
                                            .namespace = o->sandbox_namespace,
                                            .class = o->backup_class,
                                            .interval_ms = o->backup_interval_ms,
                                            .retention_ms = o->backup_retention_ms};
    p->backups = backups_start(&options, err);
    return p->backups != NULL;
}

static bool open_all(struct program *p, struct error *err) {
    const struct options *o = p->options;
    cleanup_buffer struct buffer runtime = {0};
    if (o->delivery == DELIVERY_EXEC && !read_runtime(o, &runtime, err)) return false;
    p->config = k8s_config_load(o->kubeconfig, o->context, err);
    if (!p->config || !(p->client = k8s_client_new(p->config, err))) return false;
    p->health = probes_start(o->probe_address, answer_health, p, err);
    if (!p->health || (o->manage_crds && !crds_apply(p->client, err)) || !open_store(p, err)) return false;
    if (o->delivery == DELIVERY_EXEC &&
        !(p->sender = sender_start(p->config, p->client, p->store, &runtime, err)))
        return false;
    p->snapshots = k8s_snapshots_new(p->client);
    const struct controller_options options = {
        .store = p->store,
        .settings = {.default_image = o->default_image,
                     .default_storage_size = o->default_storage_size,
                     .install_namespace = o->namespace,
                     .sandbox_namespace = p->pooling ? o->sandbox_namespace : "",
                     .memory_sidecar_image = o->memory_sidecar_image,
                     .delivery = o->delivery,
                     .creation_deadline_ms = o->creation_deadline_ms},
        .workers = o->max_concurrency,
        .bringer = p->sender ? sender_bringer(p->sender) : (struct runtime_bringer){0},
        .snapshots = {.get = read_snapshot, .ctx = p}};
    p->controller = controller_start(&options);
    p->metrics = probes_start(o->metrics_address, answer_metrics, p, err);
    return p->metrics != NULL && start_backups(p, err);
}

/* What waits for an answer of the apiserver has five seconds: to end work in order, and give the lease back.
 */
#define STOP_MS 5000

static void close_all(struct program *p) {
    if (p->client) k8s_client_stop_in(p->client, STOP_MS);
    probes_stop(p->metrics);
    lease_stop(p->lease);
    backups_stop(p->backups);
    controller_stop(p->controller);
    sender_stop(p->sender);
    probes_stop(p->health);
    permission_check_stop(p->rights);
    k8s_snapshots_free(p->snapshots);
    if (p->store) k8s_store_close(p->store);
    if (p->client) k8s_client_free(p->client);
    if (p->config) k8s_config_free(p->config);
}

/* ---- work -------------------------------------------------------------------------------------- */

/* False: a stop signal came first. */
static bool wait_for_caches(struct program *p, const sigset_t *signals) {
    cleanup_error struct error err = {0};
    struct timespec pause = {0, 20000000};
    for (int64_t waits = 0; !p->store->ops->ready(p->store, &err); waits++) {
        if (waits % 500 == 50) log_warn("waiting for the apiserver", "why", err.message, NULL);
        error_clear(&err);
        if (sigtimedwait(signals, NULL, &pause) > 0) return false;
    }
    return true;
}

static void on_lease(void *ctx, bool leading) {
    controller_lead(((struct program *)ctx)->controller, leading);
    backups_lead(((struct program *)ctx)->backups, leading);
}

static bool begin(struct program *p, struct error *err) {
    if (!p->options->leader_elect) {
        on_lease(p, true);
        return true;
    }
    char suffix[17], host[HOST_NAME_MAX + 1] = "controller";
    random_hex(suffix, 8);
    gethostname(host, sizeof host);
    host[HOST_NAME_MAX] = '\0';
    cleanup_free char *identity = xasprintf("%s_%s", host, suffix);
    p->lease = lease_start(p->client, p->options->namespace, identity, on_lease, p, err);
    return p->lease != NULL;
}

static int work(struct program *p) {
    cleanup_error struct error err = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    int status = 0, number = 0;
    if (!open_all(p, &err)) {
        status = fail(&err, 1);
    } else if (wait_for_caches(p, &signals)) {
        log_info("agenttier-controller runs", "version", AGENTTIER_VERSION, "server",
                 k8s_config_server(p->config), NULL);
        if (begin(p, &err))
            while (sigwait(&signals, &number) != 0)
                ;
        else
            status = fail(&err, 1);
    }
    close_all(p);
    log_info("stopped; sandboxes go on running", NULL);
    return status;
}

/* Stop signals are blocked in every thread, so that sigwait gets them; writes to closed sockets are errors.
 */
static void prepare_process(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    json_object_seed(0);
}

int main(int argc, char **argv) {
    struct options options;
    cleanup_error struct error err = {0};
    switch (options_parse(argc, argv, &options, &err)) {
    case FLAGS_HELP: options_print_help(stdout); return 0;
    case FLAGS_VERSION: puts("agenttier-controller " AGENTTIER_VERSION); return 0;
    case FLAGS_ERROR: return fail(&err, 2);
    case FLAGS_RUN: break;
    }
    log_configure(options.log_level, options.log_format, STDERR_FILENO);
    prepare_process();
    struct program program = {.options = &options};
    return work(&program);
}
