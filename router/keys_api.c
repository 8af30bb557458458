/* API keys over the API: one's own, and for administrators everybody's (http-api.md 2.16, W-75). */
#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/key_record.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#include <string.h>

/* A user's keys as the API shows them. */
static json_t *keys_of_user(struct request *r, const char *user_id) {
    json_t *keys = json_array();
    cleanup_object_list struct object_list all = key_cache_of_user(r->router->keys, user_id);
    for (size_t i = 0; i < all.count; i++) {
        cleanup_json json_t *record = key_record_read(all.items[i]->json);
        if (record && strcmp(json_str_at(record, "userId"), user_id) == 0)
            json_array_append_new(keys, key_record_public(record));
    }
    return keys;
}

void keys_list(struct request *r) {
    reply_json(r, 200, json_pack("{s:o}", "keys", keys_of_user(r, r->identity.sub)));
}

/* The sandbox that a scoped key is for: the caller must own it, else it does not exist (404). */
static struct object *scope_sandbox(struct request *r, const struct key_body *body, struct error *err) {
    return sandbox_lookup(r->backend->store, &r->identity, sandbox_namespace(r->router->config),
                          request_query(r, "namespace"), body->sandbox_id, ACCESS_LEVEL_OWNER, err);
}

static size_t count_keys(struct request *r) {
    cleanup_json json_t *keys = keys_of_user(r, r->identity.sub);
    return json_array_size(keys);
}

/* W-75. Keys that have expired make room. */
static bool below_cap(struct request *r, struct error *err) {
    size_t most = (size_t)r->router->config->api_keys_per_user;
    if (most == 0 || count_keys(r) < most) return true;
    cleanup_error struct error ignored = {0};
    if (!keys_remove_expired(r->router->keys, r->identity.sub, &ignored))
        log_warn("expired API keys could not be removed", "error", ignored.message, NULL);
    if (count_keys(r) < most) return true;
    error_set(err, 409, "key_limit_reached",
              "you have %zu API keys, the most one user may have; revoke one first", most);
    return false;
}

static json_t *mint(struct request *r, struct error *err) {
    struct key_body body;
    cleanup_object struct object *sandbox = NULL;
    if (!key_body_parse(r->body, r->router->config->api_key_max_lifetime_ms * 1000000, &body, err))
        return NULL;
    audit_detail(r, "sandbox", audit_string(body.sandbox_id));
    if (body.sandbox_id && !(sandbox = scope_sandbox(r, &body, err))) return NULL;
    struct key_request q = {
        .user_id = r->identity.sub,
        .email = r->identity.email_unverified ? "" : r->identity.email, /* a key vouches for it (W-25) */
        .name = body.name,
        .action_groups = body.groups,
        .expires_in_ns = body.expires_in_ns,
    };
    if (sandbox) {
        q.sandbox_id = sandbox->name;
        q.sandbox_namespace = sandbox->namespace;
        q.sandbox_uid = sandbox->uid;
    }
    char key[API_KEY_LEN + 1];
    json_t *answer = NULL;
    key_cache_mint_begin(r->router->keys);
    bool made = below_cap(r, err) &&
                key_create(r->backend->store, install_namespace(r->router->config), &q, key, &answer, err);
    key_cache_mint_end(r->router->keys);
    if (!made) return NULL;
    log_info("API key created", "key", json_str_at(answer, "id"), "user", r->identity.sub, "request_id",
             r->request_id, NULL);
    json_object_del(answer, "userId");
    json_object_set_new(answer, "key", json_string(key));
    explicit_bzero(key, sizeof key);
    if (!sandbox) {
        json_object_set_new(answer, "sandboxId", json_string(""));
        json_object_set_new(answer, "actionGroups", json_array());
    }
    if (!json_object_get(answer, "expiresAt")) json_object_set_new(answer, "expiresAt", json_null());
    json_object_set_new(answer, "warning", json_string("store this key now; it cannot be shown again"));
    return answer;
}

void keys_create(struct request *r) {
    cleanup_error struct error err = {0};
    json_t *answer = mint(r, &err);
    if (!answer) {
        reply_error(r, &err);
        return;
    }
    audit_name(r, NULL, json_str_at(answer, "id"));
    audit_detail(r, "actionGroups", json_deep_copy(json_object_get(answer, "actionGroups")));
    reply_json(r, 201, answer);
}

static bool revoke_key(struct request *r, const char *id, struct error *err) {
    struct store *store = r->backend->store;
    cleanup_object struct object *secret =
        store->ops->get(store, KIND_SECRET, install_namespace(r->router->config), id);
    cleanup_json json_t *record = secret ? key_record_read(secret->json) : NULL;
    if (!record) {
        error_set(err, 404, "key_not_found", "API key not found");
        return false;
    }
    const char *owner = json_str_at(record, "userId");
    if (!r->identity.is_admin && (!owner[0] || strcmp(owner, r->identity.sub) != 0)) {
        error_set(err, 403, "key_not_yours", "this API key belongs to somebody else");
        return false;
    }
    struct store_preconditions same = {.uid = secret->uid};
    return store->ops->remove(store, KIND_SECRET, secret->namespace, secret->name, &same, err);
}

void keys_delete(struct request *r) {
    cleanup_error struct error err = {0};
    const char *id = request_param(r, "keyId");
    if (!revoke_key(r, id, &err)) {
        reply_error(r, &err);
        return;
    }
    log_info("API key revoked", "key", id, "user", r->identity.sub, "request_id", r->request_id, NULL);
    reply_json(r, 200, json_pack("{s:s, s:s}", "status", "revoked", "id", id));
}

/* ---- for administrators (W-75) ---- */

#define PAGE_DEFAULT 100
#define PAGE_MAX     500

static bool read_limit(struct request *r, size_t *limit, struct error *err) {
    const char *text = request_query(r, "limit");
    uint64_t n = PAGE_DEFAULT;
    if (text && text[0] && (!slice_parse_u64(slice_of(text), PAGE_MAX, &n) || n == 0)) {
        error_set_field(err, "limit", "must be a number from 1 to %d", PAGE_MAX);
        return false;
    }
    *limit = (size_t)n;
    return true;
}

/* A page of all keys, in the order of their ids, after the one named by `continue`. */
static json_t *page_of_keys(struct request *r, size_t limit) {
    bool more;
    cleanup_object_list struct object_list page =
        key_cache_page(r->router->keys, request_query(r, "continue"), limit, &more);
    json_t *keys = json_array();
    for (size_t i = 0; i < page.count; i++) {
        cleanup_json json_t *record = key_record_read(page.items[i]->json);
        if (record) json_array_append_new(keys, key_record_public(record));
    }
    json_t *answer = json_pack("{s:o}", "keys", keys);
    if (more && page.count > 0)
        json_object_set_new(answer, "continue", json_string(page.items[page.count - 1]->name));
    return answer;
}

void admin_keys(struct request *r) {
    cleanup_error struct error err = {0};
    const char *user = request_query(r, "user");
    size_t limit;
    if (!read_limit(r, &limit, &err))
        reply_error(r, &err);
    else if (user && user[0])
        reply_json(r, 200, json_pack("{s:o}", "keys", keys_of_user(r, user)));
    else
        reply_json(r, 200, page_of_keys(r, limit));
}
