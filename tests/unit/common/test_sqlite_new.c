/* New SQLite files: given their form without waits, and on the disk before the first transaction. */
#include "common/sqlite_new.h"

#include "common/bytes.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/at-sqlite-XXXXXX";

static int number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    ck_assert_int_eq(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    int n = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return n;
}

static void run(sqlite3 *db, const char *sql) {
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
}

START_TEST(test_only_a_new_file_is_fresh) {
    ck_assert_ptr_nonnull(mkdtemp(folder));
    cleanup_free char *path = xasprintf("%s/new.db", folder);
    bool fresh = false;
    sqlite3 *db, *other;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite_new_begin(db, &fresh), SQLITE_OK);
    ck_assert(fresh);
    ck_assert_int_eq(number(db, "PRAGMA synchronous"), 0);
    run(db, "PRAGMA journal_mode = WAL");
    ck_assert_int_eq(number(db, "PRAGMA page_count"), 1);

    /* A second process between the two: the header is all there is. */
    ck_assert_int_eq(sqlite3_open(path, &other), SQLITE_OK);
    ck_assert_int_eq(sqlite_new_begin(other, &fresh), SQLITE_OK);
    ck_assert(fresh);
    ck_assert_int_eq(sqlite_new_end(other, fresh), SQLITE_OK);

    ck_assert_int_eq(sqlite_new_end(db, true), SQLITE_OK);
    run(db, "PRAGMA synchronous = FULL; CREATE TABLE t (a); INSERT INTO t VALUES (7);");
    ck_assert_int_eq(number(other, "SELECT a FROM t"), 7);
    sqlite3_close(other);
    sqlite3_close(db);

    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite_new_begin(db, &fresh), SQLITE_OK);
    ck_assert(!fresh);
    ck_assert_int_eq(number(db, "PRAGMA synchronous"), 2);
    ck_assert_int_eq(sqlite_new_end(db, fresh), SQLITE_OK);
    sqlite3_close(db);
    unlink(path);
    rmdir(folder);
}
END_TEST

START_TEST(test_what_is_no_database_is_an_error) {
    char path[] = "/tmp/at-no-sqlite-XXXXXX", text[8192];
    memset(text, 'x', sizeof text);
    cleanup_close int fd = mkstemp(path);
    ck_assert_int_eq(write(fd, text, sizeof text), sizeof text);
    bool fresh = true;
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_ne(sqlite_new_begin(db, &fresh), SQLITE_OK);
    ck_assert(!fresh);
    sqlite3_close(db);
    unlink(path);
}
END_TEST

RUN_SUITE("sqlite_new", test_only_a_new_file_is_fresh, test_what_is_no_database_is_an_error)
