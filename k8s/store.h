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
    const char *label_selector; /* NULL: all; what selector.h knows */
    const char *field_selector;
    /* Takes out of an object what nobody reads, to save memory; NULL: managedFields only. What was trimmed
     * must not be written back as a whole (replace, store_update): use patch. */
    void (*trim)(json_t *object);
    bool optional; /* ready without it when it may not be read, or is not installed: it is a convenience */
};

struct k8s_store_options {
    const struct k8s_watch *watches;
    size_t count;
    /* A watch that was silent for longer is not trusted and opened anew; 0 = 150 s (an apiserver sends
     * a bookmark every minute). */
    int64_t silence_ms;
};

/* Starts the watches and returns at once; ops->ready says when all caches have synced. `client` is
 * borrowed. */
struct store *k8s_store_open(struct k8s_client *client, const struct k8s_store_options *options,
                             struct error *err);
/* Appends counters in the Prometheus text format: objects in memory, lists, watches, events, failures. */
void k8s_store_metrics(struct store *store, struct buffer *out);
void k8s_store_close(struct store *store);
