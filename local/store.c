/* struct store on an SQLite file: reads from memory, writes through commit.c. */
#include "common/bytes.h"
#include "common/json.h"
#include "local/admission.h"
#include "local/commit.h"
#include "local/local.h"
#include "local/sync.h"

#include <time.h>

#define GENERATED_NAME_ATTEMPTS 8

static struct local_store *local_of(struct store *store) {
    return (struct local_store *)store;
}

static const char *namespace_of(enum kind kind, const char *namespace) {
    return resource_kinds[kind].namespaced && namespace ? namespace : "";
}

static struct object *get(struct store *store, enum kind kind, const char *namespace, const char *name) {
    struct local_store *s = local_of(store);
    pthread_rwlock_rdlock(&s->memory);
    struct object *o = index_get(&s->index, kind, namespace_of(kind, namespace), name);
    if (o) object_ref(o);
    pthread_rwlock_unlock(&s->memory);
    struct object *full = object_unpacked(o);
    object_unref(o);
    return full;
}

static struct object_list copy_range(struct index_range range) {
    struct object_list list = {0};
    if (range.count == 0) return list;
    list.items = xcalloc(range.count, sizeof(*list.items));
    list.count = range.count;
    for (size_t i = 0; i < range.count; i++)
        list.items[i] = object_ref(range.items[i]);
    return list;
}

static struct object_list find(struct store *store, enum kind kind, const char *name) {
    struct local_store *s = local_of(store);
    pthread_rwlock_rdlock(&s->memory);
    struct object_list list = copy_range(index_by_name(&s->index, kind, name));
    pthread_rwlock_unlock(&s->memory);
    object_list_unpack(&list);
    return list;
}

static struct object_list list_kept(struct local_store *s, enum kind kind, const char *namespace) {
    pthread_rwlock_rdlock(&s->memory);
    struct object_list found = copy_range(index_in_namespace(&s->index, kind, namespace));
    pthread_rwlock_unlock(&s->memory);
    return found;
}

static struct object_list list(struct store *store, enum kind kind, const char *namespace) {
    struct object_list found = list_kept(local_of(store), kind, namespace_of(kind, namespace));
    object_list_unpack(&found);
    return found;
}

static void give(struct object **out, struct object *o) {
    if (out != NULL) *out = object_unpacked(o);
}

static bool not_found(enum kind kind, const char *namespace, const char *name, struct error *err) {
    if (namespace[0] == '\0') {
        error_set(err, 404, ERR_NOT_FOUND, "%s \"%s\" not found", resource_kinds[kind].kind, name);
    } else {
        error_set(err, 404, ERR_NOT_FOUND, "%s \"%s\" not found in namespace \"%s\"",
                  resource_kinds[kind].kind, name, namespace);
    }
    return false;
}

static bool already_exists(const struct object *o, struct error *err) {
    bool going = json_at(o->json, "metadata.deletionTimestamp") != NULL;
    error_set(err, 409, ERR_ALREADY_EXISTS, "%s \"%s\" already exists%s", resource_kinds[o->kind].kind,
              o->name, going ? " (it is being deleted)" : "");
    return false;
}

static bool conflict(const struct object *o, const char *why, struct error *err) {
    error_set(err, 409, ERR_CONFLICT, "%s \"%s\" %s", resource_kinds[o->kind].kind, o->name, why);
    return false;
}

/* What an owner reference names must be there: Kubernetes would collect the object at once,
 * and it would be left behind here by a write that raced with the owner's deletion. */
static bool owners_exist(struct local_store *s, const json_t *object, struct error *err) {
    size_t i;
    json_t *ref;
    const char *namespace = json_str_at(object, "metadata.namespace");
    json_array_foreach(json_at(object, "metadata.ownerReferences"), i, ref) {
        const char *type = json_str_at(ref, "kind"), *name = json_str_at(ref, "name");
        for (int k = 0; k < KIND_COUNT; k++) {
            if (strcmp(resource_kinds[k].kind, type) != 0) continue;
            const char *where = resource_kinds[k].namespaced ? namespace : "";
            const struct object *owner = index_get(&s->index, (enum kind)k, where, name);
            if (owner != NULL && strcmp(owner->uid, json_str_at(ref, "uid")) == 0) break;
            error_set(err, 409, ERR_CONFLICT, "the owner %s \"%s\" is gone", type, name);
            return false;
        }
    }
    return true;
}

