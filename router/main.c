/* agenttier-router: reads flags, opens the backend, serves until SIGTERM, drains. */
#include "common/log.h"
#include "k8s/k8s.h"
#include "local/local.h"
#include "local/rootfs.h"
#include "router/audit.h"
#include "router/governance.h"
#include "router/bearer.h"
#include "router/key_command.h"
#include "router/keys.h"
#include "router/metrics.h"
#include "router/openapi.h"
#include "router/quota.h"
#include "router/ratelimit.h"
#include "router/sandbox_lookup.h"
#include "router/server.h"
#include "router/terminals.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

static bool loopback_only(const char *listen_addr) {
    static const char *const hosts[] = {"localhost:", "127.", "[::1]:"};
    for (size_t i = 0; i < 3; i++)
        if (strncmp(listen_addr, hosts[i], strlen(hosts[i])) == 0) return true;
    return false;
}

/* agenttier-runtime stands beside this program unless --runtime says otherwise. */
static char *runtime_path(const struct config *config) {
    if (config->runtime_path[0]) return xstrdup(config->runtime_path);
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return xstrdup("agenttier-runtime");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    return xasprintf("%.*s/agenttier-runtime", (int)(slash - self), self);
}

static int fail(const struct error *err, int status) {
    fprintf(stderr, "agenttier-router: %s\n", err->message);
    return status;
}

static void wait_for_signal(const sigset_t *signals) {
    int number = 0;
    while (sigwait(signals, &number) != 0) {
    }
    log_info("stopping: running requests may finish, new ones are refused", "signal",
             number == SIGTERM ? "TERM" : "INT", NULL);
}

static struct backend *open_local(const struct config *config, struct error *err) {
    cleanup_free char *runtime = runtime_path(config);
    struct local_options options = {.state_dir = config->state_dir,
                                    .runtime_path = runtime,
                                    .install_namespace = config->namespace,
                                    .max_cpu = config->max_cpu,
                                    .max_memory = config->max_memory,
                                    .storage_check_ms = config->storage_check_ms};
    return local_backend_open(&options, err);
}

static struct backend *open_kubernetes(const struct config *config, struct error *err) {
    struct k8s_options options = {.kubeconfig = config->kubeconfig,
                                  .context = config->context,
                                  .install_namespace = config->namespace,
                                  .sandbox_namespace = config->sandbox_namespace,
                                  .max_cpu = config->max_cpu,
                                  .max_memory = config->max_memory,
                                  .ingresses = config->preview_domain[0] != '\0',
                                  .watch_silence_ms = config->watch_silence_ms};
    return k8s_backend_open(&options, err);
}

static int serve(const struct config *config) {
    cleanup_error struct error err = {0};
    bool local = strcmp(config->backend, "local") == 0;
    struct backend *backend = local ? open_local(config, &err) : open_kubernetes(config, &err);
    if (!backend) return fail(&err, 1);
    struct bearer *bearer = bearer_new(config, backend, &err);
    if (!bearer) {
        backend->close(backend);
        return fail(&err, err.status == 400 ? 2 : 1);
    }
    struct rate_limits limits = {.per_ip = config->ratelimit_per_ip,
                                 .per_user = config->ratelimit_per_user,
                                 .expensive = config->ratelimit_expensive,
                                 .failures = config->ratelimit_failures};
    struct router router = {
        .config = config,
        .backend = backend,
        .metrics = metrics_new(),
        .keys = key_cache_new(backend->store, config->namespace),
        .bearer = bearer,
        .governance = governance_new(backend, install_namespace(config), config->policy_fail_closed),
        .quota = quota_new(backend->store, install_namespace(config)),
        .rate_limiter = ratelimit_new(&limits),
        .terminals = terminals_new(config->terminals_per_user, config->terminals_per_sandbox)};
    struct event_recorder *events = NULL;
    int status = 0;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    struct server *server = NULL;
    if (audit_open(config, &router.history, &err)) {
        events = event_recorder_new(backend->store, router.history);
        server = server_start(&router, &err);
    }
    if (server) {
        log_info("serving the AgentTier API", "url", server_url(server), "version", AGENTTIER_VERSION,
                 "backend", backend->name, "state_dir", config->state_dir, NULL);
        if (config->dev_auth)
            log_warn("--dev-auth: no authentication, every caller is an administrator; do not put this on a "
                     "network",
                     NULL);
        wait_for_signal(&signals);
        server_drain_and_stop(server);
        if (backend->hurry) backend->hurry(backend);
        log_info("stopped; sandboxes go on running", NULL);
    } else {
        status = fail(&err, err.status == 400 ? 2 : 1);
    }
    event_recorder_free(events);
    history_close(router.history);
    bearer_free(bearer);
    key_cache_free(router.keys);
    quota_free(router.quota);
    governance_free(router.governance);
    ratelimit_free(router.rate_limiter);
    terminals_free(router.terminals);
    metrics_free(router.metrics);
    openapi_free();
    backend->close(backend);
    return status;
}

