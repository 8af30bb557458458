/* A pod of the warm pool becomes a sandbox's (controller.md 10.4). One write decides whose it is, bound to
 * the version that was looked at: from then on the Sandbox owns the pod, its own network policy counts for it
 * instead of the pool's, and whatever is left to do is found and done by the next pass, also another
 * controller's (W15). Workspaces come first: only a sandbox that never had one gets the pod's (W11, W12), and
 * only when its own pod would be the same (W13). */
#include "controller/inside.h"

#include "common/log.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/pod_state.h"
#include "controller/token_secret.h"
#include "controller/warmpool_item.h"

#define ROUNDS 3

static bool is_there(struct pass *p, enum kind kind, const char *name) {
    cleanup_object struct object *o = p->c->store->ops->get(p->c->store, kind, p->who.namespace, name);
    return o != NULL;
}

/* ---- who may ----------------------------------------------------------------------------------- */

static bool is_new(struct pass *p) {
    const json_t *sandbox = p->sandbox->json;
    return !*json_str_at(sandbox, "status.podName") && !*json_str_at(sandbox, "status.pvcName") &&
           !*json_str_at(sandbox, "spec.cloneFromSnapshot");
}

static bool asks_for_pool(struct pass *p) {
    const json_t *ref = json_at(p->sandbox->json, "spec.templateRef");
    return strcmp(json_str_at(ref, "kind"), "ClusterSandboxTemplate") == 0 && *json_str_at(ref, "name");
}

/* Whether it has begun with a pod or a workspace of its own, or somebody made one for it: also when the
 * caches do not know yet. */
static bool has_begun(struct pass *p, bool *known) {
    struct store *store = p->c->store;
    cleanup_free char *pod = name_of_pod(p->sandbox), *claim = name_of_claim(p->sandbox);
    cleanup_error struct error err = {0};
    *known = true;
    if (is_there(p, KIND_POD, pod) || is_there(p, KIND_PERSISTENT_VOLUME_CLAIM, claim)) return true;
    *known = !store->ops->look ||
             store->ops->look(store, KIND_PERSISTENT_VOLUME_CLAIM, p->who.namespace, claim, &err);
    return is_there(p, KIND_PERSISTENT_VOLUME_CLAIM, claim);
}

/* ---- taking one -------------------------------------------------------------------------------- */

/* Whether `a` is the better one: with its runtime, then the oldest. */
static bool better(const struct controller *c, const struct object *a, const struct object *b) {
    bool waits = awaits_runtime(c, a), than = awaits_runtime(c, b);
    return waits != than ? !waits : pod_created_at(a) < pod_created_at(b);
}

/* Those that are ready and fit, the best first. */
static struct object_list candidates(struct pass *p, const char *template, const char *fit) {
    struct object_list pods = pool_pods(p->c, template);
    size_t n = 0;
    for (size_t i = 0; i < pods.count; i++) {
        struct object *pod = pods.items[i];
        if (pod_state(pod) != POD_READY || !pool_made(pod, fit)) {
            object_unref(pod);
            continue;
        }
        size_t at = n++;
        for (; at > 0 && better(p->c, pod, pods.items[at - 1]); at--)
            pods.items[at] = pods.items[at - 1];
        pods.items[at] = pod;
    }
    pods.count = n;
    return pods;
}

enum claimed { CLAIMED, LOST, GIVE_UP, UNKNOWN };

