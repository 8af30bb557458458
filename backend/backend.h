/* What the Router runs on: a store of resources and a way into sandboxes, made by k8s/ or
 * by local/. The Router knows this header, never what is behind it. */
#pragma once

#include "backend/access.h"
#include "backend/snapshots.h"
#include "backend/store.h"

/* Where a running sandbox's agenttier-runtime listens. */
struct runtime_address {
    char unix_path[104]; /* non-empty: a UNIX socket on this machine */
    char host[64];       /* else an IP address ... */
    uint16_t port;       /* ... and its TCP port */
    char token[64];      /* bearer token, "" = none */
};

/* What the cluster says of a bearer token (authentication.k8s.io/v1 TokenReview). */
struct token_review {
    bool authenticated; /* false: the token is not one of this cluster's for these audiences */
    char *username;     /* "system:serviceaccount:NS:NAME"; owned */
    char *uid;
    json_t *groups; /* array of strings */
};
void token_review_free(struct token_review *);

struct backend {
    const char *name; /* "local", "kubernetes" */
    struct store *store;
    struct access *access;
    const struct snapshot_ops *snapshots;
    /* The greatest cpu/memory a sandbox may ask for, as quantities, or NULL: the built-in
     * default policy (contract/tutorial.md row 10: "maxCpu of the host"). */
    char default_max_cpu[32];
    char default_max_memory[32];
    /* Somebody keeps pods ready (backend/warmpool.h). */
    bool warm_pool;
    /* Asks who holds a bearer token; NULL where there are no service accounts. May wait: worker
     * threads only. `audiences` is NULL-terminated; the answer counts only if it names one of them
     * (lessons I34). None: the API server's own, whatever it is called. False: 503 unavailable, nothing is
     * known. */
    bool (*review_token)(struct backend *, const char *token, const char *const *audiences,
                         struct token_review *out, struct error *);
    /* Appends counters of the backend's own in the Prometheus text format; NULL: there are none. */
    void (*metrics)(struct backend *, struct buffer *out);
    /* The program ends, and all requests are done: what still waits for an answer waits no longer than two
     * seconds. NULL: nothing waits. */
    void (*hurry)(struct backend *);
    /* Stops threads and frees everything; sandboxes go on running. */
    void (*close)(struct backend *);
};
