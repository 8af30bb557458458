/* See auth.h. */
#include "router/auth.h"

#include "common/text.h"
#include "router/bearer.h"
#include "router/cors.h"
#include "router/keys.h"
#include "router/metrics.h"
#include "router/ratelimit.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"
#include "router/second_look.h"

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

static bool is_key(struct request *r, const struct token_digest *digest, enum auth_method method) {
    if (key_cache_lookup_digest(r->router->keys, digest->bytes, &r->identity) != KEY_OK) return false;
    r->identity.auth_method = method;
    memcpy(r->key_digest, digest->bytes, sizeof r->key_digest);
    return true;
}

/* X-API-Key without the blanks around it, which are no part of a header's value; empty when there is none. */
static struct slice api_key_of(struct request *r) {
    const char *value = request_header(r, "X-API-Key");
    return slice_trim(slice_of(value ? value : ""));
}

static bool is_key_text(struct request *r, struct slice text) {
    if (text.len == 0 || text.len > MAX_CREDENTIAL) return false;
    struct token_digest digest = token_digest_of(text);
    return is_key(r, &digest, AUTH_BY_API_KEY_HEADER);
}

/* Counts the outcome; and who fails too often from one address is told to slow down (W-56), which those
 * whose credentials are good never notice. */
static enum auth_result conclude_costing(struct request *r, enum auth_result result, enum login_cost cost,
                                         struct error *err) {
    struct router *router = r->router;
    enum metrics_auth outcome = METRICS_AUTH_REFUSED;
    if (result == AUTH_KNOWN) {
        outcome = r->identity.auth_method == AUTH_BY_DEV ? METRICS_AUTH_DEV
                  : r->identity.is_key                   ? METRICS_AUTH_API_KEY
                                                         : METRICS_AUTH_TOKEN;
    } else if (err->status == 503) {
        outcome = METRICS_AUTH_UNAVAILABLE;
    } else if (err->status == 401 && strcmp(err->code, "missing_authorization") != 0 &&
               !ratelimit_failure(router->rate_limiter, r->client_ip, cost, err)) {
        outcome = METRICS_AUTH_LIMITED;
    }
    metrics_auth(router->metrics, outcome);
    return result;
}

static enum auth_result conclude(struct request *r, enum auth_result result, struct error *err) {
    return conclude_costing(r, result, LOGIN_LOOKED, err);
}

static enum auth_result refuse(struct request *r, struct error *err, const char *code, const char *message) {
    error_set(err, 401, code, "%s", message);
    return conclude(r, AUTH_REFUSED, err);
}

static enum auth_result refuse_key(struct request *r, struct error *err) {
    return refuse(r, err, "invalid_api_key", "the API key is unknown, revoked or expired");
}

bool auth_bearer_token(const char *header, struct slice *token) {
    if (strncasecmp(header, "Bearer ", 7) != 0) return false;
    *token = slice_trim(slice_of(header + 7));
    return true;
}

/* A browser cannot send headers with a WebSocket: its token comes in the query (http-api.md 3.6). */
static bool takes_query_token(const struct request *r) {
    return route_is_websocket(r->route);
}

/* Whether a key that is not known here may have been made by another Router a moment ago. */
static bool may_be_new(const struct request *r, struct slice key) {
    return r->backend->store->ops->look && key.len == API_KEY_LEN && slice_starts_with(key, "atk_");
}

static enum auth_result ask_later(struct request *r, enum login_cost cost, struct error *err) {
    if (ratelimit_may_fail(r->router->rate_limiter, r->client_ip, cost, err)) return AUTH_LATER;
    metrics_auth(r->router->metrics, METRICS_AUTH_LIMITED);
    return AUTH_REFUSED;
}

/* `may_be_key`: from the header, where API keys are taken too. */
static enum auth_result identify_token(struct request *r, struct slice token, bool may_be_key,
                                       struct error *err) {
    if (token.len > MAX_CREDENTIAL)
        return refuse(r, err, "invalid_token", "the bearer token was refused: it is larger than 16 KiB");
    struct token_digest digest = token_digest_of(token);
    if (may_be_key && is_key(r, &digest, AUTH_BY_BEARER)) return conclude(r, AUTH_KNOWN, err);
    if (may_be_key && may_be_new(r, token)) return ask_later(r, LOGIN_LOOKED, err);
    switch (bearer_check(r->router->bearer, token, &digest, &r->identity, err)) {
    case BEARER_OK: return conclude(r, AUTH_KNOWN, err);
    case BEARER_REFUSED: return conclude(r, AUTH_REFUSED, err);
    case BEARER_MUST_WAIT: break;
    }
    error_clear(err);
    /* Whoever shares the address cannot keep out what was let in a moment ago. */
    if (bearer_knew(r->router->bearer, &digest)) return AUTH_LATER;
    return ask_later(r, LOGIN_ASKED, err);
}

