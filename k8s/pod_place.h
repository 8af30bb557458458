/* Where a sandbox's container is: a pod, as the store's cache knows it. Copied, so that it outlives what
 * it came from. */
#pragma once

#include <stdint.h>

struct pod_place {
    char namespace[64], pod[254], container[64];
    char uid[64]; /* of the pod */
    char ip[46];  /* "" = none yet */
};
