/* The store of resources (backend/store.h) on a kube-apiserver: list and watch keep one cache for each
 * watched kind, reads are answered from it, writes travel. A write that returned is in the cache. */
#pragma once

#include "backend/store.h"
#include "k8s/client.h"

/* What of a kind is kept in memory. Several rows of one kind are fine as long as they cannot hold
 * the same object. Reads of a kind without a row find nothing; writes of it work. */
struct k8s_watch {
    enum kind kind;
    const char *namespace;      /* NULL: all */
    const char *label_selector; /* NULL: all */
    const char *field_selector;
};

/* Starts the watches and returns at once; ops->ready says when all caches have synced. `client` is
 * borrowed. */
struct store *k8s_store_open(struct k8s_client *client, const struct k8s_watch *watches, size_t count,
                             struct error *err);
void k8s_store_close(struct store *store);
/* Milliseconds since the caches last heard from the apiserver (a change, a bookmark or a fresh
 * list); reads older than that are marked by their age. */
int64_t k8s_store_age_ms(struct store *store);