/* Whether a key for one sandbox was presented, in either header; r->identity is its holder then. */
static bool is_scoped_key(struct request *r, struct slice api_key, const char *authorization) {
    struct slice token;
    bool known = is_key_text(r, api_key);
    if (!known && authorization && auth_bearer_token(authorization, &token) && token.len <= MAX_CREDENTIAL) {
        struct token_digest digest = token_digest_of(token);
        known = is_key(r, &digest, AUTH_BY_BEARER);
    }
    if (known && r->identity.sandbox_id) return true;
    identity_free(&r->identity);
    return false;
}

static enum auth_result identify_developer(struct request *r, struct slice api_key, const char *authorization,
                                           struct error *err) {
    /* A page whose own name was made to lead here (DNS rebinding) is of no foreign origin. Only loopback
     * addresses are served, so no name but this machine's is needed. */
    if (cors_foreign_host(r)) {
        error_set(err, 403, "host_not_allowed",
                  "with --dev-auth, this server answers as localhost or by address only, not by the name in "
                  "Host; --cors-allowed-origins names exceptions");
        return conclude(r, AUTH_REFUSED, err);
    }
    /* Without credentials the browser is all that stands between a web page and this server (S3, S4). A
     * previewed application has its own rule: its pages are of no origin at all. */
    if (strcmp(r->route->method, "*") != 0 && cors_foreign_page(r)) {
        error_set(
            err, 403, "origin_not_allowed",
            "with --dev-auth, pages of other origins are refused; --cors-allowed-origins names exceptions");
        return conclude(r, AUTH_REFUSED, err);
    }
    /* W-86: the limits of a scoped key hold in development too. */
    if (is_scoped_key(r, api_key, authorization)) return conclude(r, AUTH_KNOWN, err);
    identify_as_developer(&r->identity);
    return conclude(r, AUTH_KNOWN, err);
}

enum auth_result auth_identify(struct request *r, struct error *err) {
    struct slice api_key = api_key_of(r);
    const char *authorization = request_header(r, "Authorization");
    const char *query_token = takes_query_token(r) ? request_query(r, "token") : NULL;
    struct slice token = {0};
    if (r->router->config->dev_auth) return identify_developer(r, api_key, authorization, err);
    if (api_key.len > 0) {
        if (is_key_text(r, api_key)) return conclude(r, AUTH_KNOWN, err);
        return may_be_new(r, api_key) ? ask_later(r, LOGIN_LOOKED, err) : refuse_key(r, err);
    }
    /* Keys live long and queries end up in logs: no API key is taken from one. */
    if (query_token && query_token[0]) return identify_token(r, slice_of(query_token), false, err);
    if (!authorization || !authorization[0])
        return refuse(r, err, "missing_authorization",
                      "send an API key as X-API-Key or as Authorization: Bearer");
    if (!auth_bearer_token(authorization, &token))
        return refuse(r, err, "invalid_authorization_format", "Authorization must be: Bearer TOKEN");
    return identify_token(r, token, true, err);
}

/* ---- asking others ---- */

struct auth_question {
    struct bearer *bearer;
    char *token; /* "" when a key is asked for */
    bool is_key; /* an API key that is not known here, of this digest */
    struct token_digest digest;
    enum auth_method method; /* the header it came in */
    struct second_look look; /* for what another Router may have written */
    bool known;
    struct identity identity;
    struct error err;
};

static void ask_for_key(struct auth_question *q, struct request *r, struct slice key,
                        enum auth_method method) {
    cleanup_free char *id = api_key_id(key);
    q->is_key = true;
    q->digest = token_digest_of(key);
    q->method = method;
    second_look_need(r->router, NULL, KIND_SECRET, install_namespace(r->router->config), id, false, &q->look);
}

