/* Flags and environment into a struct config. One table says everything about a flag, and
 * --help is printed from it. */
#include "router/config.h"

#include "common/flags.h"
#include "common/units.h"
#include "router/forwarded.h"
#include "router/sandbox_spec.h"

#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct config, member)
static const struct flag table[] = {
    {"backend", FLAG_STRING, AT(backend), "AGENTTIER_BACKEND", "local", "NAME",
     .help = "where sandboxes run: 'local' = isolated process trees on this machine, 'kubernetes' = pods",
     .never_empty = true},
    {"state-dir", FLAG_STRING, AT(state_dir), "AGENTTIER_STATE_DIR", "", "DIR",
     .help = "local backend: resources, workspaces and images; created when missing (required)"},
    {"runtime", FLAG_STRING, AT(runtime_path), NULL, "", "FILE",
     .help = "local backend: the agenttier-runtime program (default: beside this program)"},
    {"listen-addr", FLAG_STRING, AT(listen_addr), NULL, ":8080", "[HOST]:PORT",
     .help = "where the API listens; 'localhost:PORT' listens on 127.0.0.1 and ::1", .never_empty = true},
    {"probe-addr", FLAG_STRING, AT(probe_addr), NULL, "", "[HOST]:PORT",
     .help = "a second address that serves health and metrics only; empty = none"},
    {"threads", FLAG_COUNT, AT(threads), NULL, "0", "N", .help = "event loops; 0 = one for each core",
     .most = 256},
    {"dev-auth", FLAG_BOOL, AT(dev_auth), "AGENTTIER_DEV_AUTH", "", NULL,
     .help = "no authentication: every caller is an administrator; loopback addresses only"},
    {"admin-group", FLAG_STRING, AT(admin_group), NULL, "agenttier-admins", "GROUP",
     .help = "the group whose members are administrators; empty = nobody"},
    {"oidc-issuer", FLAG_LIST, AT(oidc_issuer), "AGENTTIER_OIDC_ISSUER", "", "URL",
     .help = "OpenID Connect issuer whose tokens are accepted; may be repeated"},
    {"oidc-client-id", FLAG_LIST, AT(oidc_client_id), "AGENTTIER_OIDC_CLIENT_ID", "", "ID",
     .help = "audience that tokens must name; may be repeated; empty = no token is accepted"},
    {"oidc-subjects-only", FLAG_LIST, AT(oidc_subjects_only), NULL, "", "URL",
     .help = "issuer whose word counts for who a caller is, not for groups, administrators and addresses; "
             "may be repeated"},
    {"group-claim", FLAG_STRING, AT(group_claim), NULL, "groups", "CLAIM",
     .help = "token claim that holds the groups; dots lead into objects: realm_access.roles",
     .never_empty = true},
    {"oidc-ca-file", FLAG_STRING, AT(oidc_ca_file), NULL, "", "FILE",
     .help = "PEM certificates to trust for issuers (default: the system's)"},
    {"service-account-audience", FLAG_LIST, AT(service_account_audience),
     "AGENTTIER_SERVICE_ACCOUNT_AUDIENCE", "", "AUDIENCE",
     .help =
         "accept service account tokens made for this audience ('kubernetes' = the cluster's own); may be "
         "repeated"},
    {"service-account-namespaces", FLAG_LIST, AT(service_account_namespaces),
     "AGENTTIER_SERVICE_ACCOUNT_NAMESPACES", "", "NS",
     .help = "namespaces whose service accounts are let in; may be repeated; '*' = all"},
    {"api-keys-per-user", FLAG_COUNT, AT(api_keys_per_user), NULL, "100", "N",
     .help = "most API keys that one user may have; 0 = any number", .most = 100000},
    {"api-key-max-lifetime", FLAG_DURATION, AT(api_key_max_lifetime_ms), NULL, "", "DURATION",
     .help = "longest life of API keys made over the API, given to those that do not say; empty = forever",
     .least = 1},
    {"terminals-per-user", FLAG_COUNT, AT(terminals_per_user), NULL, "200", "N",
     .help = "most terminals that one user may have open; 0 = any number", .most = 100000},
    {"terminals-per-sandbox", FLAG_COUNT, AT(terminals_per_sandbox), NULL, "128", "N",
     .help = "most terminals that may be open in one sandbox; 0 = any number", .most = 100000},
    {"namespace", FLAG_STRING, AT(namespace), "POD_NAMESPACE", "agenttier", "NS",
     .help = "install namespace: API keys and policies are kept there", .never_empty = true},
    {"sandbox-namespace", FLAG_STRING, AT(sandbox_namespace), "SANDBOX_NAMESPACE", "default", "NS",
     .help = "namespace of new sandboxes and first place to look one up", .never_empty = true},
    {"namespace-groups", FLAG_LIST, AT(namespace_groups), NULL, "", "NS=GROUP",
     .help = "users put sandboxes only into namespaces that this gives to a group of theirs ('*' = "
             "everybody); may be repeated; empty = into any that is not reserved"},
    {"sharing-levels", FLAG_STRING, AT(sharing_levels), "AGENTTIER_SHARING_LEVELS", "view", "HOW",
     .help = "'view' = guests see a shared sandbox only; 'enforced' = viewers read files, collaborators work "
             "in it",
     .never_empty = true},
    {"max-cpu", FLAG_STRING, AT(max_cpu), "AGENTTIER_MAX_CPU", "", "QUANTITY",
     .help = "most CPU a sandbox may ask for (default: this machine's cores; kubernetes: 8)"},
    {"max-memory", FLAG_STRING, AT(max_memory), "AGENTTIER_MAX_MEMORY", "", "QUANTITY",
     .help = "most memory a sandbox may ask for (default: this machine's; kubernetes: 16Gi)"},
    {"policy-fail-closed", FLAG_BOOL, AT(policy_fail_closed), "AGENTTIER_POLICY_FAIL_CLOSED", "", NULL,
     .help = "refuse new sandboxes where a stored governance policy cannot be read and never could be"},
    {"history-db", FLAG_STRING, AT(history_db), "STORAGE_SQLITE_PATH", "", "FILE",
     .help = "SQLite file for the history of what is done; 'none' = keep none (default: history.db in "
             "--state-dir; "
             "kubernetes: none)"},
    {"history-peers", FLAG_STRING, AT(history_peers), "AGENTTIER_HISTORY_PEERS", "", "HOST:PORT,...",
     .help = "other replicas, whose histories are asked too; all addresses of each name count, our own is "
             "left out"},
    {"history-retention", FLAG_STRING, AT(history_retention), "AGENTTIER_HISTORY_RETENTION", "2160h", "TIME",
     .help = "older entries of the history are deleted; 0 = never"},
    {"history-max-size", FLAG_STRING, AT(history_max_size), "AGENTTIER_HISTORY_MAX_SIZE", "1Gi", "QUANTITY",
     .help = "the oldest entries of the history are deleted above this; 0 = never"},
    {"preview-domain", FLAG_STRING, AT(preview_domain), NULL, "", "DOMAIN",
     .help = "suffix of preview hosts: each forward gets an Ingress and an ingressUrl; empty = none"},
    {"ingress-class-name", FLAG_STRING, AT(ingress_class_name), NULL, "", "CLASS",
     .help = "class of preview Ingresses; empty = the cluster's default"},
    {"preview-tls-secret", FLAG_STRING, AT(preview_tls_secret), NULL, "", "NAME",
     .help =
         "Secret with the certificate of preview hosts, in each sandbox's namespace; empty = no TLS section"},
    {"cors-allowed-origins", FLAG_STRING, AT(cors_allowed_origins), "AGENTTIER_CORS_ALLOWED_ORIGINS", "",
     "ORIGINS", .help = "comma-separated origins that browsers may call from; '*' is ignored; empty = none"},
    {"trusted-proxies", FLAG_STRING, AT(trusted_proxies), "AGENTTIER_TRUSTED_PROXIES", "", "CIDRS",
     .help = "comma-separated networks whose X-Forwarded-For, -Host and -Proto are believed"},
    {"ratelimit-per-ip-rate", FLAG_RATE, AT(ratelimit_per_ip), NULL, "0", "N",
     .help = "requests a second for each client address, burst 30; 0 = no limit"},
    {"ratelimit-per-user-rate", FLAG_RATE, AT(ratelimit_per_user), NULL, "0", "N",
     .help = "requests a second for each user, burst 100; 0 = no limit"},
    {"ratelimit-expensive-rate", FLAG_RATE, AT(ratelimit_expensive), NULL, "0", "N",
     .help = "for each user, creations, commands, archives a second, burst 20; 0 = no limit"},
    {"ratelimit-auth-failures-rate", FLAG_RATE, AT(ratelimit_failures), NULL, "5", "N",
     .help = "failed logins a second for each client address, burst 100; 0 = no limit"},
    {"ratelimit-trust-forwarded-headers", FLAG_BOOL, AT(ratelimit_trust_forwarded),
     "RATE_LIMIT_TRUST_FORWARDED_HEADERS", "", NULL,
     .help = "believe X-Forwarded-For of private and loopback peers (better: --trusted-proxies)"},
    {"kubeconfig", FLAG_STRING, AT(kubeconfig), NULL, "", "FILE",
     .help =
         "kubernetes backend: how to log in (default: in a pod its service account, else $KUBECONFIG, else "
         "~/.kube/config)"},
    {"context", FLAG_STRING, AT(context), NULL, "", "NAME",
     .help = "kubernetes backend: context of the kubeconfig (default: its current one)"},
    {"storage-check", FLAG_DURATION, AT(storage_check_ms), "AGENTTIER_STORAGE_CHECK", "1m", "DURATION",
     .help = "local backend: how often workspaces are held against storage.size; 0 = never"},
    {"watch-silence", FLAG_DURATION, AT(watch_silence_ms), NULL, "2m30s", "DURATION",
     .help = "kubernetes backend: a watch that was silent for longer is opened anew", .least = 1},
    {"log-level", FLAG_LOG_LEVEL, AT(log_level), NULL, "info", "LEVEL",
     .help = "debug, info, warn, error or off"},
    {"log-format", FLAG_LOG_FORMAT, AT(log_format), NULL, "", "FORMAT",
     .help = "json or text (default json; text on a terminal)"},
};

