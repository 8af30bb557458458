/* The local store's own thread: follows what other processes write, forgets old events and
 * old tombstones. */
#pragma once

#include "local/commit.h"

#define SYNC_INTERVAL_MS 200
/* Kubernetes keeps Events for an hour; so do we, or they would grow without end. */
#define SYNC_EVENT_SECONDS 3600
/* A process that did not look for longer than this compares everything (commit.c). */
#define SYNC_TOMBSTONE_SECONDS 3600

bool sync_start(struct local_store *s, struct error *err);
void sync_stop(struct local_store *s);

/* Removes the Events that were last seen before `before`. */
bool sync_expire_events(struct local_store *s, time_t before, struct error *err);
