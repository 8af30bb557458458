/* How many sandboxes there are in each namespace, of each user and in agent mode: counters kept by a watch,
 * so that a quota check costs the same with ten sandboxes and with ten thousand. Phases Deleting and Error do
 * not count. Thread-safe. (http-api-extended.md 6.4) */
#pragma once

#include "router/policy.h"

struct usage;
struct usage *usage_new(struct store *store);
void usage_free(struct usage *usage);

/* A sandbox on its way: promised a place in the quota, and maybe not in the store yet, or not seen here yet.
 */
struct usage_promise {
    const char *claim; /* the sandbox carries it in ANNOTATION_QUOTA_CLAIM */
    const char *user;
    bool agent;
};
#define ANNOTATION_QUOTA_CLAIM "agenttier.io/quota-claim"

/* What counts in a namespace for a user: the sandboxes that are seen, and those promises whose sandbox has
 * neither been seen nor been given up. All at one moment. */
struct policy_usage usage_of(struct usage *usage, const char *namespace, const char *user,
                             const struct usage_promise *promises, size_t count);

/* The promise will not be kept: its sandbox was not created. */
void usage_give_up(struct usage *usage, const char *claim);
/* Forgets claims of sandboxes that have been gone, or were given up, for longer than this. */
void usage_forget(struct usage *usage, int64_t older_than_ms);
