/* A row of the cache and what keeps it current, for k8s/watch.c and k8s/watch_failure.c. Only the thread that
 * follows may touch it, but for what is atomic or under the lock. */
#pragma once

#include "k8s/list_reader.h"
#include "k8s/transfer.h"
#include "k8s/watch.h"

#include <pthread.h>
#include <stdatomic.h>

#define WATCH_PAUSE_MIN_MS 250
#define WATCH_VERSION_MAX  24 /* digits of a resourceVersion that is compared */

enum watch_state { ROW_WAITING, ROW_LISTING, ROW_WATCHING };

struct watch_row {
    struct watch_thread *thread;
    struct cache_row *cache_row;
    enum watch_state state;
    struct transfer transfer;
    struct buffer body;  /* of a refusal, or the line of an event so far */
    struct error failed; /* found in the data */
    /* the list under way */
    struct list_reader reader;
    struct object **items;
    size_t count, cap;
    uint64_t generation; /* of the cache when the list began */
    char *next_page;
    /* the watch */
    char *version;                  /* to go on from; NULL: list first */
    char newest[WATCH_VERSION_MAX]; /* resourceVersion that was heard of; "" = none */
    char *probes; /* the list is to show whether history still has this version; NULL: it is not */
    int64_t started;
    /* after a failure */
    int64_t next_at;
    int pause_ms;
    int logged; /* the status of the failure that was logged last; 0 = all is well */
    /* for other threads */
    _Atomic bool synced, refused, standing; /* refused: it may not be read, or does not exist there */
    _Atomic int64_t heard;
};

struct watch_thread {
    struct k8s_client *client;
    struct cache *cache;
    int64_t silence_ms;
    CURLM *multi;
    pthread_t thread;
    _Atomic bool stopping;
    struct watch_row *rows;
    size_t count;
    char newest[WATCH_VERSION_MAX]; /* of all rows */
    bool away;                      /* no answer at all: logged once for all rows */
    pthread_mutex_t lock;           /* for the texts below */
    char (*trouble)[512];           /* one a row: why it is not synced */
    _Atomic uint64_t lists, watches, events, failures;
};

/* ---- watch.c ---- */

/* From n/2 to n. */
int64_t watch_jittered(int64_t n);
/* "pods": the kind, for people. */
const char *watch_plural(const struct watch_row *row);
/* The row is listed next. */
void watch_forget_version(struct watch_row *row);

/* ---- watch_failure.c ---- */

/* The failure of a request that has ended, as an error. False: none. */
bool watch_find_failure(struct watch_row *row, CURLcode code, long status, struct error *err);
/* Refused by an apiserver that knows nobody yet: k8s_client_doubt. */
bool watch_is_doubted(long status, const struct error *err);
/* The row waits, longer each time, before it tries again; says why in the log, once for each reason. */
void watch_pause(struct watch_row *row, const struct error *err);
/* The row is followed: the next pause is a short one, and rows that wait for the same apiserver wait no
 * longer. */
void watch_works(struct watch_row *row);
