/* struct store on an apiserver: reads from the cache, writes through the client and into the cache. */
#include "k8s/store.h"

#include "common/json.h"
#include "k8s/cache.h"
#include "k8s/paths.h"
#include "k8s/selector.h"
#include "k8s/watch.h"

#include <stdio.h>
#include <time.h>

#define ATTEMPTS 8 /* of an update that others overtake */

struct k8s_store {
    struct store store; /* first */
    struct k8s_client *client;
    struct cache cache;
    struct watch_thread *thread;
};

static struct k8s_store *k8s_of(struct store *store) {
    return (struct k8s_store *)store;
}

static struct object *get(struct store *store, enum kind kind, const char *namespace, const char *name) {
    return cache_get(&k8s_of(store)->cache, kind, namespace, name);
}

static struct object_list find(struct store *store, enum kind kind, const char *name) {
    return cache_find(&k8s_of(store)->cache, kind, name);
}

static struct object_list list(struct store *store, enum kind kind, const char *namespace) {
    return cache_list(&k8s_of(store)->cache, kind, namespace);
}

static void *watch(struct store *store, enum kind kind, store_watch_fn *fn, void *ctx) {
    return cache_watch(&k8s_of(store)->cache, kind, fn, ctx);
}

static void unwatch(struct store *store, void *handle) {
    cache_unwatch(&k8s_of(store)->cache, handle);
}

static void settle(struct store *store) {
    cache_settle(&k8s_of(store)->cache);
}

static bool ready(struct store *store, struct error *err) {
    return watch_ready(k8s_of(store)->thread, err);
}

static int64_t age_ms(struct store *store) {
    return watch_age_ms(k8s_of(store)->thread);
}

/* ---- writes ---- */

/* Where an object is or shall be. */
struct place {
    enum kind kind;
    const char *namespace, *name; /* name NULL: the collection */
    const char *subresource;
};

static bool call(struct k8s_store *s, const char *method, const struct place *p, const char *type,
                 const json_t *body, json_t **answer, struct error *err) {
    cleanup_buffer struct buffer path = {0};
    k8s_path(p->kind, p->namespace, p->name, p->subresource, &path);
    return k8s_call(s->client, method, buffer_cstr(&path), type, body, answer, err);
}

static bool take_answer(struct k8s_store *s, enum kind kind, json_t *answer, uint64_t generation,
                        struct object **out, struct error *err) {
    struct object *o = cache_written(&s->cache, kind, answer, generation);
    if (!o) {
        error_set(err, 502, "bad_answer",
                  "the Kubernetes API answered a write of %s with something else; it may have been done",
                  resource_kinds[kind].plural);
        return false;
    }
    if (out)
        *out = o;
    else
        object_unref(o);
    return true;
}

/* Where `object` says that it is. */
static bool place_of(enum kind kind, const json_t *object, bool named, struct place *out, struct error *err) {
    *out = (struct place){.kind = kind};
    if (resource_kinds[kind].namespaced) {
        out->namespace = json_str_at(object, "metadata.namespace");
        if (!out->namespace[0]) {
            error_set_field(err, "metadata.namespace", "is required");
            return false;
        }
    }
    if (!named) return true;
    out->name = json_str_at(object, "metadata.name");
    if (!out->name[0]) error_set_field(err, "metadata.name", "is required");
    return out->name[0] != '\0';
}

/* A copy with kind and apiVersion, and without what a main write ignores. */
static json_t *body_of(enum kind kind, const json_t *object) {
    json_t *body = json_copy((json_t *)object);
    json_object_set_new(body, "kind", json_string(resource_kinds[kind].kind));
    json_object_set_new(body, "apiVersion", json_string(resource_kinds[kind].api_version));
    return body;
}

static const char *subresource_of(enum kind kind, enum store_part part) {
    return part == STORE_STATUS && resource_kinds[kind].has_status ? "status" : NULL;
}

static bool is_conflict(const struct error *err) {
    return err->code && strcmp(err->code, ERR_CONFLICT) == 0;
}

static void breathe(int attempt) {
    nanosleep(&(struct timespec){0, (1L << attempt) * 1000000L}, NULL);
}

/* After a conflict, or a creation of what exists, the cache is behind: reads what is there, so that whoever
 * tries again finds it. */
