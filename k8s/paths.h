/* Where resources are on an apiserver (crds.md 1). Pure. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"

/* Appends "/apis/agenttier.io/v1alpha1/namespaces/ns/sandboxes/name/status". `namespace` NULL or "": all
 * (and for cluster-scoped kinds); `name` NULL: the collection; `subresource` NULL: none. */
void k8s_path(enum kind kind, const char *namespace, const char *name, const char *subresource,
              struct buffer *out);
/* Appends "?name=value" or "&name=value", percent-encoded. */
void k8s_path_query(struct buffer *path, const char *name, const char *value);
