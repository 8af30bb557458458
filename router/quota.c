/* See quota.h. */
#include "router/quota.h"

#include "common/json.h"
#include "common/log.h"
#include "common/secret.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOCKS        16
#define ATTEMPTS     12
#define PROMISES_MAX 4000 /* some 400 KiB of a ConfigMap's 1 MiB */

struct quota {
    struct store *store;
    struct usage *usage;
    char *namespace;
    /* One Router does not compete with itself: promises of a namespace are made one after the other. */
    pthread_mutex_t locks[LOCKS];
};

struct quota *quota_new(struct store *store, const char *install_namespace) {
    struct quota *q = xcalloc(1, sizeof *q);
    q->store = store;
    q->usage = usage_new(store);
    q->namespace = xstrdup(install_namespace);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_init(&q->locks[i], NULL);
    return q;
}

void quota_free(struct quota *q) {
    if (!q) return;
    usage_free(q->usage);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&q->locks[i]);
    free(q->namespace);
    free(q);
}

static pthread_mutex_t *lock_of(struct quota *q, const char *namespace) {
    unsigned hash = 5381;
    for (const char *p = namespace; *p; p++)
        hash = hash * 33 + (unsigned char)*p;
    return &q->locks[hash % LOCKS];
}

bool quota_applies(const struct policy *p) {
    return p->max_sandboxes_total > 0 || p->max_sandboxes_per_user > 0 || p->max_agent_sandboxes > 0;
}

/* ---- the ledger: data.promises = [{"claim", "user", "agent"?, "at"}], `at` in Unix seconds ---- */

/* Its promises that still hold, as a new array. What others wrote there wrongly is left out. */
static json_t *promises_in(const struct object *ledger, time_t now) {
    json_t *out = json_array();
    if (!ledger) return out;
    cleanup_json json_t *stored = json_parse(slice_of(json_str_at(ledger->json, "data.promises")), NULL);
    size_t i;
    json_t *promise;
    json_array_foreach(stored, i, promise) {
        json_int_t at = json_integer_value(json_object_get(promise, "at"));
        bool sound = json_str_at(promise, "claim")[0] && at > 0;
        if (sound && at + QUOTA_PROMISE_S > now) json_array_append(out, promise);
    }
    return out;
}

static json_t *ledger_object(struct quota *q, const char *name, const struct object *old,
                             const json_t *promises) {
    cleanup_free char *text = json_dumps(promises, JSON_COMPACT);
    json_t *object = json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind",
                               "ConfigMap", "metadata", "name", name, "namespace", q->namespace, "labels",
                               "agenttier.io/component", "quota", "data", "promises", text);
    if (old)
        json_object_set_new(json_object_get(object, "metadata"), "resourceVersion",
                            json_string(old->resource_version));
    return object;
}

/* Writes the ledger over the version that was read. */
static bool write_ledger(struct quota *q, const char *name, const struct object *old, const json_t *promises,
                         struct error *err) {
    cleanup_json json_t *object = ledger_object(q, name, old, promises);
    struct store *store = q->store;
    return old ? store->ops->replace(store, KIND_CONFIG_MAP, STORE_MAIN, object, NULL, err)
               : store->ops->create(store, KIND_CONFIG_MAP, object, NULL, err);
}

/* Somebody else was first: what we read was not the newest. */
static bool outrun(const struct error *err) {
    return strcmp(err->code, ERR_CONFLICT) == 0 || strcmp(err->code, ERR_ALREADY_EXISTS) == 0 ||
           strcmp(err->code, ERR_NOT_FOUND) == 0;
}

/* Longer each time, and not the same for two Routers. */
static void pause_before(int attempt) {
    unsigned char dice;
    random_bytes(&dice, 1);
    long ms = (1L << (attempt < 6 ? attempt : 6)) + dice % 8;
    struct timespec pause = {0, ms * 1000000L};
    nanosleep(&pause, NULL);
}

static char *ledger_name(const char *namespace) {
    return xasprintf("agenttier-quota-%s", namespace);
}

/* ---- promises ---- */

static struct policy_usage used(struct quota *q, const char *namespace, const char *caller,
                                const json_t *promises) {
    size_t count = json_array_size(promises);
    cleanup_free struct usage_promise *list = xcalloc(count + 1, sizeof *list);
    for (size_t i = 0; i < count; i++) {
        const json_t *p = json_array_get(promises, i);
        list[i] = (struct usage_promise){.claim = json_str_at(p, "claim"),
                                         .user = json_str_at(p, "user"),
                                         .agent = json_is_true(json_object_get(p, "agent"))};
    }
    q->store->ops->settle(q->store); /* who saw a sandbox fail knows that it does not count */
    return usage_of(q->usage, namespace, caller, list, count);
}

