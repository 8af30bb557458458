/* The engine's inside, shared by its files:
 *
 *   engine.c     threads, queue, timers, the watch
 *   adopt.c      what an earlier Router left: adopted, ended, put aside
 *   reconcile.c  one pass over one sandbox: the phases
 *   start.c      from an object to running processes
 *   filling.c    a workspace filled from a snapshot
 *   first_run.c  files and initScripts of a template
 *   storage_watch.c  workspaces measured
 *   ending.c     processes ended, directories removed
 *
 * Each sandbox has an entry. A pass runs on a worker; never two for one entry at once, so what is
 * marked "pass" below needs no lock. */
#pragma once

#include "backend/events.h"
#include "backend/lifecycle.h"
#include "local/cgroup.h"
#include "local/engine.h"
#include "local/host_ids.h"
#include "local/locations.h"
#include "local/record.h"
#include "local/snapshots.h"
#include "local/storage_watch.h"
#include "local/trash.h"

#include <pthread.h>
#include <stdatomic.h>

#define ENGINE_BUCKETS 1024
#define ENGINE_WORKERS 8

struct entry {
    struct entry *next;           /* in its bucket */
    char *uid, *namespace, *name; /* fixed */

    /* engine->lock */
    struct entry *queue_next;
    bool queued, busy, again;
    bool gone;   /* can be freed when it is neither queued nor busy */
    int64_t due; /* monotonic ms of the next pass, 0 = none */
    /* storage_watch.c: bytes that its workspace may hold and did when it was measured, 0 = no limit, not yet;
     * each start begins anew */
    int64_t storage_limit, storage_used;
    uint64_t storage_run;

    /* pass */
    char *dir; /* sandboxes/UID */
    char socket_path[SOCKET_PATH_MAX];
    bool loaded; /* record was read */
    struct record record;
    int pidfd;          /* of process 1, >= 0 while it is not known to have ended */
    bool verified;      /* its runtime has answered this Router */
    int unanswered;     /* questions to it, one after the other */
    int64_t kill_at;    /* processes are being ended; monotonic ms of SIGKILL. 0 = they are not */
    int64_t failed_at;  /* monotonic ms of the failure that a restart waits for */
    bool seen_creating; /* the event was written */
    struct first_run *first_run;
    bool first_run_done;    /* for these processes */
    struct fill *fill;      /* of its workspace, under way */
    int64_t snapshot_until; /* monotonic ms that a stop waits for its snapshot, 0 = none was made */
    struct engine *engine;
};

struct engine {
    const struct state_dir *state;
    struct store *store;
    struct locations *locations;
    struct events *events;
    struct trash *trash;
    struct snapshots *snapshots;
    int64_t storage_check_ms; /* 0: workspaces are not measured */
    struct storage_watch *storage_watch;
    struct host_ids *ids;
    struct cgroups cgroups;
    struct buffer seccomp;
    char **etc_shown;
    char runtime[72], etc[72]; /* names in bin/ and etc/ */
    char boot_id[BOOT_ID_LEN + 1];
    bool own_users; /* this process is root */
    int64_t machine_memory;

    pthread_t loop, workers[ENGINE_WORKERS];
    size_t worker_count;
    bool loop_started;
    void *watch;
    int epoll_fd, wake_fd;
    int cancel_fd; /* readable when the engine stops */

    pthread_mutex_t lock;
    pthread_cond_t work;
    bool stopping;
    struct entry *buckets[ENGINE_BUCKETS];
    struct entry *queue, **queue_last;
};

/* ---- engine.c */
static inline struct sandbox_ref entry_ref(const struct entry *s) {
    return (struct sandbox_ref){s->namespace, s->name, s->uid};
}
/* Both under engine->lock. The entry for that object, made when it is new. */
struct entry *engine_entry(struct engine *e, const struct object *sandbox);
void engine_enqueue(struct engine *e, struct entry *s);
/* Has a pass made when process 1 ends. */
void engine_watch_process(struct engine *e, struct entry *s);

/* ---- reconcile.c: milliseconds until the next pass, -1 = when something happens */
#define PASS_NONE  (-1)
#define PASS_AGAIN 0
int64_t reconcile(struct engine *e, struct entry *s);

/* ---- adopt.c */
/* Reads the record and takes up the processes that it names, when they live. Ends strays of an interrupted
 * launch. False with err: try again later. */
bool adopt_entry(struct engine *e, struct entry *s, const struct object *sandbox, struct error *err);
/* Before the threads run: all sandboxes of the store, then directories that no object has. */
void adopt_all(struct engine *e);

/* ---- start.c */
/* Makes directories, groups and processes. The object's resolved template in `resolved` (new
 * reference, also on failure when it got that far). Error messages are meant for status.message. */
bool start_sandbox(struct engine *e, struct entry *s, const struct object *sandbox, json_t **resolved,
                   struct error *err);
/* Where control groups do not limit it: limits for process 1 and what it will start. To be called when its
 * runtime is up, because a limit would also count what bubblewrap and its own start need. */
bool limit_processes(struct engine *e, struct entry *s, const struct object *sandbox, struct error *err);
/* Whether a failed start could succeed now: the template resolves, the image is there. */
bool start_possible(struct engine *e, const struct object *sandbox);

/* A user id of this machine for the sandbox, unless it has one: into its record. */
bool take_host_id(struct engine *e, struct record *record, struct error *err);

/* ---- filling.c */
/* Sees to it that a sandbox with spec.cloneFromSnapshot has what the snapshot holds, before its first start.
 * FILL_GOING: another pass follows when there is news. FILL_FAILED: err is meant for status.message, 503: try
 * again soon. */
enum fill_state fill_workspace(struct engine *e, struct entry *s, const struct object *sandbox,
                               struct error *err);
/* Cancels it. Not under engine->lock. */
void fill_workspace_end(struct entry *s);
/* A snapshot is ready or has failed: passes for the sandboxes that wait for it. ctx is the engine. */
void fill_snapshot_changed(void *ctx, const char *namespace, const char *name);

/* ---- first_run.c */
enum first_run_state { FIRST_RUN_GOING, FIRST_RUN_DONE, FIRST_RUN_FAILED };
/* Begins, or asks about, what a template wants done in a started sandbox. With FAILED: err. */
enum first_run_state first_run(struct engine *e, struct entry *s, const struct object *sandbox,
                               struct error *err);
/* Ends it: its calls end with the sandbox's processes, so those must be dead or the engine stopping. */
void first_run_end(struct entry *s);

/* ---- stop_snapshot.c */
/* A stop begins: the name of the snapshot that is to be taken into its record, or "". */
void stop_snapshot_plan(struct engine *e, struct entry *s, const struct object *sandbox, const char *phase);
/* Once the processes have ended. Milliseconds after which to call it again, 0: the stop can go on. */
int64_t stop_snapshot_take(struct engine *e, struct entry *s, const struct object *sandbox);
/* Whether the snapshot of the last stop is still being copied. */
bool stop_snapshot_going(struct engine *e, const struct entry *s);

/* ---- ending.c */
/* Ends the processes; true when none is left, else ask again at s->kill_at or when process 1 ended. */
bool end_processes(struct engine *e, struct entry *s, bool gently);
/* Notices the end of process 1; true when there are no processes. */
bool processes_gone(struct engine *e, struct entry *s);
/* Removes the control groups of processes that have ended, or end now, and forgets them. */
void remove_groups(struct record *r);
