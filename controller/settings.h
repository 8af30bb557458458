/* What an administrator chose for all sandboxes (controller.md 1.1). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* How agenttier-runtime comes into a pod (docs/deployment.md). */
enum runtime_delivery {
    DELIVERY_EXEC,  /* sent over pods/exec as soon as the container runs */
    DELIVERY_IMAGE, /* the image starts one itself, where the template says useHTTPExec */
    DELIVERY_NONE   /* not at all: commands go over pods/exec */
};

struct settings {
    const char *default_image;
    const char *default_storage_size; /* a quantity */
    const char *install_namespace;    /* where the Router's pods are, and hashed key records */
    const char *sandbox_namespace;    /* where the warm pool is; "" or NULL = there is none */
    const char *memory_sidecar_image; /* "" = none */
    enum runtime_delivery delivery;
    int64_t creation_deadline_ms; /* a pod that is not ready by then is an Error; 0 = never */
};
