/* Quotas that hold when many ask at once, in one Router and in several (W-65, S31).
 *
 * Counting and creating are two steps, and what other Routers created a moment ago may not have been seen
 * here yet. So a place in the quota is promised first, in a ledger that all Routers share: a ConfigMap
 * `agenttier-quota-<namespace>` in the install namespace, changed only by compare and swap on its
 * resourceVersion. A promise carries a random claim; the sandbox that is then created carries it too, as an
 * annotation. What counts is: the sandboxes seen here, and the promises in the ledger whose claim has not
 * been seen here, neither on a sandbox that is there nor on one that is gone.
 *
 * Why that is exact: of two promises in one namespace, one is written after the other, and its writer has
 * read the ledger with the earlier one in it, or its write would have been refused. The earlier sandbox is
 * counted there: by the ledger as long as it has not been seen, by the watch from then on, and by both at no
 * time, because both are looked at under one lock. Promises are forgotten after QUOTA_PROMISE_S seconds,
 * twice what a write to an apiserver may take. By then the sandbox has been seen: a Router that has lost
 * touch with the store for longer than QUOTA_BEHIND_S promises nothing. A Router that dies between promise
 * and creation holds a place for that time, no longer.
 *
 * Sandboxes that others than Routers of this kind create (kubectl, the reference Router) are counted when
 * they are seen. */
#pragma once

#include "router/usage.h"

#define QUOTA_PROMISE_S 60
#define QUOTA_BEHIND_S  20
#define QUOTA_CLAIM_LEN 24

struct quota;
struct quota *quota_new(struct store *store, const char *install_namespace);
void quota_free(struct quota *quota);

/* What counts now in a namespace for a caller, promises included. From memory. */
struct policy_usage quota_usage(struct quota *quota, const char *namespace, const char *caller);
/* Whether the policy limits numbers of sandboxes at all. */
bool quota_applies(const struct policy *policy);

/* Promises `caller` a place for a sandbox in a namespace. `claim` gets the text for ANNOTATION_QUOTA_CLAIM.
 * Waits for the store: worker threads only. False: *violations (a new reference) when the quota is used up,
 * else err: 503 when other Routers kept changing the ledger, or the store's error. */
bool quota_promise(struct quota *quota, const struct policy *policy, const char *namespace,
                   const char *caller, bool agent, char claim[QUOTA_CLAIM_LEN + 1], json_t **violations,
                   struct error *err);
/* The sandbox was certainly not created: the place is free again at once. After an error that leaves it open
 * (5xx, no answer) do not call this: the promise ends by itself. */
void quota_give_up(struct quota *quota, const char *namespace, const char *claim);
