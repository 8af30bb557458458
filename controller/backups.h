/* Scheduled backups (controller.md 11.3): a VolumeSnapshot of every workspace of a namespace, again and
 * again, and the old ones removed; with them those that clones were made from, which nobody else ever removes
 * (http-api-extended.md, weakness 58). What a sandbox is still to be filled from stays. When a workspace is
 * due is read off its newest backup, so that neither a restart nor a new leader makes a round of its own
 * (http-api-extended.md, weakness 59). */
#pragma once

#include "backend/snapshots.h"

struct backups_options {
    struct store *store; /* borrowed; has the claims in memory */
    /* Snapshots of a namespace by a label, as in struct snapshot_ops, but with `value` NULL those that have
     * the label. Waits. */
    bool (*list)(void *ctx, const char *namespace, const char *label, const char *value,
                 struct object_list *out, struct error *err);
    void *ctx;
    const char *namespace;
    const char *class; /* "" = the cluster's default */
    int64_t interval_ms, retention_ms;
};

struct backups;
struct backups *backups_start(const struct backups_options *options, struct error *err);
/* Only the leader makes and removes any. Any thread. */
void backups_lead(struct backups *b, bool leading); /* NULL is fine */
void backups_stop(struct backups *b);               /* NULL is fine */

/* ---- pure ---- */

/* Whether a claim is to be backed up now: a bound workspace of ours, and neither it nor its newest backup
 * among `snapshots` is younger than the interval. */
bool backup_due(const struct object *claim, const struct object_list *snapshots, time_t now,
                int64_t interval_s);
bool backup_expired(const struct object *snapshot, time_t now, int64_t retention_s);
/* The VolumeSnapshot; `sandbox` is the claim's owner, or NULL. A new reference. */
json_t *backup_build(const struct object *claim, const struct object *sandbox, const char *name,
                     const char *class);
