/* Whether agenttier-runtime, or the reference's, listens in a pod, and what it can do (http-api.md 5.2,
 * 5.3). It waits: worker threads only. */
#pragma once

#include "backend/backend.h"
#include "k8s/client.h"
#include "k8s/pod_place.h"

#define RUNTIME_PORT 9000

enum runtime_feature {
    RUNTIME_FILES = 1,
    RUNTIME_DIR = 2,
    RUNTIME_STAT = 4,
    RUNTIME_ARCHIVE = 8,
    RUNTIME_EXEC_STREAM = 16,
    RUNTIME_EXEC_ATTACH = 32,
    RUNTIME_DIAL = 64
};

struct runtime_found {
    bool there; /* it answers, and its token is known */
    unsigned features;
    struct runtime_address address;
};

/* Reads the token, asks /healthz (3 s). Anything but a yes is "not there"; why is logged. */
void runtime_probe(struct k8s_client *client, const struct pod_place *place, const struct object *sandbox,
                   struct runtime_found *out);

/* The features of a /healthz body; false: not a healthy runtime. Pure. */
bool runtime_features(struct slice body, unsigned *features);
/* The token of a Secret object, checked. False: none. Pure. */
bool runtime_token(const json_t *secret, char *out, size_t cap);
