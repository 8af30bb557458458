/* A controller on a local store, the part of a kubelet played by the tests, and a store that fails on demand.
 */
#pragma once

#include "tests/unit/local/fixture.h"

#include "common/text.h"
#include "common/units.h"
#include "controller/controller.h"
#include "controller/names.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* ---- a store that fails on demand -------------------------------------------------------------- */

struct faulty {
    struct store store; /* what the controller sees */
    struct store_ops ops;
    _Atomic bool away;          /* writes: 503 */
    _Atomic int blind_pods;     /* so many reads of pods do not see them: a stale cache */
    _Atomic int refuse_pods;    /* so many creations of pods: 403 quota */
    _Atomic int writes;         /* of any kind */
    _Atomic int status_clashes; /* so many status patches: 409 */
    _Atomic int secrets_away;   /* so many patches of Secrets: 503 */
    _Atomic int claims_away;    /* so many patches of claims: 503 */
    _Atomic int lost_answers;   /* so many patches of pods are done and answered with 503 */
    _Atomic int pod_clashes;    /* so many patches of pods: 409 */
};
static struct faulty faulty;

static inline bool unavailable(struct error *err) {
    error_set(err, 503, ERR_UNAVAILABLE, "the apiserver is away");
    return false;
}
static struct object *faulty_get(struct store *s, enum kind kind, const char *ns, const char *name) {
    (void)s;
    if (kind == KIND_POD && faulty.blind_pods > 0 && faulty.blind_pods-- > 0) return NULL;
    return store->ops->get(store, kind, ns, name);
}
static struct object_list faulty_list(struct store *s, enum kind kind, const char *ns) {
    (void)s;
    return store->ops->list(store, kind, ns);
}
static bool faulty_create(struct store *s, enum kind kind, const json_t *o, struct object **out,
                          struct error *err) {
    (void)s;
    faulty.writes++;
    if (faulty.away) return unavailable(err);
    if (kind == KIND_POD && faulty.refuse_pods > 0 && faulty.refuse_pods-- > 0) {
        error_set(err, 403, "quota_exceeded", "exceeded quota: pods");
        return false;
    }
    return store->ops->create(store, kind, o, out, err);
}
static bool faulty_replace(struct store *s, enum kind kind, enum store_part part, const json_t *o,
                           struct object **out, struct error *err) {
    (void)s;
    faulty.writes++;
    return faulty.away ? unavailable(err) : store->ops->replace(store, kind, part, o, out, err);
}
static bool faulty_patch(struct store *s, enum kind kind, enum store_part part, const char *ns,
                         const char *name, const json_t *patch, const struct store_preconditions *p,
                         struct object **out, struct error *err) {
    (void)s;
    faulty.writes++;
    if (faulty.away) return unavailable(err);
    if (kind == KIND_SANDBOX && part == STORE_STATUS && faulty.status_clashes > 0 &&
        faulty.status_clashes-- > 0) {
        error_set(err, 409, ERR_CONFLICT, "changed since");
        return false;
    }
    if (kind == KIND_SECRET && faulty.secrets_away > 0 && faulty.secrets_away-- > 0) return unavailable(err);
    if (kind == KIND_PERSISTENT_VOLUME_CLAIM && faulty.claims_away > 0 && faulty.claims_away-- > 0)
        return unavailable(err);
    if (kind == KIND_POD && faulty.pod_clashes > 0 && faulty.pod_clashes-- > 0) {
        error_set(err, 409, ERR_CONFLICT, "changed since");
        return false;
    }
    if (kind == KIND_POD && faulty.lost_answers > 0 && faulty.lost_answers-- > 0) {
        store->ops->patch(store, kind, part, ns, name, patch, p, NULL, NULL);
        return unavailable(err);
    }
    return store->ops->patch(store, kind, part, ns, name, patch, p, out, err);
}
static bool faulty_remove(struct store *s, enum kind kind, const char *ns, const char *name,
                          const struct store_preconditions *p, struct error *err) {
    (void)s;
    faulty.writes++;
    return faulty.away ? unavailable(err) : store->ops->remove(store, kind, ns, name, p, err);
}
static bool faulty_look(struct store *s, enum kind kind, const char *ns, const char *name,
                        struct error *err) {
    (void)s, (void)ns, (void)name;
    if (faulty.away) return unavailable(err);
    if (kind == KIND_POD) faulty.blind_pods = 0;
    return true;
}
static void *faulty_watch(struct store *s, enum kind kind, store_watch_fn *fn, void *ctx) {
    (void)s;
    return store->ops->watch(store, kind, fn, ctx);
}
static void faulty_unwatch(struct store *s, void *handle) {
    (void)s;
    store->ops->unwatch(store, handle);
}

