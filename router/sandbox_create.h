/* Making one sandbox: the one way by which create, bulk create, clone and restore do it, so that the same
 * namespaces, policies and quotas hold for all of them. (http-api.md 2.4, 2.7; W-06, W-11) */
#pragma once

#include "router/policy.h"
#include "router/quota.h"
#include "router/replay.h"
#include "router/sandbox_spec.h"

struct router;

/* Checks what a body asks for and stores the sandbox, or finds the one that an earlier attempt with the same
 * `replay` (may be NULL) made: then `*replayed` is true. `*out` gets a reference. Waits for the store: worker
 * threads only.
 * 403 namespace_not_allowed, 403 policy_violation, 409 already_exists, 409 idempotency_key_reused, and the
 * store's errors. */
bool sandbox_create(struct router *router, const struct identity *caller, const struct sandbox_request *q,
                    const struct replay *replay, struct object **out, bool *replayed, struct error *err);

/* The last step of it, for a Sandbox that was made from something else than a body: `object` is checked
 * against the effective policy of its namespace, quotas included, and stored with what template and policy
 * fill in; spec.sharing is left out (W-12). */
bool sandbox_admit(struct router *router, const struct identity *caller, const json_t *object,
                   struct object **out, struct error *err);

/* A sandbox in Error does not count, and counts again once it is started: promises its owner a place for it.
 * `claim` gets what sandbox_readmitted() needs, "" where there is no quota. 403 policy_violation. */
bool sandbox_readmit(struct router *router, const struct object *sandbox, char claim[QUOTA_CLAIM_LEN + 1],
                     struct error *err);
/* To be called after it: `failed` is why it was not started, or NULL. */
void sandbox_readmitted(struct router *router, const struct object *sandbox, const char *claim,
                        const struct error *failed);

/* Whether sandbox_admit() would let it in now, without storing anything or promising a place. */
bool sandbox_admissible(struct router *router, const struct identity *caller, const json_t *object,
                        struct error *err);
/* Somebody has the name: true with a reference in `*out` when an earlier attempt with `replay` (may be NULL)
 * made the sandbox, else false with 409 already_exists or idempotency_key_reused. */
bool sandbox_name_taken(struct store *store, const char *namespace, const char *name,
                        const struct replay *replay, struct object **out, struct error *err);

/* What holds for new sandboxes of a user in a namespace: the effective policy, a new reference (policy_view()
 * reads it), and what counts against its quotas now. From memory. NULL with 503 (governance_effective). */
json_t *sandbox_policy(struct router *router, const char *namespace, const char *sub,
                       struct policy_usage *usage, struct error *err);

/* Whether the caller may put sandboxes there or take templates from there: 403 otherwise (W-06). */
bool sandbox_create_permitted(struct router *router, const struct identity *caller, const char *namespace,
                              struct error *err);

/* What the quotas of a namespace say to `count` more sandboxes of the caller there, `agents` of them in agent
 * mode (http-api-extended.md 6.7): a new reference, or NULL: there is room. */
json_t *sandbox_batch_violations(struct router *router, const struct identity *caller, const char *namespace,
                                 int64_t count, int64_t agents);

/* The template that a request means, or NULL: there is none, which is no error (http-api.md 2.4). `*kind` is
 * what is stored (W-18). Returns a reference. */
struct object *sandbox_request_template(struct store *store, const struct sandbox_request *q,
                                        const char *namespace, const char **kind);
