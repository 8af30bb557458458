/* The store of resources: everything the Router keeps is a Kubernetes-shaped object
 * {apiVersion, kind, metadata, spec, status, ...}. On a cluster it is the kube-apiserver
 * behind watch caches (k8s/), on one machine an SQLite file (local/). API semantics are
 * written once, on this interface.
 *
 * Reads (get, find, list) are answered from memory, never block and may be called on any
 * thread, event loops included. Writes may wait for a disk or a network: call them from a
 * worker thread, never from a loop. A write that returned is visible to every later read. */
#pragma once

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The kinds that are kept. The table `resource_kinds` says how each is spelled. */
enum kind {
    KIND_SANDBOX,                  /* agenttier.io/v1alpha1, namespaced, has status */
    KIND_SANDBOX_TEMPLATE,         /* agenttier.io/v1alpha1, namespaced */
    KIND_CLUSTER_SANDBOX_TEMPLATE, /* agenttier.io/v1alpha1, cluster-scoped */
    KIND_SECRET,                   /* v1, namespaced: API keys; stringData is folded into data */
    KIND_CONFIG_MAP,               /* v1, namespaced: policies, preferences */
    KIND_SERVICE,                  /* v1, namespaced: port forwards */
    KIND_EVENT,                    /* v1, namespaced */
    KIND_POD,                      /* v1, namespaced, has status; from here on: made by a controller */
    KIND_PERSISTENT_VOLUME_CLAIM,  /* v1, namespaced, has status */
    KIND_NETWORK_POLICY,           /* networking.k8s.io/v1, namespaced */
    KIND_INGRESS,                  /* networking.k8s.io/v1, namespaced: port forwards with a DNS name */
    KIND_VOLUME_SNAPSHOT, /* snapshot.storage.k8s.io/v1, namespaced, has status; not on every cluster */
    KIND_COUNT
};

struct resource_kind {
    const char *kind;        /* "Sandbox" */
    const char *api_version; /* "agenttier.io/v1alpha1" */
    const char *plural;      /* "sandboxes" */
    bool namespaced;
    bool has_status; /* status is a subresource: writes of the main resource ignore it */
    bool packed;     /* there are many, and they are seldom read: indexes keep them as text */
};
extern const struct resource_kind resource_kinds[KIND_COUNT];

/* One stored object: immutable, reference counted (atomic), shared between threads.
 * `json` must not be changed and not be increfed into a tree that is. */
struct object {
    enum kind kind;
    const char *name;
    const char *namespace; /* "" for cluster-scoped kinds */
    const char *uid;
    const char *resource_version;
    const json_t *json;      /* NULL of a packed one, which only an index has */
    const char *packed_text; /* its JSON as text */
    uint64_t generation;     /* of the store: grows with every change of any object */
    /* A reader's rendering of the object, made once and kept with it (object_view). */
    void *_Atomic view;
    void (*view_free)(void *);
    _Atomic int refs;
};

struct object *object_ref(struct object *o);
void object_unref(struct object *o); /* NULL is fine */
/* Takes ownership of `json`, which must have metadata.{name,uid,resourceVersion}. */
struct object *object_new(enum kind kind, json_t *json, uint64_t generation);
/* The view: made by `make(object)` by the first caller, freed with `free_view` with the
 * object. All callers of one kind must pass the same pair. Thread-safe. */
void *object_view(struct object *o, void *(*make)(const struct object *), void (*free_view)(void *));

/* What an index keeps of `o`: of a kind that is packed a new object without json, a third of the size, if
 * nothing but its own members matters (no owners, no finalizers); else `o` itself. Takes the reference. */
struct object *object_pack_take(struct object *o);
/* What readers get of an object of an index: a packed one as a new object with json, else `o`. A reference;
 * NULL of NULL. */
struct object *object_unpacked(struct object *o);

static inline void cleanup_object_fn(struct object **o) {
    object_unref(*o);
}
#define cleanup_object __attribute__((cleanup(cleanup_object_fn)))

