/* The one table of routes: a request that matches no row does not exist. Dispatch, 405 with
 * Allow, authentication rules, metrics labels, the OpenAPI document and the test that tries
 * every credential on every route all read it. (http-api.md 2.1; lessons L4, L5, S34) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <stddef.h>

struct request;

/* Who may call. The sandbox rules find {id}, check access (404 otherwise) and put the
 * object into request->sandbox before the handler runs. */
enum route_auth {
    AUTH_PUBLIC = 1,    /* nobody is asked */
    AUTH_USER,          /* any authenticated caller without a sandbox-scoped key */
    AUTH_ADMIN,         /* administrators */
    AUTH_SANDBOX_READ,  /* owner, admin, or someone the sandbox is shared with */
    AUTH_SANDBOX_WATCH, /* the same; others get 403 when there is such a sandbox (http-api.md 2.12) */
    AUTH_SANDBOX_VIEW,  /* owner or admin; with --sharing-levels=enforced also whoever it is shared with */
    AUTH_SANDBOX_USE,   /* owner or admin; with --sharing-levels=enforced also its collaborators (W-47) */
    AUTH_SANDBOX_OWNER, /* owner or admin */
    /* Owner or admin; others get 403, also when there is no such sandbox (http-api.md 2.13). A body is
     * checked before the sandbox is looked up: the handlers of routes with one call auth_find_sandbox()
     * themselves. */
    AUTH_SANDBOX_SHARE,
};

/* What a sandbox-scoped key must hold to be let in (http-api.md 3.5). */
enum action_group {
    GROUP_NONE, /* scoped keys are refused */
    GROUP_ANY,  /* the bound sandbox, whatever groups the key holds (W-26) */
    GROUP_RUN_COMMAND,
    GROUP_FILES_READ,
    GROUP_FILES_WRITE,
    GROUP_PORTS,
    GROUP_AGENT_INVOKE,
    GROUP_AGENT_CONFIGURE,
    GROUP_RESUME,
    GROUP_STOP,
    GROUP_COUNT
};
/* "run-command", ... ; NULL for the first two. */
extern const char *const action_group_names[GROUP_COUNT];

enum route_kind {
    ROUTE_INLINE, /* answered from memory on the loop; never waits */
    ROUTE_UNARY,  /* may wait: runs on the worker pool */
    ROUTE_STREAM, /* callbacks on the loop */
};

enum route_body {
    BODY_NONE,          /* a body is read and dropped */
    BODY_JSON,          /* an object is required: 400 otherwise */
    BODY_JSON_OPTIONAL, /* an empty body is {} */
    BODY_JSON_OR_NULL,  /* an object or the JSON null is required */
    BODY_STREAM         /* handed to the handler's on_body as it arrives */
};

enum route_phase { PHASE_ANY, PHASE_RUNNING /* 409 sandbox_not_running otherwise */ };

struct route {
    const char *method;  /* "GET", ...; "*" = any */
    const char *pattern; /* "/api/v1/sandboxes/{id}/files/{path...}": {x} is one segment, {x+} one that may
                            hold encoded slashes, {x...} the rest, which may be empty and hold slashes */
    const char *operation_id; /* camelCase, unique: OpenAPI operationId and metrics label */
    const char *summary;
    enum route_auth auth;
    enum action_group group;
    enum route_kind kind;
    enum route_phase phase;
    enum route_body body;
    size_t body_limit; /* bytes; above: 413. 0 = none (streams that bound themselves) */
    void (*handle)(struct request *);
    /* Optional: checked before the sandbox is looked up (http-api.md 1.3, preview's port). */
    bool (*precheck)(struct request *, struct error *);
    /* For the OpenAPI document: a JSON object text {"query": {...}, "request": {...},
     * "responses": {...}} in the notation of router/openapi.c, or NULL. */
    const char *doc;
    /* The action under which the history records it: "create", "file.write", ... Every row that is not a
     * GET has one, and those GETs that begin something (a terminal). NULL: not recorded, unless
     * somebody is refused at an administrator's route. http-api.md 6.3, W-48 */
    const char *audit;
    /* Starts something that costs much: counts against --ratelimit-expensive-rate too. */
    bool expensive;
};

extern const struct route routes[];
extern const size_t route_count;

/* A WebSocket of ours, to which browsers cannot send headers: its token may come in the query. It answers
 * every method itself, and its errors are plain text (http-api.md 2.12, 3.6). */
bool route_is_websocket(const struct route *route);

#define ROUTE_MAX_PARAMS 4
struct route_params {
    size_t count;
    struct slice name[ROUTE_MAX_PARAMS];
    char *value[ROUTE_MAX_PARAMS]; /* percent-decoded, owned */
};
void route_params_free(struct route_params *);

/* Matches a canonical raw path (still percent-encoded). NULL: `*allow` (static scratch of
 * the caller, may be empty) lists the methods of the rows whose pattern matches, for 405. */
const struct route *route_match(const char *method, struct slice path, struct route_params *params,
                                struct buffer *allow);
