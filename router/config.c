/* Flags and environment into a struct config. One table says everything about a flag, and
 * --help is printed from it. */
#include "router/config.h"

#include "common/bytes.h"
#include "common/units.h"
#include "router/forwarded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum flag_type { FLAG_STRING, FLAG_LIST, FLAG_BOOL, FLAG_RATE, FLAG_COUNT, FLAG_DURATION };

struct flag {
    const char *name;
    enum flag_type type;
    size_t offset;
    const char *env; /* environment variable that gives the default, or NULL */
    const char *fallback;
    const char *argument; /* how --help names the value */
    const char *help;
};

#define AT(member) offsetof(struct config, member)
static const struct flag flags[] = {
    {"backend", FLAG_STRING, AT(backend), "AGENTTIER_BACKEND", "local", "NAME",
     "where sandboxes run: 'local' = isolated process trees on this machine, 'kubernetes' = pods"},
    {"state-dir", FLAG_STRING, AT(state_dir), "AGENTTIER_STATE_DIR", "", "DIR",
     "local backend: resources, workspaces and images; created when missing (required)"},
    {"runtime", FLAG_STRING, AT(runtime_path), NULL, "", "FILE",
     "local backend: the agenttier-runtime program (default: beside this program)"},
    {"listen-addr", FLAG_STRING, AT(listen_addr), NULL, ":8080", "[HOST]:PORT",
     "where the API listens; 'localhost:PORT' listens on 127.0.0.1 and ::1"},
    {"probe-addr", FLAG_STRING, AT(probe_addr), NULL, "", "[HOST]:PORT",
     "a second address that serves health and metrics only; empty = none"},
    {"threads", FLAG_COUNT, AT(threads), NULL, "0", "N", "event loops; 0 = one for each core"},
    {"dev-auth", FLAG_BOOL, AT(dev_auth), "AGENTTIER_DEV_AUTH", "", NULL,
     "no authentication: every caller is an administrator; loopback addresses only"},
    {"admin-group", FLAG_STRING, AT(admin_group), NULL, "agenttier-admins", "GROUP",
     "the group whose members are administrators; empty = nobody"},
    {"oidc-issuer", FLAG_LIST, AT(oidc_issuer), "AGENTTIER_OIDC_ISSUER", "", "URL",
     "OpenID Connect issuer whose tokens are accepted; may be repeated"},
    {"oidc-client-id", FLAG_LIST, AT(oidc_client_id), "AGENTTIER_OIDC_CLIENT_ID", "", "ID",
     "audience that tokens must name; may be repeated; empty = no token is accepted"},
    {"group-claim", FLAG_STRING, AT(group_claim), NULL, "groups", "CLAIM",
     "token claim that holds the groups; dots lead into objects: realm_access.roles"},
    {"oidc-ca-file", FLAG_STRING, AT(oidc_ca_file), NULL, "", "FILE",
     "PEM certificates to trust for issuers (default: the system's)"},
    {"service-account-audience", FLAG_LIST, AT(service_account_audience),
     "AGENTTIER_SERVICE_ACCOUNT_AUDIENCE", "", "AUDIENCE",
     "accept service account tokens made for this audience ('kubernetes' = the cluster's own); may be "
     "repeated"},
    {"service-account-namespaces", FLAG_LIST, AT(service_account_namespaces),
     "AGENTTIER_SERVICE_ACCOUNT_NAMESPACES", "", "NS",
     "namespaces whose service accounts are let in; may be repeated; '*' = all"},
    {"api-keys-per-user", FLAG_COUNT, AT(api_keys_per_user), NULL, "100", "N",
     "most API keys that one user may have; 0 = any number"},
    {"api-key-max-lifetime", FLAG_DURATION, AT(api_key_max_lifetime_ms), NULL, "", "DURATION",
     "longest life of API keys made over the API, given to those that do not say; empty = forever"},
    {"namespace", FLAG_STRING, AT(namespace), "POD_NAMESPACE", "", "NS",
     "install namespace: API keys and policies are kept there (default 'agenttier')"},
    {"sandbox-namespace", FLAG_STRING, AT(sandbox_namespace), "SANDBOX_NAMESPACE", "default", "NS",
     "namespace of new sandboxes and first place to look one up"},
    {"sharing-levels", FLAG_STRING, AT(sharing_levels), "AGENTTIER_SHARING_LEVELS", "view", "HOW",
     "'view' = guests see a shared sandbox only; 'enforced' = viewers read files, collaborators work in it"},
    {"max-cpu", FLAG_STRING, AT(max_cpu), "AGENTTIER_MAX_CPU", "", "QUANTITY",
     "most CPU a sandbox may ask for (default: this machine's cores; kubernetes: 8)"},
    {"max-memory", FLAG_STRING, AT(max_memory), "AGENTTIER_MAX_MEMORY", "", "QUANTITY",
     "most memory a sandbox may ask for (default: this machine's; kubernetes: 16Gi)"},
    {"policy-fail-closed", FLAG_BOOL, AT(policy_fail_closed), "AGENTTIER_POLICY_FAIL_CLOSED", "", NULL,
     "refuse new sandboxes where a stored governance policy cannot be read and never could be"},
    {"history-db", FLAG_STRING, AT(history_db), "STORAGE_SQLITE_PATH", "", "FILE",
     "SQLite file for the history of what is done; 'none' = keep none (default: history.db in --state-dir; "
     "kubernetes: none)"},
    {"history-peers", FLAG_STRING, AT(history_peers), "AGENTTIER_HISTORY_PEERS", "", "HOST:PORT,...",
     "other replicas, whose histories are asked too; all addresses of each name count, our own is left out"},
    {"history-retention", FLAG_STRING, AT(history_retention), "AGENTTIER_HISTORY_RETENTION", "2160h", "TIME",
     "older entries of the history are deleted; 0 = never"},
    {"history-max-size", FLAG_STRING, AT(history_max_size), "AGENTTIER_HISTORY_MAX_SIZE", "1Gi", "QUANTITY",
     "the oldest entries of the history are deleted above this; 0 = never"},
    {"preview-domain", FLAG_STRING, AT(preview_domain), NULL, "", "DOMAIN",
     "suffix of preview hosts: each forward gets an Ingress and an ingressUrl; empty = none"},
    {"ingress-class-name", FLAG_STRING, AT(ingress_class_name), NULL, "", "CLASS",
     "class of preview Ingresses; empty = the cluster's default"},
    {"preview-tls-secret", FLAG_STRING, AT(preview_tls_secret), NULL, "", "NAME",
     "Secret with the certificate of preview hosts, in each sandbox's namespace; empty = no TLS section"},
    {"cors-allowed-origins", FLAG_STRING, AT(cors_allowed_origins), "AGENTTIER_CORS_ALLOWED_ORIGINS", "",
     "ORIGINS", "comma-separated origins that browsers may call from; '*' is ignored; empty = none"},
    {"trusted-proxies", FLAG_STRING, AT(trusted_proxies), "AGENTTIER_TRUSTED_PROXIES", "", "CIDRS",
     "comma-separated networks whose X-Forwarded-For, -Host and -Proto are believed"},
    {"ratelimit-per-ip-rate", FLAG_RATE, AT(ratelimit_per_ip), NULL, "0", "N",
     "requests a second for each client address, burst 30; 0 = no limit"},
    {"ratelimit-per-user-rate", FLAG_RATE, AT(ratelimit_per_user), NULL, "0", "N",
     "requests a second for each user, burst 100; 0 = no limit"},
    {"ratelimit-expensive-rate", FLAG_RATE, AT(ratelimit_expensive), NULL, "0", "N",
     "for each user, creations, commands, archives a second, burst 20; 0 = no limit"},
    {"ratelimit-auth-failures-rate", FLAG_RATE, AT(ratelimit_failures), NULL, "5", "N",
     "failed logins a second for each client address, burst 100; 0 = no limit"},
    {"ratelimit-trust-forwarded-headers", FLAG_BOOL, AT(ratelimit_trust_forwarded),
     "RATE_LIMIT_TRUST_FORWARDED_HEADERS", "", NULL,
     "believe X-Forwarded-For of private and loopback peers (better: --trusted-proxies)"},
    {"kubeconfig", FLAG_STRING, AT(kubeconfig), NULL, "", "FILE",
     "kubernetes backend: how to log in (default: in a pod its service account, else $KUBECONFIG, else "
     "~/.kube/config)"},
    {"context", FLAG_STRING, AT(context), NULL, "", "NAME",
     "kubernetes backend: context of the kubeconfig (default: its current one)"},
    {"watch-silence", FLAG_DURATION, AT(watch_silence_ms), NULL, "2m30s", "DURATION",
     "kubernetes backend: a watch that was silent for longer is opened anew"},
};
#define FLAG_COUNT_OF (sizeof(flags) / sizeof(flags[0]))

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
    for (size_t i = 0; i < FLAG_COUNT_OF; i++) {
        const struct flag *f = &flags[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->argument ? "=" : "",
                 f->argument ? f->argument : "");
        fprintf(out, "  %-36s %s", left, f->help);
        if (f->fallback[0] && strcmp(f->fallback, "0") != 0) fprintf(out, " (default %s)", f->fallback);
        if (f->env) fprintf(out, " [%s]", f->env);
        fputc('\n', out);
    }
    fputs("  --log-level=LEVEL                    debug, info, warn, error or off (default info)\n"
          "  --log-format=FORMAT                  json or text (default json; text on a terminal)\n"
          "  --version                            print version and exit\n"
          "  --help                               print this and exit\n"
          "\n"
          "A flag wins over its environment variable, named in [brackets].\n"
          "Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot serve, 2 on wrong usage.\n",
          out);
}

