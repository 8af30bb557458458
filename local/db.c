#include "local/db.h"

#include "common/bytes.h"
#include "common/log.h"
#include "common/sqlite_new.h"
#include "local/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#define BUSY_TIMEOUT_MS 5000
/* The WAL file is cut back to this after a checkpoint. */
#define WAL_LIMIT "16777216"

enum statement {
    ST_BEGIN_READ,
    ST_BEGIN_WRITE,
    ST_COMMIT,
    ST_ROLLBACK,
    ST_GET_FACT,
    ST_SET_FACT,
    ST_PUT,
    ST_DELETE,
    ST_TOMBSTONE,
    ST_LOAD,
    ST_CHANGES,
    ST_DATA_VERSION,
    ST_PRUNE_FACT,
    ST_PRUNE,
    ST_COUNT
};

static const char *const statement_sql[ST_COUNT] = {
    [ST_BEGIN_READ] = "BEGIN",
    [ST_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_GET_FACT] = "SELECT value FROM facts WHERE name = ?1",
    [ST_SET_FACT] = "INSERT INTO facts (name, value) VALUES (?1, ?2)"
                    " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    [ST_PUT] =
        "INSERT INTO objects (kind, namespace, name, uid, version, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        " ON CONFLICT (kind, namespace, name) DO UPDATE"
        " SET uid = excluded.uid, version = excluded.version, json = excluded.json",
    [ST_DELETE] = "DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3",
    [ST_TOMBSTONE] = "INSERT INTO tombstones (kind, namespace, name, uid, version, deleted_at)"
                     " VALUES (?1, ?2, ?3, ?4, ?5, unixepoch())",
    [ST_LOAD] = "SELECT kind, namespace, name, uid, version, json FROM objects",
    [ST_CHANGES] = "SELECT kind, namespace, name, uid, version, json FROM objects WHERE version > ?1"
                   " UNION ALL"
                   " SELECT kind, namespace, name, uid, version, NULL FROM tombstones WHERE version > ?1"
                   " ORDER BY version",
    [ST_DATA_VERSION] = "PRAGMA data_version",
    [ST_PRUNE_FACT] =
        "UPDATE facts SET value = max(value,"
        " (SELECT coalesce(max(version), 0) FROM tombstones WHERE deleted_at <= unixepoch() - ?1))"
        " WHERE name = 'pruned'",
    [ST_PRUNE] = "DELETE FROM tombstones WHERE deleted_at <= unixepoch() - ?1",
};

struct db {
    sqlite3 *sqlite;
    char *dir;  /* as given */
    char *path; /* dir/state.db */
    sqlite3_stmt *statements[ST_COUNT];
    int64_t data_version;
};

/* Says in `err` what `rc` means for whoever asked. Always false. */
static bool failed(const struct db *db, int rc, const char *doing, struct error *err) {
    int saved = db->sqlite ? sqlite3_system_errno(db->sqlite) : 0;
    const char *text = db->sqlite ? sqlite3_errmsg(db->sqlite) : sqlite3_errstr(rc);
    switch (rc & 0xff) {
    case SQLITE_FULL: break;
    case SQLITE_IOERR:
        if (saved == ENOSPC || saved == EDQUOT) break;
        error_set(err, 500, ERR_INTERNAL, "cannot %s %s: %s (%s)", doing, db->path, text, strerror(saved));
        return false;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        error_set(err, 503, ERR_UNAVAILABLE, "%s is busy: another process holds it", db->path);
        if (err) err->retry_after = 1;
        return false;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        error_set(
            err, 500, ERR_INTERNAL,
            "%s is damaged (%s): stop every program that uses it, then restore it from a backup, or move it "
            "away to start with an empty state",
            db->path, text);
        return false;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
        error_set(err, 500, ERR_INTERNAL, "cannot %s %s: %s: check that the directory exists and is writable",
                  doing, db->path, text);
        return false;
    default: error_set(err, 500, ERR_INTERNAL, "cannot %s %s: %s", doing, db->path, text); return false;
    }
    error_set(err, 507, "insufficient_storage", "the disk that holds %s is full", db->dir);
    return false;
}

