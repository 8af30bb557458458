/* The warm pool: pods that run already when a sandbox of their template is made (controller.md 10.2, 10.3;
 * its weaknesses in W14, W16). It works like the rest of the controller: watches put the names of templates
 * on a queue, a pass looks at what is there and makes or removes what differs from the configuration. Whoever
 * removes a pod of the pool insists on the version that was looked at: a sandbox may take it meanwhile. */
#include "controller/inside.h"

#include "backend/templates.h"
#include "common/log.h"
#include "common/units.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/pod_state.h"
#include "controller/warmpool_item.h"

#include <stdio.h>
#include <time.h>

#define EQUIPPED_MAX 32 /* pods whose claim and token are known to be there */

/* Of a pool, between passes. Losing it costs time, never correctness. */
struct pool_memory {
    unsigned failures;               /* in a row */
    int64_t not_before;              /* monotonic ms, of the next pod, after a failure */
    char equipped[EQUIPPED_MAX][64]; /* uids */
    size_t next_equipped;
    char said[160]; /* why there are no pods, as it was logged */
};

struct pool {
    struct controller *c;
    const char *template, *namespace;
    struct pool_memory *memory;
    int64_t desired;
    json_t *resolved;           /* NULL: no pods can be made of it now */
    char fit[POOL_FIT_LEN + 1]; /* of the pods that are made now */
    struct object_list pods;    /* alive, and of that fit */
    int64_t ready;
    int64_t next; /* ms to the next pass */
    bool failed;  /* a write did: try again soon */
    bool lost;    /* a pod was found dead */
};

static void pool_clear(struct pool *p) {
    json_decref(p->resolved);
    object_list_free(&p->pods);
}
#define cleanup_pool __attribute__((cleanup(pool_clear)))

static const char *home(const struct controller *c) {
    return c->settings.sandbox_namespace ? c->settings.sandbox_namespace : "";
}

static json_t *configured(struct controller *c) {
    cleanup_object struct object *map =
        c->store->ops->get(c->store, KIND_CONFIG_MAP, c->settings.install_namespace, WARMPOOL_CONFIG_MAP);
    return warmpool_read(map);
}

struct object_list pool_pods(struct controller *c, const char *template) {
    struct object_list all = c->store->ops->list(c->store, KIND_POD, home(c));
    size_t n = 0;
    for (size_t i = 0; i < all.count; i++) {
        struct object *pod = all.items[i];
        const char *its = warmpool_of(pod);
        if (its && (!template || strcmp(its, template) == 0) && pod_state(pod) != POD_ENDING)
            all.items[n++] = pod;
        else
            object_unref(pod);
    }
    all.count = n;
    return all;
}

size_t pool_ready(struct controller *c) {
    if (!*home(c)) return 0;
    cleanup_object_list struct object_list pods = pool_pods(c, NULL);
    size_t n = 0;
    for (size_t i = 0; i < pods.count; i++)
        n += pod_state(pods.items[i]) == POD_READY ? 1 : 0;
    return n;
}

/* ---- what is looked at ------------------------------------------------------------------------- */

void pools_look_at(struct controller *c) {
    if (!*home(c) || !c->leading) return; /* all of them are looked at when we lead */
    cleanup_json json_t *pools = configured(c);
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool) queue_add(c->pools, json_str_at(pool, "template"));
    cleanup_object_list struct object_list pods = pool_pods(c, NULL);
    for (i = 0; i < pods.count; i++)
        queue_add(c->pools, warmpool_of(pods.items[i]));
}

bool pool_pod_changed(struct controller *c, const struct object *pod) {
    const char *template = warmpool_of(pod);
    if (!template) return false;
    if (strcmp(pod->namespace, home(c)) == 0) queue_add(c->pools, template);
    return true;
}

/* ---- removing ---------------------------------------------------------------------------------- */