static bool parse_bool(const char *text, bool *out) {
    if (strcmp(text, "true") == 0 || strcmp(text, "1") == 0) return *out = true, true;
    if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0 || text[0] == '\0') return *out = false, true;
    return false;
}

static bool set_flag(struct config *c, const struct flag *f, const char *value, struct error *err) {
    char *at = (char *)c + f->offset;
    char *end;
    switch (f->type) {
    case FLAG_LIST:
    case FLAG_STRING: *(const char **)(void *)at = value; return true;
    case FLAG_BOOL:
        if (parse_bool(value, (bool *)at)) return true;
        error_set(err, 400, ERR_BAD_REQUEST, "--%s takes true or false, not \"%s\"", f->name, value);
        return false;
    case FLAG_RATE: {
        double rate = value[0] ? strtod(value, &end) : 0;
        if (value[0] && (*end || !(rate >= 0 && rate <= 1e6))) {
            error_set(err, 400, ERR_BAD_REQUEST, "--%s takes a number of requests a second, not \"%s\"",
                      f->name, value);
            return false;
        }
        *(double *)(void *)at = rate;
        return true;
    }
    case FLAG_COUNT: {
        long n = value[0] ? strtol(value, &end, 10) : 0;
        long most = f->offset == AT(threads) ? 256 : 100000;
        if (value[0] && (*end || n < 0 || n > most)) {
            error_set(err, 400, ERR_BAD_REQUEST, "--%s takes a number from 0 to %ld, not \"%s\"", f->name,
                      most, value);
            return false;
        }
        *(int *)(void *)at = (int)n;
        return true;
    }
    case FLAG_DURATION: {
        int64_t ns = 0;
        if (value[0] && (!duration_parse(value, &ns) || ns < 1000000)) {
            error_set(err, 400, ERR_BAD_REQUEST, "--%s takes a duration such as 90s, not \"%s\"", f->name,
                      value);
            return false;
        }
        *(int64_t *)(void *)at = ns / 1000000;
        return true;
    }
    }
    return false;
}

