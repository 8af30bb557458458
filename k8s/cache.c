#include "k8s/cache.h"

#include "common/json.h"
#include "common/text.h"
#include "k8s/resource_version.h"
#include "k8s/selector.h"

static char *dup_text(const char *s) {
    return s ? xstrdup(s) : NULL;
}

void cache_init(struct cache *c, const struct k8s_watch *watches, size_t count) {
    *c = (struct cache){.count = count};
    c->rows = xcalloc(count ? count : 1, sizeof *c->rows);
    for (size_t i = 0; i < count; i++) {
        c->rows[i].watch = watches[i];
        c->rows[i].watch.namespace = dup_text(watches[i].namespace);
        c->rows[i].watch.label_selector = dup_text(watches[i].label_selector);
        c->rows[i].watch.field_selector = dup_text(watches[i].field_selector);
    }
    intern_init(&c->texts);
    pthread_mutex_init(&c->order, NULL);
    /* A stream of readers must not keep a writer waiting; readers never lock twice. */
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&c->memory, &attr);
    pthread_rwlockattr_destroy(&attr);
}

void cache_free(struct cache *c) {
    for (size_t i = 0; i < c->count; i++) {
        struct cache_row *row = &c->rows[i];
        index_free(&row->index);
        free((char *)row->watch.namespace);
        free((char *)row->watch.label_selector);
        free((char *)row->watch.field_selector);
    }
    free(c->rows);
    while (c->watchers) {
        struct cache_watcher *next = c->watchers->next;
        free(c->watchers);
        c->watchers = next;
    }
    intern_free(&c->texts);
    pthread_mutex_destroy(&c->order);
    pthread_rwlock_destroy(&c->memory);
}

/* ---- readers ---- */

static const char *namespace_of(enum kind kind, const char *namespace) {
    return resource_kinds[kind].namespaced && namespace ? namespace : "";
}

static struct object *get_kept(struct cache *c, enum kind kind, const char *namespace, const char *name) {
    struct object *o = NULL;
    pthread_rwlock_rdlock(&c->memory);
    for (size_t i = 0; i < c->count && !o; i++) {
        if (c->rows[i].watch.kind != kind) continue;
        o = index_get(&c->rows[i].index, kind, namespace_of(kind, namespace), name);
    }
    if (o) object_ref(o);
    pthread_rwlock_unlock(&c->memory);
    return o;
}

struct object *cache_get(struct cache *c, enum kind kind, const char *namespace, const char *name) {
    cleanup_object struct object *kept = get_kept(c, kind, namespace, name);
    return object_unpacked(kept);
}

static void add_range(struct object_list *list, struct index_range range) {
    if (range.count == 0) return;
    list->items = xrealloc(list->items, (list->count + range.count) * sizeof *list->items);
    for (size_t i = 0; i < range.count; i++)
        list->items[list->count++] = object_ref(range.items[i]);
}

static int by_key(const void *a, const void *b) {
    const struct object *const *x = a, *const *y = b;
    int c = strcmp((*x)->namespace, (*y)->namespace);
    return c != 0 ? c : strcmp((*x)->name, (*y)->name);
}

/* `name` NULL: all of the namespace. */
static struct object_list collect(struct cache *c, enum kind kind, const char *namespace, const char *name) {
    struct object_list list = {0};
    size_t parts = 0;
    pthread_rwlock_rdlock(&c->memory);
    for (size_t i = 0; i < c->count; i++) {
        if (c->rows[i].watch.kind != kind) continue;
        size_t before = list.count;
        const struct index *index = &c->rows[i].index;
        add_range(&list,
                  name ? index_by_name(index, kind, name) : index_in_namespace(index, kind, namespace));
        parts += list.count > before;
    }
    pthread_rwlock_unlock(&c->memory);
    if (parts > 1) qsort(list.items, list.count, sizeof *list.items, by_key);
    return list;
}

struct object_list cache_find(struct cache *c, enum kind kind, const char *name) {
    struct object_list list = collect(c, kind, NULL, name);
    object_list_unpack(&list);
    return list;
}

struct object_list cache_list(struct cache *c, enum kind kind, const char *namespace) {
    struct object_list list = collect(c, kind, namespace_of(kind, namespace), NULL);
    object_list_unpack(&list);
    return list;
}

size_t cache_count(struct cache *c, enum kind kind) {
    size_t count = 0;
    pthread_rwlock_rdlock(&c->memory);
    for (size_t i = 0; i < c->count; i++)
        if (c->rows[i].watch.kind == kind) count += c->rows[i].index.by_key[kind].count;
    pthread_rwlock_unlock(&c->memory);
    return count;
}

uint64_t cache_generation(struct cache *c) {
    pthread_mutex_lock(&c->order);
    uint64_t generation = c->generation;
    pthread_mutex_unlock(&c->order);
    return generation;
}

