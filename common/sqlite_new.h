/* A new SQLite file is given its form — journal mode, vacuuming — without the waits for the disk by which
 * SQLite would protect what was there before: there was nothing. One wait at the end replaces four for each
 * step. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>

/* Before the form is given: *fresh is whether the file has no content yet; if so, nothing waits for the disk
 * now. An SQLite result code. */
int sqlite_new_begin(sqlite3 *db, bool *fresh);
/* After it and before the first transaction: when `fresh`, waits until the file is on the disk. The directory
 * is brought there with the WAL file. Then the caller sets `PRAGMA synchronous`. An SQLite result code. */
int sqlite_new_end(sqlite3 *db, bool fresh);
