/* Quotas of several Routers over one store (S31, W-65): each has counters and a view of the ledger of its
 * own, and a watch that is behind the others'. The store is scripted: what a Router sees is handed out one by
 * one. */
#include "common/units.h"
#include "router/quota.h"
#include "tests/unit/router/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- a cluster: objects, and Routers that have seen them up to some change ---- */

#define CHANGES_MAX 4096

struct cluster {
    pthread_mutex_t lock;
    struct object *now[CHANGES_MAX]; /* the i-th change; NULL = of another kind */
    enum store_change what[CHANGES_MAX];
    size_t count;
    uint64_t version;
};

/* One Router's store: reads are as old as `seen` for what others wrote; its own writes are there at once. */
struct replica {
    struct store store; /* first */
    struct cluster *cluster;
    size_t lag; /* changes that a read is behind; 0 = none */
    store_watch_fn *fn;
    void *ctx;
    size_t delivered;
    int64_t age_ms;    /* since it heard of the cluster */
    size_t own_ledger; /* change of the last ledger that this one wrote, + 1 */
};

static struct replica *replica_of(struct store *s) {
    return (struct replica *)(void *)s;
}

/* The newest ledger among the first `upto` changes. */
static struct object *ledger_at(struct cluster *c, size_t upto) {
    for (size_t i = upto; i-- > 0;)
        if (c->now[i]->kind == KIND_CONFIG_MAP) return c->now[i];
    return NULL;
}

static struct object *get(struct store *s, enum kind kind, const char *namespace, const char *name) {
    struct replica *r = replica_of(s);
    ck_assert_int_eq(kind, KIND_CONFIG_MAP);
    ck_assert_str_eq(namespace, "agenttier");
    if (strcmp(name, "agenttier-quota-team") != 0) return NULL;
    pthread_mutex_lock(&r->cluster->lock);
    size_t seen = r->cluster->count > r->lag ? r->cluster->count - r->lag : 0;
    if (r->own_ledger > seen) seen = r->own_ledger;
    struct object *o = ledger_at(r->cluster, seen);
    if (o) object_ref(o);
    pthread_mutex_unlock(&r->cluster->lock);
    return o;
}

static void append(struct cluster *c, enum kind kind, json_t *json, enum store_change what) {
    ck_assert_uint_lt(c->count, CHANGES_MAX);
    char version[24], uid[24];
    snprintf(version, sizeof version, "%llu", (unsigned long long)++c->version);
    snprintf(uid, sizeof uid, "u%llu", (unsigned long long)c->version);
    json_t *metadata = json_object_get(json, "metadata");
    json_object_set_new(metadata, "resourceVersion", json_string(version));
    if (!json_object_get(metadata, "uid")) json_object_set_new(metadata, "uid", json_string(uid));
    c->what[c->count] = what;
    c->now[c->count++] = object_new(kind, json, c->version);
}

