/* The state file: SQLite in WAL mode, one row per object. Rows and transactions only; what
 * they mean is store.c's business. A struct db is one connection and is used by one thread
 * at a time.
 *
 * Durability: synchronous=FULL for every commit, so that an acknowledged write survives the
 * loss of power too (measured 0.2 ms per commit on an SSD, 0.03 ms with NORMAL).
 *
 * Errors: 507 insufficient_storage (disk full), 503 unavailable (another process held the
 * file for more than 5 s), 500 internal (damaged file, failing disk). */
#pragma once

#include "backend/store.h"

struct db;

struct db_row {
    enum kind kind;
    const char *namespace, *name, *uid;
    uint64_t version;
    const char *json; /* NULL: this is a deletion */
    size_t json_len;
};
typedef bool db_row_fn(void *ctx, const struct db_row *row, struct error *err);

/* Creates the directory and the file (readable by the owner only) where missing, checks the
 * file and brings its schema up to date. NULL with err. */
struct db *db_open(const char *state_dir, struct error *err);
void db_close(struct db *db); /* NULL is fine */

/* One transaction at a time. A write transaction excludes other processes. */
bool db_begin_read(struct db *db, struct error *err);
bool db_begin_write(struct db *db, struct error *err);
bool db_commit(struct db *db, struct error *err); /* false: it has been rolled back */
void db_rollback(struct db *db);                  /* does nothing without a transaction */

/* The version that the last change of any object got; 0 at the beginning. */
bool db_version(struct db *db, uint64_t *out, struct error *err);
bool db_set_version(struct db *db, uint64_t version, struct error *err);
bool db_put(struct db *db, const struct db_row *row, struct error *err);
/* Deletes and leaves a tombstone of that version for other processes. */
bool db_delete(struct db *db, const struct db_row *row, struct error *err);

/* Calls fn for every object, in no particular order. Stops when fn returns false. */
bool db_load(struct db *db, db_row_fn *fn, void *ctx, struct error *err);
/* Changes after `since`, in order of version. *complete is false, and fn is not called, when
 * tombstones that are needed were pruned already: load everything and compare. */
bool db_changes(struct db *db, uint64_t since, bool *complete, db_row_fn *fn, void *ctx, struct error *err);
/* Whether another connection has committed since the last call. Cheap. */
bool db_changed_by_others(struct db *db, bool *out, struct error *err);
/* Forgets tombstones older than `age_seconds`. In a write transaction. */
bool db_prune(struct db *db, int64_t age_seconds, struct error *err);

/* Small facts about the file itself. *out is malloc'ed, NULL when not set. */
bool db_get_mark(struct db *db, const char *name, char **out, struct error *err);
bool db_set_mark(struct db *db, const char *name, const char *value, struct error *err);
