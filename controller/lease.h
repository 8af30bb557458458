/* Which one of several controllers works: a Lease of coordination.k8s.io/v1 (controller.md 1.1). Whoever
 * holds it renews it; whoever does not takes it when it has not changed for its whole duration by the own
 * clock, so that clocks need not agree. A leader that cannot renew in time stops working before another one
 * can begin. */
#pragma once

#include "k8s/client.h"

#include <stdint.h>

#define LEASE_NAME        "agenttier-controller-leader"
#define LEASE_DURATION_MS 15000
#define LEASE_RENEW_MS    10000 /* not renewed for that long: no leader any more */
#define LEASE_RETRY_MS    2000

/* ---- pure ---- */

/* What this instance knows. Zero-initialised is the start. */
struct lease_view {
    char record[512];   /* holder and renewTime as last seen */
    int64_t seen_at;    /* monotonic ms at which that changed */
    int64_t renewed_at; /* monotonic ms of our last renewal, by the time at which we asked for it */
    bool leading;
};
enum lease_step { LEASE_WAIT, LEASE_CREATE, LEASE_TAKE, LEASE_RENEW };
/* What to do now, with `lease` as the apiserver has it (NULL: there is none). */
enum lease_step lease_decide(struct lease_view *view, const json_t *lease, const char *identity,
                             int64_t now_ms);
/* The Lease to write for that step: a new reference. `lease` may be NULL. */
json_t *lease_write(const json_t *lease, const char *namespace, const char *identity, enum lease_step step);
/* Whether a leader must stop now. */
bool lease_lost(const struct lease_view *view, int64_t now_ms);

/* ---- the thread ---- */

struct lease;
/* on_change is called on the lease's thread: with true when we lead, with false when we do not any more; it
 * returns when that is carried out. */
struct lease *lease_start(struct k8s_client *client, const char *namespace, const char *identity,
                          void (*on_change)(void *ctx, bool leading), void *ctx, struct error *err);
/* Gives it back, so that another one need not wait. on_change(false) was called before, if we led. */
void lease_stop(struct lease *lease);
