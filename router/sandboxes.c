/* Sandboxes as a resource: list, create, get, change. (http-api.md 2.3 to 2.5) */
#include "common/log.h"
#include "router/audit.h"
#include "router/governance.h"
#include "router/handlers.h"
#include "router/keys.h"
#include "router/router.h"
#include "router/sandbox_create.h"
#include "router/sandbox_list.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_view.h"

#include <string.h>

/* ---- read ---- */

void sandboxes_list(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_filter struct sandbox_filter filter = {
        .namespace = request_query(r, "namespace"),
        .status = request_query(r, "status"),
        .template = request_query(r, "template"),
    };
    const char *shared = request_query(r, "shared");
    filter.shared = shared && strcmp(shared, "true") == 0;
    if (!sandbox_filter_parse(request_query(r, "limit"), request_query(r, "continue"), &filter, &err)) {
        reply_error(r, &err);
        return;
    }
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, filter.namespace);
    struct buffer text = {0};
    sandbox_list_render(&all, &r->identity, &filter, filter.shared ? sandbox_append_with_role : NULL,
                        &r->identity, &text);
    size_t len = 0;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "application/json", data, len);
}

void sandbox_get(struct request *r) {
    const struct sandbox_view *v = sandbox_view_get(r->sandbox);
    if (r->identity.is_admin || strcmp(v->owner, r->identity.sub) == 0) {
        reply_view(r, 200, r->sandbox, v->json.ptr, v->json.len + 1);
        return;
    }
    /* A guest learns what the sandbox is shared as. */
    struct buffer text = {0};
    sandbox_append_with_role(&r->identity, r->sandbox, v, &text);
    buffer_append_char(&text, '\n');
    size_t len = 0;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "application/json", data, len);
}

/* ---- create ---- */

static void reply_created(struct request *r, const struct object *sandbox, bool replayed) {
    if (replayed) reply_header(r, "Idempotency-Replayed", "true");
    reply_json(r, 201, sandbox_created_json(sandbox->json));
}

void sandboxes_create(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_request struct sandbox_request q = {0};
    struct replay replay;
    bool replayable = false, replayed = false;
    if (!sandbox_request_parse(r->body, &q, &err) || !replay_read(r, &replay, &replayable, &err)) {
        reply_error(r, &err);
        return;
    }
    audit_name(r, q.namespace ? q.namespace : sandbox_namespace(r->router->config), q.name);
    cleanup_object struct object *before = replayable ? replay_find(r->backend->store, &replay) : NULL;
    if (before && replay_match(before, &replay) == REPLAY_SAME) {
        reply_created(r, before, true);
        return;
    }
    if (before) {
        replay_conflict(before, &err);
        reply_error(r, &err);
        return;
    }
    cleanup_object struct object *created = NULL;
    if (!sandbox_create(r->router, &r->identity, &q, replayable ? &replay : NULL, &created, &replayed,
                        &err)) {
        reply_error(r, &err);
        return;
    }
    if (!replayed)
        log_info("sandbox created", "sandbox", created->name, "namespace", created->namespace, "user",
                 r->identity.sub, "request_id", r->request_id, NULL);
    reply_created(r, created, replayed);
}

/* ---- change ---- */

struct change {
    const char *uid;
    const json_t *patch; /* {metadata, spec} of sandbox_patch_parse */
};

static void merge_map(json_t *metadata, const char *name, const json_t *changes) {
    const char *key;
    json_t *value;
    if (json_object_size(changes) == 0) return;
    json_t *map = json_object_get(metadata, name);
    if (!json_is_object(map)) {
        map = json_object();
        json_object_set_new(metadata, name, map);
    }
    json_object_foreach((json_t *)changes, key, value) {
        if (json_is_null(value))
            json_object_del(map, key);
        else
            json_object_set_new(map, key, json_deep_copy(value));
    }
}

static bool apply_change(void *ctx, json_t *object, struct error *err) {
    const struct change *change = ctx;
    const char *name;
    json_t *value;
    if (strcmp(json_str_at(object, "metadata.uid"), change->uid) != 0) {
        error_set(err, 404, ERR_NOT_FOUND, "the sandbox was deleted meanwhile");
        return false;
    }
    json_t *spec = json_object_get(object, "spec");
    json_object_foreach(json_object_get(change->patch, "spec"), name, value) {
        if (json_is_null(value))
            json_object_del(spec, name);
        else
            json_object_set_new(spec, name, json_deep_copy(value));
    }
    json_t *metadata = json_object_get(object, "metadata");
    merge_map(metadata, "labels", json_at(change->patch, "metadata.labels"));
    merge_map(metadata, "annotations", json_at(change->patch, "metadata.annotations"));
    return true;
}

/* Only what changes is checked: an older value above a newer cap stays as it is (W-78). */
static bool change_permitted(struct request *r, json_t *spec, struct error *err) {
    if (json_object_size(spec) == 0) return true;
    struct governance *governance = r->router->governance;
    cleanup_json json_t *policy = governance_effective(governance, r->sandbox->namespace, err);
    if (!policy) return false;
    json_t *violations = governance_check_change(governance, policy, r->sandbox->json, spec);
    if (violations) policy_error(err, violations);
    return violations == NULL;
}

void sandbox_patch(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *applied = NULL;
    cleanup_json json_t *patch = sandbox_patch_parse(r->body, &applied, &err);
    if (!patch) {
        reply_error(r, &err);
        return;
    }
    if (!change_permitted(r, json_object_get(patch, "spec"), &err)) {
        reply_error(r, &err);
        return;
    }
    struct change change = {.uid = r->sandbox->uid, .patch = patch};
    if (!store_update(r->backend->store, KIND_SANDBOX, STORE_MAIN, r->sandbox->namespace, r->sandbox->name,
                      apply_change, &change, NULL, &err)) {
        reply_error(r, &err);
        return;
    }
    bool restart = json_object_get(applied, "resources") != NULL;
    json_t *answer = json_pack("{s:s, s:O, s:b}", "sandboxId", r->sandbox->name, "applied", applied,
                               "restartRequired", restart);
    if (restart) {
        json_object_set_new(answer, "message",
                            json_string("stop and resume the sandbox to apply the new resources"));
    }
    reply_json(r, 200, answer);
}