static bool write_ledger(struct store *s, const json_t *object, struct error *err) {
    struct replica *r = replica_of(s);
    struct cluster *c = r->cluster;
    pthread_mutex_lock(&c->lock);
    struct object *current = ledger_at(c, c->count);
    const char *based_on = json_str_at(object, "metadata.resourceVersion");
    bool ok = current ? strcmp(based_on, current->resource_version) == 0 : based_on[0] == '\0';
    if (ok) {
        append(c, KIND_CONFIG_MAP, json_deep_copy(object), STORE_MODIFIED);
        r->own_ledger = c->count;
    } else {
        error_set(err, 409, based_on[0] ? ERR_CONFLICT : ERR_ALREADY_EXISTS, "outrun");
        if (r->lag > 0) r->lag--; /* time goes by */
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

static bool create(struct store *s, enum kind kind, const json_t *o, struct object **out, struct error *err) {
    (void)kind;
    (void)out;
    return write_ledger(s, o, err);
}

static bool replace(struct store *s, enum kind kind, enum store_part part, const json_t *o,
                    struct object **out, struct error *err) {
    (void)part;
    return create(s, kind, o, out, err);
}

static void *watch(struct store *s, enum kind kind, store_watch_fn *fn, void *ctx) {
    struct replica *r = replica_of(s);
    ck_assert_int_eq(kind, KIND_SANDBOX);
    r->fn = fn;
    r->ctx = ctx;
    return r;
}

static void unwatch(struct store *s, void *handle) {
    ck_assert_ptr_eq(handle, s);
}

static void settle(struct store *s) {
    (void)s; /* its only watcher is called by the test itself */
}

static int64_t age_ms(struct store *s) {
    return replica_of(s)->age_ms;
}

static const struct store_ops ops = {.get = get,
                                     .create = create,
                                     .replace = replace,
                                     .watch = watch,
                                     .unwatch = unwatch,
                                     .settle = settle,
                                     .age_ms = age_ms};

/* The replica sees all sandboxes up to now. */
static void catch_up(struct replica *r) {
    for (;;) {
        pthread_mutex_lock(&r->cluster->lock);
        size_t i = r->delivered;
        struct object *o = i < r->cluster->count ? object_ref(r->cluster->now[i]) : NULL;
        enum store_change what = o ? r->cluster->what[i] : STORE_ADDED;
        r->delivered += o != NULL;
        pthread_mutex_unlock(&r->cluster->lock);
        if (!o) return;
        if (o->kind == KIND_SANDBOX) r->fn(r->ctx, what, o);
        object_unref(o);
    }
}

static void store_sandbox(struct cluster *c, const char *user, const char *claim, const char *uid,
                          const char *phase, enum store_change what) {
    json_t *json =
        json_pack("{s:{s:s, s:s, s:s, s:{s:s}}, s:{s:s, s:{s:s}}, s:{s:s}}", "metadata", "name", uid,
                  "namespace", "team", "uid", uid, "annotations", ANNOTATION_QUOTA_CLAIM, claim, "spec",
                  "mode", "code", "createdBy", "sub", user, "status", "phase", phase);
    pthread_mutex_lock(&c->lock);
    append(c, KIND_SANDBOX, json, what);
    pthread_mutex_unlock(&c->lock);
}

static void cluster_free(struct cluster *c) {
    for (size_t i = 0; i < c->count; i++)
        object_unref(c->now[i]);
}

static bool promise(struct quota *q, const struct policy *p, const char *user,
                    char claim[QUOTA_CLAIM_LEN + 1]) {
    cleanup_json json_t *violations = NULL;
    cleanup_error struct error err = {0};
    bool ok = quota_promise(q, p, "team", user, false, claim, &violations, &err);
    ck_assert_msg(ok || violations, "%s", err.message);
    return ok;
}

START_TEST(S31_a_router_that_has_seen_nothing_still_counts_the_others) {
    struct cluster c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct replica a = {.store.ops = &ops, .cluster = &c}, b = {.store.ops = &ops, .cluster = &c, .lag = 3};
    struct quota *qa = quota_new(&a.store, "agenttier"), *qb = quota_new(&b.store, "agenttier");
    struct policy p = {.max_sandboxes_total = 2};
    char claim[QUOTA_CLAIM_LEN + 1];
    ck_assert(promise(qa, &p, "ana", claim));
    store_sandbox(&c, "ana", claim, "s1", "Running", STORE_ADDED);
    ck_assert(promise(qb, &p, "bo", claim)); /* its first write is refused: its ledger was too old */
    ck_assert(!promise(qb, &p, "bo", claim));
    ck_assert(!promise(qa, &p, "ana", claim));
    quota_free(qa);
    quota_free(qb);
    cluster_free(&c);
}
END_TEST

START_TEST(W65_seen_promised_and_gone_count_once_once_and_not) {
    struct cluster c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct replica a = {.store.ops = &ops, .cluster = &c};
    struct quota *q = quota_new(&a.store, "agenttier");
    struct policy p = {.max_sandboxes_total = 10};
    char claims[3][QUOTA_CLAIM_LEN + 1];
    for (int i = 0; i < 3; i++)
        ck_assert(promise(q, &p, "ana", claims[i]));
    ck_assert_int_eq(quota_usage(q, "team", "ana").total, 3);
    ck_assert_int_eq(quota_usage(q, "team", "bo").of_user, 0);
    store_sandbox(&c, "ana", claims[0], "s0", "", STORE_ADDED);
    store_sandbox(&c, "ana", claims[1], "s1", "", STORE_ADDED);
    catch_up(&a);
    ck_assert_int_eq(quota_usage(q, "team", "ana").total, 3); /* two seen, one promised */
    store_sandbox(&c, "ana", claims[0], "s0", "Error", STORE_MODIFIED);
    catch_up(&a);
    ck_assert_int_eq(quota_usage(q, "team", "ana").of_user, 2);
    store_sandbox(&c, "ana", claims[0], "s0", "Running", STORE_MODIFIED);
    store_sandbox(&c, "ana", claims[1], "s1", "", STORE_DELETED);
    catch_up(&a);
    ck_assert_int_eq(quota_usage(q, "team", "ana").total, 2);
    quota_give_up(q, "team", claims[2]);
    ck_assert_int_eq(quota_usage(q, "team", "ana").total, 1);
    ck_assert_int_eq(quota_usage(q, "other", "ana").total, 0);
    quota_free(q);
    cluster_free(&c);
}
END_TEST

/* Many threads of several Routers, each of them behind by another number of changes. */
#define REPLICAS 4
#define THREADS  16
#define EACH     5
#define QUOTA    7

struct race {
    struct cluster cluster;
    struct replica replicas[REPLICAS];
    struct quota *quotas[REPLICAS];
    _Atomic int made, refused, undecided;
    struct policy policy;
};

struct racer {
    struct race *race;
    int number;
};

static void *run(void *arg) {
    struct racer *racer = arg;
    struct race *race = racer->race;
    int r = racer->number % REPLICAS;
    for (int i = 0; i < EACH; i++) {
        char claim[QUOTA_CLAIM_LEN + 1], uid[32];
        json_t *violations = NULL;
        if (quota_promise(race->quotas[r], &race->policy, "team", "ana", false, claim, &violations, NULL)) {
            atomic_fetch_add(&race->made, 1);
            snprintf(uid, sizeof uid, "s-%d-%d", racer->number, i);
            store_sandbox(&race->cluster, "ana", claim, uid, "", STORE_ADDED);
        } else {
            atomic_fetch_add(violations ? &race->refused : &race->undecided, 1);
        }
        json_decref(violations);
    }
    return NULL;
}

START_TEST(S31_parallel_promises_of_four_routers_never_pass_the_quota) {
    for (int round = 0; round < 5; round++) {
        struct race *race = xcalloc(1, sizeof *race);
        pthread_mutex_init(&race->cluster.lock, NULL);
        race->policy = (struct policy){.max_sandboxes_total = QUOTA};
        for (int i = 0; i < REPLICAS; i++) {
            race->replicas[i] =
                (struct replica){.store.ops = &ops, .cluster = &race->cluster, .lag = (size_t)i * 2};
            race->quotas[i] = quota_new(&race->replicas[i].store, "agenttier");
        }
        pthread_t threads[THREADS];
        struct racer racers[THREADS];
        for (int i = 0; i < THREADS; i++) {
            racers[i] = (struct racer){race, i};
            ck_assert_int_eq(pthread_create(&threads[i], NULL, run, &racers[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        ck_assert_int_eq(race->made, QUOTA);
        ck_assert_int_eq(race->made + race->refused + race->undecided, THREADS * EACH);
        for (int i = 0; i < REPLICAS; i++) {
            catch_up(&race->replicas[i]);
            ck_assert_int_eq(quota_usage(race->quotas[i], "team", "ana").total, QUOTA);
            quota_free(race->quotas[i]);
        }
        cluster_free(&race->cluster);
        free(race);
    }
}
END_TEST

START_TEST(what_others_wrote_into_the_ledger_is_not_trusted) {
    static const char *const texts[] = {"",
                                        "nonsense",
                                        "{}",
                                        "[1,null,[]]",
                                        "[{\"claim\":\"x\"}]",
                                        "[{\"claim\":5,\"at\":9e18}]",
                                        "[{\"claim\":\"x\",\"at\":\"now\",\"user\":[]}]",
                                        "[{\"claim\":\"x\",\"user\":7,\"at\":1}]"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct cluster c = {.lock = PTHREAD_MUTEX_INITIALIZER};
        struct replica a = {.store.ops = &ops, .cluster = &c};
        append(&c, KIND_CONFIG_MAP,
               json_pack("{s:{s:s}, s:{s:s}}", "metadata", "name", "agenttier-quota-team", "data", "promises",
                         texts[i]),
               STORE_ADDED);
        struct quota *q = quota_new(&a.store, "agenttier");
        struct policy p = {.max_sandboxes_per_user = 1};
        char claim[QUOTA_CLAIM_LEN + 1];
        ck_assert(promise(q, &p, "ana", claim));
        ck_assert(!promise(q, &p, "ana", claim));
        ck_assert(promise(q, &p, "bo", claim));
        quota_free(q);
        cluster_free(&c);
    }
}
END_TEST

START_TEST(W65_nothing_is_promised_from_what_is_too_old) {
    struct cluster c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct replica a = {.store.ops = &ops, .cluster = &c, .age_ms = QUOTA_BEHIND_S * 1000};
    struct quota *q = quota_new(&a.store, "agenttier");
    struct policy p = {.max_sandboxes_total = 9};
    char claim[QUOTA_CLAIM_LEN + 1];
    ck_assert(promise(q, &p, "ana", claim));
    a.age_ms++;
    json_t *violations = json_true();
    cleanup_error struct error err = {0};
    ck_assert(!quota_promise(q, &p, "team", "ana", false, claim, &violations, &err));
    ck_assert_ptr_null(violations);
    ck_assert_int_eq(err.status, 503);
    ck_assert_int_gt(err.retry_after, 0);
    ck_assert_uint_eq(c.count, 1);
    quota_free(q);
    cluster_free(&c);
}
END_TEST

RUN_TESTS("quota", W65_nothing_is_promised_from_what_is_too_old,
          S31_a_router_that_has_seen_nothing_still_counts_the_others,
          W65_seen_promised_and_gone_count_once_once_and_not,
          S31_parallel_promises_of_four_routers_never_pass_the_quota,
          what_others_wrote_into_the_ledger_is_not_trusted)