static bool create(struct store *store, enum kind kind, const json_t *given, struct object **out,
                   struct error *err) {
    struct local_store *s = local_of(store);
    for (int attempt = 1;; attempt++) {
        cleanup_json json_t *json = admission_create(kind, given, time(NULL), err);
        if (json == NULL) return false;
        cleanup_batch struct batch b = {0};
        if (!commit_begin(s, &b, err)) return false;
        const struct object *old = index_get(&s->index, kind, json_str_at(json, "metadata.namespace"),
                                             json_str_at(json, "metadata.name"));
        if (old != NULL) {
            bool generated = json_str_at(given, "metadata.name")[0] == '\0';
            if (!generated || attempt == GENERATED_NAME_ATTEMPTS) already_exists(old, err);
            commit_cancel(s);
            if (!generated || attempt == GENERATED_NAME_ATTEMPTS) return false;
            continue;
        }
        struct object *o = NULL;
        if (!owners_exist(s, json, err) || (o = batch_put(&b, kind, steal_ptr(json), err)) == NULL) {
            commit_cancel(s);
            return false;
        }
        if (!commit_end(s, &b, err)) return false;
        give(out, o);
        return true;
    }
}

static bool check_preconditions(const struct object *o, const struct store_preconditions *p,
                                struct error *err) {
    if (p == NULL) return true;
    if (p->uid && strcmp(p->uid, o->uid) != 0)
        return conflict(o, "is another object of the same name now", err);
    if (p->resource_version && strcmp(p->resource_version, o->resource_version) != 0) {
        return conflict(o, "has been changed since: read it again and repeat", err);
    }
    return true;
}

/* The preconditions that the written object itself states. */
static struct store_preconditions stated(const json_t *object) {
    const char *uid = json_str_at(object, "metadata.uid");
    const char *version = json_str_at(object, "metadata.resourceVersion");
    return (struct store_preconditions){uid[0] ? uid : NULL, version[0] ? version : NULL};
}

/* Both kinds of update: `given` replaces the part, or `patch` is merged into it. */
struct update {
    enum kind kind;
    enum store_part part;
    const char *namespace, *name;
    const json_t *given, *patch; /* one of them */
    const struct store_preconditions *preconditions;
};

static json_t *updated(const struct update *u, const struct object *old, struct error *err) {
    if (u->patch == NULL) return admission_update(u->kind, u->part, old->json, u->given, err);
    if (!json_is_object(u->patch)) {
        error_set(err, 400, ERR_BAD_REQUEST, "a merge patch must be a JSON object");
        return NULL;
    }
    cleanup_json json_t *merged = json_merge_patch(old->json, u->patch);
    const char *namespace, *name;
    if (!admission_key(u->kind, merged, &namespace, &name, err)) return NULL;
    if (strcmp(name, old->name) != 0 || strcmp(namespace, old->namespace) != 0) {
        error_set_field(err, "metadata.name", "the name and namespace of an object cannot change");
        return NULL;
    }
    return admission_update(u->kind, u->part, old->json, merged, err);
}

/* Puts the update into the batch. *now is the object as it is then, borrowed: the old one
 * when nothing changes. */
static bool stage_update(struct local_store *s, const struct update *u, struct batch *b, struct object **now,
                         struct error *err) {
    struct object *old = index_get(&s->index, u->kind, u->namespace, u->name);
    if (old == NULL) return not_found(u->kind, u->namespace, u->name, err);
    struct store_preconditions own = stated(u->patch ? u->patch : u->given);
    if (!check_preconditions(old, u->preconditions, err) || !check_preconditions(old, &own, err))
        return false;

    cleanup_object struct object *full = object_unpacked(old);
    cleanup_json json_t *json = updated(u, full, err);
    if (json == NULL) return false;
    bool unfinished = json_at(json, "metadata.deletionTimestamp") == NULL || admission_has_finalizers(json);
    *now = old;
    if (json_equal(json, full->json) && unfinished) return true;
    if (unfinished) return (*now = batch_put(b, u->kind, steal_ptr(json), err)) != NULL;

    /* The last finalizer is gone: so is the object, in its last form. */
    cleanup_object struct object *last = object_new(u->kind, steal_ptr(json), old->generation);
    if (!batch_remove(s, b, last, err)) return false;
    *now = b->items[0].object;
    return true;
}

static bool update(struct local_store *s, const struct update *u, struct object **out, struct error *err) {
    cleanup_batch struct batch b = {0};
    if (!commit_begin(s, &b, err)) return false;
    struct object *now = NULL;
    bool ok = stage_update(s, u, &b, &now, err);
    if (!ok || b.count == 0) {
        if (ok) give(out, now);
        commit_cancel(s);
        return ok;
    }
    if (!commit_end(s, &b, err)) return false;
    give(out, now);
    return true;
}

static bool replace(struct store *store, enum kind kind, enum store_part part, const json_t *object,
                    struct object **out, struct error *err) {
    struct update u = {.kind = kind, .part = part, .given = object};
    return admission_key(kind, object, &u.namespace, &u.name, err) && update(local_of(store), &u, out, err);
}