static bool catch_up(struct k8s_store *s, const struct place *p, struct error *err) {
    const struct place main = {p->kind, p->namespace, p->name, NULL};
    cleanup_object struct object *known = cache_get(&s->cache, p->kind, p->namespace, p->name);
    uint64_t generation = cache_generation(&s->cache);
    json_t *live = NULL;
    cleanup_error struct error failed = {0};
    if (call(s, "GET", &main, NULL, NULL, &live, &failed)) {
        object_unref(cache_written(&s->cache, p->kind, live, generation));
        return true;
    }
    if (failed.status == 404 && known) cache_deleted(&s->cache, p->kind, p->namespace, p->name, known->uid);
    bool gone = failed.status == 404;
    error_move(err, &failed);
    return gone;
}

static bool create(struct store *store, enum kind kind, const json_t *object, struct object **out,
                   struct error *err) {
    struct k8s_store *s = k8s_of(store);
    struct place at;
    if (!place_of(kind, object, false, &at, err)) return false;
    cleanup_json json_t *body = body_of(kind, object);
    uint64_t generation = cache_generation(&s->cache);
    json_t *answer = NULL;
    cleanup_error struct error failed = {0};
    if (call(s, "POST", &at, NULL, body, &answer, &failed))
        return take_answer(s, kind, answer, generation, out, err);
    const struct place there = {kind, at.namespace, json_str_at(object, "metadata.name"), NULL};
    if (there.name[0] && strcmp(failed.code, ERR_ALREADY_EXISTS) == 0) catch_up(s, &there, NULL);
    error_move(err, &failed);
    return false;
}

static bool look(struct store *store, enum kind kind, const char *namespace, const char *name,
                 struct error *err) {
    const struct place at = {kind, resource_kinds[kind].namespaced ? namespace : NULL, name, NULL};
    cleanup_error struct error failed = {0};
    if (catch_up(k8s_of(store), &at, &failed) || failed.status < 500) return true;
    error_move(err, &failed);
    return false;
}

/* A copy whose metadata can be changed, with the live object's resourceVersion, and its uid unless given. */
static json_t *with_live_version(const json_t *body, const json_t *live) {
    json_t *copy = json_copy((json_t *)body);
    json_t *metadata = json_copy(json_object_get(body, "metadata"));
    json_object_set(metadata, "resourceVersion", json_at(live, "metadata.resourceVersion"));
    json_object_set_new(copy, "metadata", metadata);
    return copy;
}

/* A replace that states no version: of whatever is there now. */
static bool replace_any(struct k8s_store *s, const struct place *at, const json_t *body, json_t **answer,
                        struct error *err) {
    const struct place main = {at->kind, at->namespace, at->name, NULL};
    for (int attempt = 0;; attempt++) {
        cleanup_json json_t *live = NULL;
        if (!call(s, "GET", &main, NULL, NULL, &live, err)) return false;
        cleanup_json json_t *versioned = with_live_version(body, live);
        cleanup_error struct error failed = {0};
        if (call(s, "PUT", at, NULL, versioned, answer, &failed)) return true;
        if (!is_conflict(&failed) || attempt + 1 == ATTEMPTS) {
            error_move(err, &failed);
            return false;
        }
        breathe(attempt);
    }
}

static bool replace(struct store *store, enum kind kind, enum store_part part, const json_t *object,
                    struct object **out, struct error *err) {
    struct k8s_store *s = k8s_of(store);
    struct place at;
    if (!place_of(kind, object, true, &at, err)) return false;
    at.subresource = subresource_of(kind, part);
    cleanup_json json_t *body = body_of(kind, object);
    uint64_t generation = cache_generation(&s->cache);
    json_t *answer = NULL;
    bool versioned = json_str_at(object, "metadata.resourceVersion")[0] != '\0';
    cleanup_error struct error failed = {0};
    bool ok = versioned ? call(s, "PUT", &at, NULL, body, &answer, &failed)
                        : replace_any(s, &at, body, &answer, &failed);
    if (!ok && is_conflict(&failed)) catch_up(s, &at, NULL);
    if (!ok) error_move(err, &failed);
    return ok && take_answer(s, kind, answer, generation, out, err);
}

/* Only the part, and what must hold. */
static json_t *patch_body(enum kind kind, enum store_part part, const json_t *patch, const char *uid,
                          const char *version) {
    json_t *body;
    if (subresource_of(kind, part)) {
        json_t *status = json_object_get(patch, "status");
        body = status ? json_pack("{s:O}", "status", status) : json_object();
    } else {
        body = json_copy((json_t *)patch);
    }
    if (!uid && !version) return body;
    json_t *metadata = json_copy(json_object_get(body, "metadata"));
    if (!metadata) metadata = json_object();
    if (uid) json_object_set_new(metadata, "uid", json_string(uid));
    if (version) json_object_set_new(metadata, "resourceVersion", json_string(version));
    json_object_set_new(body, "metadata", metadata);
    return body;
}

