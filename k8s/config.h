/* Where a kube-apiserver is and how one logs in to it: the service account of a pod, or a
 * kubeconfig. Credentials change while we run (tokens expire, CAs rotate), so they are asked
 * for at every use and answered from memory; whoever runs the client refreshes them. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <openssl/ssl.h>
#include <stdint.h>

struct k8s_config;

/* A kubeconfig file and one of its contexts (NULL or "": its current one). `kubeconfig` NULL or "": in a pod
 * its service account, else the file of KUBECONFIG, else ~/.kube/config (http-api.md 6.1). Reads files and
 * may run the exec plugin that the kubeconfig names, so not on a loop. NULL with an err that says what is
 * missing. */
struct k8s_config *k8s_config_load(const char *kubeconfig, const char *context, struct error *err);
void k8s_config_free(struct k8s_config *config);

/* ---- from memory, on any thread ---- */
const char *k8s_config_host(const struct k8s_config *config); /* a name or an address, without brackets */
uint16_t k8s_config_port(const struct k8s_config *config);
bool k8s_config_tls(const struct k8s_config *config);
const char *k8s_config_path_prefix(const struct k8s_config *config); /* "" or "/prefix" */
const char *k8s_config_server(const struct k8s_config *config);      /* "https://host:port/prefix" */
const char *k8s_config_namespace(const struct k8s_config *config); /* of the context or the pod; may be "" */
/* The value of the Authorization header; malloc'ed, NULL: log in by certificate or not at all. */
char *k8s_config_authorization(struct k8s_config *config);
/* An OpenSSL client context with the CA, the client certificate and verification on; a new
 * reference (SSL_CTX_free), NULL without TLS. The name to verify is k8s_config_tls_name. */
SSL_CTX *k8s_config_ssl_ctx(struct k8s_config *config);
const char *k8s_config_tls_name(const struct k8s_config *config);

/* What one logs in with at one moment: immutable, counted. For libcurl, which wants texts. */
struct k8s_credentials {
    char *authorization;          /* value of the header, or NULL */
    char *ca, *certificate, *key; /* PEM, or NULL */
    SSL_CTX *ssl;                 /* made of those; NULL without TLS */
    int64_t expires;              /* of an exec plugin's answer, seconds since 1970; 0 = not said */
    _Atomic int refs;
};
struct k8s_credentials *k8s_config_credentials(struct k8s_config *config); /* a reference, never NULL */
void k8s_credentials_unref(struct k8s_credentials *credentials);           /* NULL is fine */
bool k8s_config_insecure(const struct k8s_config *config);                 /* no certificate is checked */

/* ---- waits (files, exec plugin): not on a loop ---- */
/* Reads what may have changed: every minute, and with `refused` after a 401 (lessons I33), which also
 * drops what an exec plugin gave before its time. The last good credentials stay when the new ones
 * cannot be read; then false with err. */
bool k8s_config_refresh(struct k8s_config *config, bool refused, struct error *err);