struct policy_usage quota_usage(struct quota *q, const char *namespace, const char *caller) {
    cleanup_free char *name = ledger_name(namespace);
    cleanup_object struct object *ledger = q->store->ops->get(q->store, KIND_CONFIG_MAP, q->namespace, name);
    cleanup_json json_t *promises = promises_in(ledger, time(NULL));
    return used(q, namespace, caller, promises);
}

/* One attempt against the ledger as it is known here. */
static bool try_promise(struct quota *q, const struct policy *policy, const char *namespace,
                        const char *caller, bool agent, const char *claim, json_t **violations,
                        struct error *err) {
    cleanup_free char *name = ledger_name(namespace);
    time_t now = time(NULL);
    cleanup_object struct object *ledger = q->store->ops->get(q->store, KIND_CONFIG_MAP, q->namespace, name);
    cleanup_json json_t *promises = promises_in(ledger, now);
    struct policy_usage usage = used(q, namespace, caller, promises);
    if ((*violations = policy_evaluate_counts(policy, &usage, agent))) return false;
    if (json_array_size(promises) >= PROMISES_MAX) {
        error_set(err, 503, ERR_UNAVAILABLE, "too many sandboxes are being created in namespace %s",
                  namespace);
        err->retry_after = 5;
        return false;
    }
    json_t *promise = json_pack("{s:s, s:s, s:I}", "claim", claim, "user", caller, "at", (json_int_t)now);
    if (agent) json_object_set_new(promise, "agent", json_true());
    json_array_append_new(promises, promise);
    return write_ledger(q, name, ledger, promises, err);
}

bool quota_promise(struct quota *q, const struct policy *policy, const char *namespace, const char *caller,
                   bool agent, char claim[QUOTA_CLAIM_LEN + 1], json_t **violations, struct error *err) {
    random_hex(claim, QUOTA_CLAIM_LEN / 2);
    *violations = NULL;
    if (store_age_ms(q->store) > QUOTA_BEHIND_S * 1000) {
        error_set(err, 503, ERR_UNAVAILABLE,
                  "what is known of the sandboxes in namespace %s is too old to hold a quota against",
                  namespace);
        if (err) err->retry_after = 5;
        return false;
    }
    usage_forget(q->usage, 2 * QUOTA_PROMISE_S * 1000);
    pthread_mutex_t *lock = lock_of(q, namespace);
    pthread_mutex_lock(lock);
    bool ok = false;
    for (int attempt = 0;; attempt++) {
        cleanup_error struct error failed = {0};
        ok = try_promise(q, policy, namespace, caller, agent, claim, violations, &failed);
        if (ok || *violations) break;
        if (!outrun(&failed)) {
            error_move(err, &failed);
            break;
        }
        if (attempt + 1 == ATTEMPTS) {
            error_set(err, 503, ERR_UNAVAILABLE,
                      "the quota of namespace %s is being changed by others; retry", namespace);
            if (err) err->retry_after = 1;
            break;
        }
        pause_before(attempt);
    }
    pthread_mutex_unlock(lock);
    return ok;
}

void quota_give_up(struct quota *q, const char *namespace, const char *claim) {
    usage_give_up(q->usage, claim);
    cleanup_free char *name = ledger_name(namespace);
    pthread_mutex_t *lock = lock_of(q, namespace);
    pthread_mutex_lock(lock);
    cleanup_error struct error err = {0};
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        cleanup_object struct object *ledger =
            q->store->ops->get(q->store, KIND_CONFIG_MAP, q->namespace, name);
        if (!ledger) break;
        cleanup_json json_t *promises = promises_in(ledger, time(NULL));
        size_t at = 0;
        while (at < json_array_size(promises) &&
               strcmp(json_str_at(json_array_get(promises, at), "claim"), claim) != 0)
            at++;
        if (at == json_array_size(promises)) break;
        json_array_remove(promises, at);
        error_clear(&err);
        if (write_ledger(q, name, ledger, promises, &err) || !outrun(&err)) break;
        pause_before(attempt);
    }
    pthread_mutex_unlock(lock);
    if (err.status)
        log_warn("a place in a quota stays taken for some seconds", "namespace", namespace, "error",
                 err.message, NULL);
}
