/* The members that sandboxes and templates have in common: from what a client sends to what
 * is stored. Pure. Each function takes a value that is there and not null, and `field`, its
 * name for the error text ("overrides.storage.size"); it returns a new reference in canonical form, or
 * NULL with 400 invalid_field. (http-api.md 1.8, 2.4; tutorial.md rows 3, 10; crds.md 3) */
#pragma once

#include "common/error.h"

#include <jansson.h>

/* A duration above zero, as canonical text: "90m" -> "1h30m0s". */
json_t *spec_duration(const json_t *value, const char *field, struct error *err);
/* A quantity that is not negative, from a text or a number, as canonical text. */
json_t *spec_quantity(const json_t *value, const char *field, struct error *err);
/* {limits, requests, claims}. The short form {cpu, memory} sets limits. */
json_t *spec_resources(const json_t *value, const char *field, struct error *err);
/* {"NAME": "value"} or [{"name", "value"}] -> [{"name", "value"}], one per name. */
json_t *spec_env(const json_t *value, const char *field, struct error *err);
/* {size, storageClass, mountPath, snapshotOnStop, shared}, or the size as text. */
json_t *spec_storage(const json_t *value, const char *field, struct error *err);
/* {repository, pullPolicy, pullSecret}, or the repository as text. */
json_t *spec_image(const json_t *value, const char *field, struct error *err);
/* "code" or "agent". */
json_t *spec_mode(const json_t *value, const char *field, struct error *err);
