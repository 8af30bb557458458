/* Sharing a sandbox with users and groups (http-api.md 2.13). */
#include "common/log.h"
#include "router/audit.h"
#include "router/auth.h"
#include "router/handlers.h"
#include "router/sandbox_event.h"
#include "router/share_update.h"
#include "router/sharing.h"

#include <string.h>

/* What a request changes in spec.sharing; applied to the newest version of the very sandbox that was found.
 */
struct change {
    const char *uid;
    const struct share_grant *grant; /* to add, or */
    const char *revoke;              /* to remove from `lists` */
    unsigned lists;
    bool had_sharing;
};

static bool apply(void *ctx, json_t *object, struct error *err) {
    struct change *change = ctx;
    json_t *spec = json_object_get(object, "spec");
    if (strcmp(json_str_at(object, "metadata.uid"), change->uid) != 0) {
        error_set(err, 404, ERR_NOT_FOUND, "the sandbox was deleted meanwhile");
        return false;
    }
    change->had_sharing = json_is_object(json_object_get(spec, "sharing"));
    if (change->grant) return share_add(spec, change->grant, err);
    share_remove(spec, change->revoke, change->lists);
    return true;
}

static bool write_change(struct request *r, struct change *change, struct object **out, struct error *err) {
    change->uid = r->sandbox->uid;
    return share_update(r->backend->store, r->sandbox, apply, change, out, err);
}

void share_get(struct request *r) {
    reply_json(r, 200, share_json(json_object_get(r->sandbox->json, "spec")));
}

void share_grant(struct request *r) {
    cleanup_error struct error err = {0};
    struct share_grant grant;
    struct change change = {.grant = &grant};
    cleanup_object struct object *newer = NULL;
    if (!share_grant_parse(r->body, &grant, &err) || !auth_find_sandbox(r, &err) ||
        !write_change(r, &change, &newer, &err)) {
        reply_error(r, &err);
        return;
    }
    audit_detail(r, "with", audit_string(grant.identity));
    audit_detail(r, "level", audit_string(grant.level));
    sandbox_event(r->backend->store, newer, "Normal", "ShareGranted", grant.identity);
    cleanup_free char *with = audit_log_text(slice_of(grant.identity));
    log_info("sandbox shared", "sandbox", newer->name, "namespace", newer->namespace, "with", with, "level",
             grant.level, "user", r->identity.sub, "request_id", r->request_id, NULL);
    reply_json(r, 200, share_json(json_object_get(newer->json, "spec")));
}

void share_revoke(struct request *r) {
    cleanup_error struct error err = {0};
    const char *identity = request_param(r, "userId");
    struct change change = {.revoke = identity};
    audit_detail(r, "with", audit_string(identity));
    cleanup_object struct object *newer = NULL;
    if (!share_lists_parse(request_query(r, "kind"), &change.lists, &err) ||
        !write_change(r, &change, &newer, &err)) {
        reply_error(r, &err);
        return;
    }
    if (change.had_sharing) sandbox_event(r->backend->store, newer, "Normal", "ShareRevoked", identity);
    cleanup_free char *with = audit_log_text(slice_of(identity));
    log_info("sharing revoked", "sandbox", newer->name, "namespace", newer->namespace, "with", with, "user",
             r->identity.sub, "request_id", r->request_id, NULL);
    reply_json(
        r, 200,
        json_pack("{s:s, s:o}", "status", "revoked", "identity", json_string_repaired(slice_of(identity))));
}
