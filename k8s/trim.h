/* What of objects that others write is worth keeping in memory: a pod of 10 KiB is used for its address,
 * its phase and why it ended. Pure; for k8s_watch.trim. */
#pragma once

#include <jansson.h>

/* Keeps of metadata all but managedFields; of spec nodeName, hostNetwork, the containers' names, images and
 * ports and the claims among the volumes; of status phase, reason, message, addresses (podIPs only when there
 * are two), start time, container states, the condition Ready and others that are not True. */
void trim_pod(json_t *pod);
/* Keeps what `kubectl get events` shows. */
void trim_event(json_t *event);
