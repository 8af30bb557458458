/* The warm pool's configuration, which the Router writes and the controller reads (controller.md 10.1,
 * http-api-extended.md 9.1), and how its pods are told from others. Pure. */
#pragma once

#include "backend/store.h"

#define WARMPOOL_CONFIG_MAP "agenttier-warmpool-config" /* in the install namespace */
#define WARMPOOL_DATA_KEY   "config"
#define WARMPOOL_COUNT_MAX  10 /* pods of one pool */

#define LABEL_POOLED        "agenttier.io/pooled"        /* "true": nobody's yet */
#define LABEL_POOL_TEMPLATE "agenttier.io/pool-template" /* a ClusterSandboxTemplate */

/* The pools of a configuration in either of its forms: a new array of {template, desiredCount}, empty for
 * none. What is not of that shape is passed on as it is, for warmpool_check(). NULL with 400: it is neither.
 */
json_t *warmpool_pools(const json_t *config, struct error *err);
/* Whether somebody may store these pools; else 400. Stricter than the reference: no template twice
 * (weakness 80). */
bool warmpool_check(const json_t *pools, struct error *err);
/* The text of data.config. malloc'ed. */
char *warmpool_text(const json_t *pools);

/* The pools in the ConfigMap, which may be NULL: none. Entries that warmpool_check() would refuse are left
 * out, and of two of one template the second. NULL: its text is no configuration. A new array. */
json_t *warmpool_read(const struct object *config_map);
/* How many pods such pools ask for: of one template, or of all (NULL). */
int64_t warmpool_desired(const json_t *pools, const char *template);

/* The template whose pool a Pod or claim is in; NULL: in none. Borrowed. */
const char *warmpool_of(const struct object *object);
