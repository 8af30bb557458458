/* Credential plugins of kubeconfigs (client.authentication.k8s.io/v1, v1beta1): a program that prints
 * a token or a certificate and says until when they are good. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>
#include <stdint.h>

#define EXEC_PLUGIN_TIMEOUT_MS 60000
#define EXEC_PLUGIN_MAX_OUTPUT (1024 * 1024)

struct exec_credential {
    char *token, *certificate, *key; /* owned; NULL: not given */
    int64_t expires;                 /* seconds since 1970; 0 = good until refused */
};
void exec_credential_free(struct exec_credential *);
#define cleanup_exec_credential __attribute__((cleanup(exec_credential_free)))

/* What the plugin printed: an ExecCredential. Pure. */
bool exec_credential_parse(struct slice text, const char *api_version, struct exec_credential *out,
                           struct error *err);

/* Runs the plugin of a checked kubeconfig `exec` object and waits for it, at most for a minute. A
 * command with a slash is relative to `folder`, another is looked up in PATH. Its standard error is ours. */
bool exec_plugin_run(const json_t *exec, const char *folder, struct exec_credential *out, struct error *err);
