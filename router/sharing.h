/* Who a sandbox is shared with: spec.sharing as bodies ask for it, as it is stored and as the API shows it.
 * Pure. (http-api.md 2.13, 4.4; W-13, W-84) */
#pragma once

#include "common/bytes.h"
#include "router/identity.h"

#include <time.h>

#define SHARE_IDENTITY_MAX 512 /* bytes */
#define SHARE_GRANTS_MAX   500 /* users, and again groups, of one sandbox */
#define SHARE_LINKS_MAX    100 /* of one sandbox */
#define SHARE_TOKEN_LEN    43  /* 32 random bytes in base64url */
#define SHARE_LINK_ID_LEN  16

/* Which lists a grant or a revocation means. */
#define SHARE_USERS  1u
#define SHARE_GROUPS 2u

/* ---- users and groups ---- */

struct share_grant {
    const char *identity; /* borrowed from the body, as level */
    const char *level;    /* "viewer" or "collaborator" */
    unsigned list;        /* SHARE_USERS (default) or SHARE_GROUPS */
};
/* The body of POST .../share. 400 invalid_field: an identity that is missing, has control characters or
 * blanks at its ends, or is longer than SHARE_IDENTITY_MAX; another level; another kind than user or group.
 */
bool share_grant_parse(const json_t *body, struct share_grant *out, struct error *err);
/* The lists that ?kind= names (NULL or "" = both); 400 for another text. */
bool share_lists_parse(const char *kind, unsigned *lists, struct error *err);
/* Whether a text can be an identity: the rules above. */
bool share_identity_valid(const char *identity, const char **why);

/* Adds the grant to spec.sharing, or gives who is there already this level. 409 share_limit_reached. */
bool share_add(json_t *spec, const struct share_grant *grant, struct error *err);
/* Takes the identity out of the lists. False: it was in none of them. */
bool share_remove(json_t *spec, const char *identity, unsigned lists);

/* {users, groups, shareLinks}, all three lists always, without tokens and hashes: a new reference. */
json_t *share_json(const json_t *spec);

/* "viewer" of a level; for what we show. */
const char *access_level_name(enum access_level level);

/* ---- links ---- */

struct share_link_request {
    const char *level;     /* borrowed; never NULL */
    int64_t expires_in_ns; /* 0 = never */
    int64_t max_uses;      /* 0 = any number */
};
/* The body of POST .../share-links; 400 invalid_field. */
bool share_link_parse(const json_t *body, struct share_link_request *out, struct error *err);
/* The link to store (hash only): a new reference. `token` gets the only copy of the token. */
json_t *share_link_new(const struct share_link_request *q, time_t now, char token[SHARE_TOKEN_LEN + 1]);
/* The 201 answer to that: a new reference. */
json_t *share_link_created_json(const json_t *link, const char *token);
/* Adds it (a reference is taken). When SHARE_LINKS_MAX are there, those that nobody can use any more make
 * room; else 409 share_limit_reached. */
bool share_link_add(json_t *spec, json_t *link, time_t now, struct error *err);
/* False: there is none with this id. */
bool share_link_remove(json_t *spec, const char *id);
/* The links as shown, in the order they were made: a new reference. */
json_t *share_links_json(const json_t *spec);

/* The link that the token opens, used up or not; compared in constant time. NULL: none. Borrowed. */
json_t *share_link_find(const json_t *spec, const char *token);
/* Gives `who` the level of the link in `sandbox` (a whole Sandbox, changed in place) and counts the use.
 * Whoever has that level already keeps it, and the use is not counted: a retry costs nothing. `*granted` is
 * the level that `who` has after it.
 * 404 share_link_not_found, 410 share_link_expired, 410 share_link_used_up, 409 share_limit_reached. */
bool share_link_redeem(json_t *sandbox, const char *token, const struct identity *who, time_t now,
                       enum access_level *granted, struct error *err);