static int import_image(int argc, char **argv);

/* Blocks the stop signals in every thread, so that main's sigwait gets them; writes to
 * closed sockets are errors, not signals; the memory of keys is not dumped (lessons S29). */
static void prepare_process(const struct config *config) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_DUMPABLE, 0);
    /* Eight for waiting work, and those that check tokens (router/verification.c). */
    char workers[16];
    long loops = config->threads > 0 ? config->threads : sysconf(_SC_NPROCESSORS_ONLN);
    snprintf(workers, sizeof workers, "%ld", 8 + 2 * loops);
    setenv("UV_THREADPOOL_SIZE", workers, 0);
    json_object_seed(0);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "create-key") == 0) return key_command_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "import-image") == 0) return import_image(argc - 1, argv + 1);
    struct config config;
    cleanup_error struct error err = {0};
    switch (config_parse(argc, argv, &config, &err)) {
    case FLAGS_HELP: config_print_help(stdout); return 0;
    case FLAGS_VERSION: puts("agenttier-router " AGENTTIER_VERSION); return 0;
    case FLAGS_ERROR: return fail(&err, 2);
    case FLAGS_RUN: break;
    }
    if (config.dev_auth && !loopback_only(config.listen_addr)) {
        error_set(&err, 400, ERR_BAD_REQUEST,
                  "--dev-auth lets everyone in, so it serves loopback addresses only: add "
                  "--listen-addr=localhost:8081, or leave "
                  "it out and make a key with create-key");
        config_free(&config);
        return fail(&err, 2);
    }
    log_configure(config.log_level, config.log_format, STDOUT_FILENO);
    prepare_process(&config);
    int status = serve(&config);
    config_free(&config);
    return status;
}

static int import_usage(FILE *out, int status) {
    fputs(
        "Usage: agenttier-router import-image --state-dir=DIR --name NAME PATH\n\n"
        "Imports a root file system for sandboxes: PATH is a directory or a tar file (also .gz, .xz, .zst).\n"
        "Templates name it as spec.image.repository.\n\n"
        "  agenttier-router import-image --state-dir=./state --name debian ./debian.tar.gz\n",
        out);
    return status;
}

static int import_image(int argc, char **argv) {
    const char *state_dir = NULL, *name = NULL, *path = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0) return import_usage(stdout, 0);
        if (strncmp(a, "--state-dir=", 12) == 0)
            state_dir = a + 12;
        else if (strcmp(a, "--state-dir") == 0 && i + 1 < argc)
            state_dir = argv[++i];
        else if (strncmp(a, "--name=", 7) == 0)
            name = a + 7;
        else if (strcmp(a, "--name") == 0 && i + 1 < argc)
            name = argv[++i];
        else if (a[0] != '-' && !path)
            path = a;
        else
            return import_usage(stderr, 2);
    }
    if (!state_dir || !name || !path) return import_usage(stderr, 2);
    cleanup_error struct error err = {0};
    if (!rootfs_import(state_dir, name, path, &err)) return fail(&err, 1);
    printf("imported %s as image %s\n", path, name);
    return 0;
}
