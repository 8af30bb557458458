/* The controller's inside, shared by its files:
 *
 *   controller.c  the watches, what they ask for; metrics
 *   reconcile.c   one pass over one sandbox: which phase it is in, and deletion
 *   creating.c    the phase Creating, and what Error tries again
 *   running.c     the phases Running and Stopped, limits, stop
 *   failure.c     to Error, and back after a pause
 *   ensure.c      claim, policy, token, pod: made when they are not there
 *   restoring.c   what a claim must know of the snapshot that fills it
 *   removal.c     pods, claims and the rest removed
 *   warmpool.c    the warm pool: as many pods as are configured
 *   warmpool_claim.c  one of them for a sandbox */
#pragma once

#include "backend/events.h"
#include "backend/lifecycle.h"
#include "common/bytes.h"
#include "common/json.h"
#include "controller/controller.h"
#include "controller/queue.h"

#include <stdatomic.h>

#define RESYNC_MS        600000 /* a pass for each sandbox even when nothing happens: the safety net */
#define TRY_AGAIN_S      30     /* what failed is tried again in Error, and each time later, so often: */
#define TRIES_SLOWER     3
#define SNAPSHOT_LOOK_MS 2000 /* between two looks at a snapshot that is not ready */

struct controller {
    struct store *store;
    struct settings settings;
    struct runtime_bringer bringer;
    struct snapshot_reader snapshots;
    struct events *events;
    struct queue *queue;
    struct queue *pools; /* templates whose pools are to be looked at */
    void *watches[8];
    size_t watch_count;
    _Atomic bool leading;
    _Atomic uint64_t passes, failed_passes, pods_created, restarts, pass_ns;
    _Atomic uint64_t pool_pods, pool_failures, pool_claims, pool_conflicts;
};

/* What is remembered of a sandbox between passes. Losing it costs time, never correctness. */
struct memory {
    char uid[64];       /* of the sandbox that it is about */
    bool seen_creating; /* the event was written */
    bool swept;         /* no pod is left in Stopped or Error */
    bool told_lost;     /* that its volume is gone */
    bool token_there;   /* the Secret was seen, for the pod that runs or is made now */
    bool pool_asked;    /* a pod of the pool that is this sandbox's already was looked for */
    char snapped[40];   /* status.startedAt of the start whose snapshot was taken */
    int64_t failed_at;  /* monotonic ms of the failure that a restart waits for */
    unsigned tries;     /* of what failed, in Error */
    int64_t try_at;     /* monotonic ms of the next one */
};

struct pass {
    struct controller *c;
    struct memory *memory;
    struct object *sandbox; /* as it was at the pass's begin */
    struct sandbox_ref who;
    const char *phase; /* of sandbox; "" = absent */
    bool bring_again;  /* the runtime could not be asked for */
    int64_t wait_ms;   /* with STEP_WAIT: to the next pass, when no watch will tell; else 0 */
};

/* All of these return what queue_pass_fn returns. */

/* reconcile.c */
int64_t reconcile(void *ctx, const char *key, void **memory);
int64_t after_write(enum write_result result);

/* creating.c */
int64_t phase_creating(struct pass *p);
int64_t try_again(struct pass *p); /* in Error: whether what failed works now */

/* running.c */
int64_t phase_running(struct pass *p);
int64_t phase_stopped(struct pass *p);
int64_t stop(struct pass *p, const char *reason, const char *event, const char *event_message);
/* Asks for the runtime where it belongs and is not yet. */
void bring_runtime(struct pass *p, struct object *pod);
/* Whether a pod's container runs without the runtime that this controller is to bring. */
bool awaits_runtime(const struct controller *c, const struct object *pod);

/* failure.c */
int64_t to_error(struct pass *p, const char *message); /* until somebody resumes it, or what failed works */
int64_t infrastructure_failure(struct pass *p, const char *reason); /* controller.md 9.2 */
int64_t pod_failed(struct pass *p, const struct object *pod);
int64_t phase_error(struct pass *p);

/* ensure.c */
enum step {
    STEP_DONE,
    STEP_WAIT,  /* for something that a watch will tell; err.message says what */
    STEP_AGAIN, /* something was changed, or seen late: look again at once */
    STEP_RETRY, /* the store did not answer; logged */
    STEP_FAILED /* err.message is meant for status.message */
};
/* What a refused call means: RETRY, logged, or FAILED; `what` heads the message, as clients know it
 * (controller.md 4). */
enum step step_refused(struct pass *p, const char *what, struct error *err);
#define CLAIM_FAILED "PVC creation failed"
/* *claim: its name, malloc'ed, with DONE. */
enum step ensure_claim(struct pass *p, const json_t *resolved, char **claim, struct error *err);
enum step ensure_policy(struct pass *p, const json_t *resolved, struct error *err);
/* With that token, or any (NULL). */
enum step ensure_token(struct pass *p, const char *token, struct error *err);
/* *pod: the sandbox's own, whatever state it is in, with DONE. */
enum step ensure_pod(struct pass *p, const json_t *resolved, const char *claim, struct object **pod,
                     struct error *err);

/* restoring.c */
/* *size: status.restoreSize of the snapshot that the workspace is to be filled from, a new reference; NULL:
 * there is none, or its driver does not say. A claim cannot grow before it is bound, so it is not made before
 * that is known: WAIT. */
enum step restore_size(struct pass *p, json_t **size, struct error *err);

/* removal.c */
/* The object of that name as the apiserver has it; NULL when there is none, or no answer. The watch caches
 * hold only what carries our labels, and no Secrets. A merge patch of nothing changes nothing and answers
 * with the object. */
struct object *look_up(struct pass *p, enum kind kind, const char *name);
/* The pod that status.podName names, or the one of the usual name, if it is this sandbox's own; or NULL. */
struct object *own_pod(struct pass *p);
/* Removes that object, and no other one of the same name. False: logged, try again. */
bool remove_exactly(struct controller *c, const struct object *object);
/* All pods of the sandbox. `thorough`: also those of other names, which takes a look at all pods of the
 * namespace. */
bool remove_pods(struct pass *p, bool thorough);
/* In Stopped and Error no pod is left: once all that are known, then the one of the usual name whenever it
 * turns up, as one does whose creation was answered to nobody. False: try again. */
bool sweep(struct pass *p);
/* As own_pod, when that is NULL and more depends on it than a pass: what the apiserver says now. The watches
 * of sandboxes and of pods are not equally fast. `*known` false: it did not answer. */
struct object *look_for_pod(struct pass *p, bool *known);
int64_t phase_deleting(struct pass *p);

/* warmpool.c */
/* What queue_pass_fn returns; the key is a template's name. */
int64_t pool_pass(void *ctx, const char *template, void **memory);
/* Has the pools looked at that are configured, and those that have pods. */
void pools_look_at(struct controller *c);
bool pool_pod_changed(struct controller *c, const struct object *pod); /* false: it is in no pool */
/* The pods of a pool, or of all (NULL), from memory; without those that end. */
struct object_list pool_pods(struct controller *c, const char *template);
size_t pool_ready(struct controller *c); /* how many of them are ready */

/* warmpool_claim.c */
/* A pod of the pool for a sandbox that has none: `*pod` and the name of its claim, with DONE; with DONE and
 * no pod it starts like any other. */
enum step pool_take(struct pass *p, const json_t *resolved, struct object **pod, char **claim,
                    struct error *err);
