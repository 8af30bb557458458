/* The part of YAML that configuration files use, as JSON. A pure function on bytes. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

#define YAML_MAX_BYTES   (1024 * 1024)
#define YAML_MAX_DEPTH   32
#define YAML_MAX_NODES   50000
#define YAML_MAX_ANCHORS 64

/* The first document: a new reference, or NULL with 400 bad_request. Scalars become strings as they are
 * written, or null ("", "~" and "null" without quotes). Values behind an alias are shared: read the
 * tree, do not change it. Refused: duplicate and non-scalar keys, merge keys, invalid UTF-8, NUL, and
 * what is above the limits. */
json_t *yaml_parse(struct slice text, struct error *err);
/* The same with true, false and numbers as such where they stand without quotes: for manifests. */
json_t *yaml_parse_typed(struct slice text, struct error *err);
