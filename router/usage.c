/* See usage.h. Balanced trees of the C library: one of sandboxes by uid, one of counters by namespace and
 * user, one of claims. */
#include "router/usage.h"

#include "common/json.h"
#include "common/units.h"
#include "router/sandbox_view.h"

#include <pthread.h>
#include <search.h>
#include <string.h>

/* What one sandbox adds to the counters. */
struct sandbox {
    char *uid, *namespace, *user, *claim; /* claim "" = made without a quota */
    bool counts, agent;
};

/* Sandboxes of a user in a namespace; of the whole namespace when user is "". */
struct counter {
    char *namespace, *user;
    int64_t total, agents;
};

/* A claim that has been seen: its sandbox is there, or has been (gone_at > 0). */
struct claim {
    char *text;
    int64_t gone_at; /* monotonic ms; 0 = the sandbox is there */
    struct claim *next;
};

struct usage {
    struct store *store;
    void *watch;
    pthread_mutex_t lock; /* held for a moment only */
    void *sandboxes, *counters, *claims;
    struct claim *gone, **gone_last; /* oldest first */
};

static int by_uid(const void *a, const void *b) {
    return strcmp(((const struct sandbox *)a)->uid, ((const struct sandbox *)b)->uid);
}

static int by_key(const void *a, const void *b) {
    const struct counter *x = a, *y = b;
    int order = strcmp(x->namespace, y->namespace);
    return order ? order : strcmp(x->user, y->user);
}

static int by_text(const void *a, const void *b) {
    return strcmp(((const struct claim *)a)->text, ((const struct claim *)b)->text);
}

static char *copy_of(const char *text) {
    return xstrdup(text ? text : "");
}

static void *node(void *found) {
    return found ? *(void **)found : NULL;
}

/* The node that was put there, for a tree that is out of memory: there is nothing to count with then. */
static void *put(void *key, void **root, int (*order)(const void *, const void *)) {
    void *slot = tsearch(key, root, order);
    if (!slot) abort();
    return *(void **)slot;
}

/* ---- counters ---- */

static struct counter *counter_of(struct usage *u, const char *namespace, const char *user) {
    struct counter key = {.namespace = (char *)(uintptr_t) namespace, .user = (char *)(uintptr_t)user};
    return node(tfind(&key, &u->counters, by_key));
}

static void add_to(struct usage *u, const char *namespace, const char *user, int change, bool agent) {
    struct counter *c = counter_of(u, namespace, user);
    if (!c) {
        c = xcalloc(1, sizeof *c);
        c->namespace = copy_of(namespace);
        c->user = copy_of(user);
        put(c, &u->counters, by_key);
    }
    c->total += change;
    if (agent) c->agents += change;
    if (c->total > 0) return;
    tdelete(c, &u->counters, by_key);
    free(c->namespace);
    free(c->user);
    free(c);
}

static void count(struct usage *u, const struct sandbox *s, int change) {
    if (!s->counts) return;
    add_to(u, s->namespace, "", change, s->agent);
    if (s->user[0]) add_to(u, s->namespace, s->user, change, s->agent);
}

/* ---- claims ---- */

static struct claim *find_claim(struct usage *u, const char *text) {
    struct claim key = {.text = (char *)(uintptr_t)text};
    return node(tfind(&key, &u->claims, by_text));
}

static struct claim *see_claim(struct usage *u, const char *text) {
    struct claim *c = find_claim(u, text);
    if (c) return c;
    c = xcalloc(1, sizeof *c);
    c->text = copy_of(text);
    return put(c, &u->claims, by_text);
}

static void claim_gone(struct usage *u, const char *text) {
    struct claim *c = see_claim(u, text);
    if (c->gone_at) return;
    c->gone_at = monotonic_ms() + 1; /* never 0 */
    *u->gone_last = c;
    u->gone_last = &c->next;
}

void usage_give_up(struct usage *u, const char *claim) {
    pthread_mutex_lock(&u->lock);
    claim_gone(u, claim);
    pthread_mutex_unlock(&u->lock);
}

static void free_claim(struct claim *c) {
    free(c->text);
    free(c);
}

