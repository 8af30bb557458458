/* Sandboxes as a resource: list, create, get, change, delete. (http-api.md 2.3 to 2.5) */
#include "backend/templates.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "router/exec_args.h"
#include "router/handlers.h"
#include "router/keys.h"
#include "router/policy.h"
#include "router/router.h"
#include "router/sandbox_list.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_spec.h"
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
    sandbox_list_render(&all, &r->identity, &filter, &text);
    size_t len = 0;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "application/json", data, len);
}

void sandbox_get(struct request *r) {
    const struct sandbox_view *v = sandbox_view_get(r->sandbox);
    reply_view(r, 200, r->sandbox, v->json.ptr, v->json.len + 1);
}

/* ---- create ---- */

/* The template that a request means; `*kind` is what is stored (W-18). NULL: there is none, which is
 * no error (http-api.md 2.4). */
static struct object *find_template(struct store *store, const struct sandbox_request *q,
                                    const char *namespace, const char **kind) {
    const char *in = q->template_namespace ? q->template_namespace : namespace;
    bool either = q->template_kind == NULL;
    struct object *found = NULL;
    if (either || strcmp(q->template_kind, "ClusterSandboxTemplate") == 0) {
        *kind = "ClusterSandboxTemplate";
        found = store->ops->get(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", q->template_name);
        if (found || !either) return found;
    }
    found = store->ops->get(store, KIND_SANDBOX_TEMPLATE, in, q->template_name);
    if (found || !either) *kind = "SandboxTemplate";
    return found;
}

static struct policy_usage count_usage(struct store *store, const char *namespace, const char *sub) {
    struct policy_usage usage = {0};
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, namespace);
    for (size_t i = 0; i < all.count; i++) {
        const struct sandbox_view *v = sandbox_view_get(all.items[i]);
        if (strcmp(v->status, "Deleting") == 0 || strcmp(v->status, "Error") == 0) continue;
        usage.total++;
        if (v->owner[0] && strcmp(v->owner, sub) == 0) usage.of_user++;
        if (strcmp(json_str_at(all.items[i]->json, "spec.mode"), "agent") == 0) usage.agents++;
    }
    return usage;
}

/* An Idempotency-Key as it is kept: hashed with the caller, so that keys of two callers never meet. */
struct replay {
    char key[SHA256_HEX_LEN + 1];
    char digest[SHA256_HEX_LEN + 1];
};

static bool replay_read(struct request *r, struct replay *out, bool *given, struct error *err) {
    const char *key = request_header(r, "Idempotency-Key");
    *given = key != NULL;
    if (!key) return true;
    if (!idempotency_key_valid(key)) {
        error_set(err, 400, ERR_BAD_REQUEST, "Idempotency-Key must be 1 to 255 visible ASCII characters");
        return false;
    }
    cleanup_buffer struct buffer text = {0};
    buffer_append(&text, r->identity.sub, strlen(r->identity.sub) + 1);
    buffer_append_str(&text, key);
    sha256_hex(buffer_slice(&text), out->key);
    cleanup_free char *body = json_dumps(r->body, JSON_COMPACT | JSON_SORT_KEYS);
    sha256_hex(slice_of(body ? body : ""), out->digest);
    return true;
}

static void reply_created(struct request *r, const struct object *sandbox, bool replayed) {
    if (replayed) reply_header(r, "Idempotency-Replayed", "true");
    reply_json(r, 201, sandbox_created_json(sandbox->json));
}

/* Answers if the sandbox was made with this key; false: it was not. */
static bool answer_replay(struct request *r, const struct object *sandbox, const struct replay *replay) {
    if (strcmp(sandbox_annotation(sandbox->json, ANNOTATION_REPLAY_KEY), replay->key) != 0) return false;
    if (sandbox_is_deleting(sandbox->json)) return false;
    if (strcmp(sandbox_annotation(sandbox->json, ANNOTATION_REPLAY_DIGEST), replay->digest) == 0) {
        reply_created(r, sandbox, true);
        return true;
    }
    cleanup_error struct error err = {0};
    error_set(&err, 409, "idempotency_key_reused",
              "this Idempotency-Key was used with another body, for sandbox %s; use a new key",
              sandbox->name);
    reply_error(r, &err);
    return true;
}

static bool replayed_before(struct request *r, struct store *store, const struct replay *replay) {
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        if (strcmp(sandbox_view_get(all.items[i])->replay_key, replay->key) != 0) continue;
        if (answer_replay(r, all.items[i], replay)) return true;
    }
    return false;
}

/* Somebody has the name: a retry of this very request, or a conflict. */
static void answer_name_taken(struct request *r, const char *namespace, const char *name,
                              const struct replay *replay, struct error *err) {
    struct store *store = r->backend->store;
    cleanup_object struct object *there = store->ops->get(store, KIND_SANDBOX, namespace, name);
    if (there && replay && answer_replay(r, there, replay)) return;
    if (there && sandbox_is_deleting(there->json)) {
        error_set(err, 409, ERR_ALREADY_EXISTS, "sandbox %s is being deleted; retry", name);
        err->retry_after = 1;
    } else {
        error_set(err, 409, ERR_ALREADY_EXISTS, "sandbox %s already exists in namespace %s", name, namespace);
    }
    reply_error(r, err);
}