struct auth_question *auth_question_new(struct request *r) {
    struct auth_question *q = xcalloc(1, sizeof *q);
    const char *query_token = takes_query_token(r) ? request_query(r, "token") : NULL;
    struct slice api_key = api_key_of(r), token = {0};
    q->bearer = r->router->bearer;
    if (api_key.len > 0)
        ask_for_key(q, r, api_key, AUTH_BY_API_KEY_HEADER);
    else if (query_token && query_token[0])
        token = slice_of(query_token);
    else if (auth_bearer_token(request_header(r, "Authorization"), &token) && may_be_new(r, token))
        ask_for_key(q, r, token, AUTH_BY_BEARER);
    q->token = slice_dup(q->is_key ? slice_of("") : token);
    return q;
}

/* The forward that a preview needs. */
static enum second_look_need needs_forward(struct request *r, struct second_look *out) {
    const char *port = request_param(r, "port");
    if (strcmp(r->route->method, "*") != 0 || !port) return LOOK_NEEDLESS;
    cleanup_free char *name = xasprintf("pf-%s-%s", r->sandbox->name, port);
    return second_look_need(r->router, r->identity.sub, KIND_SERVICE, r->sandbox->namespace, name, false,
                            out);
}

static enum second_look_need needs_sandbox(struct request *r, struct second_look *out) {
    const char *namespace = strcmp(r->route->method, "*") != 0 ? request_query(r, "namespace") : NULL;
    if (!namespace || !namespace[0]) namespace = r->identity.sandbox_namespace;
    if (!namespace || !namespace[0]) namespace = sandbox_namespace(r->router->config);
    return second_look_need(r->router, r->identity.sub, KIND_SANDBOX, namespace, request_param(r, "id"), true,
                            out);
}

/* Whether nothing can be reached in the pod of a running sandbox by what is known of it. */
static bool is_unfit(const struct object *pod, const struct object *sandbox) {
    if (!pod || json_at(pod->json, "metadata.deletionTimestamp")) return true;
    const json_t *labels = json_at(pod->json, "metadata.labels");
    const char *of = json_string_value(json_object_get(labels, "agenttier.io/sandbox"));
    return !of || strcmp(of, sandbox->name) != 0 ||
           strcmp(json_str_at(pod->json, "status.phase"), "Running") != 0;
}

/* The pod that the request goes into: the watch of pods may be behind that of sandboxes. */
static enum second_look_need needs_pod(struct request *r, struct second_look *out) {
    const char *name = json_str_at(r->sandbox->json, "status.podName");
    if (r->route->phase != PHASE_RUNNING || !name[0]) return LOOK_NEEDLESS;
    struct store *store = r->backend->store;
    cleanup_object struct object *pod = store->ops->get(store, KIND_POD, r->sandbox->namespace, name);
    if (!is_unfit(pod, r->sandbox)) return LOOK_NEEDLESS;
    enum second_look_need need =
        second_look_need(r->router, r->identity.sub, KIND_POD, r->sandbox->namespace, name, true, out);
    return need == LOOK_WANTED ? need : LOOK_NEEDLESS; /* the handler says what is known */
}

static enum second_look_need needs_more(struct request *r, struct second_look *out) {
    if (!r->sandbox) return needs_sandbox(r, out);
    enum second_look_need need = needs_forward(r, out);
    return need == LOOK_NEEDLESS ? needs_pod(r, out) : need;
}

struct auth_question *auth_question_sandbox(struct request *r, struct error *err) {
    struct second_look look = {0};
    if (!r->backend->store->ops->look) return NULL;
    enum second_look_need need = needs_more(r, &look);
    if (need == LOOK_REFUSED) {
        error_set(err, 503, "busy",
                  "too many sandboxes that this server does not know are asked for; retry in a second");
        err->retry_after = 1;
    }
    if (need != LOOK_WANTED) return NULL;
    struct auth_question *q = xcalloc(1, sizeof *q);
    q->look = look;
    return q;
}

void auth_question_ask(struct auth_question *q) {
    if (q->look.store) second_look_run(&q->look, &q->err);
    if (!q->token || !q->token[0]) return;
    q->known = bearer_verify(q->bearer, slice_of(q->token), &q->identity, &q->err) == BEARER_OK;
}

