/* Snapshots of workspaces: what a snapshot controller and a storage driver do on a cluster. A VolumeSnapshot
 * in the store is a wish; its workspace is copied to snapshots/UID/workspace, and then its status says
 * readyToUse, or an error and nothing is left on the disk. A new sandbox's workspace is filled from there.
 * Copies are made by a few threads of their own, so that a long one keeps nobody else waiting.
 *
 * Crashes: a copy is made under UID.new and renamed; what a Router that was killed has left is removed at the
 * next start, and the copy made anew. */
#pragma once

#include "backend/snapshots.h"
#include "local/state_dir.h"
#include "local/trash.h"

#include <sys/types.h>

/* Who owns the files in snapshots/ when the Router is root: no sandbox runs as that user. */
#define SNAPSHOT_HOST_ID (HOST_ID_FIRST - 1)

struct snapshots_options {
    const struct state_dir *state; /* all outlive it */
    struct store *store;
    struct trash *trash;
    bool own_users; /* this process is root */
    /* A snapshot is ready now, or has failed. On a thread of this module. */
    void (*changed)(void *ctx, const char *namespace, const char *name);
    void *ctx;
};

struct snapshots;
/* Removes what is half-made, then starts the threads. NULL with err. */
struct snapshots *snapshots_start(const struct snapshots_options *options, struct error *err);
/* Cancels what is under way and joins the threads. Fills can be asked and ended until it is freed. */
void snapshots_stop(struct snapshots *s);
void snapshots_free(struct snapshots *s); /* NULL is fine */

/* Waits until the snapshot is ready or has failed, at most so long. */
void snapshots_settle(struct snapshots *s, const char *namespace, const char *name, int timeout_ms);

/* ---- filling a workspace ---- */

/* Whether the workspace in `dir` (sandboxes/UID) has still to be filled: it is not there, or was begun. */
bool fill_needed(const char *dir);

struct fill_plan {
    const char *snapshot_uid;
    const char *dir; /* sandboxes/UID; exists */
    bool give;       /* everything to user `uid` */
    uid_t uid;
    void (*done)(void *ctx); /* when it has ended; on a thread of this module, not after fill_end() */
    void *ctx;
};
enum fill_state { FILL_GOING, FILL_DONE, FILL_FAILED };
struct fill;
struct fill *fill_begin(struct snapshots *s, const struct fill_plan *plan);
/* With FILL_FAILED: err, moved out at the first call. */
enum fill_state fill_look(struct fill *fill, struct error *err);
/* Cancels it unless it has ended, waits for its end, frees it. NULL is fine. */
void fill_end(struct fill *fill);
