/* The work queue: never two passes for one key, none lost, times and pauses kept. */
#include "common/bytes.h"
#include "common/units.h"
#include "controller/queue.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define KEYS 50

static struct {
    _Atomic int busy[KEYS], passes[KEYS], overlaps, done, failures_left;
    _Atomic int64_t answer, last_ms;
    _Atomic bool spread; /* the first pass of each key asks for a second one, at a time of its own */
} seen;

/* Counted at its very end, so that a test may set the next answer when it sees the count. */
static int64_t pass(void *ctx, const char *key, void **memory) {
    (void)ctx;
    int i = atoi(key);
    if (atomic_fetch_add(&seen.busy[i], 1) > 0) seen.overlaps++;
    if (!*memory) *memory = xcalloc(1, sizeof(int));
    ++*(int *)*memory;
    usleep(200);
    int64_t answer = seen.answer;
    if (answer > 0) seen.answer = PASS_NONE;
    if (seen.spread) answer = seen.passes[i] == 0 ? 5 + (i * 37) % 50 : PASS_NONE;
    if (seen.failures_left > 0 && seen.failures_left-- > 0) answer = PASS_FAILED;
    seen.last_ms = monotonic_ms();
    seen.busy[i]--;
    seen.passes[i]++;
    return answer;
}

static void until(_Atomic int *counter, int n) {
    for (int i = 0; i < 60000 && *counter < n; i++)
        usleep(1000);
    ck_assert_int_ge(*counter, n);
}

static struct queue *start(int workers) {
    memset(&seen, 0, sizeof seen);
    seen.answer = PASS_NONE;
    return queue_start(workers, pass, NULL);
}

static void *add_many(void *arg) {
    for (int round = 0; round < 200; round++) {
        char key[8];
        snprintf(key, sizeof key, "%d", (round * 7) % KEYS);
        queue_add(*(struct queue **)arg, key);
    }
    return NULL;
}

START_TEST(never_two_passes_for_one_key) {
    struct queue *q = start(10);
    queue_pause(q, false);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, add_many, &q), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    /* What is asked for now leads to a pass that begins after it. */
    int before = seen.passes[3];
    queue_add(q, "3");
    until(&seen.passes[3], before + 1);
    queue_stop(q);
    ck_assert_int_eq(seen.overlaps, 0);
}
END_TEST

START_TEST(paused_it_keeps_what_is_asked) {
    struct queue *q = start(2);
    queue_add(q, "1");
    queue_add(q, "1");
    usleep(20000);
    ck_assert_int_eq(seen.passes[1], 0);
    ck_assert_uint_eq(queue_depth(q), 1);
    queue_pause(q, false);
    until(&seen.passes[1], 1);
    usleep(20000);
    ck_assert_int_eq(seen.passes[1], 1);
    queue_pause(q, true);
    queue_add(q, "2");
    usleep(20000);
    ck_assert_int_eq(seen.passes[2], 0);
    queue_stop(q);
}
END_TEST

START_TEST(times) {
    struct queue *q = start(2);
    queue_pause(q, false);
    seen.answer = 60;
    int64_t begun = monotonic_ms();
    queue_add(q, "4");
    until(&seen.passes[4], 2);
    ck_assert_int_ge(seen.last_ms - begun, 60);
    ck_assert_int_lt(seen.last_ms - begun, 20000); /* not the failures' pause, which grows to 30 s */
    /* An event comes before the time, which then is another. */
    seen.answer = 100000;
    queue_add(q, "4");
    until(&seen.passes[4], 3);
    queue_add(q, "4");
    until(&seen.passes[4], 4);
    queue_stop(q);
}
END_TEST

START_TEST(many_times_in_order) {
    struct queue *q = start(1);
    seen.spread = true;
    queue_pause(q, false);
    for (int i = 0; i < KEYS; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        queue_add(q, key);
    }
    for (int i = 0; i < KEYS; i++)
        until(&seen.passes[i], 2);
    queue_stop(q);
}
END_TEST

START_TEST(failures_wait_longer_each_time) {
    struct queue *q = start(1);
    queue_pause(q, false);
    seen.failures_left = 5;
    int64_t begun = monotonic_ms();
    queue_add(q, "5");
    until(&seen.passes[5], 6);
    ck_assert_int_ge(seen.last_ms - begun, 5 + 10 + 20 + 40 + 80);
    queue_stop(q);
}
END_TEST

START_TEST(forgotten_keys_begin_anew) {
    struct queue *q = start(1);
    queue_pause(q, false);
    seen.answer = PASS_FORGET;
    queue_add(q, "6");
    until(&seen.passes[6], 1);
    queue_add(q, "6");
    until(&seen.passes[6], 2);
    queue_stop(q);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("queue");
    TCase *tc = tcase_create("queue");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, never_two_passes_for_one_key);
    tcase_add_test(tc, paused_it_keeps_what_is_asked);
    tcase_add_test(tc, times);
    tcase_add_test(tc, many_times_in_order);
    tcase_add_test(tc, failures_wait_longer_each_time);
    tcase_add_test(tc, forgotten_keys_begin_anew);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