void *cache_watch(struct cache *c, enum kind kind, store_watch_fn *fn, void *ctx) {
    struct cache_watcher *w = xcalloc(1, sizeof *w);
    *w = (struct cache_watcher){.kind = kind, .fn = fn, .ctx = ctx};
    pthread_mutex_lock(&c->order);
    cleanup_object_list struct object_list existing = collect(c, kind, "", NULL);
    for (size_t i = 0; i < existing.count; i++) {
        cleanup_object struct object *o = object_unpacked(existing.items[i]);
        fn(ctx, STORE_ADDED, o);
    }
    struct cache_watcher **last = &c->watchers;
    while (*last)
        last = &(*last)->next;
    *last = w;
    pthread_mutex_unlock(&c->order);
    return w;
}

void cache_unwatch(struct cache *c, void *handle) {
    pthread_mutex_lock(&c->order); /* waits for a callback that runs */
    for (struct cache_watcher **w = &c->watchers; *w; w = &(*w)->next) {
        if (*w != handle) continue;
        *w = (*w)->next;
        break;
    }
    pthread_mutex_unlock(&c->order);
    free(handle);
}

void cache_settle(struct cache *c) {
    pthread_mutex_lock(&c->order); /* waits for a callback that runs */
    pthread_mutex_unlock(&c->order);
}

static void notify(struct cache *c, enum store_change change, struct object *o) {
    cleanup_object struct object *full = object_unpacked(o);
    for (struct cache_watcher *w = c->watchers; w; w = w->next)
        if (w->kind == o->kind) w->fn(w->ctx, change, full);
}

/* ---- objects that are gone ---- */

static bool same_gone(const struct cache_deleted *d, uint64_t hash, const char *uid) {
    return d->hash == hash && strncmp(d->uid, uid, sizeof d->uid - 1) == 0;
}

/* Whether `o` says something of a time before it was gone from the row. */
static bool is_gone(const struct cache *c, const struct cache_row *row, const struct object *o) {
    uint64_t hash = text_hash(slice_of(o->uid));
    int order;
    for (size_t i = 0; i < CACHE_DELETED_MAX; i++) {
        const struct cache_deleted *d = &c->deleted[i];
        if (!same_gone(d, hash, o->uid)) continue;
        if (!d->row) return true;
        if (d->row == row && resource_version_compare(o->resource_version, d->version, &order) && order <= 0)
            return true;
    }
    return false;
}

/* `row` NULL: deleted; else no longer selected by it since `version`. */
static void remember_gone(struct cache *c, const char *uid, const struct cache_row *row,
                          const char *version) {
    struct cache_deleted gone = {.hash = text_hash(slice_of(uid)), .row = row}, *to = NULL;
    if (!uid[0] || (row && strlen(version) >= sizeof gone.version)) return;
    snprintf(gone.uid, sizeof gone.uid, "%s", uid);
    if (row) snprintf(gone.version, sizeof gone.version, "%s", version);
    for (size_t i = 0; i < CACHE_DELETED_MAX && !to; i++)
        if (same_gone(&c->deleted[i], gone.hash, uid) && c->deleted[i].row == row) to = &c->deleted[i];
    int order;
    if (to && (!row || (resource_version_compare(version, to->version, &order) && order <= 0))) return;
    if (!to) to = &c->deleted[c->deleted_next++ % CACHE_DELETED_MAX];
    *to = gone;
}

static void remember_deleted(struct cache *c, const char *uid) {
    remember_gone(c, uid, NULL, "");
}

static bool has_selector(const struct cache_row *row) {
    return row->watch.label_selector || row->watch.field_selector;
}

/* ---- changes; `order` is held ---- */

/* Whether `o` says nothing that `old` does not say: by the versions where they can be compared, else by
 * who was first: what was put after `generation` is newer than what was asked for before it. */
static bool is_old(const struct cache_row *row, const struct object *o, const struct object *old,
                   uint64_t generation) {
    int order;
    if (row->distrusted) return old->generation > generation;
    if (resource_version_compare(o->resource_version, old->resource_version, &order)) return order <= 0;
    return strcmp(o->resource_version, old->resource_version) == 0 || old->generation > generation;
}

/* Only of one that nobody has seen yet: others may be reading it. */
static void stamp(struct cache *c, struct object *o) {
    c->generation++;
    if (o->generation == 0) o->generation = c->generation;
}