/* mkdir -p; what is created belongs to the owner alone. */
static bool make_directory(const char *dir, struct error *err) {
    cleanup_free char *path = xstrdup(dir);
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p != '\0') continue;
        char saved = *p;
        *p = '\0';
        if (mkdir(path, 0700) < 0 && errno != EEXIST) {
            error_set_errno(err, errno, "cannot create the state directory %s", path);
            return false;
        }
        *p = saved;
        if (saved == '\0') return true;
    }
}

/* SQLite would create it with the umask's mode; it holds secrets. O_EXCL, and never opened
 * when it is there: closing a descriptor would drop the locks that SQLite holds in this process. */
static bool make_file(const char *path, struct error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST) {
        error_set_errno(err, errno, "cannot create %s", path);
        return false;
    }
    if (fd >= 0) close(fd);
    return true;
}

/* First column of the first row as text, compared with `expected`. *got is the text. */
static int expect_text(sqlite3 *sqlite, const char *sql, const char *expected, char got[128]) {
    sqlite3_stmt *stmt = NULL;
    got[0] = '\0';
    int rc = sqlite3_prepare_v2(sqlite, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        sqlite3_snprintf(128, got, "%s", text ? text : "");
        rc = strcmp(got, expected) == 0 ? SQLITE_OK : SQLITE_MISMATCH;
    }
    sqlite3_finalize(stmt);
    return rc;
}

static int wait_for_disk(struct db *db) {
    return sqlite3_exec(db->sqlite, "PRAGMA synchronous = FULL", NULL, NULL, NULL);
}

/* A file without content does not wait for the disk yet. */
static bool configure(struct db *db, struct error *err) {
    char got[128];
    bool fresh = false;
    int rc = SQLITE_OK;
    /* The busy handler is not asked when two processes switch to WAL at once. */
    for (int waited = 0;; waited += 50) {
        rc = sqlite_new_begin(db->sqlite, &fresh);
        if (rc == SQLITE_OK) rc = expect_text(db->sqlite, "PRAGMA journal_mode = WAL", "wal", got);
        if ((rc & 0xff) != SQLITE_BUSY || waited >= BUSY_TIMEOUT_MS) break;
        sqlite3_sleep(50);
    }
    if (rc == SQLITE_MISMATCH) {
        error_set(err, 500, ERR_INTERNAL, "%s: the file system cannot hold it (no shared memory for WAL)",
                  db->path);
        return false;
    }
    if (rc == SQLITE_OK) rc = sqlite_new_end(db->sqlite, fresh);
    if (rc == SQLITE_OK && !fresh) rc = wait_for_disk(db);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db->sqlite, "PRAGMA journal_size_limit = " WAL_LIMIT, NULL, NULL, NULL);
    if (rc == SQLITE_OK) {
        rc = expect_text(db->sqlite, "PRAGMA quick_check(1)", "ok", got);
        if (rc == SQLITE_MISMATCH) {
            error_set(err, 500, ERR_INTERNAL,
                      "%s is damaged (%s): stop every program that uses it, then restore it from a backup, "
                      "or move it "
                      "away to start with an empty state",
                      db->path, got);
            return false;
        }
    }
    return rc == SQLITE_OK || failed(db, rc, "open", err);
}

/* Opens the connection, checks and migrates the file, prepares the statements. */
static bool open_file(struct db *db, struct error *err) {
    int rc = sqlite3_open_v2(db->path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) return failed(db, rc, "open", err);
    sqlite3_extended_result_codes(db->sqlite, 1);
    sqlite3_busy_timeout(db->sqlite, BUSY_TIMEOUT_MS);
    if (!configure(db, err)) return false;

    cleanup_error struct error refused = {0};
    rc = schema_migrate(db->sqlite, db->path, &refused);
    if (rc != SQLITE_OK) {
        if (refused.status != 0)
            error_move(err, &refused);
        else
            failed(db, rc, "prepare", err);
        wait_for_disk(db); /* closing may write what others have committed */
        return false;
    }
    rc = wait_for_disk(db);
    for (int i = 0; rc == SQLITE_OK && i < ST_COUNT; i++) {
        rc = sqlite3_prepare_v3(db->sqlite, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &db->statements[i], NULL);
    }
    if (rc != SQLITE_OK) return failed(db, rc, "prepare", err);
    bool changed; /* from now on */
    return db_changed_by_others(db, &changed, err);
}

