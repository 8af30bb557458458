/* kill -9 at any moment: what was acknowledged is there afterwards. */
#include "tests/unit/local/fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS     30
#define LEAST      4 /* however slow the machine is */
#define SECONDS    20
#define MAX_WRITES 100000

/* Creates, changes and deletes until it is killed; after each write one int goes to the pipe. */
static int write_until_killed(int from) {
    struct error err = {0};
    struct store *mine = local_store_open(state_dir, &err);
    if (mine == NULL) return 1;
    for (int n = from; n < MAX_WRITES; n++) {
        char name[32];
        snprintf(name, sizeof(name), "w%d", n);
        cleanup_json json_t *json = json_pack("{s:{s:s,s:s},s:{s:i}}", "metadata", "name", name, "namespace",
                                              "default", "spec", "n", n);
        if (!mine->ops->create(mine, KIND_SANDBOX, json, NULL, &err)) return 2;
        cleanup_json json_t *status = json_pack("{s:{s:i}}", "status", "n", n);
        if (!mine->ops->patch(mine, KIND_SANDBOX, STORE_STATUS, "default", name, status, NULL, NULL, &err))
            return 3;
        /* The one before the last is taken away again. */
        snprintf(name, sizeof(name), "w%d", n - 2);
        if (n % 2 == 0 && n >= from + 2 &&
            !mine->ops->remove(mine, KIND_SANDBOX, "default", name, NULL, &err)) {
            return 4;
        }
        if (write(1, &n, sizeof(n)) != sizeof(n)) return 5;
    }
    return 0;
}

/* The state after write n of a run that began with `from`. */
static void check_run(int from, int n) {
    char name[32];
    for (int i = from; i <= n; i++) {
        snprintf(name, sizeof(name), "w%d", i);
        cleanup_object struct object *o = store->ops->get(store, KIND_SANDBOX, "default", name);
        bool removed = i % 2 == 0 && i + 2 <= n;
        /* The write after the last acknowledged one may be there or not. */
        if (!removed && i % 2 == 0 && i + 2 == n + 1) continue;
        ck_assert_msg((o == NULL) == removed, "%s of %d..%d", name, from, n);
        if (o != NULL) ck_assert_int_eq(json_integer_value(json_at(o->json, "status.n")), i);
    }
}

START_TEST(acknowledged_writes_survive) {
    local_store_close(store);
    int from = 0;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int round = 0; round < ROUNDS; round++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (round >= LEAST && now.tv_sec - start.tv_sec >= SECONDS) break;
        int pipe_fds[2];
        ck_assert_int_eq(pipe(pipe_fds), 0);
        char first[16];
        snprintf(first, sizeof(first), "%d", from);
        pid_t pid = fork();
        if (pid == 0) {
            dup2(pipe_fds[1], 1);
            execl("/proc/self/exe", "test_crash", state_dir, first, NULL);
            _exit(127);
        }
        close(pipe_fds[1]);
        int n, last = -1;
        ck_assert_int_eq(read(pipe_fds[0], &n, sizeof(n)), sizeof(n)); /* it runs */
        last = n;
        usleep((useconds_t)(random() % 60000));
        kill(pid, SIGKILL);
        while (read(pipe_fds[0], &n, sizeof(n)) == sizeof(n))
            last = n;
        close(pipe_fds[0]);
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status));

        store = open_store();
        check_run(from, last);
        from = last + 10; /* names that the killed run cannot have used */
        local_store_close(store);
    }
    store = open_store();
    ck_assert_int_gt(from, ROUNDS);
}
END_TEST

int main(int argc, char **argv) {
    if (argc == 3) {
        snprintf(state_dir, sizeof(state_dir), "%s", argv[1]);
        return write_until_killed(atoi(argv[2]));
    }
    Suite *suite = suite_create("crash");
    TCase *tests = tcase_create("kill -9");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, acknowledged_writes_survive);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
