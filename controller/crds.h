/* The CustomResourceDefinitions of AgentTier, which are in this program, kept up to date in the cluster
 * (--manage-crds, controller.md 1.1): created, or replaced when they are others; never deleted. */
#pragma once

#include "common/bytes.h"
#include "k8s/client.h"

/* deploy/helm/crds, at build time; ended by a NULL name. */
struct embedded_file {
    const char *name;
    struct slice text; /* YAML */
};
extern const struct embedded_file crd_files[];

/* Applies all and waits until the apiserver serves them, 60 s at most. An account that may not is
 * no failure: somebody else manages them then. */
bool crds_apply(struct k8s_client *client, struct error *err);

/* ---- pure ---- */

/* The manifest of a file, with the digest of its text as an annotation; new reference. */
json_t *crd_parse(const struct embedded_file *file, struct error *err);
/* What to send when the cluster has `live`: NULL when it is the same already, else a new reference. */
json_t *crd_replacement(const json_t *wanted, const json_t *live);
bool crd_established(const json_t *live);
