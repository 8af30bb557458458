/* Token buckets in memory for each client address and each user (http-api.md 1.11). */
#pragma once

#include "common/error.h"

struct rate_limiter;
/* Rates in requests a second, 0 = that layer is off. NULL when both are. */
struct rate_limiter *ratelimit_new(double per_ip, double per_user);
void ratelimit_free(struct rate_limiter *l);
/* False: 429 rate_limited with retry_after. A NULL limiter allows everything. Thread-safe. */
bool ratelimit_ip(struct rate_limiter *l, const char *ip, struct error *err);
/* `cost` tokens; more than the bucket holds counts as the whole bucket (W-43). */
bool ratelimit_user(struct rate_limiter *l, const char *sub, double cost, struct error *err);
