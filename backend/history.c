/* See history.h. */
#include "backend/history.h"

#include "common/log.h"
#include "common/units.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#define WAITING_MAX     16384
#define WAITING_BYTES   (32 << 20)
#define BATCH_MAX       2000
#define RETRY_S         1
#define REPORT_EVERY_MS 60000
#define PRUNE_EVERY_MS  60000
#define PRUNE_BATCH     2000
#define CLOSE_ATTEMPTS  3
#define PATIENCE_MS     5000

/* An entry and its texts in one piece of memory. */
struct waiting {
    struct waiting *next;
    size_t size;
    struct history_entry entry;
    char texts[];
};

struct history {
    struct history_db *db; /* the writer's */
    pthread_mutex_t reading;
    struct history_db *reader;
    int64_t retention_s, max_bytes;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, written;
    struct waiting *first, **last;
    size_t count, bytes;
    uint64_t taken, done; /* entries ever taken, and of those on disk or given up */
    struct history_counts counts;
    uint64_t reported; /* dropped entries that the log has told of */
    int64_t reported_at, pruned_at;
    bool closing;
};

/* ---- taking ---- */

static struct waiting *copy_entry(const struct history_entry *entry) {
    struct history_entry e = *entry;
    const char **texts[] = {&e.sandbox,  &e.namespace, &e.actor,      &e.email,   &e.action,
                            &e.resource, &e.outcome,   &e.request_id, &e.source,  &e.details,
                            &e.key,      &e.phase,     &e.reason,     &e.message, &e.type};
    const size_t count = sizeof texts / sizeof texts[0];
    size_t size = sizeof(struct waiting);
    for (size_t i = 0; i < count; i++)
        size += *texts[i] ? strlen(*texts[i]) + 1 : 1;
    struct waiting *w = xcalloc(1, size);
    char *at = w->texts;
    for (size_t i = 0; i < count; i++) {
        size_t n = *texts[i] ? strlen(*texts[i]) : 0;
        if (n > 0) memcpy(at, *texts[i], n);
        /* An event without a key is one of a kind: NULL, not "", which would be the same as another. */
        *texts[i] = texts[i] == &e.key && n == 0 ? NULL : at;
        at += n + 1;
    }
    w->size = size;
    w->entry = e;
    return w;
}

static bool has_room(const struct history *h, size_t size, enum history_weight weight) {
    size_t share = weight == HISTORY_LIGHT ? 2 : 1;
    return h->count < WAITING_MAX / share && h->bytes + size <= WAITING_BYTES / share;
}

static void in_ms(int64_t ms, struct timespec *out) {
    clock_gettime(CLOCK_MONOTONIC, out);
    out->tv_sec += ms / 1000;
    out->tv_nsec += ms % 1000 * 1000000L;
    if (out->tv_nsec >= 1000000000L) {
        out->tv_nsec -= 1000000000L;
        out->tv_sec++;
    }
}

void history_add(struct history *h, const struct history_entry *entry, enum history_weight weight) {
    struct waiting *w = copy_entry(entry);
    struct timespec end;
    in_ms(PATIENCE_MS, &end);
    pthread_mutex_lock(&h->lock);
    while (weight == HISTORY_PATIENT && !has_room(h, w->size, weight))
        if (pthread_cond_timedwait(&h->written, &h->lock, &end) != 0) break;
    bool taken = has_room(h, w->size, weight);
    if (taken) {
        *h->last = w;
        h->last = &w->next;
        h->count++;
        h->bytes += w->size;
        h->taken++;
        if (h->count == 1) pthread_cond_signal(&h->wake);
    } else {
        h->counts.dropped++;
    }
    pthread_mutex_unlock(&h->lock);
    if (!taken) free(w);
}

bool history_flush(struct history *h, int timeout_ms) {
    struct timespec end;
    in_ms(timeout_ms, &end);
    pthread_mutex_lock(&h->lock);
    uint64_t upto = h->taken;
    int rc = 0;
    while (h->done < upto && rc == 0)
        rc = pthread_cond_timedwait(&h->written, &h->lock, &end);
    bool ok = h->done >= upto;
    pthread_mutex_unlock(&h->lock);
    return ok;
}

struct history_counts history_counts(struct history *h) {
    pthread_mutex_lock(&h->lock);
    struct history_counts out = h->counts;
    out.waiting = h->count;
    pthread_mutex_unlock(&h->lock);
    return out;
}

/* ---- writing: the thread ---- */

static bool write_batch(struct history *h, const struct waiting *first, size_t count, struct error *err) {
    if (!history_db_begin(h->db, err)) return false;
    for (size_t i = 0; i < count; i++) {
        if (!history_db_add(h->db, &first->entry, err)) {
            history_db_rollback(h->db);
            return false;
        }
        if (i + 1 < count) first = first->next; /* the last one's may be being set now */
    }
    return history_db_commit(h->db, err);
}

