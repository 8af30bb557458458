/* What a kubeconfig says of one context. A pure function on bytes; reads no other file. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

/* Where an apiserver is and how to log in, as it is written: file names may be relative to the
 * kubeconfig's folder. Members that are not given are NULL. All owned. */
struct kubeconfig {
    char *server; /* "https://host:port/prefix" */
    char *tls_server_name;
    char *namespace;
    bool insecure;      /* insecure-skip-tls-verify */
    char *ca_file, *ca; /* data (PEM) wins over a file, as for all below */
    char *certificate_file, *certificate;
    char *key_file, *key;
    char *token_file, *token; /* the file wins */
    char *username, *password;
    json_t *exec; /* a checked credential plugin: {command, args, env, apiVersion, ...} */
};
void kubeconfig_free(struct kubeconfig *);
#define cleanup_kubeconfig __attribute__((cleanup(kubeconfig_free)))

/* `context` NULL or "": the current one. 400 bad_request says what is missing, wrong or not
 * supported (proxy-url, auth-provider, impersonation). */
bool kubeconfig_parse(struct slice text, const char *context, struct kubeconfig *out, struct error *err);