static bool patch(struct store *store, enum kind kind, enum store_part part, const char *namespace,
                  const char *name, const json_t *merge, const struct store_preconditions *preconditions,
                  struct object **out, struct error *err) {
    struct update u = {kind, part, namespace_of(kind, namespace), name, NULL, merge, preconditions};
    return update(local_of(store), &u, out, err);
}

static bool remove_object(struct store *store, enum kind kind, const char *namespace, const char *name,
                          const struct store_preconditions *preconditions, struct error *err) {
    struct local_store *s = local_of(store);
    cleanup_batch struct batch b = {0};
    if (!commit_begin(s, &b, err)) return false;
    namespace = namespace_of(kind, namespace);
    struct object *o = index_get(&s->index, kind, namespace, name);
    bool ok = o != NULL ? check_preconditions(o, preconditions, err) : not_found(kind, namespace, name, err);
    if (ok) ok = batch_remove(s, &b, o, err);
    if (!ok || b.count == 0) { /* without a change: it is being deleted already */
        commit_cancel(s);
        return ok;
    }
    return commit_end(s, &b, err);
}

static void *watch(struct store *store, enum kind kind, store_watch_fn *fn, void *ctx) {
    struct local_store *s = local_of(store);
    struct watcher *w = xcalloc(1, sizeof(*w));
    w->kind = kind;
    w->fn = fn;
    w->ctx = ctx;
    pthread_mutex_lock(&s->order);
    cleanup_object_list struct object_list existing = list_kept(s, kind, NULL);
    for (size_t i = 0; i < existing.count; i++) {
        cleanup_object struct object *o = object_unpacked(existing.items[i]);
        fn(ctx, STORE_ADDED, o);
    }
    struct watcher **last = &s->watchers;
    while (*last != NULL)
        last = &(*last)->next;
    *last = w;
    pthread_mutex_unlock(&s->order);
    return w;
}

static void unwatch(struct store *store, void *handle) {
    struct local_store *s = local_of(store);
    pthread_mutex_lock(&s->order); /* waits for a callback that runs */
    for (struct watcher **w = &s->watchers; *w != NULL; w = &(*w)->next) {
        if (*w != handle) continue;
        *w = (*w)->next;
        break;
    }
    pthread_mutex_unlock(&s->order);
    free(handle);
}

static void settle(struct store *store) {
    struct local_store *s = local_of(store);
    pthread_mutex_lock(&s->order); /* waits for a callback that runs */
    pthread_mutex_unlock(&s->order);
}

static bool ready(struct store *store, struct error *err) {
    struct local_store *s = local_of(store);
    pthread_mutex_lock(&s->wake_lock);
    bool ok = s->trouble[0] == '\0';
    if (!ok) {
        error_set(err, 503, ERR_UNAVAILABLE, "%s", s->trouble);
        if (err) err->retry_after = 1;
    }
    pthread_mutex_unlock(&s->wake_lock);
    return ok;
}

static const struct store_ops local_ops = {
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
};

static void init_locks(struct local_store *s) {
    pthread_mutex_init(&s->write, NULL);
    pthread_mutex_init(&s->order, NULL);
    pthread_mutex_init(&s->wake_lock, NULL);
    /* A stream of readers must not keep a writer waiting; readers never lock twice. */
    pthread_rwlockattr_t rwlock;
    pthread_rwlockattr_init(&rwlock);
    pthread_rwlockattr_setkind_np(&rwlock, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->memory, &rwlock);
    pthread_rwlockattr_destroy(&rwlock);
    pthread_condattr_t cond;
    pthread_condattr_init(&cond);
    pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &cond);
    pthread_condattr_destroy(&cond);
}

static void free_store(struct local_store *s) {
    db_close(s->db);
    index_free(&s->index);
    pthread_mutex_destroy(&s->write);
    pthread_mutex_destroy(&s->order);
    pthread_mutex_destroy(&s->wake_lock);
    pthread_rwlock_destroy(&s->memory);
    pthread_cond_destroy(&s->wake);
    free(s);
}

struct store *local_store_open(const char *state_dir, struct error *err) {
    struct local_store *s = xcalloc(1, sizeof(*s));
    s->store.ops = &local_ops;
    init_locks(s);
    s->db = db_open(state_dir, err);
    bool ok = s->db != NULL && db_begin_read(s->db, err);
    if (ok) {
        ok = commit_load(s->db, &s->index, &s->version, err);
        db_rollback(s->db); /* it only read */
    }
    if (ok && sync_start(s, err)) return &s->store;
    if (ok || s->db != NULL) error_wrap(err, "cannot open the state in %s", state_dir);
    free_store(s);
    return NULL;
}

void local_store_close(struct store *store) {
    if (store == NULL) return;
    struct local_store *s = local_of(store);
    sync_stop(s);
    while (s->watchers != NULL) {
        struct watcher *next = s->watchers->next;
        free(s->watchers);
        s->watchers = next;
    }
    free_store(s);
}
