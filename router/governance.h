/* The governance policies in force: kept current by a watch on the ConfigMap `agenttier-governance`, read
 * from memory, written against the version that was read. Thread-safe. (http-api-extended.md 6; W-30, W-32,
 * W-87)
 *
 * The ConfigMap of the install namespace is in force; when there is none, that of namespace "agenttier",
 * where the reference keeps it wherever it is installed. What is in force is also what is written, so that
 * Routers and controllers of both kinds go on seeing the same; the first one is made in the install
 * namespace.
 *
 * A stored policy that somebody broke by hand does not lift what it limited: what was last good holds on. */
#pragma once

#include "router/policy_document.h"

#include "backend/backend.h"

struct governance;
/* `fail_closed`: sandboxes are refused, with 503, where a policy is stored that could never be read since the
 * start (--policy-fail-closed); else what can be read of it holds. */
struct governance *governance_new(struct backend *backend, const char *install_namespace, bool fail_closed);
void governance_free(struct governance *governance);

/* The merged policy of a namespace (6.2) as JSON, a new reference. From memory. NULL with 503 before the
 * store could be read for the first time, and as `fail_closed` says. */
json_t *governance_effective(struct governance *governance, const char *namespace, struct error *err);
/* The built-in caps that hold where `effective` sets none: {"maxCpu"?, "maxMemory"?}, a new reference. */
json_t *governance_defaults(struct governance *governance, const json_t *effective);
/* The map scope -> policy, without merging: a new reference. NULL with 503 as above, but not as `fail_closed`
 * says. */
json_t *governance_policies(struct governance *governance, struct error *err);

/* Replaces the policy of a scope (a canonical policy), or takes it away (NULL). Other scopes stay as they are
 * stored, also those that cannot be read. Waits for the store: worker threads only. 409 conflict when others
 * kept writing, 500 when the stored text is not JSON (it is not overwritten), and the store's errors. */
bool governance_write(struct governance *governance, const char *scope, const json_t *policy,
                      struct error *err);

/* What a new sandbox may be. `object` is changed: spec gets what the template leaves to it
 * (sandbox_spec_inherit) and what the policy fills in (policy_fill). `effective` is from
 * governance_effective; `usage` may be NULL. The violations, a new reference, or NULL. */
json_t *governance_check(struct governance *governance, const json_t *effective, json_t *object,
                         const struct policy_usage *usage);

/* What a change of `sandbox` may be: `change` is the merge patch of its spec; only its members are checked
 * (W-78), those that it removes by what holds then. `change` gets what the policy fills in. As
 * governance_check. */
json_t *governance_check_change(struct governance *governance, const json_t *effective, const json_t *sandbox,
                                json_t *change);