static bool set_log(struct config *c, const char *name, const char *value, struct error *err) {
    static const char *const levels[] = {"debug", "info", "warn", "error", "off"};
    if (strcmp(name, "log-level") == 0) {
        for (size_t i = 0; i < 5; i++)
            if (strcmp(value, levels[i]) == 0) return c->log_level = (enum log_level)i, true;
        if (!value[0]) return true;
        error_set(err, 400, ERR_BAD_REQUEST, "--log-level takes debug, info, warn, error or off, not \"%s\"",
                  value);
        return false;
    }
    if (strcmp(value, "json") == 0) return c->log_format = LOG_FORMAT_JSON, true;
    if (strcmp(value, "text") == 0) return c->log_format = LOG_FORMAT_TEXT, true;
    if (!value[0]) return true;
    error_set(err, 400, ERR_BAD_REQUEST, "--log-format takes json or text, not \"%s\"", value);
    return false;
}

static bool set_defaults(struct config *c, struct error *err) {
    c->log_level = LOG_LEVEL_INFO;
    c->log_format = isatty(STDOUT_FILENO) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
    for (size_t i = 0; i < FLAG_COUNT_OF; i++) {
        const struct flag *f = &flags[i];
        const char *value = f->env ? getenv(f->env) : NULL;
        if (!set_flag(c, f, value && value[0] ? value : f->fallback, err)) {
            error_wrap(err, "environment variable %s", f->env);
            return false;
        }
    }
    return true;
}