/* ---- the controller ---------------------------------------------------------------------------- */

static struct controller *controller;
static struct {
    _Atomic int calls;
    pthread_mutex_t lock;
    char uid[64], secret[100], owner[64];
} brought = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void bring(void *ctx, struct object *pod, const char *secret, const char *owner) {
    (void)ctx;
    pthread_mutex_lock(&brought.lock);
    snprintf(brought.uid, sizeof brought.uid, "%s", pod->uid);
    snprintf(brought.secret, sizeof brought.secret, "%s", secret);
    snprintf(brought.owner, sizeof brought.owner, "%s", owner);
    pthread_mutex_unlock(&brought.lock);
    brought.calls++;
}

static int64_t creation_deadline_ms;

static inline void start_controller(void) {
    const struct controller_options options = {.store = &faulty.store,
                                               .settings = {.default_image = "registry.example/default:1",
                                                            .default_storage_size = "10Gi",
                                                            .install_namespace = "agenttier",
                                                            .sandbox_namespace = "default",
                                                            .memory_sidecar_image = "",
                                                            .delivery = DELIVERY_EXEC,
                                                            .creation_deadline_ms = creation_deadline_ms},
                                               .workers = 10,
                                               .bringer = {.bring = bring}};
    controller = controller_start(&options);
    controller_lead(controller, true);
}
static inline void stop_controller(void) {
    controller_stop(controller);
    controller = NULL;
}

static inline void begin(void) {
    setup();
    faulty = (struct faulty){.ops = {.get = faulty_get,
                                     .list = faulty_list,
                                     .create = faulty_create,
                                     .replace = faulty_replace,
                                     .patch = faulty_patch,
                                     .remove = faulty_remove,
                                     .watch = faulty_watch,
                                     .unwatch = faulty_unwatch,
                                     .look = faulty_look}};
    faulty.store.ops = &faulty.ops;
    creation_deadline_ms = 0;
    brought.calls = 0;
    start_controller();
}
static inline void end(void) {
    stop_controller();
    teardown();
}

/* ---- looking ----------------------------------------------------------------------------------- */

#define PATIENCE_MS 60000 /* on a machine that does much else, under sanitizers */
/* Waits for a condition; the test fails, saying which, when it does not come. */
#define eventually(condition)                                                                                \
    do {                                                                                                     \
        int64_t until_ms = monotonic_ms() + PATIENCE_MS;                                                     \
        while (!(condition) && monotonic_ms() < until_ms)                                                    \
            usleep(2000);                                                                                    \
        ck_assert_msg((condition), "did not come: %s", #condition);                                          \
    } while (0)
/* Something that must not happen gets this long to do so. */
#define SETTLE_US 60000

static inline struct object *get(enum kind kind, const char *name) {
    return store->ops->get(store, kind, "default", name);
}
static inline bool there(enum kind kind, const char *name) {
    return exists(kind, "default", name);
}
/* A copy of the text at a path of an object, "" when there is none; a ring of 8. */
static inline const char *text(enum kind kind, const char *name, const char *path) {
    static char ring[8][700];
    static int at;
    cleanup_object struct object *o = get(kind, name);
    char *out = ring[at++ % 8];
    const json_t *value = o ? json_at(o->json, path) : NULL;
    snprintf(out, 700, "%s", json_is_string(value) ? json_string_value(value) : "");
    return out;
}
static inline const char *status(const char *name, const char *member) {
    char path[64];
    snprintf(path, sizeof path, "status.%s", member);
    return text(KIND_SANDBOX, name, path);
}
static inline long long number(const char *name, const char *path) {
    cleanup_object struct object *o = get(KIND_SANDBOX, name);
    return o ? json_integer_value(json_at(o->json, path)) : -1;
}
static inline bool phase_is(const char *name, const char *phase) {
    return strcmp(status(name, "phase"), phase) == 0;
}
static inline bool says(const char *name, const char *part) {
    return strstr(status(name, "message"), part) != NULL;
}
static inline int events_of(const char *name, const char *reason) {
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_EVENT, "default");
    int n = 0;
    for (size_t i = 0; i < all.count; i++)
        if (strcmp(json_str_at(all.items[i]->json, "involvedObject.name"), name) == 0 &&
            strcmp(json_str_at(all.items[i]->json, "reason"), reason) == 0 &&
            *json_str_at(all.items[i]->json, "lastTimestamp"))
            n++;
    return n;
}
static inline bool has_action(const char *name) {
    cleanup_object struct object *o = get(KIND_SANDBOX, name);
    return o && json_object_get(json_at(o->json, "metadata.annotations"), "agenttier.io/action");
}

