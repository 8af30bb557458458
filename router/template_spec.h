/* The spec of a template as a client writes it: checked, in canonical form, members that nobody
 * knows dropped. Pure. (http-api.md 2.14, http-api-extended.md 12.1) */
#pragma once

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>

/* A new reference, or NULL with 400 that names the member ("spec.harness.shell"). */
json_t *template_spec_parse(const json_t *spec, struct error *err);

/* 1 to 63 of a-z, 0-9, "-" and ".", a letter or digit at both ends: it becomes a label value. */
bool template_name_valid(const char *name);

/* The object of 2.14: a new reference. */
json_t *template_json(const json_t *template);