/* Takes `o`. */
static void put(struct cache *c, struct cache_row *row, struct object *o, uint64_t generation) {
    struct object *old = index_get(&row->index, o->kind, o->namespace, o->name);
    if (is_gone(c, row, o) || (old && is_old(row, o, old, generation))) {
        object_unref(o);
        return;
    }
    stamp(c, o);
    object_ref(o); /* for the callbacks */
    pthread_rwlock_wrlock(&c->memory);
    old = index_put(&row->index, o);
    pthread_rwlock_unlock(&c->memory);
    if (!old) {
        notify(c, STORE_ADDED, o);
    } else if (strcmp(old->uid, o->uid) == 0) {
        notify(c, STORE_MODIFIED, o);
    } else {
        remember_deleted(c, old->uid);
        notify(c, STORE_DELETED, old);
        notify(c, STORE_ADDED, o);
    }
    object_unref(old);
    object_unref(o);
}

/* `last` is the object's last form, or NULL for the one that is there. */
static void take_out(struct cache *c, struct cache_row *row, struct object *old, struct object *last) {
    pthread_rwlock_wrlock(&c->memory);
    old = index_remove(&row->index, old->kind, old->namespace, old->name);
    pthread_rwlock_unlock(&c->memory);
    c->generation++;
    notify(c, STORE_DELETED, last ? last : old);
    object_unref(old);
}

/* A new object, or a reference to the one that the index has of that version. */
static struct object *read_object(struct cache *c, const struct cache_row *row, json_t *json) {
    enum kind kind = row->watch.kind;
    const struct resource_kind *k = &resource_kinds[kind];
    json_t *metadata = json_object_get(json, "metadata");
    const char *namespace = json_str_at(metadata, "namespace");
    if (!json_str_at(metadata, "name")[0] || !json_str_at(metadata, "uid")[0] ||
        !json_str_at(metadata, "resourceVersion")[0] || (k->namespaced && !namespace[0]) ||
        (row->watch.namespace && strcmp(row->watch.namespace, namespace) != 0)) {
        json_decref(json);
        return NULL;
    }
    struct object *same = get_kept(c, kind, k->namespaced ? namespace : "", json_str_at(metadata, "name"));
    if (same && !row->distrusted && strcmp(same->uid, json_str_at(metadata, "uid")) == 0 &&
        strcmp(same->resource_version, json_str_at(metadata, "resourceVersion")) == 0) {
        json_decref(json);
        return same;
    }
    object_unref(same);
    json_object_del(metadata, "managedFields");
    if (!json_object_get(json, "kind")) json_object_set_new(json, "kind", json_string(k->kind));
    if (!json_object_get(json, "apiVersion"))
        json_object_set_new(json, "apiVersion", json_string(k->api_version));
    if (row->watch.trim) row->watch.trim(json);
    intern_tree(&c->texts, json);
    return object_new(kind, json, 0);
}

struct object *cache_read(struct cache *c, const struct cache_row *row, json_t *json) {
    cleanup_object struct object *o = read_object(c, row, json);
    return object_unpacked(o);
}

struct object *cache_read_item(struct cache *c, const struct cache_row *row, json_t *json) {
    struct object *o = read_object(c, row, json);
    return o ? object_pack_take(o) : NULL;
}

void cache_put(struct cache *c, struct cache_row *row, struct object *o) {
    pthread_mutex_lock(&c->order);
    /* An event is newer than what was there when it came, if the versions do not say otherwise. */
    put(c, row, o, UINT64_MAX);
    pthread_mutex_unlock(&c->order);
}

void cache_remove(struct cache *c, struct cache_row *row, struct object *o) {
    pthread_mutex_lock(&c->order);
    struct object *old = index_get(&row->index, o->kind, o->namespace, o->name);
    /* With a selector, DELETED also says that an object is no longer selected: it may come back. */
    bool selected = has_selector(row);
    remember_gone(c, o->uid, selected ? row : NULL, o->resource_version);
    if (old && strcmp(old->uid, o->uid) == 0) {
        int order;
        bool older = selected &&
                     resource_version_compare(o->resource_version, old->resource_version, &order) &&
                     order < 0;
        if (!older) take_out(c, row, old, o);
    }
    pthread_mutex_unlock(&c->order);
    object_unref(o);
}

static bool first_list(struct cache *c, struct cache_row *row, struct object **items, size_t count) {
    if (row->index.by_key[row->watch.kind].count > 0) return false;
    pthread_rwlock_wrlock(&c->memory);
    for (size_t i = 0; i < count; i++) {
        stamp(c, items[i]);
        index_append(&row->index, object_ref(items[i]));
    }
    index_sort(&row->index);
    pthread_rwlock_unlock(&c->memory);
    for (size_t i = 0; i < count; i++)
        notify(c, STORE_ADDED, items[i]);
    return true;
}