/* Takes the first `count` entries off the queue; `kept`: they are on disk. */
static void remove_first(struct history *h, size_t count, bool kept) {
    struct waiting *gone = NULL;
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < count; i++) {
        struct waiting *w = h->first;
        h->first = w->next;
        h->bytes -= w->size;
        w->next = gone;
        gone = w;
    }
    if (!h->first) h->last = &h->first;
    h->count -= count;
    h->done += count;
    if (kept)
        h->counts.written += count;
    else
        h->counts.dropped += count;
    pthread_cond_broadcast(&h->written);
    pthread_mutex_unlock(&h->lock);
    while (gone) {
        struct waiting *next = gone->next;
        free(gone);
        gone = next;
    }
}

/* Tells of trouble at most once a minute. */
static void report(struct history *h, const struct error *err) {
    struct history_counts counts = history_counts(h);
    bool dropped = counts.dropped > h->reported;
    int64_t now = monotonic_ms();
    if ((!dropped && err->status == 0) || (h->reported_at && now - h->reported_at < REPORT_EVERY_MS)) return;
    log_error("the history is incomplete or late", "dropped", log_int((int64_t)counts.dropped), "waiting",
              log_int((int64_t)counts.waiting), "error", err->message, NULL);
    h->reported = counts.dropped;
    h->reported_at = now;
}

static bool prune_some(struct history *h, int *removed, struct error *err) {
    char before[RFC3339_MAX];
    *removed = 0;
    if (h->retention_s > 0) {
        struct timespec t = {.tv_sec = time(NULL) - h->retention_s};
        rfc3339_format_nanos(t, before);
        if (!history_db_prune(h->db, before, PRUNE_BATCH, removed, err)) return false;
    }
    if (*removed == 0 && h->max_bytes > 0 && history_db_size(h->db) > h->max_bytes)
        return history_db_prune(h->db, NULL, PRUNE_BATCH, removed, err);
    return true;
}

/* A step of it between two batches, so that entries never wait for all of it. */
static void prune(struct history *h) {
    int64_t now = monotonic_ms();
    if (h->pruned_at && now - h->pruned_at < PRUNE_EVERY_MS) return;
    int removed = 0;
    cleanup_error struct error err = {0};
    bool ok = prune_some(h, &removed, &err);
    if (!ok) report(h, &err);
    if (!ok || removed == 0) h->pruned_at = now;
}

/* Waits until there is something to do; how many entries wait. */
static size_t wait_for_work(struct history *h, bool *closing) {
    struct timespec end;
    in_ms(PRUNE_EVERY_MS, &end);
    pthread_mutex_lock(&h->lock);
    bool due = monotonic_ms() - h->pruned_at >= PRUNE_EVERY_MS;
    while (h->count == 0 && !h->closing && !due)
        due = pthread_cond_timedwait(&h->wake, &h->lock, &end) != 0;
    size_t count = h->count < BATCH_MAX ? h->count : BATCH_MAX;
    *closing = h->closing;
    pthread_mutex_unlock(&h->lock);
    return count;
}

/* After a failure: a second, or until close. */
static void wait_after_failure(struct history *h) {
    struct timespec end;
    in_ms(RETRY_S * 1000, &end);
    pthread_mutex_lock(&h->lock);
    h->counts.failures++;
    while (!h->closing && pthread_cond_timedwait(&h->wake, &h->lock, &end) == 0) {
    }
    pthread_mutex_unlock(&h->lock);
}

static void *write_history(void *arg) {
    struct history *h = arg;
    int failures = 0;
    for (bool closing = false;;) {
        size_t count = wait_for_work(h, &closing);
        if (count == 0 && closing) return NULL;
        cleanup_error struct error err = {0};
        /* Entries are only added behind these, so they can be read without the lock. */
        if (count == 0 || write_batch(h, h->first, count, &err)) {
            failures = 0;
            if (count > 0) remove_first(h, count, true);
        } else if (closing && ++failures >= CLOSE_ATTEMPTS) {
            remove_first(h, count, false);
        } else {
            wait_after_failure(h);
        }
        report(h, &err);
        if (!closing && err.status == 0) prune(h);
    }
}

/* ---- life ---- */

struct history *history_open(const struct history_options *options, struct error *err) {
    struct history_db *db = history_db_open(options->path, false, err);
    struct history_db *reader = db ? history_db_open(options->path, true, err) : NULL;
    if (!reader) {
        history_db_close(db);
        return NULL;
    }
    struct history *h = xcalloc(1, sizeof *h);
    h->db = db;
    h->reader = reader;
    h->retention_s = options->retention_s;
    h->max_bytes = options->max_bytes;
    h->last = &h->first;
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->reading, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &attr);
    pthread_cond_init(&h->written, &attr);
    pthread_condattr_destroy(&attr);
    int rc = pthread_create(&h->thread, NULL, write_history, h);
    if (rc == 0) return h;
    error_set_errno(err, rc, "cannot start the writer of the history");
    history_db_close(reader);
    history_db_close(db);
    free(h);
    return NULL;
}

void history_close(struct history *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->closing = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    history_db_close(h->reader);
    history_db_close(h->db);
    pthread_cond_destroy(&h->wake);
    pthread_cond_destroy(&h->written);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->reading);
    free(h);
}

json_t *history_query(struct history *h, const struct history_filter *filter, char **cursor,
                      struct error *err) {
    pthread_mutex_lock(&h->reading);
    json_t *out = history_db_query(h->reader, filter, cursor, err);
    pthread_mutex_unlock(&h->reading);
    return out;
}
