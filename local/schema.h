/* The schema of the state file and its history. */
#pragma once

#include "common/error.h"

#include <sqlite3.h>

#define SCHEMA_VERSION        1
#define SCHEMA_APPLICATION_ID 0x41545254 /* "ATRT", PRAGMA application_id */

/* Brings the file to SCHEMA_VERSION, each step in a transaction of its own. Refuses files
 * of a newer version and of other programs. `path` is for messages. Returns an SQLite code
 * other than SQLITE_OK with err left alone when SQLite failed, SQLITE_ERROR with err set
 * when the file was refused. */
int schema_migrate(sqlite3 *db, const char *path, struct error *err);
