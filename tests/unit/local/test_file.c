/* The state file: what is refused, what happens on a full disk or beside another process. */
#include "tests/unit/local/fixture.h"

#include "local/sync.h"

#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static void sql(const char *statements) {
    sqlite3 *db = NULL;
    cleanup_free char *path = xasprintf("%s/state.db", state_dir);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    char *message = NULL;
    int rc = sqlite3_exec(db, statements, NULL, NULL, &message);
    ck_assert_msg(rc == SQLITE_OK, "%s", message);
    sqlite3_close(db);
}

/* Opening must fail with a message that has all the parts. */
static void refused(const char *part, const char *also) {
    struct error err = {0};
    store = local_store_open(state_dir, &err);
    ck_assert_ptr_null(store);
    ck_assert_int_eq(err.status, 500);
    ck_assert_msg(strstr(err.message, "state.db") && strstr(err.message, part) && strstr(err.message, also),
                  "%s", err.message);
}

/* SQLite's waits for the disk: its library finds this instead of the C library's. */
static int waits;
int fdatasync(int fd) {
    waits++;
    return (int)syscall(SYS_fdatasync, fd);
}

START_TEST(waits_for_the_disk_from_the_first_write_on) {
    cleanup_free char *dir = xasprintf("%s/new", state_dir);
    struct error err = {0};
    local_store_close(store);
    waits = 0;
    store = local_store_open(dir, &err);
    ck_assert_msg(store && waits == 1, "%d waits; %s", waits, err.message); /* for the file itself */
    object_unref(must_create(KIND_CONFIG_MAP, make("default", "a", "", "\"data\":{}")));
    int first = waits; /* for the WAL and its name in the directory */
    ck_assert_int_ge(first, 2);
    object_unref(must_create(KIND_CONFIG_MAP, make("default", "b", "", "\"data\":{}")));
    ck_assert_int_gt(waits, first);
    local_store_close(store);
    store = local_store_open(dir, &err);
    waits = 0;
    object_unref(must_create(KIND_CONFIG_MAP, make("default", "c", "", "\"data\":{}")));
    ck_assert_int_ge(waits, 1);
}
END_TEST

START_TEST(newer_schema) {
    local_store_close(store);
    sql("PRAGMA user_version = 99");
    refused("newer agenttier-router", "schema 99");
}
END_TEST

START_TEST(foreign_file) {
    local_store_close(store);
    sql("PRAGMA application_id = 7");
    refused("another program", "state directory");
}
END_TEST

START_TEST(garbage_file) {
    local_store_close(store);
    cleanup_free char *path = xasprintf("%s/state.db", state_dir);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 4096; i++)
        fputc('x', f);
    fclose(f);
    refused("damaged", "backup");
}
END_TEST

START_TEST(damaged_pages) {
    for (int i = 0; i < 200; i++) {
        cleanup_free char *name = xasprintf("n%d", i);
        object_unref(
            must_create(KIND_CONFIG_MAP, make("default", name, "", "\"data\":{\"a\":\"bbbbbbbbbbbbbbb\"}")));
    }
    local_store_close(store);
    cleanup_free char *path = xasprintf("%s/state.db", state_dir);
    FILE *f = fopen(path, "r+");
    fseek(f, 4096 * 4, SEEK_SET);
    for (int i = 0; i < 4096 * 3; i++)
        fputc(0x5a, f);
    fclose(f);
    refused("damaged", "backup");
}
END_TEST

START_TEST(damaged_row) {
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "")));
    local_store_close(store);
    sql("UPDATE objects SET json = '{'");
    struct error err = {0};
    store = local_store_open(state_dir, &err);
    ck_assert_ptr_null(store);
    ck_assert_msg(strstr(err.message, "Sandbox \"a\" is damaged") && strstr(err.message, state_dir), "%s",
                  err.message);
}
END_TEST