struct db *db_open(const char *state_dir, struct error *err) {
    struct db *db = xcalloc(1, sizeof(*db));
    db->dir = xstrdup(state_dir);
    db->path = xasprintf("%s/state.db", state_dir);
    if (make_directory(state_dir, err) && make_file(db->path, err) && open_file(db, err)) return db;
    db_close(db);
    return NULL;
}

void db_close(struct db *db) {
    if (db == NULL) return;
    for (int i = 0; i < ST_COUNT; i++)
        sqlite3_finalize(db->statements[i]);
    sqlite3_close(db->sqlite);
    free(db->dir);
    free(db->path);
    free(db);
}

/* Runs a statement that has no rows and resets it. */
static bool run(struct db *db, enum statement which, const char *doing, struct error *err) {
    sqlite3_stmt *stmt = db->statements[which];
    int rc = sqlite3_step(stmt);
    bool ok = rc == SQLITE_DONE;
    if (!ok) failed(db, rc, doing, err);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return ok;
}

bool db_begin_read(struct db *db, struct error *err) {
    return run(db, ST_BEGIN_READ, "read", err);
}
bool db_begin_write(struct db *db, struct error *err) {
    return run(db, ST_BEGIN_WRITE, "write", err);
}

bool db_commit(struct db *db, struct error *err) {
    if (run(db, ST_COMMIT, "write", err)) return true;
    db_rollback(db);
    return false;
}

void db_rollback(struct db *db) {
    /* SQLite has rolled back by itself after some errors (a full disk among them). */
    if (sqlite3_get_autocommit(db->sqlite)) return;
    cleanup_error struct error err = {0};
    if (!run(db, ST_ROLLBACK, "roll back", &err)) log_error("rollback failed", "error", err.message, NULL);
}

static bool get_fact(struct db *db, const char *name, int64_t *number, char **text, struct error *err) {
    sqlite3_stmt *stmt = db->statements[ST_GET_FACT];
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        if (number) *number = sqlite3_column_int64(stmt, 0);
        if (text) *text = xstrdup((const char *)sqlite3_column_text(stmt, 0));
    } else if (rc != SQLITE_DONE) {
        failed(db, rc, "read", err);
    }
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

bool db_version(struct db *db, uint64_t *out, struct error *err) {
    int64_t value = 0;
    if (!get_fact(db, "version", &value, NULL, err)) return false;
    *out = (uint64_t)value;
    return true;
}

bool db_set_version(struct db *db, uint64_t version, struct error *err) {
    sqlite3_stmt *stmt = db->statements[ST_SET_FACT];
    sqlite3_bind_text(stmt, 1, "version", -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)version);
    return run(db, ST_SET_FACT, "write", err);
}

/* Marks are facts under a prefix of their own. */
bool db_get_mark(struct db *db, const char *name, char **out, struct error *err) {
    cleanup_free char *fact = xasprintf("mark.%s", name);
    *out = NULL;
    return get_fact(db, fact, NULL, out, err);
}