void usage_forget(struct usage *u, int64_t older_than_ms) {
    int64_t before = monotonic_ms() - older_than_ms;
    pthread_mutex_lock(&u->lock);
    while (u->gone && u->gone->gone_at < before) {
        struct claim *c = u->gone;
        u->gone = c->next;
        tdelete(c, &u->claims, by_text);
        free_claim(c);
    }
    if (!u->gone) u->gone_last = &u->gone;
    pthread_mutex_unlock(&u->lock);
}

/* ---- the watch ---- */

static void free_sandbox(struct sandbox *s) {
    free(s->uid);
    free(s->namespace);
    free(s->user);
    free(s->claim);
    free(s);
}

static void forget_sandbox(struct usage *u, const char *uid, bool gone) {
    struct sandbox key = {.uid = (char *)(uintptr_t)uid}, *s = node(tfind(&key, &u->sandboxes, by_uid));
    if (!s) return;
    count(u, s, -1);
    if (gone && s->claim[0]) claim_gone(u, s->claim);
    tdelete(s, &u->sandboxes, by_uid);
    free_sandbox(s);
}

static void learn_sandbox(struct usage *u, const struct object *o) {
    struct sandbox *s = xcalloc(1, sizeof *s);
    const char *status = sandbox_status(o->json);
    s->uid = copy_of(o->uid);
    s->namespace = copy_of(o->namespace);
    s->user = copy_of(json_str_at(o->json, "spec.createdBy.sub"));
    s->claim = copy_of(sandbox_annotation(o->json, ANNOTATION_QUOTA_CLAIM));
    s->agent = strcmp(json_str_at(o->json, "spec.mode"), "agent") == 0;
    s->counts = strcmp(status, "Deleting") != 0 && strcmp(status, "Error") != 0;
    put(s, &u->sandboxes, by_uid);
    count(u, s, 1);
    if (s->claim[0]) see_claim(u, s->claim);
}

static char *claim_of(struct usage *u, const char *uid) {
    struct sandbox key = {.uid = (char *)(uintptr_t)uid}, *s = node(tfind(&key, &u->sandboxes, by_uid));
    return copy_of(s ? s->claim : "");
}

static void on_sandbox(void *ctx, enum store_change change, struct object *o) {
    struct usage *u = ctx;
    pthread_mutex_lock(&u->lock);
    cleanup_free char *before = claim_of(u, o->uid);
    forget_sandbox(u, o->uid, change == STORE_DELETED);
    if (change != STORE_DELETED) {
        learn_sandbox(u, o);
        /* A place was promised to it once more (sandbox_readmit): its first claim is done with. */
        if (before[0] && strcmp(before, sandbox_annotation(o->json, ANNOTATION_QUOTA_CLAIM)) != 0)
            claim_gone(u, before);
    }
    pthread_mutex_unlock(&u->lock);
}

struct policy_usage usage_of(struct usage *u, const char *namespace, const char *user,
                             const struct usage_promise *promises, size_t promised) {
    struct policy_usage out = {0};
    pthread_mutex_lock(&u->lock);
    const struct counter *all = counter_of(u, namespace, "");
    const struct counter *own = user[0] ? counter_of(u, namespace, user) : NULL;
    if (all) out = (struct policy_usage){.total = all->total, .agents = all->agents};
    if (own) out.of_user = own->total;
    for (size_t i = 0; i < promised; i++) {
        if (find_claim(u, promises[i].claim)) continue;
        out.total++;
        if (promises[i].agent) out.agents++;
        if (user[0] && strcmp(promises[i].user, user) == 0) out.of_user++;
    }
    pthread_mutex_unlock(&u->lock);
    return out;
}

struct usage *usage_new(struct store *store) {
    struct usage *u = xcalloc(1, sizeof *u);
    u->store = store;
    u->gone_last = &u->gone;
    pthread_mutex_init(&u->lock, NULL);
    u->watch = store->ops->watch(store, KIND_SANDBOX, on_sandbox, u);
    return u;
}

static void destroy_sandbox(void *s) {
    free_sandbox(s);
}

static void destroy_counter(void *counter) {
    struct counter *c = counter;
    free(c->namespace);
    free(c->user);
    free(c);
}

static void destroy_claim(void *c) {
    free_claim(c);
}

void usage_free(struct usage *u) {
    if (!u) return;
    u->store->ops->unwatch(u->store, u->watch);
    tdestroy(u->sandboxes, destroy_sandbox);
    tdestroy(u->counters, destroy_counter);
    tdestroy(u->claims, destroy_claim);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
