/* The objects of a store in memory: for each kind two sorted arrays, by (namespace,
 * name) and by (name, namespace), and one for all kinds by the uid of an owner. Plain data
 * without locks: its store says who may touch it when.
 *
 * Sorted arrays because reads outnumber writes by far: a lookup is a binary search, a list
 * is one copy of a range, and an insertion moves pointers (80 KiB at 10,000 objects), which
 * is little beside the disk or network that came before it. */
#pragma once

#include "backend/store.h"

/* An index keeps objects of some kinds packed (object_pack_take): what it gives out may lack `json`, and has
 * all else. A store unpacks what it hands on. */
struct index_array {
    struct object **items;
    size_t count, cap;
};

/* One entry of metadata.ownerReferences: `object` is owned by `owner`. */
struct index_owned {
    const char *owner; /* uid, points into object->json */
    struct object *object;
};

struct index {
    struct index_array by_key[KIND_COUNT];  /* holds the references */
    struct index_array by_name[KIND_COUNT]; /* the same objects, borrowed */
    struct index_owned *owned;              /* borrowed, sorted by owner */
    size_t owned_count, owned_cap;
};

void index_free(struct index *ix);
/* Adds without sorting, for the first load; index_sort() must follow. Takes the reference, and packs. */
void index_append(struct index *ix, struct object *o);
void index_sort(struct index *ix);

/* Borrowed, or NULL. */
struct object *index_get(const struct index *ix, enum kind kind, const char *namespace, const char *name);
/* Puts `o` (takes the reference, and packs) and returns what it replaced, or NULL; the caller unrefs that. */
struct object *index_put(struct index *ix, struct object *o);
/* Takes the object out and returns its reference, or NULL. */
struct object *index_remove(struct index *ix, enum kind kind, const char *namespace, const char *name);

/* A range of borrowed objects, valid until the next change of the index. */
struct index_range {
    struct object *const *items;
    size_t count;
};
struct index_range index_in_namespace(const struct index *ix, enum kind kind, const char *namespace);
struct index_range index_by_name(const struct index *ix, enum kind kind, const char *name);

/* The objects that name `uid` as an owner. */
struct index_owned_range {
    const struct index_owned *items;
    size_t count;
};
struct index_owned_range index_owned_by(const struct index *ix, const char *uid);

/* The uid of the i-th owner reference, or NULL after the last. "" for a malformed one. */
const char *index_owner_uid(const struct object *o, size_t i);