static struct flags all_flags(void) {
    return (struct flags){.table = table, .count = sizeof table / sizeof *table, .log_fd = STDOUT_FILENO};
}

void config_print_help(FILE *out) {
    fputs("Usage: agenttier-router [FLAGS]\n"
          "       agenttier-router create-key --state-dir=DIR --sub NAME [...]   make an API key; --help "
          "says how on a cluster\n"
          "       agenttier-router import-image --state-dir=DIR --name NAME PATH import a root file system\n"
          "\n"
          "Serves the AgentTier API: create, drive and reach isolated sandboxes.\n"
          "\n"
          "Try it, without authentication, on this machine only:\n"
          "  agenttier-router --state-dir=./state --dev-auth --listen-addr=localhost:8081\n"
          "  curl http://localhost:8081/api/v1/health\n"
          "\n"
          "For others, with keys:\n"
          "  agenttier-router create-key --state-dir=./state --sub ana --admin\n"
          "  agenttier-router --state-dir=./state --listen-addr=:8080\n"
          "\n"
          "With sandboxes on a Kubernetes cluster:\n"
          "  agenttier-router create-key --backend=kubernetes --kubeconfig=FILE --sub ana --admin\n"
          "  agenttier-router --backend=kubernetes --kubeconfig=FILE\n"
          "\n"
          "Flags (--name=value or --name value; an empty value means not set):\n",
          out);
    const struct flags flags = all_flags();
    flags_print_help(&flags, out);
    fputs("Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot serve, 2 on wrong usage.\n", out);
}

