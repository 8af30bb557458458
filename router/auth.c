/* See auth.h. */
#include "router/auth.h"

#include "common/text.h"
#include "router/keys.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#include <strings.h>

#define MAX_CREDENTIAL (16 * 1024)

static void identify_as_developer(struct identity *id) {
    id->auth_method = AUTH_BY_DEV;
    id->sub = xstrdup("dev-user");
    id->email = xstrdup("dev@agenttier.local");
    id->name = xstrdup("Dev User");
    id->groups = json_pack("[s]", "agenttier-admins");
    id->is_admin = true;
}

static enum key_result lookup(struct request *r, struct slice key, enum auth_method method) {
    if (key.len == 0 || key.len > MAX_CREDENTIAL) return KEY_UNKNOWN;
    enum key_result result = key_cache_lookup(r->router->keys, key, &r->identity);
    if (result == KEY_OK) r->identity.auth_method = method;
    return result;
}

/* "Bearer" in any case, then the token. */
static bool bearer_token(const char *header, struct slice *token) {
    if (strncasecmp(header, "Bearer ", 7) != 0) return false;
    *token = slice_trim(slice_of(header + 7));
    return true;
}

bool auth_identify(struct request *r, struct error *err) {
    const char *api_key = request_header(r, "X-API-Key");
    const char *authorization = request_header(r, "Authorization");
    struct slice token = {0};
    if (r->router->config->dev_auth) {
        /* W-86: the limits of a scoped key hold in development too. */
        if (api_key && lookup(r, slice_of(api_key), AUTH_BY_API_KEY_HEADER) == KEY_OK) {
            if (r->identity.sandbox_id) return true;
            identity_free(&r->identity);
        }
        identify_as_developer(&r->identity);
        return true;
    }
    if (api_key && api_key[0]) {
        if (lookup(r, slice_of(api_key), AUTH_BY_API_KEY_HEADER) == KEY_OK) return true;
        error_set(err, 401, "invalid_api_key", "the API key is unknown, revoked or expired");
        return false;
    }
    if (!authorization || !authorization[0]) {
        error_set(err, 401, "missing_authorization",
                  "send an API key as X-API-Key or as Authorization: Bearer");
        return false;
    }
    if (!bearer_token(authorization, &token)) {
        error_set(err, 401, "invalid_authorization_format", "Authorization must be: Bearer TOKEN");
        return false;
    }
    if (lookup(r, token, AUTH_BY_BEARER) == KEY_OK) return true;
    error_set(err, 401, "invalid_token", "the bearer token is not a valid API key of this server");
    return false;
}

bool auth_permits(struct request *r, struct error *err) {
    if (!identity_scope_allows(&r->identity, r->route, request_param(r, "id"), err)) return false;
    if (r->route->auth == AUTH_ADMIN && !r->identity.is_admin) {
        error_set(err, 403, "admin_required", "only administrators may do this");
        return false;
    }
    return true;
}

/* The level that a row of the table asks for on its sandbox: http-api.md 3.8. */
static enum access_level least_level(const struct request *r) {
    bool enforced = config_sharing_enforced(r->router->config);
    switch (r->route->auth) {
    case AUTH_SANDBOX_READ: return ACCESS_LEVEL_VIEWER;
    case AUTH_SANDBOX_VIEW: return enforced ? ACCESS_LEVEL_VIEWER : ACCESS_LEVEL_OWNER;
    case AUTH_SANDBOX_USE: return enforced ? ACCESS_LEVEL_COLLABORATOR : ACCESS_LEVEL_OWNER;
    default: return ACCESS_LEVEL_OWNER;
    }
}

bool auth_find_sandbox(struct request *r, struct error *err) {
    if (r->route->auth < AUTH_SANDBOX_READ) return true;
    /* A preview's query belongs to the application. */
    bool ours = strcmp(r->route->method, "*") != 0;
    cleanup_object struct object *sandbox = sandbox_lookup(
        r->backend->store, &r->identity, sandbox_namespace(r->router->config),
        ours ? request_query(r, "namespace") : NULL, request_param(r, "id"), least_level(r), err);
    if (!sandbox && r->route->auth == AUTH_SANDBOX_SHARE) {
        error_clear(err);
        error_set(err, 403, "not_owner", "only its owner or an administrator may share sandbox %s",
                  request_param(r, "id"));
    }
    if (!sandbox) return false;
    if (r->route->phase == PHASE_RUNNING) {
        const char *phase = json_str_at(sandbox->json, "status.phase");
        bool deleting = json_at(sandbox->json, "metadata.deletionTimestamp") != NULL;
        if (strcmp(phase, "Running") != 0 || deleting) {
            error_set(err, 409, "sandbox_not_running", "sandbox %s is not running (%s)", sandbox->name,
                      deleting   ? "Deleting"
                      : phase[0] ? phase
                                 : "Creating");
            return false;
        }
    }
    r->sandbox = steal_ptr(sandbox);
    return true;
}
