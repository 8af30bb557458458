/* Who is calling (http-api.md 3.1) and what they may do to a sandbox (3.5, 3.8). */
#pragma once

#include "backend/store.h"
#include "router/route.h"

#include <jansson.h>
#include <stdbool.h>
#include <time.h>

/* How the caller proved who they are. The preview proxy takes away what was used: it is our
 * credential, not the application's (lessons I22, I27). */
enum auth_method { AUTH_BY_NONE, AUTH_BY_API_KEY_HEADER, AUTH_BY_BEARER, AUTH_BY_DEV };

struct identity {
    enum auth_method auth_method;
    bool is_key;           /* an API key, in whichever header */
    char *sub;             /* never NULL for an authenticated caller; owned, as all */
    char *email;           /* "" when unknown */
    bool email_unverified; /* the issuer says so: the address is shown, but opens nothing (W-25) */
    char *name;            /* "" when unknown */
    json_t *groups;        /* array of strings; NULL = none */
    bool is_admin;
    time_t expires; /* of a token, without leeway; 0 = it does not end by itself */
    /* sandbox-scoped keys */
    char *sandbox_id;        /* NULL = not scoped */
    char *sandbox_namespace; /* NULL = record predates binding to namespace and UID (W-74) */
    char *sandbox_uid;       /* likewise */
    unsigned action_groups;  /* bit per enum action_group */
};
void identity_free(struct identity *);
/* A copy that shares nothing: threads take copies of what is kept, and jansson looks at a count of references
 * before it raises it atomically, which is a race with whoever lowers it. */
void identity_copy(const struct identity *from, struct identity *to);

/* Whether what a token began must end, since the token has: an upgraded connection then, any other stream
 * two hours later, as whoever holds a long command or a file open began it in time. Events of a previewed
 * application would go on forever. (W-53) Pure. */
bool identity_outlived(const struct identity *id, bool upgraded, time_t now);

/* Exact; an empty name is nobody's group. Pure. */
bool identity_in_group(const struct identity *id, const char *group);

enum access_level { ACCESS_LEVEL_NONE, ACCESS_LEVEL_VIEWER, ACCESS_LEVEL_COLLABORATOR, ACCESS_LEVEL_OWNER };
/* The caller's level on a sandbox: owner by spec.createdBy.sub or admin, else by spec.sharing. Pure. */
enum access_level identity_access(const struct identity *id, const json_t *sandbox);
/* Whether a scoped key may use a route on {id} (true for identities that are not scoped). */
bool identity_scope_allows(const struct identity *id, const struct route *route, const char *sandbox_id,
                           struct error *err);
