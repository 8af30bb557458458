/* The rules of a sandbox's life that hold whoever carries it out, the local engine or a cluster's
 * controller (controller.md 2, 8, 9): names, limits, backoff, and the writes to its object. */
#pragma once

#include "backend/store.h"

#define SANDBOX_FINALIZER "agenttier.io/sandbox-cleanup"
#define SANDBOX_ACTION    "agenttier.io/action" /* annotation: "stop" or "resume" */

#define SANDBOX_RESTART_LIMIT 5
#define SANDBOX_STABLE_S      300 /* running that long forgets earlier restarts */
#define SANDBOX_MESSAGE_MAX   600

/* The value of the action annotation; "" when there is none. */
const char *sandbox_action(const struct object *sandbox);
bool sandbox_action_is(const struct object *sandbox, const char *action);
bool sandbox_has_finalizer(const struct object *sandbox);

/* Seconds before restart attempt `count`: 10 s doubled each time, at most 160 s (controller.md 9.2). */
int64_t sandbox_backoff_s(int64_t count);
/* status.message of a failure that is followed by restart attempt `count`; it makes
 * sandbox_restartable() true. */
void sandbox_restart_message(char out[SANDBOX_MESSAGE_MAX], const char *reason, int64_t count);
bool sandbox_restartable(const struct object *sandbox);
/* Takes out of a message that quotes strangers, such as what a container says at its end, the words that
 * would make the sandbox restartable (crds.md: they are semantic). In place. */
void sandbox_plain_message(char *text);

/* spec.timeout or spec.idleTimeout in ms; 0 = no limit, also for a text that is no duration. */
int64_t sandbox_limit_ms(const json_t *spec, const char *name);
/* Milliseconds until `limit_ms` after the time in `field` (dotted path), INT64_MAX without one. */
int64_t sandbox_remaining_ms(const struct object *sandbox, const char *field, int64_t limit_ms);

/* The current time for a status member. */
char *sandbox_now(char out[40]);

/* ---- writes: each insists on the object it was made for, so that neither a resume nor a new sandbox of the
 * same name is overwritten (O5, W1) ---- */

struct sandbox_ref {
    const char *namespace, *name, *uid;
};

/* STALE: it is another sandbox, or another phase, now: make another pass. FAILED: logged; try later. */
enum write_result { WRITE_DONE, WRITE_STALE, WRITE_FAILED };

/* Merges `patch` (taken) into the status, if the object is still the same sandbox in phase `phase`
 * (NULL = whichever, "" = absent). */
enum write_result sandbox_write_status(struct store *store, struct sandbox_ref who, const char *phase,
                                       json_t *patch);
enum write_result sandbox_add_finalizer(struct store *store, struct sandbox_ref who);
enum write_result sandbox_remove_finalizer(struct store *store, struct sandbox_ref who);
/* Takes the annotation off if it still asks for `action`: a later request stays (W2). */
enum write_result sandbox_remove_action(struct store *store, struct sandbox_ref who, const char *action);
