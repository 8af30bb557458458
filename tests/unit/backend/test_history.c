/* The history in its file and its queue: http-api.md 6.3, W-93. */
#include "backend/history.h"
#include "common/units.h"
#include "tests/unit/router/fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct place {
    char dir[64];
    char path[96];
};

static void place_make(struct place *p) {
    snprintf(p->dir, sizeof p->dir, "/tmp/at-history-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(p->dir));
    snprintf(p->path, sizeof p->path, "%s/history.db", p->dir);
}

static void place_remove(struct place *p) {
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_free char *path = xasprintf("%s%s", p->path, suffixes[i]);
        unlink(path);
    }
    ck_assert_int_eq(rmdir(p->dir), 0);
}

static struct history_entry action(int i, char text[64]) {
    snprintf(text, 64, "req-%d", i);
    struct history_entry e = {.sandbox = "box",
                              .namespace = "ns",
                              .actor = "ana",
                              .email = "",
                              .action = "create",
                              .resource = "sandbox",
                              .outcome = "success",
                              .request_id = text,
                              .source = "::1",
                              .details = "",
                              .status = 201};
    rfc3339_format_nanos((struct timespec){.tv_sec = 1700000000 + i / 2, .tv_nsec = i % 2}, e.ts);
    return e;
}

static size_t count(struct history *h, const struct history_filter *given) {
    struct history_filter f = *given;
    cleanup_free char *cursor = NULL;
    cleanup_error struct error err = {0};
    cleanup_json json_t *found = history_query(h, &f, &cursor, &err);
    ck_assert_msg(found != NULL, "%s", err.message);
    return json_array_size(found);
}

static const struct history_filter everything = {.limit = 1000000};

START_TEST(W93_what_was_flushed_is_there_after_reopening) {
    struct place p;
    place_make(&p);
    struct history_options o = {.path = p.path};
    cleanup_error struct error err = {0};
    for (int round = 1; round <= 3; round++) {
        struct history *h = history_open(&o, &err);
        ck_assert_msg(h != NULL, "%s", err.message);
        for (int i = 0; i < 500; i++) {
            char text[64];
            struct history_entry e = action(i, text);
            history_add(h, &e, HISTORY_FULL);
        }
        ck_assert(history_flush(h, 60000));
        ck_assert_uint_eq(count(h, &everything), (size_t)round * 500);
        ck_assert_uint_eq(history_counts(h).dropped, 0);
        history_close(h);
    }
    struct stat st;
    ck_assert_int_eq(stat(p.path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    place_remove(&p);
}
END_TEST

START_TEST(events_are_written_once) {
    struct place p;
    place_make(&p);
    struct history_options o = {.path = p.path};
    struct history *h = history_open(&o, NULL);
    struct history_entry e = {.is_event = true,
                              .sandbox = "box",
                              .namespace = "ns",
                              .reason = "Running",
                              .message = "m",
                              .type = "Normal",
                              .phase = "",
                              .key = "uid/1",
                              .ts = "2026-01-01T00:00:00.000000000Z"};
    for (int i = 0; i < 3; i++)
        history_add(h, &e, HISTORY_LIGHT);
    e.key = "uid/2";
    history_add(h, &e, HISTORY_PATIENT);
    e.key = ""; /* without one: each is one of a kind */
    history_add(h, &e, HISTORY_FULL);
    history_add(h, &e, HISTORY_FULL);
    ck_assert(history_flush(h, 60000));
    ck_assert_uint_eq(count(h, &everything), 4);
    history_close(h);
    place_remove(&p);
}
END_TEST

/* While somebody else holds the file, entries wait up to a bound; light ones may fill half of it. */
START_TEST(W93_the_queue_is_bounded_and_light_entries_leave_room) {
    struct place p;
    place_make(&p);
    struct history_options o = {.path = p.path};
    struct history *h = history_open(&o, NULL);
    sqlite3 *other;
    ck_assert_int_eq(sqlite3_open(p.path, &other), SQLITE_OK);
    sqlite3_busy_timeout(other, 60000);
    ck_assert_int_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    char text[64];
    struct history_entry e = action(0, text);
    int64_t begin = monotonic_ms();
    for (int i = 0; i < 20000; i++)
        history_add(h, &e, HISTORY_LIGHT);
    ck_assert_uint_eq(history_counts(h).waiting, 8192);
    for (int i = 0; i < 20000; i++)
        history_add(h, &e, HISTORY_FULL);
    ck_assert_uint_eq(history_counts(h).waiting, 16384);
    ck_assert_uint_eq(history_counts(h).dropped, 40000 - 16384);
    ck_assert(!history_flush(h, 10));
    ck_assert_int_lt(monotonic_ms() - begin, 20000); /* had any of 40000 waited, it would be minutes */
    ck_assert_int_eq(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    ck_assert(history_flush(h, 60000));
    ck_assert_uint_eq(history_counts(h).written, 16384);
    sqlite3_close(other);
    history_close(h);
    place_remove(&p);
}
END_TEST

START_TEST(W93_killed_between_commits) {
    struct place p;
    place_make(&p);
    int pipes[2];
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct history_options o = {.path = p.path};
        struct history *h = history_open(&o, NULL);
        for (int i = 0; h && i < 1000000; i++) {
            char text[64];
            struct history_entry e = action(i, text);
            history_add(h, &e, HISTORY_PATIENT);
            if (i % 100 == 99 && history_flush(h, 60000) && write(pipes[1], &i, sizeof i) != sizeof i)
                _exit(1);
        }
        _exit(1);
    }
    close(pipes[1]);
    int last = 0;
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(read(pipes[0], &last, sizeof last), sizeof last);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(pipes[0]);
    struct history_options o = {.path = p.path};
    cleanup_error struct error err = {0};
    struct history *h = history_open(&o, &err);
    ck_assert_msg(h != NULL, "%s", err.message);
    ck_assert_uint_ge(count(h, &everything), (size_t)last + 1);
    history_close(h);
    place_remove(&p);
}
END_TEST

/* ---- threads ---- */

static void *add_many(void *arg) {
    for (int i = 0; i < 500; i++) {
        char text[64];
        struct history_entry e = action(i, text);
        history_add(arg, &e, HISTORY_PATIENT);
        if (i % 100 == 0) {
            count(arg, &(struct history_filter){.limit = 10});
            history_counts(arg);
        }
    }
    return NULL;
}

START_TEST(many_threads_add_and_read) {
    struct place p;
    place_make(&p);
    struct history_options o = {.path = p.path, .retention_s = 86400LL * 36500, .max_bytes = 1 << 30};
    struct history *h = history_open(&o, NULL);
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, add_many, h), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    ck_assert(history_flush(h, 60000));
    ck_assert_uint_eq(count(h, &everything), 4000);
    history_close(h);
    place_remove(&p);
}
END_TEST

/* ---- the file ---- */

static void run_sql(const char *path, const char *sql) {
    sqlite3 *db;
    char *message = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &message) == SQLITE_OK, "%s: %s", sql, message);
    sqlite3_close(db);
}