/* ---- doing ------------------------------------------------------------------------------------- */

static inline void template(const char *name, const char *spec) {
    cleanup_free char *json = xasprintf("{\"metadata\":{\"name\":\"%s\"},\"spec\":%s}", name, spec);
    object_unref(must_create(KIND_CLUSTER_SANDBOX_TEMPLATE, parse(json)));
}
#define FROM_TEMPLATE "\"templateRef\":{\"name\":\"t\",\"kind\":\"ClusterSandboxTemplate\"}"
static inline void sandbox(const char *name, const char *spec) {
    cleanup_free char *rest = xasprintf("\"spec\":{%s}", spec);
    object_unref(must_create(KIND_SANDBOX, make("default", name, "", rest)));
}
static inline void patch_status(enum kind kind, const char *name, const char *status_json) {
    cleanup_free char *patch = xasprintf("{\"status\":%s}", status_json);
    object_unref(must_patch(kind, STORE_STATUS, name, patch));
}
static inline void annotate(const char *name, const char *action) {
    cleanup_free char *patch =
        xasprintf("{\"metadata\":{\"annotations\":{\"agenttier.io/action\":\"%s\"}}}", action);
    object_unref(must_patch(KIND_SANDBOX, STORE_MAIN, name, patch));
}
#define RUNS(id)                                                                                             \
    "\"containerStatuses\":[{\"name\":\"sandbox\",\"containerID\":\"" id                                     \
    "\",\"state\":{\"running\":{\"startedAt\":\"2026-01-01T00:00:00Z\"}}}]"
static inline void pod_ready(const char *pod) {
    patch_status(KIND_POD, pod,
                 "{\"phase\":\"Running\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]," RUNS(
                     "c://1") "}");
}
static inline void pod_fails(const char *pod, const char *reason, int code) {
    cleanup_free char *s = xasprintf(
        "{\"phase\":\"Failed\",\"containerStatuses\":[{\"name\":\"sandbox\",\"state\":{\"terminated\":"
        "{\"reason\":\"%s\",\"exitCode\":%d}}}]}",
        reason, code);
    patch_status(KIND_POD, pod, s);
}
/* An object that takes its time to go, as a pod in its grace does. */
static inline void hold(enum kind kind, const char *name) {
    object_unref(
        must_patch(kind, STORE_MAIN, name, "{\"metadata\":{\"finalizers\":[\"example.org/hold\"]}}"));
}
static inline void release(enum kind kind, const char *name) {
    struct object *o = must_patch(kind, STORE_MAIN, name, "{\"metadata\":{\"finalizers\":null}}");
    object_unref(o);
}
static inline bool is_going(enum kind kind, const char *name) {
    return *text(kind, name, "metadata.deletionTimestamp") != '\0';
}
/* A sandbox whose pod is ready: it will run, if only for as long as its limits let it. */
static inline void readied(const char *name, const char *spec) {
    char pod[100];
    snprintf(pod, sizeof pod, "%s-pod", name);
    sandbox(name, spec);
    eventually(there(KIND_POD, pod) && phase_is(name, "Creating"));
    pod_ready(pod);
}
/* A sandbox that runs. */
static inline void running(const char *name, const char *spec) {
    readied(name, spec);
    eventually(phase_is(name, "Running"));
}
