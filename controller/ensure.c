/* Each of these looks first and makes what is missing. What carries the name already is used only when it is
 * this sandbox's own: an object of an earlier sandbox of the same name is removed and waited for, never
 * adopted (O5); what belongs to another one, or to nobody we know, is left alone. */
#include "controller/inside.h"

#include "common/log.h"
#include "common/secret.h"
#include "controller/claim.h"
#include "controller/names.h"
#include "controller/network_policy.h"
#include "controller/pod.h"
#include "controller/token_secret.h"

static bool going(const struct object *o) {
    return *json_str_at(o->json, "metadata.deletionTimestamp") != '\0';
}

/* ---- writes and their failures ----------------------------------------------------------------- */

enum step step_refused(struct pass *p, const char *what, struct error *err) {
    bool transient = err->status == 429 || err->status >= 500 || err->status == 401 ||
                     (err->code && strcmp(err->code, ERR_CONFLICT) == 0);
    if (!transient) {
        error_wrap(err, "%s", what);
        return STEP_FAILED;
    }
    log_warn("an object of a sandbox cannot be made yet", "namespace", p->who.namespace, "sandbox",
             p->who.name, "what", what, "why", err->message, NULL);
    return STEP_RETRY;
}

/* Creates `json` (taken). With AGAIN it is there: `*there`. */
static enum step create(struct pass *p, enum kind kind, json_t *json, const char *what, struct object **made,
                        struct object **there, struct error *err) {
    cleanup_json json_t *object = json;
    if (p->c->store->ops->create(p->c->store, kind, object, made, err)) return STEP_DONE;
    if (!err->code || strcmp(err->code, ERR_ALREADY_EXISTS) != 0) return step_refused(p, what, err);
    error_clear(err);
    *there = look_up(p, kind, json_str_at(object, "metadata.name"));
    return *there ? STEP_AGAIN : STEP_RETRY;
}

/* ---- whose is it? ------------------------------------------------------------------------------ */

enum whose { OURS, EARLIER, NOBODYS, ANOTHERS };

static enum whose whose(struct pass *p, const struct object *o) {
    if (is_owned_by(o, p->sandbox)) return OURS;
    const char *owner = owner_name(o);
    if (!owner) return NOBODYS;
    return strcmp(owner, p->who.name) == 0 ? EARLIER : ANOTHERS;
}

/* An object that has the name and cannot be used. */
static enum step make_room(struct pass *p, const struct object *o, const char *what, struct error *err) {
    if (whose(p, o) == EARLIER || going(o)) {
        if (!going(o) && !remove_exactly(p->c, o)) return STEP_RETRY;
        error_set(err, 409, ERR_CONFLICT, "Waiting for %s \"%s\"%s to be removed",
                  resource_kinds[o->kind].kind, o->name,
                  whose(p, o) == EARLIER ? " of an earlier sandbox" : "");
        return STEP_WAIT;
    }
    const char *owner = owner_name(o);
    error_set(err, 409, ERR_ALREADY_EXISTS, "%s: the %s \"%s\" exists and belongs to %s%s", what,
              resource_kinds[o->kind].kind, o->name, owner ? "sandbox " : "nobody that AgentTier knows",
              owner ? owner : "");
    return STEP_FAILED;
}

/* ---- the claim --------------------------------------------------------------------------------- */

/* A claim that somebody made beforehand, without an owner, is used as it is (controller.md 5.1). */
static bool claim_usable(struct pass *p, const struct object *claim) {
    enum whose is = whose(p, claim);
    return (is == OURS || is == NOBODYS) && !going(claim);
}

static void tell_lost(struct pass *p, const char *name) {
    if (p->memory->told_lost) return;
    p->memory->told_lost = true;
    events_emit(p->c->events, p->sandbox, "Warning", "VolumeLost",
                "the claim %s is gone: the workspace starts out empty", name);
}

enum step ensure_claim(struct pass *p, const json_t *resolved, char **claim, struct error *err) {
    struct store *store = p->c->store;
    const char *recorded = json_str_at(p->sandbox->json, "status.pvcName");
    cleanup_free char *usual = name_of_claim(p->sandbox);
    /* The recorded one always wins: that is where the files are (W11). */
    if (*recorded && strcmp(recorded, usual) != 0) {
        cleanup_object struct object *o =
            store->ops->get(store, KIND_PERSISTENT_VOLUME_CLAIM, p->who.namespace, recorded);
        if (o && claim_usable(p, o)) {
            *claim = xstrdup(recorded);
            return STEP_DONE;
        }
    }
    cleanup_object struct object *o =
        store->ops->get(store, KIND_PERSISTENT_VOLUME_CLAIM, p->who.namespace, usual);
    if (!o) {
        cleanup_json json_t *least = NULL;
        enum step s = restore_size(p, &least, err);
        if (s != STEP_DONE) return s;
        s = create(p, KIND_PERSISTENT_VOLUME_CLAIM, claim_build(p->sandbox, resolved, least, &p->c->settings),
                   CLAIM_FAILED, NULL, &o, err);
        if (s == STEP_DONE && *recorded) tell_lost(p, recorded);
        if (s == STEP_DONE) *claim = steal_ptr(usual);
        if (!o) return s;
    }
    if (!claim_usable(p, o)) return make_room(p, o, CLAIM_FAILED, err);
    *claim = steal_ptr(usual);
    return STEP_DONE;
}

