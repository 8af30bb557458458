/* Governance: what a sandbox may ask for, checked before anything is created or changed.
 * Pure. The rules and texts are those of http-api-extended.md 6.5, in that order. */
#pragma once

#include "backend/backend.h"

#include <jansson.h>
#include <stdint.h>

/* One effective policy. Zero, empty and NULL members mean "no limit". Texts are borrowed. */
struct policy {
    int64_t max_sandboxes_per_user;
    int64_t max_sandboxes_total;
    int64_t max_agent_sandboxes;
    int64_t max_concurrent_invokes;                 /* per sandbox; checked by invoke */
    const char *max_cpu, *max_memory, *max_storage; /* quantities, shown as they are written */
    const char *max_timeout, *max_idle_timeout;     /* durations */
    const json_t *allowed_templates;                /* arrays of strings */
    const json_t *approved_registries;
    const json_t *allowed_agent_images;
};

/* Sandboxes that count against the quotas of one namespace: phases other than Deleting and Error. */
struct policy_usage {
    int64_t total, of_user, agents;
};

enum policy_rules {
    POLICY_RULES_CREATE, /* all */
    POLICY_RULES_VALUES, /* 7 to 11: the caps on single values */
};

/* The built-in default: caps on cpu and memory from the backend, nothing else. They hold where the effective
 * policy says nothing, and for what a sandbox itself asks for: templates are the administrator's word. */
struct policy policy_default(const struct backend *backend);

/* Rules 3 to 5 alone: whether one more sandbox would pass a quota. As policy_evaluate. */
json_t *policy_evaluate_counts(const struct policy *policy, const struct policy_usage *usage, bool agent);

/* The violations as an array of {code, message}, a new reference, or NULL when there are
 * none. `spec` holds the values that the sandbox would run with, its template's included (W-88); for
 * POLICY_RULES_VALUES only what changes. A cap that does not parse is ignored.
 * `usage` may be NULL: no counting. */
json_t *policy_evaluate(const struct policy *policy, const json_t *spec, const struct policy_usage *usage,
                        enum policy_rules rules);

/* The same three quotas for `count` new sandboxes at once, `agents` of them in agent mode; reaching a cap
 * exactly is allowed (http-api-extended.md 6.7). A new reference, or NULL: there is room. */
json_t *policy_evaluate_batch(const struct policy *policy, const struct policy_usage *usage, int64_t count,
                              int64_t agents);

/* 403 policy_violation with the violations (taken) as details; the message joins theirs.
 * http-api.md 1.6 E. */
void policy_error(struct error *err, json_t *violations);
