/* The backend on a Kubernetes cluster: resources through the kube-apiserver, commands and files
 * through agenttier-runtime in the pod or pods/exec. */
#pragma once

#include "backend/backend.h"

struct k8s_options {
    const char *kubeconfig, *context; /* "" = the pod's service account */
    const char *install_namespace;    /* keys, policies, preferences */
    const char *sandbox_namespace;    /* of new sandboxes that name none */
    const char *max_cpu, *max_memory; /* default caps, quantities; "" = 8 and 16Gi */
    bool ingresses;                   /* previews have a domain: follow their Ingresses */
    int64_t watch_silence_ms;         /* k8s_store_options.silence_ms */
};

/* Reads how to log in, starts the watches and returns; the store's ops->ready says when all is known. The
 * account's permissions are checked by SelfSubjectAccessReview in the background, and the log names what it
 * lacks. An apiserver that is away is no failure: it is waited for. NULL with err when the configuration
 * is missing or wrong. */
struct backend *k8s_backend_open(const struct k8s_options *options, struct error *err);

/* The key store alone, for commands beside running Routers: writes work, nothing is read. */
struct backend *k8s_backend_open_for_writing(const struct k8s_options *options, struct error *err);
