/* The backend on a Kubernetes cluster: resources through the kube-apiserver, commands and files
 * through agenttier-runtime in the pod or pods/exec. */
#pragma once

#include "backend/backend.h"

struct k8s_options {
    const char *kubeconfig, *context; /* "" = the pod's service account */
    const char *install_namespace;    /* keys, policies, preferences */
    const char *sandbox_namespace;    /* of new sandboxes that name none */
    const char *max_cpu, *max_memory; /* default caps, quantities; "" = built in */
};

/* Connects, checks by SelfSubjectAccessReview what the account may do and names what it lacks,
 * starts the watches. Waits for the first answer of the apiserver only. NULL with err on failure. */
struct backend *k8s_backend_open(const struct k8s_options *options, struct error *err);
