/* The way into sandboxes on Kubernetes: agenttier-runtime over TCP where the pod has it, else pods/exec;
 * ports through the runtime or straight to the pod's address. Chosen for each stream (http-api.md 5.2); what
 * is known of a pod's runtime is bound to its UID and dropped at the first doubt (W-63). A stream whose pod
 * is gone ends with an error that says why. */
#pragma once

#include "backend/access.h"
#include "k8s/client.h"

#define K8S_EXECS_MAX         512 /* streams of pods/exec at once (lessons I17) */
#define K8S_EXECS_SANDBOX_MAX 32  /* of one sandbox: 429 too_many_execs */
#define K8S_TERMINALS_MAX                                                                                    \
    512 /* over pods/exec at once, two streams each; the API limits those of a sandbox */

/* Both are borrowed. The store must keep pods. */
struct access *k8s_access_new(struct k8s_client *client, struct store *store);
void k8s_access_free(struct access *access); /* all streams must be closed */
/* Appends Prometheus text. */
void k8s_access_metrics(struct access *access, struct buffer *out);