bool config_sharing_enforced(const struct config *c) {
    return strcmp(c->sharing_levels, "enforced") == 0;
}

void config_free(struct config *c) {
    flags_free(&c->flags);
}

/* Checks what no single flag shows. */
static bool check_whole(const struct config *c, struct error *err) {
    struct quantity q;
    if (strcmp(c->backend, "local") != 0 && strcmp(c->backend, "kubernetes") != 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "--backend takes local or kubernetes, not \"%s\"", c->backend);
        return false;
    }
    if (strcmp(c->backend, "local") == 0 && !c->state_dir[0]) {
        error_set(
            err, 400, ERR_BAD_REQUEST,
            "--state-dir is required with --backend=local: name a directory for sandboxes and their files");
        return false;
    }
    if (strcmp(c->sharing_levels, "view") != 0 && !config_sharing_enforced(c)) {
        error_set(err, 400, ERR_BAD_REQUEST, "--sharing-levels takes view or enforced, not \"%s\"",
                  c->sharing_levels);
        return false;
    }
    if (!forwarded_networks_valid(c->trusted_proxies)) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--trusted-proxies takes networks such as 10.0.0.0/8, not \"%s\"", c->trusted_proxies);
        return false;
    }
    if (!sandbox_grants_valid(c->namespace_groups)) {
        error_set(err, 400, ERR_BAD_REQUEST, "--namespace-groups takes NAMESPACE=GROUP, not \"%s\"",
                  c->namespace_groups);
        return false;
    }
    if (c->service_account_audience[0] && !c->service_account_namespaces[0]) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--service-account-audience needs --service-account-namespaces: whose service accounts are "
                  "let in, or '*' for all");
        return false;
    }
    if ((c->max_cpu[0] && !quantity_parse(c->max_cpu, &q)) ||
        (c->max_memory[0] && !quantity_parse(c->max_memory, &q))) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--max-cpu and --max-memory take Kubernetes quantities such as 4, 500m or 8Gi");
        return false;
    }
    return true;
}

enum flags_result config_parse(int argc, char **argv, struct config *c, struct error *err) {
    *c = (struct config){.flags = all_flags()};
    enum flags_result result = flags_parse(&c->flags, argc, argv, c, err);
    if (result == FLAGS_RUN && !check_whole(c, err)) result = FLAGS_ERROR;
    if (result != FLAGS_RUN) config_free(c);
    return result;
}