/* An empty value means "not set": members that cannot be empty get their defaults back. */
static void fill_empty(struct config *c) {
    if (!c->listen_addr[0]) c->listen_addr = ":8080";
    if (!c->backend[0]) c->backend = "local";
    if (!c->sandbox_namespace[0]) c->sandbox_namespace = "default";
    if (!c->namespace[0]) c->namespace = "agenttier";
    if (!c->group_claim[0]) c->group_claim = "groups";
    if (!c->sharing_levels[0]) c->sharing_levels = "view";
}

static const struct flag *find_flag(const char *name, size_t len) {
    for (size_t i = 0; i < FLAG_COUNT_OF; i++)
        if (strlen(flags[i].name) == len && memcmp(flags[i].name, name, len) == 0) return &flags[i];
    return NULL;
}

static bool is_name(const char *name, size_t len, const char *what) {
    return strlen(what) == len && memcmp(name, what, len) == 0;
}

bool config_sharing_enforced(const struct config *c) {
    return strcmp(c->sharing_levels, "enforced") == 0;
}

/* Another value of a flag that may be repeated: the texts are joined by commas. */
static bool append_list(struct config *c, const struct flag *f, const char *value, struct error *err) {
    const char **at = (const char **)(void *)((char *)c + f->offset);
    size_t slot = 0;
    while (slot < sizeof c->joined / sizeof c->joined[0] && c->joined[slot] && c->joined[slot] != *at)
        slot++;
    if (slot == sizeof c->joined / sizeof c->joined[0]) {
        error_set(err, 400, ERR_BAD_REQUEST, "too many flags are repeated; join their values by commas");
        return false;
    }
    char *whole = xasprintf("%s,%s", *at, value);
    free(c->joined[slot]);
    c->joined[slot] = whole;
    *at = whole;
    return true;
}

void config_free(struct config *c) {
    for (size_t i = 0; i < sizeof c->joined / sizeof c->joined[0]; i++)
        free(c->joined[i]);
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

enum config_result config_parse(int argc, char **argv, struct config *c, struct error *err) {
    bool given[FLAG_COUNT_OF] = {false};
    *c = (struct config){0};
    if (!set_defaults(c, err)) return CONFIG_ERROR;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (arg[0] != '-' || !arg[1]) {
            error_set(err, 400, ERR_BAD_REQUEST, "unexpected argument \"%s\"", arg);
            return CONFIG_ERROR;
        }
        const char *name = arg + (arg[1] == '-' ? 2 : 1);
        const char *equals = strchr(name, '=');
        size_t len = equals ? (size_t)(equals - name) : strlen(name);
        const char *value = equals ? equals + 1 : NULL;
        if (is_name(name, len, "help") || is_name(name, len, "h")) return CONFIG_HELP;
        if (is_name(name, len, "version")) return CONFIG_VERSION;
        bool is_log = is_name(name, len, "log-level") || is_name(name, len, "log-format");
        const struct flag *f = find_flag(name, len);
        if (!f && !is_log) {
            error_set(err, 400, ERR_BAD_REQUEST, "unknown flag --%.*s; --help lists them", (int)len, name);
            return CONFIG_ERROR;
        }
        if (!value && f && f->type == FLAG_BOOL) value = "true";
        if (!value && i + 1 < argc) value = argv[++i];
        if (!value) {
            error_set(err, 400, ERR_BAD_REQUEST, "--%.*s needs a value", (int)len, name);
            return CONFIG_ERROR;
        }
        bool ok;
        if (is_log) {
            char log_name[16];
            snprintf(log_name, sizeof log_name, "%.*s", (int)len, name);
            ok = set_log(c, log_name, value, err);
        } else {
            bool again = f->type == FLAG_LIST && given[f - flags] && value[0];
            given[f - flags] = true;
            ok = again ? append_list(c, f, value, err) : set_flag(c, f, value, err);
        }
        if (!ok) return CONFIG_ERROR;
    }
    fill_empty(c);
    return check_whole(c, err) ? CONFIG_SERVE : CONFIG_ERROR;
}