START_TEST(migrations) {
    struct place p;
    place_make(&p);
    cleanup_error struct error err = {0};
    /* as the reference makes it, half of it only */
    run_sql(p.path, "CREATE TABLE audit_events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts TEXT NOT NULL, "
                    "actor TEXT, action TEXT,"
                    " resource TEXT, sandbox_id TEXT, details TEXT);"
                    "INSERT INTO audit_events (ts, actor, action, resource, sandbox_id, details) VALUES"
                    " ('2026-07-21T04:16:07.5Z', 'ana', 'create', 'sandbox', 'old', 'not JSON')");
    struct history_db *db = history_db_open(p.path, false, &err);
    ck_assert_msg(db != NULL, "%s", err.message);
    cleanup_free char *cursor = NULL;
    cleanup_json json_t *found = history_db_query(db, &everything, &cursor, &err);
    ck_assert_uint_eq(json_array_size(found), 1);
    ck_assert_str_eq(json_str_at(json_array_get(found, 0), "details.text"), "not JSON");
    history_db_close(db);
    db = history_db_open(p.path, false, &err); /* once more: nothing to do */
    ck_assert_ptr_nonnull(db);
    history_db_close(db);
    /* the reference goes on writing into it */
    run_sql(p.path, "INSERT INTO audit_events (ts, actor, action, resource, sandbox_id, details) VALUES "
                    "('2026-07-22T00:00:00Z', 'bo',"
                    " 'patch', 'sandbox', 'old', '')");
    run_sql(p.path, "PRAGMA user_version = 99");
    ck_assert_ptr_null(history_db_open(p.path, false, &err));
    ck_assert_ptr_nonnull(strstr(err.message, "newer version"));
    place_remove(&p);
}
END_TEST