#define MERGE_PATCH "application/merge-patch+json"

static bool another_object(enum kind kind, const char *name, struct error *err) {
    error_set(err, 409, ERR_CONFLICT, "%s \"%s\" is another object of the same name now",
              resource_kinds[kind].kind, name);
    return false;
}

/* A status patch of one certain object. An apiserver does not look at a uid in such a patch, so it is
 * tied to a version of which the uid is known. */
static bool patch_status_of(struct k8s_store *s, const struct place *at, const json_t *patch, const char *uid,
                            json_t **answer, struct error *err) {
    const struct place main = {at->kind, at->namespace, at->name, NULL};
    cleanup_object struct object *known = cache_get(&s->cache, at->kind, at->namespace, at->name);
    cleanup_json json_t *live = NULL;
    for (int attempt = 0;; attempt++) {
        if (!live && !known && !call(s, "GET", &main, NULL, NULL, &live, err)) return false;
        const char *its = live ? json_str_at(live, "metadata.uid") : known->uid;
        const char *version = live ? json_str_at(live, "metadata.resourceVersion") : known->resource_version;
        if (live && strcmp(its, uid) != 0) return another_object(at->kind, at->name, err);
        cleanup_error struct error failed = {0};
        if (strcmp(its, uid) == 0) {
            cleanup_json json_t *body = patch_body(at->kind, STORE_STATUS, patch, NULL, version);
            if (call(s, "PATCH", at, MERGE_PATCH, body, answer, &failed)) return true;
            if (!is_conflict(&failed) || attempt + 1 == ATTEMPTS) {
                error_move(err, &failed);
                return false;
            }
            if (attempt > 0) breathe(attempt);
        }
        json_decref(live);
        live = NULL;
        object_unref(steal_ptr(known)); /* from now on by what the apiserver says */
    }
}

static bool patch(struct store *store, enum kind kind, enum store_part part, const char *namespace,
                  const char *name, const json_t *merge, const struct store_preconditions *p,
                  struct object **out, struct error *err) {
    struct k8s_store *s = k8s_of(store);
    if (!json_is_object(merge)) {
        error_set(err, 400, ERR_BAD_REQUEST, "a merge patch must be a JSON object");
        return false;
    }
    const struct place at = {kind, resource_kinds[kind].namespaced ? namespace : NULL, name,
                             subresource_of(kind, part)};
    const char *uid = p ? p->uid : NULL, *version = p ? p->resource_version : NULL;
    uint64_t generation = cache_generation(&s->cache);
    json_t *answer = NULL;
    bool ok;
    if (at.subresource && uid && !version) {
        ok = patch_status_of(s, &at, merge, uid, &answer, err);
    } else {
        cleanup_json json_t *body = patch_body(kind, part, merge, at.subresource ? NULL : uid, version);
        cleanup_error struct error failed = {0};
        ok = call(s, "PATCH", &at, MERGE_PATCH, body, &answer, &failed);
        if (!ok && is_conflict(&failed)) catch_up(s, &at, NULL);
        if (!ok) error_move(err, &failed);
    }
    return ok && take_answer(s, kind, answer, generation, out, err);
}

static json_t *delete_options(const struct store_preconditions *p) {
    json_t *body = json_pack("{s:s, s:s, s:s}", "kind", "DeleteOptions", "apiVersion", "v1",
                             "propagationPolicy", "Background");
    json_t *conditions = json_object();
    if (p && p->uid) json_object_set_new(conditions, "uid", json_string(p->uid));
    if (p && p->resource_version)
        json_object_set_new(conditions, "resourceVersion", json_string(p->resource_version));
    if (json_object_size(conditions) > 0) json_object_set(body, "preconditions", conditions);
    json_decref(conditions);
    return body;
}