static bool namespace_permitted(struct request *r, const char *namespace, struct error *err) {
    const struct config *config = r->router->config;
    if (sandbox_namespace_allowed(&r->identity, namespace, install_namespace(config),
                                  sandbox_namespace(config)))
        return true;
    error_set(err, 403, "namespace_not_allowed", "namespace %s is reserved for the platform", namespace);
    return false;
}

/* The whole check of a request: the object to create, or NULL with err. */
static json_t *checked_object(struct request *r, const struct sandbox_request *q, const char *namespace,
                              struct error *err) {
    struct store *store = r->backend->store;
    if (!namespace_permitted(r, namespace, err)) return NULL;
    if (q->template_namespace && strcmp(q->template_namespace, namespace) != 0 &&
        !namespace_permitted(r, q->template_namespace, err))
        return NULL;
    const char *kind = NULL;
    cleanup_object struct object *template = find_template(store, q, namespace, &kind);
    const char *mode = template ? json_str_at(template->json, "spec.mode") : "";
    cleanup_json json_t *object = sandbox_request_object(q, namespace, kind, mode, &r->identity);
    json_t *spec = json_object_get(object, "spec");

    struct policy policy = policy_default(r->backend);
    bool counted =
        policy.max_sandboxes_total > 0 || policy.max_sandboxes_per_user > 0 || policy.max_agent_sandboxes > 0;
    struct policy_usage usage = {0};
    if (counted) usage = count_usage(store, namespace, r->identity.sub);
    json_t *violations = policy_evaluate(&policy, spec, &usage, POLICY_RULES_CREATE);
    if (violations) {
        policy_error(err, violations);
        return NULL;
    }
    if (template) {
        /* A template that does not resolve shows when the sandbox starts (2.4). */
        cleanup_json json_t *resolved = template_resolve(store, object, NULL);
        if (resolved) sandbox_spec_inherit(spec, resolved);
    }
    return steal_ptr(object);
}

void sandboxes_create(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_sandbox_request struct sandbox_request q = {0};
    struct store *store = r->backend->store;
    struct replay replay;
    bool replayable = false;
    if (!sandbox_request_parse(r->body, &q, &err) || !replay_read(r, &replay, &replayable, &err)) {
        reply_error(r, &err);
        return;
    }
    if (replayable && replayed_before(r, store, &replay)) return;

    const char *namespace = q.namespace ? q.namespace : sandbox_namespace(r->router->config);
    cleanup_json json_t *object = checked_object(r, &q, namespace, &err);
    if (!object) {
        reply_error(r, &err);
        return;
    }
    if (replayable) {
        json_object_set_new(json_object_get(object, "metadata"), "annotations",
                            json_pack("{s:s, s:s}", ANNOTATION_REPLAY_KEY, replay.key,
                                      ANNOTATION_REPLAY_DIGEST, replay.digest));
    }
    cleanup_object struct object *created = NULL;
    if (store->ops->create(store, KIND_SANDBOX, object, &created, &err)) {
        log_info("sandbox created", "sandbox", q.name, "namespace", namespace, "user", r->identity.sub,
                 "request_id", r->request_id, NULL);
        reply_created(r, created, false);
    } else if (err.status == 409) {
        answer_name_taken(r, namespace, q.name, replayable ? &replay : NULL, &err);
    } else {
        reply_error(r, &err);
    }
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

void sandbox_patch(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *applied = NULL;
    cleanup_json json_t *patch = sandbox_patch_parse(r->body, &applied, &err);
    if (!patch) {
        reply_error(r, &err);
        return;
    }
    /* Only what changes is checked: an older value above a newer cap stays as it is (W-78). */
    struct policy policy = policy_default(r->backend);
    json_t *violations = policy_evaluate(&policy, json_object_get(patch, "spec"), NULL, POLICY_RULES_VALUES);
    if (violations) {
        policy_error(&err, violations);
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

void sandbox_delete(struct request *r) {
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    struct store_preconditions same = {.uid = r->sandbox->uid};
    if (!sandbox_is_deleting(r->sandbox->json) &&
        !store->ops->remove(store, KIND_SANDBOX, r->sandbox->namespace, r->sandbox->name, &same, &err)) {
        /* Gone meanwhile, or another one has the name now: this one is deleted. */
        if (err.status != 404 && err.status != 409) {
            reply_error(r, &err);
            return;
        }
        error_clear(&err);
    }
    if (!keys_revoke_sandbox(store, install_namespace(r->router->config), r->sandbox->uid, &err))
        log_warn("keys of a deleted sandbox stay until they expire; they open nothing", "sandbox",
                 r->sandbox->name, "error", err.message, NULL);
    log_info("sandbox deleted", "sandbox", r->sandbox->name, "namespace", r->sandbox->namespace, "user",
             r->identity.sub, "request_id", r->request_id, NULL);
    reply_empty(r, 204);
}
