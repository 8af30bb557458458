#include "local/schema.h"

/* schema_steps[n] leads from version n to n + 1. Never edit a released step: add one. */
static const char *const schema_steps[SCHEMA_VERSION] = {
    /* version: store-wide, increasing; it is the object's resourceVersion. Tombstones tell other
     * processes what was deleted; facts holds the last version given ('version'), the greatest
     * version of a tombstone that was pruned ('pruned') and marks such as 'mark.seeded'. */
    "CREATE TABLE objects ("
    "  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL,"
    "  version INTEGER NOT NULL, json TEXT NOT NULL,"
    "  PRIMARY KEY (kind, namespace, name)) STRICT;"
    "CREATE UNIQUE INDEX objects_by_version ON objects (version);"
    "CREATE TABLE tombstones ("
    "  version INTEGER PRIMARY KEY, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,"
    "  uid TEXT NOT NULL, deleted_at INTEGER NOT NULL) STRICT;"
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;"
    "INSERT INTO facts VALUES ('version', 0), ('pruned', 0);",
};

static int read_int(sqlite3 *db, const char *sql, int *out) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        *out = sqlite3_column_int(stmt, 0);
        rc = SQLITE_OK;
    }
    int finalized = sqlite3_finalize(stmt);
    return rc == SQLITE_OK ? finalized : rc;
}

static int check_owner(sqlite3 *db, const char *path, int version, struct error *err) {
    int id = 0, tables = 0;
    int rc = read_int(db, "PRAGMA application_id", &id);
    if (rc == SQLITE_OK) rc = read_int(db, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc != SQLITE_OK) return rc;
    if (id != SCHEMA_APPLICATION_ID && (id != 0 || version != 0 || tables != 0)) {
        error_set(err, 500, ERR_INTERNAL,
                  "%s is an SQLite file of another program: name another state directory", path);
        return SQLITE_ERROR;
    }
    if (version > SCHEMA_VERSION) {
        error_set(
            err, 500, ERR_INTERNAL,
            "%s was written by a newer agenttier-router (schema %d, this program knows up to %d): run that "
            "version or a newer one",
            path, version, SCHEMA_VERSION);
        return SQLITE_ERROR;
    }
    return SQLITE_OK;
}

/* One step, or nothing when another process was faster. The caller holds the transaction. */
static int migrate_step(sqlite3 *db, const char *path, int *version, struct error *err) {
    int rc = read_int(db, "PRAGMA user_version", version);
    if (rc == SQLITE_OK) rc = check_owner(db, path, *version, err);
    if (rc != SQLITE_OK || *version == SCHEMA_VERSION) return rc;
    rc = sqlite3_exec(db, schema_steps[*version], NULL, NULL, NULL);
    if (rc != SQLITE_OK) return rc;
    char pragmas[96];
    sqlite3_snprintf(sizeof(pragmas), pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d;",
                     SCHEMA_APPLICATION_ID, ++*version);
    return sqlite3_exec(db, pragmas, NULL, NULL, NULL);
}

int schema_migrate(sqlite3 *db, const char *path, struct error *err) {
    int version = 0;
    int rc = read_int(db, "PRAGMA user_version", &version);
    if (rc == SQLITE_OK) rc = check_owner(db, path, version, err);
    while (rc == SQLITE_OK && version < SCHEMA_VERSION) {
        rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        if (rc != SQLITE_OK) return rc;
        rc = migrate_step(db, path, &version, err);
        if (rc == SQLITE_OK) rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
        if (rc != SQLITE_OK) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    return rc;
}