static void remove_pod(struct pool *p, const struct object *pod, const char *why) {
    struct store *store = p->c->store;
    const struct store_preconditions same = {.uid = pod->uid, .resource_version = pod->resource_version};
    cleanup_error struct error err = {0};
    if (store->ops->remove(store, KIND_POD, pod->namespace, pod->name, &same, &err)) {
        log_info("pod of the warm pool removed", "pod", pod->name, "template", p->template, "why", why, NULL);
    } else if (err.status != 404) {
        p->failed = true; /* or it has changed: looked at anew */
        if (err.status != 409)
            log_warn("a pod of the warm pool cannot be removed", "pod", pod->name, "why", err.message, NULL);
    }
}

/* Why it will never be of use, or NULL. */
static const char *dead(struct pool *p, const struct object *pod, char text[POD_TEXT_MAX]) {
    int64_t deadline = p->c->settings.creation_deadline_ms;
    int64_t age_ms = ((int64_t)time(NULL) - pod_created_at(pod)) * 1000;
    struct pod_failure failure;
    bool hopeless;
    switch (pod_state(pod)) {
    case POD_READY:
    case POD_ENDING: return NULL;
    case POD_SUCCEEDED: return "its process ended";
    case POD_FAILED:
        pod_failure(pod, &failure);
        snprintf(text, POD_TEXT_MAX, "%s", failure.reason);
        return text;
    case POD_PENDING: break;
    }
    pod_obstacle(pod, &hopeless, text);
    if (hopeless) return text;
    if (deadline > 0 && age_ms >= deadline) return *text ? text : "it did not get ready";
    if (deadline > 0 && deadline - age_ms < p->next) p->next = deadline - age_ms + 1;
    return NULL;
}

/* Keeps what is alive and as it would be made now; the rest goes. */
static void sort_out(struct pool *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->pods.count; i++) {
        struct object *pod = p->pods.items[i];
        char text[POD_TEXT_MAX] = "";
        const char *why = NULL;
        if (p->desired == 0 || !p->resolved || !pool_made(pod, p->fit)) {
            remove_pod(p, pod, "it is not of what is configured");
        } else if ((why = dead(p, pod, text))) {
            log_warn("a pod of the warm pool failed", "pod", pod->name, "template", p->template, "why", why,
                     NULL);
            p->lost = true;
            atomic_fetch_add(&p->c->pool_failures, 1);
            remove_pod(p, pod, "it failed");
        } else {
            p->ready += pod_state(pod) == POD_READY ? 1 : 0;
            p->pods.items[n++] = pod;
            continue;
        }
        object_unref(pod);
    }
    p->pods.count = n;
}

/* Those that are not ready first, and of these the youngest. */
static void remove_surplus(struct pool *p) {
    while ((int64_t)p->pods.count > p->desired) {
        size_t worst = 0;
        for (size_t i = 1; i < p->pods.count; i++) {
            bool ready = pod_state(p->pods.items[i]) == POD_READY;
            bool than_ready = pod_state(p->pods.items[worst]) == POD_READY;
            if (ready != than_ready
                    ? !ready
                    : pod_created_at(p->pods.items[i]) >= pod_created_at(p->pods.items[worst]))
                worst = i;
        }
        struct object *pod = p->pods.items[worst];
        remove_pod(p, pod, "there are more than configured");
        p->ready -= pod_state(pod) == POD_READY ? 1 : 0;
        object_unref(pod);
        p->pods.items[worst] = p->pods.items[--p->pods.count];
    }
}

/* ---- making ------------------------------------------------------------------------------------ */

static bool failed(struct pool *p, const char *what, const struct error *err) {
    log_warn("the warm pool cannot be filled", "template", p->template, "what", what, "why", err->message,
             NULL);
    p->failed = true;
    return false;
}

static bool there_already(const struct error *err) {
    return err->code && strcmp(err->code, ERR_ALREADY_EXISTS) == 0;
}