static enum claimed claim_one(struct pass *p, const json_t *resolved, const struct object *candidate,
                              struct object **pod) {
    struct store *store = p->c->store;
    cleanup_json json_t *patch = pool_pod_patch(p->sandbox, resolved);
    const struct store_preconditions same = {.uid = candidate->uid,
                                             .resource_version = candidate->resource_version};
    cleanup_error struct error err = {0};
    if (store->ops->patch(store, KIND_POD, STORE_MAIN, candidate->namespace, candidate->name, patch, &same,
                          pod, &err))
        return CLAIMED;
    /* The write may have been done all the same, and its answer lost. */
    *pod = store->ops->get(store, KIND_POD, candidate->namespace, candidate->name);
    if (*pod && is_owned_by(*pod, p->sandbox)) return CLAIMED;
    object_unref(*pod);
    *pod = NULL;
    if (err.status == 404) return LOST;
    if (err.code && strcmp(err.code, ERR_CONFLICT) == 0) {
        atomic_fetch_add(&p->c->pool_conflicts, 1);
        return LOST;
    }
    log_warn("a pod of the warm pool cannot be taken", "sandbox", p->who.name, "pod", candidate->name, "why",
             err.message, NULL);
    return err.status >= 500 ? UNKNOWN : GIVE_UP;
}

/* GIVE_UP also when there is none. */
static enum claimed claim_any(struct pass *p, const json_t *resolved, const char *template, const char *fit,
                              struct object **pod) {
    for (int round = 0; round < ROUNDS; round++) {
        cleanup_object_list struct object_list pods = candidates(p, template, fit);
        if (pods.count == 0) return GIVE_UP;
        for (size_t i = 0; i < pods.count; i++) {
            enum claimed result = claim_one(p, resolved, pods.items[i], pod);
            if (result != LOST) return result;
        }
    }
    return GIVE_UP;
}

/* One that is this sandbox's already, and of which its status says nothing yet: whoever took it ended before
 * it could. */
static struct object *claimed_before(struct pass *p) {
    struct store *store = p->c->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_POD, p->who.namespace);
    for (size_t i = 0; i < all.count; i++)
        if (is_owned_by(all.items[i], p->sandbox) && pool_made(all.items[i], NULL) &&
            pod_state(all.items[i]) != POD_ENDING)
            return object_ref(all.items[i]);
    return NULL;
}

static enum step find(struct pass *p, const json_t *resolved, struct object **pod, struct error *err) {
    struct controller *c = p->c;
    const char *template = json_str_at(resolved, "templateName");
    char fit[POOL_FIT_LEN + 1];
    bool known;
    /* Once: what this process takes it knows. */
    if (!p->memory->pool_asked) *pod = claimed_before(p);
    p->memory->pool_asked = true;
    if (*pod) return STEP_DONE;
    cleanup_object struct object *config =
        c->store->ops->get(c->store, KIND_CONFIG_MAP, c->settings.install_namespace, WARMPOOL_CONFIG_MAP);
    if (!config || !asks_for_pool(p)) return STEP_DONE;
    pool_fit(resolved, &c->settings, fit);
    cleanup_object_list struct object_list pods = candidates(p, template, fit);
    if (pods.count == 0) return STEP_DONE;
    if (has_begun(p, &known)) return STEP_DONE;
    if (!known) return STEP_RETRY;
    /* Never without a policy of its own: it counts in the moment in which the pool's does not any more. */
    enum step s = ensure_policy(p, resolved, err);
    if (s != STEP_DONE) return s;
    if (claim_any(p, resolved, template, fit, pod) == UNKNOWN) {
        p->memory->pool_asked = false;
        return STEP_RETRY;
    }
    queue_add(c->pools, template);
    if (*pod) {
        atomic_fetch_add(&c->pool_claims, 1);
        log_info("sandbox takes a pod of the warm pool", "namespace", p->who.namespace, "sandbox",
                 p->who.name, "pod", (*pod)->name, NULL);
    }
    return STEP_DONE;
}

/* ---- what comes with it ------------------------------------------------------------------------ */

/* It lacks something without which it is of no use. */
static enum step give_back(struct pass *p, const struct object *pod, const char *what) {
    log_warn("a pod of the warm pool is of no use", "sandbox", p->who.name, "pod", pod->name, "lacks", what,
             NULL);
    return remove_exactly(p->c, pod) ? STEP_AGAIN : STEP_RETRY;
}

