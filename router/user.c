/* The caller and the caller's API keys (http-api.md 2.15, 2.16). */
#include "common/log.h"
#include "router/handlers.h"
#include "router/key_record.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#include <string.h>

void user_me(struct request *r) {
    const struct identity *id = &r->identity;
    reply_json(r, 200,
               json_pack("{s:o, s:o, s:o, s:o, s:b}", "sub", json_string_repaired(slice_of(id->sub)), "email",
                         json_string_repaired(slice_of(id->email ? id->email : "")), "name",
                         json_string_repaired(slice_of(id->name ? id->name : "")), "groups",
                         id->groups ? json_deep_copy(id->groups) : json_array(), "isAdmin", id->is_admin));
}

/* ---- keys ---- */

/* The record if the Secret is a key of this user: the label selects, the record decides (W-55). */
static json_t *record_of_user(const struct object *secret, const char *label, const char *user_id) {
    const char *marked =
        json_string_value(json_object_get(json_at(secret->json, "metadata.labels"), KEY_USER_LABEL));
    if (!marked || strcmp(marked, label) != 0) return NULL;
    json_t *record = key_record_read(secret->json);
    if (record && strcmp(json_str_at(record, "userId"), user_id) == 0) return record;
    json_decref(record);
    return NULL;
}

/* The caller's keys as the API shows them. */
static json_t *keys_of_caller(struct request *r) {
    struct store *store = r->backend->store;
    char label[64];
    key_user_label(r->identity.sub, label);
    json_t *keys = json_array();
    cleanup_object_list struct object_list all =
        store->ops->list(store, KIND_SECRET, install_namespace(r->router->config));
    for (size_t i = 0; i < all.count; i++) {
        cleanup_json json_t *record = record_of_user(all.items[i], label, r->identity.sub);
        if (record) json_array_append_new(keys, key_record_public(record));
    }
    return keys;
}

void keys_list(struct request *r) {
    reply_json(r, 200, json_pack("{s:o}", "keys", keys_of_caller(r)));
}

/* The sandbox that a scoped key is for: the caller must own it, else it does not exist (404). */
static struct object *scope_sandbox(struct request *r, const struct key_body *body, struct error *err) {
    return sandbox_lookup(r->backend->store, &r->identity, sandbox_namespace(r->router->config),
                          request_query(r, "namespace"), body->sandbox_id, ACCESS_LEVEL_OWNER, err);
}

static bool below_cap(struct request *r, struct error *err) {
    cleanup_json json_t *keys = keys_of_caller(r);
    if (json_array_size(keys) < KEYS_PER_USER_MAX) return true;
    error_set(err, 409, "key_limit_reached",
              "you have %d API keys, the most one user may have; revoke one first", KEYS_PER_USER_MAX);
    return false;
}

static json_t *mint(struct request *r, struct error *err) {
    struct key_body body;
    cleanup_object struct object *sandbox = NULL;
    if (!key_body_parse(r->body, &body, err)) return NULL;
    if (body.sandbox_id && !(sandbox = scope_sandbox(r, &body, err))) return NULL;
    if (!below_cap(r, err)) return NULL;
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
    if (!key_create(r->backend->store, install_namespace(r->router->config), &q, key, &answer, err))
        return NULL;
    log_info("API key created", "key", json_str_at(answer, "id"), "user", r->identity.sub, "request_id",
             r->request_id, NULL);
    json_object_del(answer, "userId");
    json_object_set_new(answer, "key", json_string(key));
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
    if (answer)
        reply_json(r, 201, answer);
    else
        reply_error(r, &err);
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