/* Nobody reaches pods that are nobody's yet, and they reach nobody (W14): before the first is there. */
static bool deny_all(struct pool *p) {
    struct store *store = p->c->store;
    cleanup_json json_t *wanted = pool_policy(p->namespace);
    cleanup_object struct object *now =
        store->ops->get(store, KIND_NETWORK_POLICY, p->namespace, POOL_POLICY);
    cleanup_error struct error err = {0};
    bool ok = true;
    if (!now) {
        ok = store->ops->create(store, KIND_NETWORK_POLICY, wanted, NULL, &err) || there_already(&err);
    } else if (!json_equal(json_object_get(now->json, "spec"), json_object_get(wanted, "spec"))) {
        cleanup_json json_t *changed = json_deep_copy(now->json);
        json_object_set(changed, "spec", json_object_get(wanted, "spec"));
        ok = store->ops->replace(store, KIND_NETWORK_POLICY, STORE_MAIN, changed, NULL, &err);
    }
    return ok || failed(p, "its network policy", &err);
}

static bool is_equipped(const struct pool_memory *m, const char *uid) {
    for (size_t i = 0; i < EQUIPPED_MAX; i++)
        if (strcmp(m->equipped[i], uid) == 0) return true;
    return false;
}

/* The claim and the token of a pod, which are its own: made after it, so that they go with it (W16). */
static bool equip(struct pool *p, const struct object *pod) {
    struct store *store = p->c->store;
    struct pool_memory *m = p->memory;
    if (is_equipped(m, pod->uid)) return true;
    cleanup_free char *name = pool_claim_name(pod);
    cleanup_object struct object *claim =
        store->ops->get(store, KIND_PERSISTENT_VOLUME_CLAIM, p->namespace, name);
    cleanup_error struct error err = {0};
    if (!claim) {
        cleanup_json json_t *wanted = pool_claim(p->template, pod, p->resolved, &p->c->settings);
        if (!store->ops->create(store, KIND_PERSISTENT_VOLUME_CLAIM, wanted, NULL, &err))
            return failed(p, "a claim", &err);
    }
    if (pod_wants_runtime(p->resolved, &p->c->settings)) {
        cleanup_json json_t *token = pool_token(pod);
        if (!store->ops->create(store, KIND_SECRET, token, NULL, &err) && !there_already(&err))
            return failed(p, "a token", &err);
    }
    snprintf(m->equipped[m->next_equipped], sizeof m->equipped[0], "%s", pod->uid);
    m->next_equipped = (m->next_equipped + 1) % EQUIPPED_MAX;
    return true;
}

static bool make_pod(struct pool *p) {
    struct store *store = p->c->store;
    char name[POOL_NAME_MAX];
    pool_generate_name(p->template, name);
    cleanup_json json_t *wanted = pool_pod(p->template, name, p->namespace, p->resolved, &p->c->settings);
    cleanup_object struct object *pod = NULL;
    cleanup_error struct error err = {0};
    if (!wanted) {
        error_set(&err, 500, ERR_INTERNAL, "the template is not valid");
        return failed(p, "a pod", &err);
    }
    if (!store->ops->create(store, KIND_POD, wanted, &pod, &err)) return failed(p, "a pod", &err);
    atomic_fetch_add(&p->c->pool_pods, 1);
    log_info("pod of the warm pool created", "pod", name, "template", p->template, NULL);
    return equip(p, pod);
}

static void keep(struct pool *p) {
    struct runtime_bringer *bringer = &p->c->bringer;
    for (size_t i = 0; i < p->pods.count; i++) {
        struct object *pod = p->pods.items[i];
        if (!equip(p, pod) || !awaits_runtime(p->c, pod)) continue;
        cleanup_free char *secret = pool_token_name(pod);
        bringer->bring(bringer->ctx, pod, secret, pod->uid);
    }
}

