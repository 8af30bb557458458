/* Token buckets in memory: for each client address, for each user, for what a user asks that costs
 * much, and for failed logins of an address (http-api.md 1.11, W-42, W-43, W-56). */
#pragma once

#include "common/error.h"

struct rate_limiter;
/* Tokens a second; 0 = that layer is off. */
struct rate_limits {
    double per_ip, per_user, expensive, failures;
};
struct rate_limiter *ratelimit_new(const struct rate_limits *limits);
void ratelimit_free(struct rate_limiter *l);

/* What a layer had to say, for the RateLimit-* headers. limit 0 = the layer is off. */
struct rate_state {
    int limit;     /* tokens that the bucket holds */
    int remaining; /* whole tokens left */
    int reset;     /* seconds until it is full again, rounded up */
};

/* Each returns false with 429 rate_limited and retry_after; `state` may be NULL. A NULL limiter
 * allows everything. Thread-safe. */
bool ratelimit_ip(struct rate_limiter *l, const char *ip, struct rate_state *state, struct error *err);
/* `cost` tokens; more than the bucket holds counts as the whole bucket (W-43). */
bool ratelimit_user(struct rate_limiter *l, const char *sub, double cost, struct rate_state *state,
                    struct error *err);
bool ratelimit_expensive(struct rate_limiter *l, const char *sub, struct rate_state *state,
                         struct error *err);
/* Failed logins of an address, by what they cost. One kind does not use up what the other one may: who can
 * send nonsense from an address that others share must not keep tokens of theirs from being asked about. */
enum login_cost {
    LOGIN_LOOKED, /* memory, or a look for a key, of which there are few in all: second_look.h */
    LOGIN_ASKED,  /* somebody else was asked about a token */
};
/* A login failed: pays for it. */
bool ratelimit_failure(struct rate_limiter *l, const char *ip, enum login_cost cost, struct error *err);
/* Whether another failure could be paid for, without paying. */
bool ratelimit_may_fail(struct rate_limiter *l, const char *ip, enum login_cost cost, struct error *err);
