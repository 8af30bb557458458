/* What is made for one place in the warm pool: a pod like that of a sandbox without one, its claim, its
 * token; and how a sandbox takes them over (controller.md 10.3, 10.4, with the repairs W11 to W17). Pure. */
#pragma once

#include "backend/warmpool.h"
#include "common/secret.h"
#include "controller/settings.h"

/* On a pod that was made for the pool, also later: the hash of all that it was made of. A sandbox that would
 * get another pod without the pool does not get this one. */
#define ANNOTATION_POOL_FIT "agenttier.io/pool-fit"
#define POOL_FIT_LEN        SHA256_HEX_LEN

#define POOL_POLICY "agenttier-warmpool" /* denies everything to all pods that are nobody's yet */

/* `resolved` is always template_resolve()'s, of a sandbox, or of the one below. */

/* The object of a sandbox of that template that says nothing of its own. A new reference. */
json_t *pool_plain_sandbox(const char *template, const char *mode, const char *namespace);
/* Why no pods can be kept ready for it, or NULL. Static text. */
const char *pool_unsuitable(const char *template, const json_t *resolved);
void pool_fit(const json_t *resolved, const struct settings *settings, char out[POOL_FIT_LEN + 1]);
/* Whether the pod was made for the pool, and of that. `fit` NULL: of whatever. */
bool pool_made(const struct object *pod, const char *fit);

#define POOL_NAME_MAX (sizeof "pool--" + 12 + 16)
void pool_generate_name(const char *template, char out[POOL_NAME_MAX]);

/* New references. The last two are owned by the pod, so that nothing of it can stay behind (W16). */
json_t *pool_pod(const char *template, const char *name, const char *namespace, const json_t *resolved,
                 const struct settings *settings);
json_t *pool_claim(const char *template, const struct object *pod, const json_t *resolved,
                   const struct settings *settings);
json_t *pool_token(const struct object *pod);
json_t *pool_policy(const char *namespace);

/* malloc'ed. */
char *pool_claim_name(const struct object *pod);
char *pool_token_name(const struct object *pod);

/* The merge patches that make a pod of the pool, or its claim, a sandbox's own. New references. */
json_t *pool_pod_patch(const struct object *sandbox, const json_t *resolved);
json_t *pool_claim_patch(const struct object *sandbox);