/* After a failure a pause that grows, and then one at a time until one of them has got ready. */
static void fill(struct pool *p) {
    struct pool_memory *m = p->memory;
    int64_t missing = p->desired - (int64_t)p->pods.count, now = monotonic_ms();
    if (p->lost) {
        if (m->failures < SANDBOX_RESTART_LIMIT) m->failures++;
        m->not_before = now + sandbox_backoff_s(m->failures) * 1000;
    } else if (p->ready > 0) {
        m->failures = 0;
    }
    if (missing <= 0 || p->failed) return;
    if (m->not_before > now) {
        if (m->not_before - now < p->next) p->next = m->not_before - now;
        return;
    }
    if (m->failures > 0) missing = p->pods.count > 0 ? 0 : 1;
    while (missing-- > 0 && make_pod(p))
        ;
}

/* ---- a pass ------------------------------------------------------------------------------------ */

/* Once for each reason, not for each pass. */
static void say_unsuitable(struct pool *p, const char *why) {
    if (strncmp(p->memory->said, why, sizeof p->memory->said - 1) != 0)
        log_warn("no pods can be kept ready for a template", "template", p->template, "why", why, NULL);
    snprintf(p->memory->said, sizeof p->memory->said, "%.159s", why);
}

static void resolve(struct pool *p) {
    struct store *store = p->c->store;
    cleanup_object struct object *template =
        store->ops->get(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", p->template);
    const char *mode = template ? json_str_at(template->json, "spec.mode") : "";
    cleanup_json json_t *plain = pool_plain_sandbox(p->template, mode, p->namespace);
    cleanup_error struct error err = {0};
    p->resolved = template_resolve(store, plain, &err);
    const char *why = p->resolved ? pool_unsuitable(p->template, p->resolved) : err.message;
    if (why) {
        say_unsuitable(p, why);
        json_decref(p->resolved);
        p->resolved = NULL;
        return;
    }
    p->memory->said[0] = '\0';
    pool_fit(p->resolved, &p->c->settings, p->fit);
}

/* Also one that ends: it runs until it is gone. */
static bool any_is_left(struct pool *p) {
    struct store *store = p->c->store;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_POD, p->namespace);
    for (size_t i = 0; i < all.count; i++)
        if (warmpool_of(all.items[i])) return true;
    return false;
}

/* With the last pod, and nobody who wants one, the policy goes. */
static void clean_up(struct pool *p, const json_t *pools) {
    struct store *store = p->c->store;
    if (warmpool_desired(pools, NULL) > 0) return;
    cleanup_object struct object *policy =
        store->ops->get(store, KIND_NETWORK_POLICY, p->namespace, POOL_POLICY);
    if (policy && !any_is_left(p)) p->failed = !remove_exactly(p->c, policy) || p->failed;
}

int64_t pool_pass(void *ctx, const char *template, void **memory) {
    struct controller *c = ctx;
    cleanup_json json_t *pools = configured(c);
    if (!pools) {
        log_warn("the configuration of the warm pool cannot be read: the pool stays as it is", "config_map",
                 WARMPOOL_CONFIG_MAP, NULL);
        return RESYNC_MS;
    }
    if (!*memory) *memory = xcalloc(1, sizeof(struct pool_memory));
    cleanup_pool struct pool p = {.c = c,
                                  .template = template,
                                  .namespace = home(c),
                                  .memory = *memory,
                                  .desired = warmpool_desired(pools, template),
                                  .pods = pool_pods(c, template),
                                  .next = RESYNC_MS};
    if (p.desired > 0) resolve(&p);
    sort_out(&p);
    remove_surplus(&p);
    if (p.resolved) {
        if (deny_all(&p)) {
            keep(&p);
            fill(&p);
        }
    } else {
        clean_up(&p, pools);
    }
    if (p.failed) return PASS_FAILED;
    return p.desired == 0 ? PASS_FORGET : p.next;
}
