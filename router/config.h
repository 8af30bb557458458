/* Flags and environment (http-api.md 6.1). Parsed once by main. */
#pragma once

#include "common/error.h"
#include "common/flags.h"
#include "common/log.h"

#include <stdbool.h>
#include <stdio.h>

struct config {
    const char *listen_addr;  /* --listen-addr, default ":8080" */
    const char *probe_addr;   /* --probe-addr: health and metrics on an address of their own; empty = none */
    const char *backend;      /* --backend: "local" or "kubernetes" */
    const char *state_dir;    /* --state-dir, local backend */
    const char *runtime_path; /* --runtime: agenttier-runtime; default beside this program */
    /* Comma-separated, of all the times the flag was given. */
    const char *oidc_issuer, *oidc_client_id, *oidc_subjects_only;
    const char *oidc_ca_file, *admin_group, *group_claim;
    const char *service_account_audience, *service_account_namespaces; /* comma-separated; "" = off */
    const char *preview_domain, *ingress_class_name, *preview_tls_secret;
    const char *namespace;            /* install namespace */
    const char *sandbox_namespace;    /* default "default" */
    const char *namespace_groups;     /* --namespace-groups, comma-separated; empty = anybody anywhere */
    const char *kubeconfig, *context; /* kubernetes backend; empty = found by itself */
    int64_t storage_check_ms;         /* --storage-check; 0 = never */
    int64_t watch_silence_ms;         /* --watch-silence */
    const char *cors_allowed_origins;
    const char *sharing_levels;  /* --sharing-levels: "view" or "enforced" */
    const char *trusted_proxies; /* --trusted-proxies: CIDRs whose X-Forwarded-* are believed */
    const char *max_cpu,
        *max_memory; /* --max-cpu, --max-memory: default caps, quantities; empty = the host's */
    double ratelimit_per_ip, ratelimit_per_user, ratelimit_expensive, ratelimit_failures;
    bool ratelimit_trust_forwarded;
    int terminals_per_user, terminals_per_sandbox; /* 0 = any number */
    int api_keys_per_user;                         /* --api-keys-per-user, 0 = any number */
    int64_t api_key_max_lifetime_ms;               /* --api-key-max-lifetime, 0 = any */
    const char *history_db;                        /* --history-db: a file, "none", or "" = by backend */
    const char *history_retention, *history_max_size;
    const char *history_peers; /* --history-peers: HOST:PORT, ... */
    bool policy_fail_closed;   /* --policy-fail-closed */
    bool dev_auth;
    int threads; /* --threads: event loops, default = cores */
    enum log_level log_level;
    enum log_format log_format;
    struct flags flags; /* owns texts of flags that were given more than once; config_free */
};

/* Whether guests get what their level says (http-api.md 3.8, W-47); else they may only look at the sandbox.
 */
bool config_sharing_enforced(const struct config *c);

/* Fills in `c` from flags over environment over defaults; its strings point into argv, the environment,
 * constants or c->flags. FLAGS_ERROR: err says what to change; the exit status is 2. Nothing is to be freed
 * but after FLAGS_RUN. */
enum flags_result config_parse(int argc, char **argv, struct config *c, struct error *err);
void config_free(struct config *c);
void config_print_help(FILE *out);