/* An owned array of references. Sorted by namespace, then name. */
struct object_list {
    struct object **items;
    size_t count;
};
void object_list_free(struct object_list *l);
/* Makes readers' objects of those of an index. */
void object_list_unpack(struct object_list *l);
#define cleanup_object_list __attribute__((cleanup(object_list_free)))

enum store_change { STORE_ADDED, STORE_MODIFIED, STORE_DELETED };
/* Called for each change, in order, on the thread that made it or on a store's own
 * thread. Must be quick. It may read the store (what it finds is at least as new as the
 * change), but must not call writes, watch or unwatch. */
typedef void store_watch_fn(void *ctx, enum store_change change, struct object *object);

enum store_part {
    STORE_MAIN,  /* metadata and spec (data, ...); status is left as it is */
    STORE_STATUS /* status only */
};

/* What a caller insists on; NULL members are not checked. */
struct store_preconditions {
    const char *uid;              /* 409 conflict if another object has the name now */
    const char *resource_version; /* 409 conflict if it changed since */
};

struct store;
struct store_ops {
    struct object *(*get)(struct store *, enum kind, const char *namespace, const char *name);
    /* All objects of that name, in any namespace. */
    struct object_list (*find)(struct store *, enum kind, const char *name);
    /* namespace NULL or "" = all. */
    struct object_list (*list)(struct store *, enum kind, const char *namespace);

    /* Errors: 409 already_exists, 409 conflict, 404 not_found, 400 (admission), 413 too_large,
     * 503 unavailable, 507 insufficient_storage (disk full). `*out` (may be NULL) gets a reference. */
    bool (*create)(struct store *, enum kind, const json_t *object, struct object **out, struct error *);
    /* Replaces the part; metadata.resourceVersion and uid in `object`, when there, must match. What
     * only the store sets (uid, creationTimestamp, ...) is kept. A write that changes nothing is none. */
    bool (*replace)(struct store *, enum kind, enum store_part, const json_t *object, struct object **out,
                    struct error *);
    /* JSON merge patch (RFC 7396) of the part. */
    bool (*patch)(struct store *, enum kind, enum store_part, const char *namespace, const char *name,
                  const json_t *patch, const struct store_preconditions *, struct object **out,
                  struct error *);
    /* With finalizers: sets metadata.deletionTimestamp and stays until they are gone.
     * Owned objects (ownerReferences uid) go with it. */
    bool (*remove)(struct store *, enum kind, const char *namespace, const char *name,
                   const struct store_preconditions *, struct error *);

    /* Existing objects are reported first, as STORE_ADDED, on the caller's thread; then changes,
     * without a gap and none twice. Returns a handle for unwatch. */
    void *(*watch)(struct store *, enum kind, store_watch_fn *, void *ctx);
    /* When it returns, no callback of the handle runs or will run. Before the store is closed. */
    void (*unwatch)(struct store *, void *handle);

    /* When it returns, watchers have heard of all that reads had found by then. Not from a callback. */
    void (*settle)(struct store *);

    /* Whether reads can be trusted (caches have synced); else 503 with the reason. */
    bool (*ready)(struct store *, struct error *);
    /* Reads one object anew from where it is kept, for when another process may have written it a moment
     * ago: reads find it then, if it is there. Waits: worker threads only. False: 5xx, nothing was learnt.
     * NULL: reads are never behind. */
    bool (*look)(struct store *, enum kind kind, const char *namespace, const char *name, struct error *);
    /* For how long reads may have been behind, in milliseconds; 0 = they are current. NULL: always. */
    int64_t (*age_ms)(struct store *);
};

struct store {
    const struct store_ops *ops;
};

/* ops->age_ms, 0 where there is none. */
int64_t store_age_ms(struct store *);

/* Read-modify-write with retries: `change(ctx, object)` edits a mutable copy and returns
 * false to give up (err filled in). Conflicts are retried up to 8 times. */
bool store_update(struct store *, enum kind, enum store_part, const char *namespace, const char *name,
                  bool (*change)(void *ctx, json_t *object, struct error *), void *ctx, struct object **out,
                  struct error *);
