/* A new SQLite file is given its form — journal mode, vacuuming, tables — without the waits for the disk by
 * which SQLite would protect what was there before: there was nothing. One wait for the file and the first
 * commit that matters replace four for each step: that commit waits for all that stands before it in the WAL,
 * and when the power is lost earlier, what is found is a file without content, which is made anew. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>

/* Before the form is given: *fresh is whether the file has no content yet; if so, nothing waits for the disk
 * now. An SQLite result code. */
int sqlite_new_begin(sqlite3 *db, bool *fresh);
/* After the journal mode was set and before the first transaction: when `fresh`, waits until the file is on
 * the disk. The directory is brought there with the WAL file. Then the caller makes its tables, and sets
 * `PRAGMA synchronous` after them, or before when it is not `fresh`; also when that failed, as closing the
 * file may write what others have committed. An SQLite result code. */
int sqlite_new_end(sqlite3 *db, bool fresh);