/* What the list does not have, and was not written since. */
static void remove_missing(struct cache *c, struct cache_row *row, struct object **items, size_t count,
                           const char *version, uint64_t generation) {
    const struct index_array *there = &row->index.by_key[row->watch.kind];
    for (size_t at = 0, i = 0; at < there->count;) {
        struct object *o = there->items[at];
        while (i < count && by_key(&items[i], &o) < 0)
            i++;
        int order;
        bool newer =
            o->generation > generation ||
            (!row->distrusted && resource_version_compare(o->resource_version, version, &order) && order > 0);
        if ((i < count && by_key(&items[i], &o) == 0) || newer) {
            at++;
            continue;
        }
        remember_gone(c, o->uid, has_selector(row) ? row : NULL, version);
        take_out(c, row, o, NULL);
    }
}

void cache_replace(struct cache *c, struct cache_row *row, struct object **items, size_t count,
                   const char *version, uint64_t generation) {
    if (count > 1) qsort(items, count, sizeof *items, by_key);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) { /* of one that came twice, the first */
        if (kept > 0 && by_key(&items[i], &items[kept - 1]) == 0)
            object_unref(items[i]);
        else
            items[kept++] = items[i];
    }
    pthread_mutex_lock(&c->order);
    size_t live = 0;
    for (size_t i = 0; i < kept; i++) { /* deleted by us while the list was on its way */
        if (is_gone(c, row, items[i]))
            object_unref(items[i]);
        else
            items[live++] = items[i];
    }
    if (!first_list(c, row, items, live)) {
        remove_missing(c, row, items, live, version, generation);
        for (size_t i = 0; i < live; i++)
            put(c, row, object_ref(items[i]), generation);
    }
    row->distrusted = false;
    pthread_mutex_unlock(&c->order);
    for (size_t i = 0; i < live; i++)
        object_unref(items[i]);
    free(items);
}

void cache_distrust(struct cache *c) {
    pthread_mutex_lock(&c->order);
    memset(c->deleted, 0, sizeof c->deleted); /* the dead may be back */
    for (size_t i = 0; i < c->count; i++)
        c->rows[i].distrusted = true;
    pthread_mutex_unlock(&c->order);
}

/* ---- what we wrote ourselves ---- */

static bool selects(const struct cache_row *row, const json_t *json) {
    const struct k8s_watch *w = &row->watch;
    return (!w->namespace || strcmp(w->namespace, json_str_at(json, "metadata.namespace")) == 0) &&
           selector_labels(w->label_selector, json) && selector_fields(w->field_selector, json);
}

/* Its last finalizer was taken away: it is gone although the answer shows it once more. */
static bool is_finished(const struct object *o) {
    const json_t *metadata = json_object_get(o->json, "metadata");
    const json_t *grace = json_object_get(metadata, "deletionGracePeriodSeconds");
    return json_object_get(metadata, "deletionTimestamp") &&
           json_array_size(json_object_get(metadata, "finalizers")) == 0 &&
           (!json_is_integer(grace) || json_integer_value(grace) == 0);
}

static void take_written(struct cache *c, struct cache_row *row, struct object *o, uint64_t generation) {
    struct object *old = index_get(&row->index, o->kind, o->namespace, o->name);
    bool same = old && strcmp(old->uid, o->uid) == 0;
    if (is_finished(o)) {
        remember_deleted(c, o->uid);
        if (same) take_out(c, row, old, o);
    } else if (selects(row, o->json)) {
        put(c, row, object_ref(o), generation);
    } else if (same && !is_old(row, o, old, generation)) {
        take_out(c, row, old, o); /* no longer selected */
    }
}

struct object *cache_written(struct cache *c, enum kind kind, json_t *json, uint64_t generation) {
    struct cache_row any = {.watch = {.kind = kind}}, *home = NULL;
    for (size_t i = 0; i < c->count && !home; i++)
        if (c->rows[i].watch.kind == kind && selects(&c->rows[i], json)) home = &c->rows[i];
    struct object *o = cache_read(c, home ? home : &any, json);
    if (!o) return NULL;
    pthread_mutex_lock(&c->order);
    for (size_t i = 0; i < c->count; i++)
        if (c->rows[i].watch.kind == kind) take_written(c, &c->rows[i], o, generation);
    pthread_mutex_unlock(&c->order);
    return o;
}

void cache_deleted(struct cache *c, enum kind kind, const char *namespace, const char *name,
                   const char *uid) {
    pthread_mutex_lock(&c->order);
    remember_deleted(c, uid);
    for (size_t i = 0; i < c->count; i++) {
        struct cache_row *row = &c->rows[i];
        if (row->watch.kind != kind) continue;
        struct object *old = index_get(&row->index, kind, namespace_of(kind, namespace), name);
        if (old && (!uid[0] || strcmp(old->uid, uid) == 0)) {
            remember_deleted(c, old->uid);
            take_out(c, row, old, NULL);
        }
    }
    pthread_mutex_unlock(&c->order);
}