static bool remove_object(struct store *store, enum kind kind, const char *namespace, const char *name,
                          const struct store_preconditions *p, struct error *err) {
    struct k8s_store *s = k8s_of(store);
    const struct place at = {kind, resource_kinds[kind].namespaced ? namespace : NULL, name, NULL};
    cleanup_json json_t *body = delete_options(p);
    uint64_t generation = cache_generation(&s->cache);
    cleanup_json json_t *answer = NULL;
    cleanup_error struct error failed = {0};
    if (!call(s, "DELETE", &at, NULL, body, &answer, &failed)) {
        /* Somebody was faster: the cache may not know yet. */
        if (failed.status == 404 && p && p->uid) cache_deleted(&s->cache, kind, namespace, name, p->uid);
        error_move(err, &failed);
        return false;
    }
    /* A Status: it is gone. The object itself: it waits for its finalizers or its grace. */
    if (strcmp(json_str_at(answer, "kind"), "Status") == 0 || !json_str_at(answer, "metadata.uid")[0]) {
        const char *uid = json_str_at(answer, "details.uid");
        cache_deleted(&s->cache, kind, namespace, name, uid[0] ? uid : p && p->uid ? p->uid : "");
        return true;
    }
    if (!json_at(answer, "metadata.deletionTimestamp")) {
        cache_deleted(&s->cache, kind, namespace, name, json_str_at(answer, "metadata.uid"));
        return true;
    }
    object_unref(cache_written(&s->cache, kind, steal_ptr(answer), generation));
    return true;
}

static const struct store_ops k8s_ops = {
    .get = get,
    .find = find,
    .list = list,
    .create = create,
    .replace = replace,
    .patch = patch,
    .remove = remove_object,
    .watch = watch,
    .unwatch = unwatch,
    .settle = settle,
    .ready = ready,
    .look = look,
    .age_ms = age_ms,
};

static bool check_rows(const struct k8s_store_options *options, struct error *err) {
    for (size_t i = 0; i < options->count; i++) {
        if (selector_supported(options->watches[i].label_selector) &&
            selector_supported(options->watches[i].field_selector))
            continue;
        error_set(err, 500, ERR_INTERNAL, "a selector of %s cannot be evaluated here",
                  resource_kinds[options->watches[i].kind].plural);
        return false;
    }
    return true;
}

struct store *k8s_store_open(struct k8s_client *client, const struct k8s_store_options *options,
                             struct error *err) {
    if (!check_rows(options, err)) return NULL;
    struct k8s_store *s = xcalloc(1, sizeof *s);
    s->store.ops = &k8s_ops;
    s->client = client;
    cache_init(&s->cache, options->watches, options->count);
    s->thread = watch_start(client, &s->cache, options->silence_ms, err);
    if (s->thread) return &s->store;
    cache_free(&s->cache);
    free(s);
    return NULL;
}

static void counter(struct buffer *out, const char *name, const char *help, uint64_t value) {
    buffer_printf(out,
                  "# HELP agenttier_kubernetes_%s %s\n# TYPE agenttier_kubernetes_%s counter\n"
                  "agenttier_kubernetes_%s %llu\n",
                  name, help, name, name, (unsigned long long)value);
}

static bool is_followed(const struct k8s_store *s, enum kind kind) {
    for (size_t i = 0; i < s->cache.count; i++)
        if (s->cache.rows[i].watch.kind == kind) return true;
    return false;
}

void k8s_store_metrics(struct store *store, struct buffer *out) {
    struct k8s_store *s = k8s_of(store);
    uint64_t calls, failures;
    k8s_client_counts(s->client, &calls, &failures);
    struct watch_counts w = watch_counts(s->thread);
    counter(out, "calls_total", "Calls of the Kubernetes API but lists and watches.", calls);
    counter(out, "call_failures_total", "Calls without an answer or with a 5xx.", failures);
    counter(out, "lists_total", "Lists begun to fill the caches.", w.lists);
    counter(out, "watches_total", "Watches begun.", w.watches);
    counter(out, "watch_events_total", "Changes that watches brought.", w.events);
    counter(out, "watch_failures_total", "Lists and watches that failed.", w.failures);
    buffer_append_str(out, "# HELP agenttier_kubernetes_cached_objects Objects in memory.\n"
                           "# TYPE agenttier_kubernetes_cached_objects gauge\n");
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        if (is_followed(s, (enum kind)kind))
            buffer_printf(out, "agenttier_kubernetes_cached_objects{kind=\"%s\"} %zu\n",
                          resource_kinds[kind].kind, cache_count(&s->cache, (enum kind)kind));
    }
}

void k8s_store_close(struct store *store) {
    if (!store) return;
    struct k8s_store *s = k8s_of(store);
    watch_stop(s->thread);
    cache_free(&s->cache);
    free(s);
}
