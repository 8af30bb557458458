/* What a store lets in: checks of names and metadata, the members that only the store may
 * set, and how a write of one part of an object changes it. Pure functions on JSON, with the
 * rules of the Kubernetes API server (crds.md 1, 8). Errors: 400 invalid_field or
 * bad_request, 409 conflict. All return a new reference, or NULL with err. */
#pragma once

#include "backend/store.h"

#include <time.h>

#define ADMISSION_MAX_SIZE (1536 * 1024) /* bytes of JSON text of one object */

/* The object as it will be stored, without metadata.resourceVersion. A generateName without
 * a name is completed with five random characters: after a collision, call again. */
json_t *admission_create(enum kind kind, const json_t *given, time_t now, struct error *err);

/* `existing` with the part taken from `given`. Equal to `existing` when nothing changes. A
 * changed spec gets the next metadata.generation. */
json_t *admission_update(enum kind kind, enum store_part part, const json_t *existing, const json_t *given,
                         struct error *err);

/* `existing` with metadata.deletionTimestamp. */
json_t *admission_mark_deleted(const json_t *existing, time_t now);

/* Whether finalizers keep the object from being removed. */
bool admission_has_finalizers(const json_t *object);

/* The name and namespace that `object` says, checked. Borrowed from it; namespace is ""
 * for cluster-scoped kinds. */
bool admission_key(enum kind kind, const json_t *object, const char **namespace, const char **name,
                   struct error *err);
