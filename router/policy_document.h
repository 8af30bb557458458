/* Governance policies as they are written, stored and merged: JSON objects, checked member by member. Pure.
 * (http-api-extended.md 6.1, 6.2; W-32, W-87; lessons S27) */
#pragma once

#include "router/policy.h"

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>

/* The scope that addresses the cluster's default in the stored map and as {namespace} of the routes. */
#define POLICY_CLUSTER_SCOPE "__cluster__"

/* A policy that a client wrote, in canonical form: members that limit nothing (0, "", [], null) are left out.
 * A new reference, or NULL with 400 that names the member. Unknown members are refused: a limit that was
 * misspelled must not be a limit that silently does not hold. */
json_t *policy_parse(const json_t *body, struct error *err);

/* How well a stored policy could be read; the worse the greater. */
enum policy_state {
    POLICY_SOUND,
    POLICY_KEPT, /* in part not, but what was last good stands in */
    POLICY_LOST, /* something limits nothing now because it could not be read */
};

/* The stored form of one scope: a new reference. Members that policy_parse would refuse are taken from
 * `previous` (what was last good there, may be NULL), else left out; then `problem` (may be NULL) says what
 * is wrong. Unknown members and negative numbers, which limit nothing, are no problem. */
json_t *policy_read(const json_t *stored, const json_t *previous, enum policy_state *state,
                    struct error *problem);

/* The map scope -> policy in the text of data.policies, as policy_read for each scope: a new reference. */
json_t *policy_map_read(const char *text, const json_t *previous, enum policy_state *state,
                        struct error *problem);

/* The effective policy: members of `over` replace those of `base`, each may be NULL. A new reference. (6.2)
 */
json_t *policy_overlay(const json_t *base, const json_t *over);

/* The policy as policy_evaluate wants it; borrows from `policy` (a canonical one, or NULL). */
struct policy policy_view(const json_t *policy);

/* The members that a spec leaves open, and the cap of which would otherwise not hold, set to the cap:
 * timeout, idleTimeout, the limits of cpu and memory (with a small request, so that the limit does not become
 * one) and storage.size. `spec` is changed; `resolved` is it with the template's values. (W-88) */
void policy_fill(const struct policy *policy, const json_t *resolved, json_t *spec);

/* The cap on parallel invocations: http-api-extended.md 6.6. 0 = unlimited. */
int64_t policy_invoke_cap(const struct policy *policy, int64_t requested);