enum auth_result auth_question_answer(struct auth_question *q, struct request *r, struct error *err) {
    if (q->is_key) {
        if (is_key(r, &q->digest, q->method)) return conclude(r, AUTH_KNOWN, err);
        if (!q->err.status && q->method == AUTH_BY_BEARER)
            return refuse(r, err, "invalid_token", "the bearer token was refused: it is no valid API key");
        if (!q->err.status) return refuse_key(r, err);
        error_move(err, &q->err);
        return conclude(r, AUTH_REFUSED, err);
    }
    if (q->known) {
        r->identity = q->identity;
        memset(&q->identity, 0, sizeof q->identity);
    } else {
        error_move(err, &q->err);
    }
    return conclude_costing(r, q->known ? AUTH_KNOWN : AUTH_REFUSED, LOGIN_ASKED, err);
}

bool auth_question_learnt(struct auth_question *q, struct error *err) {
    if (q->err.status) error_move(err, &q->err);
    return !err->status;
}

void auth_question_free(struct auth_question *q) {
    if (!q) return;
    if (q->token) explicit_bzero(q->token, strlen(q->token));
    second_look_free(&q->look);
    free(q->token);
    identity_free(&q->identity);
    error_clear(&q->err);
    free(q);
}

/* ---- gates ---- */

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
    case AUTH_SANDBOX_READ:
    case AUTH_SANDBOX_WATCH: return ACCESS_LEVEL_VIEWER;
    case AUTH_SANDBOX_VIEW: return enforced ? ACCESS_LEVEL_VIEWER : ACCESS_LEVEL_OWNER;
    case AUTH_SANDBOX_USE: return enforced ? ACCESS_LEVEL_COLLABORATOR : ACCESS_LEVEL_OWNER;
    default: return ACCESS_LEVEL_OWNER;
    }
}

/* Whether there is a sandbox of that name, whoever may see it. */
static bool exists(struct request *r) {
    const char *namespace = request_query(r, "namespace");
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all =
        store->ops->find(store, KIND_SANDBOX, request_param(r, "id"));
    for (size_t i = 0; i < all.count; i++)
        if (!namespace || !namespace[0] || strcmp(all.items[i]->namespace, namespace) == 0) return true;
    return false;
}

bool auth_find_sandbox(struct request *r, struct error *err) {
    if (r->route->auth < AUTH_SANDBOX_READ) return true;
    /* A preview's query belongs to the application. */
    bool ours = strcmp(r->route->method, "*") != 0;
    cleanup_object struct object *sandbox = sandbox_lookup(
        r->backend->store, &r->identity, sandbox_namespace(r->router->config),
        ours ? request_query(r, "namespace") : NULL, request_param(r, "id"), least_level(r), err);
    if (!sandbox && r->route->auth == AUTH_SANDBOX_SHARE && err->status == 404) {
        error_clear(err);
        error_set(err, 403, "not_owner", "only its owner or an administrator may share sandbox %s",
                  request_param(r, "id"));
    }
    if (!sandbox && r->route->auth == AUTH_SANDBOX_WATCH && err->status == 404 && exists(r)) {
        error_clear(err);
        error_set(err, 403, "not_shared", "sandbox %s is not yours, and not shared with you",
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

/* A key that was revoked ends what it began. */
static bool credential_holds(const struct request *r, bool upgraded) {
    const struct identity *id = &r->identity;
    if (id->is_key) return key_cache_valid(r->router->keys, r->key_digest);
    return !identity_outlived(id, upgraded, time(NULL));
}

bool auth_credential_expired(const struct request *r) {
    struct identity known = {0};
    if (!r->identity.is_key) return identity_outlived(&r->identity, true, time(NULL));
    bool expired = key_cache_lookup_digest(r->router->keys, r->key_digest, &known) == KEY_EXPIRED;
    identity_free(&known);
    return expired;
}

bool auth_still_permits(const struct request *r, bool upgraded) {
    if (!credential_holds(r, upgraded)) return false;
    if (!r->sandbox || identity_access(&r->identity, r->sandbox->json) == ACCESS_LEVEL_OWNER) return true;
    struct store *store = r->backend->store;
    cleanup_object struct object *now =
        store->ops->get(store, KIND_SANDBOX, r->sandbox->namespace, r->sandbox->name);
    if (!now || strcmp(now->uid, r->sandbox->uid) != 0) return true;
    return identity_access(&r->identity, now->json) >= least_level(r);
}
