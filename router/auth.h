/* Who calls, and whether the route's rule lets them in (http-api.md 3.2 to 3.8). */
#pragma once

#include "router/request.h"

enum auth_result {
    AUTH_KNOWN,   /* r->identity is filled in */
    AUTH_REFUSED, /* 401; 403 for a foreign page in development; 429 after too many failures; 503 */
    AUTH_LATER,   /* somebody else must be asked: ask an auth_question on a worker thread */
};
/* By X-API-Key, Authorization, or on /ws/ routes the query's token. Never waits. */
enum auth_result auth_identify(struct request *r, struct error *err);

/* The token of an Authorization header: "Bearer" in any case, blanks around it trimmed. Pure. */
bool auth_bearer_token(const char *header, struct slice *token);

/* What AUTH_LATER leaves open. It stands alone: the request may go away while it is asked. */
struct auth_question;
struct auth_question *auth_question_new(struct request *r);
/* After auth_find_sandbox(): another Router may have made the sandbox a moment ago, or shared it, or know
 * that it is running now, or have forwarded a preview's port of the one that was found, or the watch of pods
 * is behind. A question to ask before it is called again; NULL: memory knows, or too much was asked (`err`:
 * 503). It is asked for a sandbox that is somebody else's as for one that is not there: neither its time nor
 * its failure tells which.
 */
struct auth_question *auth_question_sandbox(struct request *r, struct error *err);
bool auth_question_learnt(struct auth_question *question, struct error *err); /* false: 503, nobody knows */
void auth_question_ask(struct auth_question *question);                       /* waits: worker threads only */
/* Back on the loop: as auth_identify, but never AUTH_LATER. */
enum auth_result auth_question_answer(struct auth_question *question, struct request *r, struct error *err);
void auth_question_free(struct auth_question *question); /* NULL is fine */

/* The gates that need no sandbox: scoped keys, administrators. 403. */
bool auth_permits(struct request *r, struct error *err);
/* For AUTH_SANDBOX_* rows: finds {id}, checks access (404) and phase (409), sets r->sandbox. */
bool auth_find_sandbox(struct request *r, struct error *err);

/* Whether the caller may still use the sandbox that was found for the request: false once a share that it
 * came by is gone, its API key is revoked or has expired, or its token has ended: for other than upgraded
 * connections two hours ago (W-53). The end of the sandbox itself is not this function's matter. From memory,
 * on the loop. */
bool auth_still_permits(const struct request *r, bool upgraded);
/* Whether that is because the credential of an upgraded connection has run out, and not because it, or a
 * share, was taken back. */
bool auth_credential_expired(const struct request *r);
