/* Share links: made, listed, revoked by whoever may share the sandbox, redeemed by whoever holds the token.
 * (http-api.md 2.13; W-13) */
#include "common/log.h"
#include "router/audit.h"
#include "router/auth.h"
#include "router/freshness.h"
#include "router/handlers.h"
#include "router/sandbox_event.h"
#include "router/sandbox_view.h"
#include "router/share_update.h"
#include "router/sharing.h"

#include <string.h>
#include <time.h>

/* Redemptions of one link race with each other by design: each of them writes the same object. */
#define REDEEM_ROUNDS 8

static bool is_same(const json_t *object, const char *uid, struct error *err) {
    if (strcmp(json_str_at(object, "metadata.uid"), uid) == 0) return true;
    error_set(err, 404, ERR_NOT_FOUND, "the sandbox was deleted meanwhile");
    return false;
}

void share_links_list(struct request *r) {
    json_t *links = share_links_json(json_object_get(r->sandbox->json, "spec"));
    reply_json(r, 200, json_pack("{s:o}", "shareLinks", links));
}

/* ---- make ---- */

struct making {
    const char *uid;
    json_t *link;
};

static bool add_link(void *ctx, json_t *object, struct error *err) {
    const struct making *making = ctx;
    return is_same(object, making->uid, err) &&
           share_link_add(json_object_get(object, "spec"), making->link, time(NULL), err);
}

void share_links_create(struct request *r) {
    cleanup_error struct error err = {0};
    struct share_link_request q;
    if (!share_link_parse(r->body, &q, &err) || !auth_find_sandbox(r, &err)) {
        reply_error(r, &err);
        return;
    }
    char token[SHARE_TOKEN_LEN + 1];
    cleanup_json json_t *link = share_link_new(&q, time(NULL), token);
    struct making making = {.uid = r->sandbox->uid, .link = link};
    if (!share_update(r->backend->store, r->sandbox, add_link, &making, NULL, &err)) {
        explicit_bzero(token, sizeof token);
        reply_error(r, &err);
        return;
    }
    audit_detail(r, "linkId", audit_string(json_str_at(link, "id")));
    audit_detail(r, "level", audit_string(q.level));
    log_info("share link made", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "link",
             json_str_at(link, "id"), "level", q.level, "user", r->identity.sub, "request_id", r->request_id,
             NULL);
    reply_json(r, 201, share_link_created_json(link, token));
    explicit_bzero(token, sizeof token);
}

/* ---- revoke ---- */

struct revoking {
    const char *uid, *id;
};

static bool remove_link(void *ctx, json_t *object, struct error *err) {
    const struct revoking *revoking = ctx;
    if (!is_same(object, revoking->uid, err)) return false;
    if (share_link_remove(json_object_get(object, "spec"), revoking->id)) return true;
    error_set(err, 404, "share_link_not_found", "the sandbox has no share link %s", revoking->id);
    return false;
}

void share_links_delete(struct request *r) {
    cleanup_error struct error err = {0};
    struct revoking revoking = {.uid = r->sandbox->uid, .id = request_param(r, "linkId")};
    if (!share_update(r->backend->store, r->sandbox, remove_link, &revoking, NULL, &err)) {
        reply_error(r, &err);
        return;
    }
    log_info("share link revoked", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "link",
             revoking.id, "user", r->identity.sub, "request_id", r->request_id, NULL);
    reply_json(r, 200, json_pack("{s:s, s:s}", "status", "revoked", "id", revoking.id));
}

/* ---- redeem ---- */

struct redeeming {
    const char *uid, *token;
    const struct identity *who;
    enum access_level before, granted;
};

static bool redeem_link(void *ctx, json_t *object, struct error *err) {
    struct redeeming *redeeming = ctx;
    if (!is_same(object, redeeming->uid, err)) return false;
    redeeming->before = identity_access(redeeming->who, object);
    return share_link_redeem(object, redeeming->token, redeeming->who, time(NULL), &redeeming->granted, err);
}

/* The sandbox that the token opens; NULL: none. Returns a reference. */
static struct object *sandbox_of_token(struct store *store, const char *token) {
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        if (!sandbox_view_get(all.items[i])->has_links || sandbox_is_deleting(all.items[i]->json)) continue;
        if (share_link_find(json_object_get(all.items[i]->json, "spec"), token))
            return object_ref(all.items[i]);
    }
    return NULL;
}

static bool redeem(struct request *r, const struct object *sandbox, struct redeeming *redeeming,
                   struct error *err) {
    struct store *store = r->backend->store;
    for (int round = 1;; round++) {
        if (share_update(store, sandbox, redeem_link, redeeming, NULL, err)) return true;
        if (strcmp(err->code, ERR_CONFLICT) != 0 || round == REDEEM_ROUNDS) break;
        error_clear(err);
    }
    if (strcmp(err->code, ERR_CONFLICT) == 0) err->retry_after = 1;
    return false;
}

void share_links_redeem(struct request *r) {
    cleanup_error struct error err = {0};
    const char *token = NULL;
    if (!json_get_string(r->body, "token", &token, &err) || !token || !token[0]) {
        if (err.status == 0) error_set_field(&err, "token", "is required");
        reply_error(r, &err);
        return;
    }
    cleanup_object struct object *sandbox = sandbox_of_token(r->backend->store, token);
    if (!sandbox) {
        error_set(&err, 404, "share_link_not_found", "this share link does not exist or was revoked");
        freshness_doubt(r->backend->store, "the share link", &err);
        reply_error(r, &err);
        return;
    }
    audit_name(r, sandbox->namespace, sandbox->name);
    struct redeeming redeeming = {.uid = sandbox->uid, .token = token, .who = &r->identity};
    if (!redeem(r, sandbox, &redeeming, &err)) {
        reply_error(r, &err);
        return;
    }
    audit_detail(r, "level", json_string(access_level_name(redeeming.granted)));
    if (redeeming.granted > redeeming.before) {
        sandbox_event(r->backend->store, sandbox, "Normal", "ShareGranted", r->identity.sub);
        log_info("share link redeemed", "sandbox", sandbox->name, "namespace", sandbox->namespace, "level",
                 access_level_name(redeeming.granted), "user", r->identity.sub, "request_id", r->request_id,
                 NULL);
    }
    reply_json(r, 200,
               json_pack("{s:s, s:s, s:s, s:s, s:s}", "status", "redeemed", "sandboxId", sandbox->name,
                         "name", sandbox->name, "namespace", sandbox->namespace, "level",
                         access_level_name(redeeming.granted)));
}
