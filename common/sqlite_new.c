#include "common/sqlite_new.h"

#include <stddef.h>

int sqlite_new_begin(sqlite3 *db, bool *fresh) {
    sqlite3_stmt *stmt = NULL;
    *fresh = false;
    int rc = sqlite3_prepare_v2(db, "PRAGMA page_count", -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        /* One page is the header alone, which another process may be writing right now: it is waited for here
         * too, because what this process commits behind it must not be lost with it. */
        *fresh = sqlite3_column_int(stmt, 0) <= 1;
        rc = SQLITE_OK;
    }
    int finalized = sqlite3_finalize(stmt);
    if (rc != SQLITE_OK) return rc;
    if (finalized != SQLITE_OK || !*fresh) return finalized;
    return sqlite3_exec(db, "PRAGMA synchronous = OFF", NULL, NULL, NULL);
}

int sqlite_new_end(sqlite3 *db, bool fresh) {
    if (!fresh) return SQLITE_OK;
    /* By SQLite's own descriptor: closing another one would drop the locks of this process. */
    sqlite3_file *file = NULL;
    int rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    if (rc != SQLITE_OK || file == NULL || file->pMethods == NULL) return rc == SQLITE_OK ? SQLITE_ERROR : rc;
    return file->pMethods->xSync(file, SQLITE_SYNC_FULL);
}