/* ---- the network policy ------------------------------------------------------------------------ */

#define POLICY_FAILED "NetworkPolicy creation failed"

enum step ensure_policy(struct pass *p, const json_t *resolved, struct error *err) {
    struct store *store = p->c->store;
    cleanup_free char *name = name_of_policy(p->sandbox);
    cleanup_json json_t *wanted = network_policy_build(p->sandbox, resolved, &p->c->settings);
    if (!wanted) {
        error_set(err, 500, ERR_INTERNAL, POLICY_FAILED ": a rule is not valid");
        return STEP_FAILED;
    }
    cleanup_object struct object *o = store->ops->get(store, KIND_NETWORK_POLICY, p->who.namespace, name);
    if (!o) {
        enum step s = create(p, KIND_NETWORK_POLICY, json_incref(wanted), POLICY_FAILED, NULL, &o, err);
        if (!o) return s;
    }
    if (whose(p, o) != OURS || going(o)) {
        enum step s = make_room(p, o, POLICY_FAILED, err);
        return s == STEP_WAIT && !going(o) ? STEP_AGAIN : s; /* nothing holds it: it is gone at once */
    }
    if (json_equal(json_object_get(o->json, "spec"), json_object_get(wanted, "spec"))) return STEP_DONE;
    cleanup_json json_t *changed = json_deep_copy(o->json);
    json_object_set(changed, "spec", json_object_get(wanted, "spec"));
    if (store->ops->replace(store, KIND_NETWORK_POLICY, STORE_MAIN, changed, NULL, err)) return STEP_DONE;
    if (err->status == 404) return error_clear(err), STEP_AGAIN;
    return step_refused(p, POLICY_FAILED, err);
}

/* ---- the runtime's token ----------------------------------------------------------------------- */

#define TOKEN_FAILED "Runtime-token secret failed"

static bool is_token(const char *text, const char *token) {
    return text && (!token || secret_equal(slice_of(text), slice_of(token)));
}

/* The Secrets of a cluster are not watched: to list them needs the right to read all of them (I37). So it is
 * made without looking, and looked at by its name when it was there. */
enum step ensure_token(struct pass *p, const char *token, struct error *err) {
    if (p->memory->token_there && !token) return STEP_DONE;
    cleanup_object struct object *o = NULL;
    enum step s = create(p, KIND_SECRET, token_secret_build(p->sandbox, token), TOKEN_FAILED, NULL, &o, err);
    p->memory->token_there = s == STEP_DONE;
    if (!o) return s;
    /* A token that somebody else knew guards nothing. */
    if (whose(p, o) != OURS || going(o)) {
        s = make_room(p, o, TOKEN_FAILED, err);
        return s == STEP_WAIT && !going(o) ? STEP_AGAIN : s;
    }
    char *text = token_secret_read(o);
    p->memory->token_there = is_token(text, token);
    if (text) explicit_bzero(text, strlen(text));
    free(text);
    if (p->memory->token_there) return STEP_DONE;
    return remove_exactly(p->c, o) ? STEP_AGAIN : STEP_RETRY;
}

/* ---- the pod ----------------------------------------------------------------------------------- */

#define POD_FAILED_TO_BE_MADE "Pod creation failed"

enum step ensure_pod(struct pass *p, const json_t *resolved, const char *claim, struct object **pod,
                     struct error *err) {
    struct store *store = p->c->store;
    cleanup_free char *name = name_of_pod(p->sandbox);
    /* One of the warm pool keeps the name that it has. */
    const char *named = json_str_at(p->sandbox->json, "status.podName");
    if (*named && strcmp(named, name) != 0) {
        *pod = store->ops->get(store, KIND_POD, p->who.namespace, named);
        if (*pod && whose(p, *pod) == OURS) return STEP_DONE;
        object_unref(*pod);
        *pod = NULL;
    }
    cleanup_object struct object *o = store->ops->get(store, KIND_POD, p->who.namespace, name);
    if (!o) {
        json_t *wanted = pod_build(p->sandbox, resolved, claim, &p->c->settings);
        if (!wanted) {
            error_set(err, 500, ERR_INTERNAL, POD_FAILED_TO_BE_MADE ": the template is not valid");
            return STEP_FAILED;
        }
        enum step s = create(p, KIND_POD, wanted, POD_FAILED_TO_BE_MADE, pod, &o, err);
        if (s == STEP_DONE) {
            atomic_fetch_add(&p->c->pods_created, 1);
            log_info("pod created", "namespace", p->who.namespace, "sandbox", p->who.name, NULL);
        }
        if (!o) return s;
    }
    if (whose(p, o) != OURS) return make_room(p, o, POD_FAILED_TO_BE_MADE, err);
    *pod = steal_ptr(o);
    return STEP_DONE;
}