/* The runtime in the pod knows one token: it becomes the sandbox's. The pool's Secret stays until the pod
 * goes: its environment may name it, and a runtime may be on its way into it. */
static enum step hand_token_over(struct pass *p, const struct object *pod, struct error *err) {
    struct store *store = p->c->store;
    cleanup_free char *name = pool_token_name(pod);
    cleanup_json json_t *nothing = json_object();
    cleanup_object struct object *secret = NULL;
    cleanup_error struct error failed = {0};
    if (!store->ops->patch(store, KIND_SECRET, STORE_MAIN, pod->namespace, name, nothing, NULL, &secret,
                           &failed)) {
        if (failed.status == 404) return give_back(p, pod, "its token");
        log_warn("the token of a pod of the warm pool cannot be read", "pod", pod->name, "why",
                 failed.message, NULL);
        return STEP_RETRY;
    }
    char *token = is_controlled_by(secret, pod->uid) ? token_secret_read(secret) : NULL;
    if (!token) return give_back(p, pod, "its token");
    enum step s = ensure_token(p, token, err);
    explicit_bzero(token, strlen(token));
    free(token);
    return s;
}

static enum step hand_claim_over(struct pass *p, const struct object *pod, char **claim) {
    struct store *store = p->c->store;
    cleanup_free char *name = pool_claim_name(pod);
    cleanup_object struct object *o =
        store->ops->get(store, KIND_PERSISTENT_VOLUME_CLAIM, pod->namespace, name);
    if (!o && store->ops->look) { /* the watch of claims may be behind that of pods */
        cleanup_error struct error unknown = {0};
        if (!store->ops->look(store, KIND_PERSISTENT_VOLUME_CLAIM, pod->namespace, name, &unknown)) {
            log_warn("the claim of a pod of the warm pool cannot be read", "sandbox", p->who.name, "claim",
                     name, "why", unknown.message, NULL);
            return STEP_RETRY;
        }
        o = store->ops->get(store, KIND_PERSISTENT_VOLUME_CLAIM, pod->namespace, name);
    }
    if (!o || !(is_controlled_by(o, pod->uid) || is_owned_by(o, p->sandbox)))
        return give_back(p, pod, "its claim");
    if (!is_owned_by(o, p->sandbox)) {
        const struct store_preconditions same = {.uid = o->uid};
        cleanup_json json_t *patch = pool_claim_patch(p->sandbox);
        cleanup_error struct error err = {0};
        if (!store->ops->patch(store, KIND_PERSISTENT_VOLUME_CLAIM, STORE_MAIN, o->namespace, o->name, patch,
                               &same, NULL, &err)) {
            if (err.status == 404) return give_back(p, pod, "its claim");
            log_warn("the claim of a pod of the warm pool cannot be taken", "sandbox", p->who.name, "claim",
                     name, "why", err.message, NULL);
            return STEP_RETRY;
        }
    }
    *claim = steal_ptr(name);
    return STEP_DONE;
}

enum step pool_take(struct pass *p, const json_t *resolved, struct object **pod, char **claim,
                    struct error *err) {
    const char *namespace = p->c->settings.sandbox_namespace;
    if (!namespace || strcmp(p->who.namespace, namespace) != 0 || !is_new(p)) return STEP_DONE;
    cleanup_object struct object *found = NULL;
    enum step s = find(p, resolved, &found, err);
    if (s != STEP_DONE || !found) return s;
    s = ensure_policy(p, resolved, err);
    if (s == STEP_DONE && pod_wants_runtime(resolved, &p->c->settings)) s = hand_token_over(p, found, err);
    if (s == STEP_DONE) s = hand_claim_over(p, found, claim);
    /* Until the status says so, the next pass finds it as we did. */
    p->memory->pool_asked = false;
    if (s == STEP_DONE) *pod = steal_ptr(found);
    return s;
}
