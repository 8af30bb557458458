/* What of objects that others write is worth keeping in memory: a pod of 10 KiB is used for its address,
 * its phase and why it ended. Pure; for k8s_watch.trim. */
#pragma once

#include <jansson.h>

/* Keeps of metadata all but managedFields; of spec nodeName, the containers' names, ports and env without
 * values from elsewhere; of status phase, reason, message, addresses, conditions and container states. */
void trim_pod(json_t *pod);
/* Keeps what `kubectl get events` shows. */
void trim_event(json_t *event);
