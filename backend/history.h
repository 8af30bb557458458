/* The history: who did what, with what outcome, and what happened to sandboxes, in an SQLite file that is
 * only added to (W-48, W-93). Entries are taken without waiting, written by one thread in batches and
 * committed to disk as soon as the batch before them is: under load many share one commit, without load one
 * waits for nothing.
 *
 * What can be lost: an entry that was taken but not yet committed when the process is killed or the machine
 * loses power; that is the time of one or two commits (milliseconds on an SSD, HISTORY_WINDOW_MS at most
 * while the disk keeps up). history_close, so also SIGTERM, loses nothing. While the disk cannot be written,
 * entries wait in a bounded queue; those that find it full are dropped, counted and reported. Thread-safe. */
#pragma once

#include "backend/history_db.h"

#define HISTORY_WINDOW_MS 100

struct history;
struct history_options {
    const char *path;
    int64_t retention_s; /* older entries go; 0 = none */
    int64_t max_bytes;   /* the oldest go when more is in use; 0 = no bound */
};

/* NULL with err. `options` is copied. */
struct history *history_open(const struct history_options *options, struct error *err);
/* Writes what waits. */
void history_close(struct history *history);

enum history_weight {
    HISTORY_LIGHT, /* dropped first: what strangers and the cluster can cause in any number */
    HISTORY_FULL,
    HISTORY_PATIENT, /* waits some seconds for room: not on a loop */
};
/* Takes a copy of the entry. */
void history_add(struct history *history, const struct history_entry *entry, enum history_weight weight);
/* Waits until everything taken before is on disk, at most so long; whether it is. */
bool history_flush(struct history *history, int timeout_ms);

/* As history_db_query, of what is on disk. Waits: worker threads only. */
json_t *history_query(struct history *history, const struct history_filter *filter, char **cursor,
                      struct error *err);

struct history_counts {
    uint64_t written, dropped, failures;
    size_t waiting;
};
struct history_counts history_counts(struct history *history);