START_TEST(unwritable_place) {
    local_store_close(store);
    struct error err = {0};
    store = local_store_open("/proc/nowhere/x", &err);
    ck_assert_ptr_null(store);
    ck_assert_msg(strstr(err.message, "/proc/nowhere"), "%s", err.message);
}
END_TEST

START_TEST(nested_directory) {
    local_store_close(store);
    cleanup_free char *deep = xasprintf("%s/a/b/c", state_dir);
    struct error err = {0};
    store = local_store_open(deep, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    struct stat st;
    ck_assert_int_eq(stat(deep, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
}
END_TEST

/* Starts this program again with that role (main): an SQLite connection must not go
 * through a fork. Its standard input and output are the ends of the pipes, when given. */
static pid_t start_elsewhere(const char *what, const int in[2], const int out[2]) {
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid != 0) return pid;
    if (in) {
        dup2(in[0], 0);
        close(in[1]);
    }
    if (out) dup2(out[1], 1);
    execl("/proc/self/exe", "test_file", what, state_dir, NULL);
    _exit(127);
}

static void end_elsewhere(pid_t pid) {
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

static void elsewhere(const char *role) {
    end_elsewhere(start_elsewhere(role, NULL, NULL));
}

static _Atomic int added, modified, deleted;
static void count(void *ctx, enum store_change change, struct object *o) {
    (void)ctx;
    if (strcmp(o->name, "brief") == 0) return; /* come and gone between two looks, or not */
    if (change == STORE_ADDED) added++;
    if (change == STORE_MODIFIED) modified++;
    if (change == STORE_DELETED) deleted++;
}

static void wait_for(bool (*what)(void)) {
    for (int i = 0; i < 6000 && !what(); i++)
        usleep(10 * 1000);
    ck_assert(what());
}

static void foreign_writes(void) {
    ck_assert(exists(KIND_SECRET, "default", "old"));
    object_unref(must_create(KIND_SECRET, make("default", "new", "", "")));
    object_unref(must_patch(KIND_SECRET, STORE_MAIN, "old", "{\"metadata\":{\"labels\":{\"a\":\"b\"}}}"));
    must_remove(KIND_SECRET, "gone");
    object_unref(must_create(KIND_SECRET, make("default", "brief", "", "")));
    must_remove(KIND_SECRET, "brief");
}

static bool foreign_writes_seen(void) {
    return exists(KIND_SECRET, "default", "new") && !exists(KIND_SECRET, "default", "gone") &&
           !exists(KIND_SECRET, "default", "brief");
}

START_TEST(other_process_is_followed) {
    object_unref(must_create(KIND_SECRET, make("default", "old", "", "")));
    object_unref(must_create(KIND_SECRET, make("default", "gone", "", "")));
    added = modified = deleted = 0;
    void *handle = store->ops->watch(store, KIND_SECRET, count, NULL);
    elsewhere("write");
    wait_for(foreign_writes_seen);
    store->ops->unwatch(store, handle);
    ck_assert_int_eq(added, 3);
    ck_assert_int_eq(modified, 1);
    ck_assert_int_eq(deleted, 1);
    /* Versions go on where the other process stopped. */
    cleanup_object struct object *next = must_create(KIND_SECRET, make("default", "next", "", ""));
    ck_assert_str_eq(next->resource_version, "8");
}
END_TEST

static void take_name(void) {
    object_unref(must_create(KIND_SECRET, make("default", "mine", "", "")));
}

START_TEST(other_process_is_seen_by_the_next_write) {
    elsewhere("take-name");
    /* At once, before the thread has looked. */
    struct error err = {0};
    cleanup_json json_t *json = make("default", "mine", "", "");
    ck_assert(!store->ops->create(store, KIND_SECRET, json, NULL, &err));
    ck_assert_str_eq(err.code, "already_exists");
    ck_assert(exists(KIND_SECRET, "default", "mine"));
}
END_TEST

static bool renewed(void) {
    cleanup_object struct object *o = store->ops->get(store, KIND_SECRET, "default", "old");
    return o != NULL && strcmp(o->resource_version, "1") != 0 && !exists(KIND_SECRET, "default", "gone");
}

static void renew_and_prune(void) {
    must_remove(KIND_SECRET, "old");
    must_remove(KIND_SECRET, "gone");
    object_unref(must_create(KIND_SECRET, make("default", "old", "", "")));
    struct local_store *s = (struct local_store *)store;
    struct error err = {0};
    pthread_mutex_lock(&s->write);
    ck_assert(db_begin_write(s->db, &err) && db_prune(s->db, -10, &err) && db_commit(s->db, &err));
    pthread_mutex_unlock(&s->write);
}

START_TEST(pruned_tombstones) {
    object_unref(must_create(KIND_SECRET, make("default", "old", "", "")));
    object_unref(must_create(KIND_SECRET, make("default", "gone", "", "")));
    object_unref(must_create(KIND_SECRET, make("default", "same", "", "")));
    added = modified = deleted = 0;
    void *handle = store->ops->watch(store, KIND_SECRET, count, NULL);
    /* Held still meanwhile, so that it misses everything. */
    struct local_store *s = (struct local_store *)store;
    pthread_mutex_lock(&s->write);
    elsewhere("renew-and-prune");
    pthread_mutex_unlock(&s->write);
    wait_for(renewed);
    store->ops->unwatch(store, handle);
    ck_assert_int_eq(added, 4); /* 3 replayed, the new "old" */
    ck_assert_int_eq(modified, 0);
    ck_assert_int_eq(deleted, 2);
    ck_assert(exists(KIND_SECRET, "default", "same"));
}
END_TEST

/* Holds the file's write lock until its standard input ends. */
static void hold(void) {
    sqlite3 *db = NULL;
    cleanup_free char *path = xasprintf("%s/state.db", state_dir);
    char c = 'r';
    if (sqlite3_open(path, &db) || sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL)) _exit(1);
    if (write(1, &c, 1) != 1) _exit(1);
    _exit(read(0, &c, 1) == 0 ? 0 : 1);
}

START_TEST(busy_file) {
    int ready[2], done[2];
    ck_assert_int_eq(pipe(ready) | pipe(done), 0);
    pid_t pid = start_elsewhere("hold", done, ready);
    char c;
    ck_assert_int_eq(read(ready[0], &c, 1), 1);
    struct error err = {0};
    cleanup_json json_t *json = make("default", "a", "", "");
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    ck_assert(!store->ops->create(store, KIND_SECRET, json, NULL, &err));
    clock_gettime(CLOCK_MONOTONIC, &to);
    ck_assert_int_eq(err.status, 503);
    ck_assert_int_eq(err.retry_after, 1);
    ck_assert_int_ge(to.tv_sec - from.tv_sec, 4);
    close(done[1]);
    end_elsewhere(pid);
    ck_assert(!exists(KIND_SECRET, "default", "a"));
    ck_assert(store->ops->create(store, KIND_SECRET, json, NULL, NULL));
}
END_TEST

static bool write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    return f != NULL && fputs(text, f) >= 0 && fclose(f) == 0;
}

/* In namespaces of its own, on a file system of 1 MiB. */
static int fill_disk(void) {
    cleanup_free char *uids = xasprintf("0 %u 1", getuid()), *gids = xasprintf("0 %u 1", getgid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 77;
    if (!write_file("/proc/self/setgroups", "deny") || !write_file("/proc/self/uid_map", uids) ||
        !write_file("/proc/self/gid_map", gids)) {
        return 77;
    }
    if (mount("none", state_dir, "tmpfs", 0, "size=1m") != 0) return 77;
    store = open_store();
    object_unref(must_create(KIND_CONFIG_MAP, make("default", "first", "", "")));
    cleanup_free char *data = malloc(16 * 1024);
    memset(data, 'x', 16 * 1024 - 1);
    data[16 * 1024 - 1] = '\0';
    char name[32];
    struct error err = {0};
    int n = 0;
    for (;; n++) {
        snprintf(name, sizeof(name), "n%d", n);
        json_t *json = make("default", name, "", "\"data\":{}");
        json_object_set_new(json_object_get(json, "data"), "k", json_string(data));
        bool ok = store->ops->create(store, KIND_CONFIG_MAP, json, NULL, &err);
        json_decref(json);
        if (!ok || n > 200) break;
    }
    if (err.status != 507 || strcmp(err.code, "insufficient_storage") != 0) {
        fprintf(stderr, "after %d: %d %s\n", n, err.status, err.message);
        return 1;
    }
    if (strstr(err.message, state_dir) == NULL || exists(KIND_CONFIG_MAP, "default", name)) return 2;
    /* Reads go on, and with room again writes do. */
    if (!exists(KIND_CONFIG_MAP, "default", "first")) return 3;
    if (mount("none", state_dir, "tmpfs", MS_REMOUNT, "size=4m") != 0) return 4;
    json_t *json = make("default", name, "", "");
    bool ok = store->ops->create(store, KIND_CONFIG_MAP, json, NULL, &err);
    json_decref(json);
    if (!ok) return 5;
    local_store_close(store);
    store = open_store();
    bool all = exists(KIND_CONFIG_MAP, "default", name) && exists(KIND_CONFIG_MAP, "default", "n0");
    local_store_close(store);
    return all ? 0 : 6;
}

START_TEST(full_disk) {
    int status;
    pid_t pid = start_elsewhere("fill-disk", NULL, NULL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    /* 77: this system gives no unprivileged namespaces. */
    if (WEXITSTATUS(status) != 77) ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(events_expire) {
    for (int i = 0; i < 600; i++) {
        cleanup_free char *name = xasprintf("old%d", i);
        object_unref(
            must_create(KIND_EVENT, make("default", name, "", "\"lastTimestamp\":\"2020-01-01T00:00:00Z\"")));
    }
    object_unref(must_create(KIND_EVENT, make("default", "new", "", "")));
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "")));
    struct error err = {0};
    ck_assert(sync_expire_events((struct local_store *)store, time(NULL) - 3600, &err));
    cleanup_object_list struct object_list left = store->ops->list(store, KIND_EVENT, NULL);
    ck_assert_uint_eq(left.count, 1);
    ck_assert_str_eq(left.items[0]->name, "new");
    ck_assert(exists(KIND_SANDBOX, "default", "a"));
}
END_TEST

/* What start_elsewhere() started: a run of one test, so that assertions work there too. */
static const char *role;
static int outcome;

START_TEST(play) {
    if (strcmp(role, "hold") == 0) hold();
    if (strcmp(role, "fill-disk") == 0) {
        outcome = fill_disk();
        return;
    }
    store = open_store();
    if (strcmp(role, "write") == 0) foreign_writes();
    if (strcmp(role, "take-name") == 0) take_name();
    if (strcmp(role, "renew-and-prune") == 0) renew_and_prune();
    local_store_close(store);
}
END_TEST

static int run_role(void) {
    Suite *suite = suite_create(role);
    TCase *tests = tcase_create("role");
    tcase_add_test(tests, play);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    /* Standard output may be a pipe to the parent. */
    srunner_run_all(runner, strcmp(role, "hold") == 0 ? CK_SILENT : CK_NORMAL);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? outcome : 1;
}

int main(int argc, char **argv) {
    if (argc == 3) {
        role = argv[1];
        snprintf(state_dir, sizeof(state_dir), "%s", argv[2]);
        return run_role();
    }
    Suite *suite = suite_create("state file");
    TCase *tests = tcase_create("file");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    const TTest *all[] = {waits_for_the_disk_from_the_first_write_on,
                          newer_schema,
                          foreign_file,
                          garbage_file,
                          damaged_pages,
                          damaged_row,
                          unwritable_place,
                          nested_directory,
                          other_process_is_followed,
                          other_process_is_seen_by_the_next_write,
                          pruned_tombstones,
                          busy_file,
                          full_disk,
                          events_expire};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        tcase_add_test(tests, all[i]);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
