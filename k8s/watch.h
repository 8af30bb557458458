/* One thread that keeps a cache current: for each row a list in pages, then a watch, over libcurl's multi
 * interface. Lists again after 410, goes on after a cut with growing, jittered pauses. */
#pragma once

#include "k8s/cache.h"
#include "k8s/client.h"

struct watch_thread;
/* `client` and `cache` are borrowed. */
struct watch_thread *watch_start(struct k8s_client *client, struct cache *cache, int64_t silence_ms,
                                 struct error *err);
void watch_stop(struct watch_thread *thread);

/* ---- from any thread ---- */

/* Whether every row has been listed once, or is optional and may not be. Else 503 with the first that has
 * not. */
bool watch_ready(struct watch_thread *thread, struct error *err);
/* For how long the cache may have been behind: milliseconds since the row that was lost longest was last
 * heard of; 0 while all stand. */
int64_t watch_age_ms(struct watch_thread *thread);
struct watch_counts {
    uint64_t lists, watches, events, failures;
};
struct watch_counts watch_counts(struct watch_thread *thread);
