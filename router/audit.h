/* What goes into the history: every request on a row of the table that names an action, whatever became of
 * it, every known caller who was refused anywhere, and strangers at an administrator's route (W-48). Previews
 * carry an application's own traffic: of them only refusals. And the Events of sandboxes, so that they
 * outlive the hour that a cluster keeps them.
 *
 * Never a body, a query, a header or a credential: names, ids and outcomes, with control characters escaped
 * and what looks like a token taken out (lessons S28). */
#pragma once

#include "backend/history.h"
#include "router/request.h"

struct config;

/* What the request made or changed, where the path does not say it. Copied; NULL namespace: none. */
void audit_name(struct request *r, const char *namespace, const char *name);
/* What was done, where one row does several things: static text. */
void audit_action(struct request *r, const char *action);
/* A member of `details`; takes the value. Nothing secret. */
void audit_detail(struct request *r, const char *key, json_t *value);

/* The error that is answered: its code, and of a policy's refusal the codes of what was violated. */
void audit_error(struct request *r, const struct error *err);
/* A text for details, cleaned as audit_text() does: a new reference. Texts directly in `details` are cleaned
 * anyway. */
json_t *audit_string(const char *text);

/* Called by the server, once a request: its answer is ready to be sent, or it ended without (status 0). */
void audit_request(struct request *r, int status, bool aborted);
void audit_note_free(struct audit_note *note);

/* Text for the history: at most 512 bytes, valid UTF-8, control characters as \xNN, tokens as [redacted].
 * Appends. Pure. */
void audit_text(struct slice text, struct buffer *out);
/* Whether it has something like a credential in it. */
bool audit_holds_credential(struct slice text);
/* What a client sent, for the access log: as it is, but cleaned when there is something like a credential in
 * it, behind escapes (%XX) too. malloc'ed. */
char *audit_log_text(struct slice text);
/* "success", "denied", "not_found", "refused" (other 4xx), "failed" (5xx), "aborted". Pure. */
const char *audit_outcome(int status, bool aborted);
/* What an action is done to: "key.create" -> "key", "exec" -> "sandbox". Pure. */
const char *audit_resource(const char *action);

/* ---- the history of a Router ---- */

/* Opens the history that the configuration names (none: *out = NULL). False for wrong flags, with err; a file
 * that cannot be opened is reported in the log, and there is no history (http-api-extended.md 16). */
bool audit_open(const struct config *config, struct history **out, struct error *err);

/* Follows the Events of sandboxes into the history. */
struct event_recorder;
struct event_recorder *event_recorder_new(struct store *store, struct history *history);
void event_recorder_free(struct event_recorder *recorder);
/* One Event as an entry, its texts borrowed from `event`; `key` gets the text of entry->key. False: of no
 * Sandbox. Pure. */
bool event_entry(const json_t *event, struct history_entry *out, char key[128]);