START_TEST(files_that_cannot_be_used) {
    struct place p;
    place_make(&p);
    cleanup_error struct error err = {0};
    ck_assert_ptr_null(history_db_open("/proc/nowhere/history.db", false, &err));
    ck_assert_str_ne(err.message, "");
    error_clear(&err);
    FILE *out = fopen(p.path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is no database ", out);
    fclose(out);
    ck_assert_ptr_null(history_db_open(p.path, false, &err));
    ck_assert_str_ne(err.message, "");
    place_remove(&p);
}
END_TEST

/* No filter leads to a scan of a table, or to sorting what was found. */
START_TEST(W93_queries_use_indexes) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    const struct history_filter filters[] = {
        {.limit = 10},
        {.limit = 10, .cursor = "x"},
        {.limit = 10, .actor = "a"},
        {.limit = 10, .actor = "a", .cursor = "x", .since = "2026", .until = "2027"},
        {.limit = 10, .sandbox = "b"},
        {.limit = 10, .sandbox = "b", .kind = "event", .type = "Running", .cursor = "x"},
        {.limit = 10, .request_id = "r"},
        {.limit = 10, .namespace = "n", .outcome = "denied", .since = "2026"},
        {.limit = 10, .outcome = "denied", .cursor = "x"},
    };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        cleanup_free char *plan = history_db_plan(db, &filters[i]);
        ck_assert_msg(plan[0] && !strstr(plan, "TEMP B-TREE"), "filter %zu: %s", i, plan);
        for (char *line = strtok(plan, "\n"); line; line = strtok(NULL, "\n"))
            ck_assert_msg(strstr(line, "USING INDEX") != NULL, "filter %zu: %s", i, line);
    }
    const struct history_filter denied = {.limit = 10, .outcome = "denied"},
                                of_user = {.limit = 10, .outcome = "denied", .actor = "a"};
    cleanup_free char *by_outcome = history_db_plan(db, &denied), *by_actor = history_db_plan(db, &of_user);
    ck_assert_ptr_nonnull(strstr(by_outcome, "audit_by_outcome"));
    ck_assert_ptr_nonnull(strstr(by_actor, "audit_by_actor"));
    history_db_close(db);
    place_remove(&p);
}
END_TEST

static void page_through(struct history_db *db, int limit, int want) {
    struct history_filter f = {.limit = limit};
    cleanup_free char *cursor = NULL;
    char last[40] = "9";
    int seen = 0;
    do {
        f.cursor = cursor;
        char *next = NULL;
        cleanup_json json_t *page = history_db_query(db, &f, &next, NULL);
        size_t i;
        json_t *item;
        json_array_foreach(page, i, item) {
            ck_assert_int_le(strcmp(json_str_at(item, "timestamp"), last), 0);
            snprintf(last, sizeof last, "%s", json_str_at(item, "timestamp"));
            seen++;
        }
        free(cursor);
        cursor = next;
    } while (cursor);
    ck_assert_int_eq(seen, want);
}

/* Actions and events of one and the same moment, so that only the rest of the order tells them apart. */
START_TEST(pages_lose_and_repeat_nothing) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    ck_assert(history_db_begin(db, NULL));
    for (int i = 0; i < 60; i++) {
        char text[64];
        struct history_entry e = action(i / 20, text);
        ck_assert(history_db_add(db, &e, NULL));
        struct history_entry event = {.is_event = true,
                                      .sandbox = "box",
                                      .namespace = "ns",
                                      .reason = "R",
                                      .message = "",
                                      .type = "",
                                      .phase = ""};
        memcpy(event.ts, e.ts, sizeof e.ts);
        ck_assert(history_db_add(db, &event, NULL));
    }
    ck_assert(history_db_commit(db, NULL));
    static const int limits[] = {1, 2, 3, 7, 19, 20, 21, 59, 119, 120, 121};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        page_through(db, limits[i], 120);
    history_db_close(db);
    place_remove(&p);
}
END_TEST

START_TEST(bad_cursors) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    static const char *const cursors[] = {"x",    "====",        "AAAA", "eHxhfC0x", "MjAyNnxhfHg",
                                          "fHx8", "MjAyNnx6fDE", "\xff", "a b"};
    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++) {
        struct history_filter f = {.limit = 1, .cursor = cursors[i]};
        char *next = NULL;
        cleanup_error struct error err = {0};
        ck_assert_msg(history_db_query(db, &f, &next, &err) == NULL, "%s", cursors[i]);
        assert_field_error(&err, "continue");
    }
    history_db_close(db);
    place_remove(&p);
}
END_TEST