bool db_set_mark(struct db *db, const char *name, const char *value, struct error *err) {
    cleanup_free char *fact = xasprintf("mark.%s", name);
    sqlite3_stmt *stmt = db->statements[ST_SET_FACT];
    sqlite3_bind_text(stmt, 1, fact, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
    return run(db, ST_SET_FACT, "write", err);
}

static void bind_key(sqlite3_stmt *stmt, const struct db_row *row) {
    sqlite3_bind_text(stmt, 1, resource_kinds[row->kind].kind, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, row->namespace, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, row->name, -1, SQLITE_STATIC);
}

static void bind_identity(sqlite3_stmt *stmt, const struct db_row *row) {
    bind_key(stmt, row);
    sqlite3_bind_text(stmt, 4, row->uid, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 5, (sqlite3_int64)row->version);
}

bool db_put(struct db *db, const struct db_row *row, struct error *err) {
    sqlite3_stmt *stmt = db->statements[ST_PUT];
    bind_identity(stmt, row);
    sqlite3_bind_text64(stmt, 6, row->json, row->json_len, SQLITE_STATIC, SQLITE_UTF8);
    return run(db, ST_PUT, "write", err);
}

bool db_delete(struct db *db, const struct db_row *row, struct error *err) {
    bind_key(db->statements[ST_DELETE], row);
    if (!run(db, ST_DELETE, "write", err)) return false;
    bind_identity(db->statements[ST_TOMBSTONE], row);
    return run(db, ST_TOMBSTONE, "write", err);
}

static bool kind_of(const char *text, enum kind *out) {
    for (int k = 0; k < KIND_COUNT; k++) {
        if (strcmp(resource_kinds[k].kind, text) == 0) {
            *out = (enum kind)k;
            return true;
        }
    }
    return false;
}

/* Hands every row of a bound statement to fn. */
static bool each_row(struct db *db, enum statement which, db_row_fn *fn, void *ctx, struct error *err) {
    sqlite3_stmt *stmt = db->statements[which];
    bool ok = true;
    int rc;
    while (ok && (rc = sqlite3_step(stmt)) != SQLITE_DONE) {
        if (rc != SQLITE_ROW) {
            ok = failed(db, rc, "read", err);
            break;
        }
        struct db_row row = {
            .namespace = (const char *)sqlite3_column_text(stmt, 1),
            .name = (const char *)sqlite3_column_text(stmt, 2),
            .uid = (const char *)sqlite3_column_text(stmt, 3),
            .version = (uint64_t)sqlite3_column_int64(stmt, 4),
            .json = (const char *)sqlite3_column_text(stmt, 5),
        };
        row.json_len = (size_t)sqlite3_column_bytes(stmt, 5);
        const char *kind = (const char *)sqlite3_column_text(stmt, 0);
        if (!kind_of(kind, &row.kind)) {
            log_warn("object of an unknown kind left alone", "kind", kind, "name", row.name, NULL);
            continue;
        }
        ok = fn(ctx, &row, err);
    }
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return ok;
}

bool db_load(struct db *db, db_row_fn *fn, void *ctx, struct error *err) {
    return each_row(db, ST_LOAD, fn, ctx, err);
}

bool db_changes(struct db *db, uint64_t since, bool *complete, db_row_fn *fn, void *ctx, struct error *err) {
    int64_t pruned = 0;
    if (!get_fact(db, "pruned", &pruned, NULL, err)) return false;
    *complete = (uint64_t)pruned <= since;
    if (!*complete) return true;
    sqlite3_bind_int64(db->statements[ST_CHANGES], 1, (sqlite3_int64)since);
    return each_row(db, ST_CHANGES, fn, ctx, err);
}

bool db_changed_by_others(struct db *db, bool *out, struct error *err) {
    sqlite3_stmt *stmt = db->statements[ST_DATA_VERSION];
    int rc = sqlite3_step(stmt);
    int64_t version = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    if (rc != SQLITE_ROW) failed(db, rc, "read", err);
    sqlite3_reset(stmt);
    *out = version != db->data_version;
    if (rc == SQLITE_ROW) db->data_version = version;
    return rc == SQLITE_ROW;
}

bool db_prune(struct db *db, int64_t age_seconds, struct error *err) {
    sqlite3_bind_int64(db->statements[ST_PRUNE_FACT], 1, age_seconds);
    sqlite3_bind_int64(db->statements[ST_PRUNE], 1, age_seconds);
    return run(db, ST_PRUNE_FACT, "write", err) && run(db, ST_PRUNE, "write", err);
}
