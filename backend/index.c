#include "backend/index.h"

#include "common/bytes.h"
#include "common/json.h"

#define MIN_CAPACITY 64

static int compare_key(const struct object *o, const char *namespace, const char *name) {
    int c = strcmp(o->namespace, namespace);
    return c != 0 ? c : strcmp(o->name, name);
}

static int compare_name(const struct object *o, const char *name, const char *namespace) {
    int c = strcmp(o->name, name);
    return c != 0 || namespace == NULL ? c : strcmp(o->namespace, namespace);
}

/* The first position whose object is not below (namespace, name). */
static size_t key_position(const struct index_array *a, const char *namespace, const char *name) {
    size_t low = 0, high = a->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_key(a->items[middle], namespace, name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* As key_position for (name, namespace); namespace NULL is before every namespace. */
static size_t name_position(const struct index_array *a, const char *name, const char *namespace) {
    size_t low = 0, high = a->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_name(a->items[middle], name, namespace) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void array_reserve(struct index_array *a) {
    if (a->count < a->cap) return;
    a->cap = a->cap ? a->cap * 2 : MIN_CAPACITY;
    a->items = xrealloc(a->items, a->cap * sizeof(*a->items));
}

static void array_insert(struct index_array *a, size_t at, struct object *o) {
    array_reserve(a);
    memmove(a->items + at + 1, a->items + at, (a->count - at) * sizeof(*a->items));
    a->items[at] = o;
    a->count++;
}

static void array_delete(struct index_array *a, size_t at) {
    a->count--;
    memmove(a->items + at, a->items + at + 1, (a->count - at) * sizeof(*a->items));
}

const char *index_owner_uid(const struct object *o, size_t i) {
    const json_t *owner = json_array_get(json_at(o->json, "metadata.ownerReferences"), i);
    return owner ? json_str_at(owner, "uid") : NULL;
}

static size_t owned_position(const struct index *ix, const char *uid) {
    size_t low = 0, high = ix->owned_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(ix->owned[middle].owner, uid) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void owned_insert(struct index *ix, size_t at, const char *uid, struct object *o) {
    if (ix->owned_count == ix->owned_cap) {
        ix->owned_cap = ix->owned_cap ? ix->owned_cap * 2 : MIN_CAPACITY;
        ix->owned = xrealloc(ix->owned, ix->owned_cap * sizeof(*ix->owned));
    }
    memmove(ix->owned + at + 1, ix->owned + at, (ix->owned_count - at) * sizeof(*ix->owned));
    ix->owned[at] = (struct index_owned){uid, o};
    ix->owned_count++;
}

static void owners_put(struct index *ix, struct object *o) {
    const char *uid;
    for (size_t i = 0; (uid = index_owner_uid(o, i)) != NULL; i++) {
        owned_insert(ix, owned_position(ix, uid), uid, o);
    }
}

static void owners_remove(struct index *ix, const struct object *o) {
    const char *uid;
    for (size_t i = 0; (uid = index_owner_uid(o, i)) != NULL; i++) {
        size_t at = owned_position(ix, uid);
        while (at < ix->owned_count && ix->owned[at].object != o)
            at++;
        if (at == ix->owned_count) continue;
        ix->owned_count--;
        memmove(ix->owned + at, ix->owned + at + 1, (ix->owned_count - at) * sizeof(*ix->owned));
    }
}

void index_free(struct index *ix) {
    for (int k = 0; k < KIND_COUNT; k++) {
        for (size_t i = 0; i < ix->by_key[k].count; i++)
            object_unref(ix->by_key[k].items[i]);
        free(ix->by_key[k].items);
        free(ix->by_name[k].items);
    }
    free(ix->owned);
    *ix = (struct index){0};
}

void index_append(struct index *ix, struct object *o) {
    o = object_pack_take(o);
    array_insert(&ix->by_key[o->kind], ix->by_key[o->kind].count, o);
    array_insert(&ix->by_name[o->kind], ix->by_name[o->kind].count, o);
    const char *uid;
    for (size_t i = 0; (uid = index_owner_uid(o, i)) != NULL; i++)
        owned_insert(ix, ix->owned_count, uid, o);
}

static int order_key(const void *a, const void *b) {
    const struct object *const *x = a, *const *y = b;
    return compare_key(*x, (*y)->namespace, (*y)->name);
}

static int order_name(const void *a, const void *b) {
    const struct object *const *x = a, *const *y = b;
    return compare_name(*x, (*y)->name, (*y)->namespace);
}

static int order_owner(const void *a, const void *b) {
    const struct index_owned *x = a, *y = b;
    return strcmp(x->owner, y->owner);
}

void index_sort(struct index *ix) {
    for (int k = 0; k < KIND_COUNT; k++) {
        struct index_array *keys = &ix->by_key[k], *names = &ix->by_name[k];
        if (keys->count == 0) continue;
        qsort(keys->items, keys->count, sizeof(*keys->items), order_key);
        qsort(names->items, names->count, sizeof(*names->items), order_name);
    }
    if (ix->owned_count > 0) qsort(ix->owned, ix->owned_count, sizeof(*ix->owned), order_owner);
}

struct object *index_get(const struct index *ix, enum kind kind, const char *namespace, const char *name) {
    const struct index_array *a = &ix->by_key[kind];
    size_t at = key_position(a, namespace, name);
    return at < a->count && compare_key(a->items[at], namespace, name) == 0 ? a->items[at] : NULL;
}

struct object *index_put(struct index *ix, struct object *o) {
    o = object_pack_take(o);
    struct index_array *keys = &ix->by_key[o->kind], *names = &ix->by_name[o->kind];
    size_t at = key_position(keys, o->namespace, o->name);
    size_t named = name_position(names, o->name, o->namespace);
    struct object *old = NULL;
    if (at < keys->count && compare_key(keys->items[at], o->namespace, o->name) == 0) {
        old = keys->items[at];
        owners_remove(ix, old);
        keys->items[at] = names->items[named] = o;
    } else {
        array_insert(keys, at, o);
        array_insert(names, named, o);
    }
    owners_put(ix, o);
    return old;
}

struct object *index_remove(struct index *ix, enum kind kind, const char *namespace, const char *name) {
    struct object *old = index_get(ix, kind, namespace, name);
    if (old == NULL) return NULL;
    owners_remove(ix, old);
    array_delete(&ix->by_key[kind], key_position(&ix->by_key[kind], namespace, name));
    array_delete(&ix->by_name[kind], name_position(&ix->by_name[kind], name, namespace));
    return old;
}

struct index_range index_in_namespace(const struct index *ix, enum kind kind, const char *namespace) {
    const struct index_array *a = &ix->by_key[kind];
    if (namespace == NULL || namespace[0] == '\0') return (struct index_range){a->items, a->count};
    /* "" is below every name; the range ends where the namespace changes. */
    size_t from = key_position(a, namespace, ""), low = from, high = a->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(a->items[middle]->namespace, namespace) == 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return (struct index_range){from < a->count ? a->items + from : NULL, low - from};
}

struct index_range index_by_name(const struct index *ix, enum kind kind, const char *name) {
    const struct index_array *a = &ix->by_name[kind];
    size_t from = name_position(a, name, NULL), to = from;
    while (to < a->count && strcmp(a->items[to]->name, name) == 0)
        to++;
    return (struct index_range){from < a->count ? a->items + from : NULL, to - from};
}

struct index_owned_range index_owned_by(const struct index *ix, const char *uid) {
    size_t from = owned_position(ix, uid), to = from;
    while (to < ix->owned_count && strcmp(ix->owned[to].owner, uid) == 0)
        to++;
    return (struct index_owned_range){from < ix->owned_count ? ix->owned + from : NULL, to - from};
}