START_TEST(order_of_cursors) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    ck_assert(history_db_begin(db, NULL));
    for (int i = 0; i < 40; i++) {
        char text[64], key[32];
        struct history_entry e = action(i / 10, text);
        ck_assert(history_db_add(db, &e, NULL));
        snprintf(key, sizeof key, "uid-%02d/|x", i * 7 % 40);
        struct history_entry event = {.is_event = true,
                                      .sandbox = "box",
                                      .namespace = "ns",
                                      .reason = "R",
                                      .message = "",
                                      .type = "",
                                      .phase = "",
                                      .key = key};
        memcpy(event.ts, e.ts, sizeof e.ts);
        ck_assert(history_db_add(db, &event, NULL));
    }
    ck_assert(history_db_commit(db, NULL));
    char *next = NULL;
    cleanup_json json_t *all = history_db_query(db, &everything, &next, NULL);
    ck_assert_uint_eq(json_array_size(all), 80);
    for (size_t i = 0; i < 80; i++) {
        for (size_t j = 0; j < 80; j++) {
            int order = history_cursor_order(json_str_at(json_array_get(all, i), "cursor"),
                                             json_str_at(json_array_get(all, j), "cursor"));
            ck_assert_msg((i < j) == (order < 0) && (i == j) == (order == 0), "%zu %zu %d", i, j, order);
        }
    }
    const char *any = json_str_at(json_array_get(all, 0), "cursor");
    ck_assert_int_lt(history_cursor_order(any, "nonsense"), 0);
    ck_assert_int_gt(history_cursor_order("", any), 0);
    ck_assert_int_eq(history_cursor_order("x", "y"), 0);
    history_db_close(db);
    place_remove(&p);
}
END_TEST

START_TEST(retention) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    ck_assert(history_db_begin(db, NULL));
    for (int i = 0; i < 1000; i++) {
        char text[64];
        struct history_entry e = action(i, text);
        ck_assert(history_db_add(db, &e, NULL));
    }
    ck_assert(history_db_commit(db, NULL));
    char before[40], unused[64];
    struct history_entry middle = action(400, unused);
    snprintf(before, sizeof before, "%s", middle.ts);
    int removed = 0;
    ck_assert(history_db_prune(db, before, 300, &removed, NULL));
    ck_assert_int_eq(removed, 300);
    ck_assert(history_db_prune(db, before, 300, &removed, NULL));
    ck_assert_int_eq(removed, 100);
    ck_assert(history_db_prune(db, before, 300, &removed, NULL));
    ck_assert_int_eq(removed, 0);
    int64_t size = history_db_size(db);
    ck_assert(history_db_prune(db, NULL, 500, &removed, NULL));
    ck_assert_int_eq(removed, 500);
    ck_assert_int_lt(history_db_size(db), size);
    char *cursor = NULL;
    cleanup_json json_t *left = history_db_query(db, &everything, &cursor, NULL);
    ck_assert_uint_eq(json_array_size(left), 100);
    ck_assert_str_eq(json_str_at(json_array_get(left, 99), "details.requestId"), "req-900");
    history_db_close(db);
    place_remove(&p);
}
END_TEST

START_TEST(W93_strangers_cannot_push_out_what_users_did) {
    struct place p;
    place_make(&p);
    struct history_db *db = history_db_open(p.path, false, NULL);
    ck_assert(history_db_begin(db, NULL));
    for (int i = 0; i < 1000; i++) {
        char text[64];
        struct history_entry e = action(i, text);
        if (i >= 100) {
            e.actor = "";
            e.outcome = "denied";
        }
        ck_assert(history_db_add(db, &e, NULL));
    }
    ck_assert(history_db_commit(db, NULL));
    int removed = 0;
    ck_assert(history_db_prune(db, NULL, 500, &removed, NULL));
    ck_assert_int_eq(removed, 500);
    ck_assert(history_db_prune(db, NULL, 500, &removed, NULL));
    ck_assert_int_eq(removed, 400);
    char *cursor = NULL;
    cleanup_json json_t *left = history_db_query(db, &everything, &cursor, NULL);
    ck_assert_uint_eq(json_array_size(left), 100);
    ck_assert_str_eq(json_str_at(json_array_get(left, 0), "details.actor"), "ana");
    ck_assert(history_db_prune(db, NULL, 30, &removed, NULL)); /* then the oldest, as ever */
    ck_assert_int_eq(removed, 30);
    history_db_close(db);
    place_remove(&p);
}
END_TEST

RUN_TESTS("history", W93_strangers_cannot_push_out_what_users_did,
          W93_what_was_flushed_is_there_after_reopening, events_are_written_once,
          W93_the_queue_is_bounded_and_light_entries_leave_room, W93_killed_between_commits,
          many_threads_add_and_read, migrations, files_that_cannot_be_used, W93_queries_use_indexes,
          pages_lose_and_repeat_nothing, bad_cursors, order_of_cursors, retention)
