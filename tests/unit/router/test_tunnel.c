/* Bytes both ways: nothing lost, nothing held beyond the buffers, ends passed on, limits kept (lessons I19,
 * M3). */
#include "router/tunnel.h"

#include <check.h>
#include <sys/socket.h>

static uv_loop_t loop;
static int ends, activity;
static struct tunnel *tunnel;

static void on_activity(void *ctx) {
    (void)ctx;
    activity++;
}
static void on_end(void *ctx) {
    (void)ctx;
    ends++;
}
static const struct tunnel_events events = {on_activity, on_end};
static const struct tunnel_limits far_off = {60000, 60000, 60000, 5000};

/* Opens a tunnel between two new connections; the outer ends of both are returned. */
static void open_between(int outer[2], struct slice to_a, struct slice to_b,
                         const struct tunnel_limits *limits) {
    int a[2], b[2];
    ends = activity = 0;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, a), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, b), 0);
    outer[0] = a[0];
    outer[1] = b[0];
    tunnel = tunnel_open(&loop, a[1], b[1], to_a, to_b, limits, &events, NULL);
    ck_assert_ptr_nonnull(tunnel);
}

static void pump(void) {
    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static void finish(int outer[2]) {
    tunnel_close(tunnel);
    if (outer[0] >= 0) close(outer[0]);
    if (outer[1] >= 0) close(outer[1]);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static void expect(int fd, const char *want) {
    char got[4096];
    ssize_t n = read(fd, got, sizeof got - 1);
    ck_assert_int_ge(n, 0);
    got[n] = 0;
    ck_assert_str_eq(got, want);
}

START_TEST(bytes_pass_both_ways) {
    int o[2];
    open_between(o, slice_of("early "), slice_of("ahead "), &far_off);
    ck_assert_int_eq(write(o[0], "ping", 4), 4);
    ck_assert_int_eq(write(o[1], "pong", 4), 4);
    pump();
    expect(o[0], "early pong");
    expect(o[1], "ahead ping");
    ck_assert_int_eq(ends, 0);
    finish(o);
}
END_TEST

/* Both directions at once, the readers far slower than the writers: all arrives, in order. */
START_TEST(nothing_is_lost_under_back_pressure) {
    enum { TOTAL = 3000000 };
    int o[2];
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &far_off);
    size_t sent[2] = {0}, got[2] = {0}, wrong = 0;
    unsigned char out[70000], in[9973];
    while (got[0] < TOTAL || got[1] < TOTAL) {
        for (int i = 0; i < 2; i++) {
            size_t n = TOTAL - sent[i] < sizeof out ? TOTAL - sent[i] : sizeof out;
            for (size_t k = 0; k < n; k++)
                out[k] = (unsigned char)((sent[i] + k) * 31 >> 3);
            ssize_t w = n ? write(o[i], out, n) : 0;
            if (w > 0) sent[i] += (size_t)w;
        }
        uv_run(&loop, UV_RUN_NOWAIT);
        for (int i = 0; i < 2; i++) {
            ssize_t r = read(o[i], in, sizeof in);
            for (ssize_t k = 0; k < r; k++)
                wrong += in[k] != (unsigned char)((got[i] + (size_t)k) * 31 >> 3);
            if (r > 0) got[i] += (size_t)r;
        }
    }
    ck_assert_uint_eq(wrong, 0);
    ck_assert_int_eq(ends, 0);
    finish(o);
}
END_TEST

START_TEST(a_writer_is_stopped_when_nobody_reads) {
    int o[2];
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &far_off);
    static char block[65536];
    size_t sent = 0;
    for (int i = 0; i < 400; i++) {
        ssize_t n = write(o[0], block, sizeof block);
        if (n > 0) sent += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    ck_assert_uint_lt(sent, 4 * 1024 * 1024); /* the sockets' own buffers and one of ours */
    finish(o);
}
END_TEST

START_TEST(the_end_of_one_side_is_passed_on_and_the_other_may_go_on) {
    int o[2];
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &far_off);
    ck_assert_int_eq(write(o[0], "question", 8), 8);
    shutdown(o[0], SHUT_WR);
    pump();
    expect(o[1], "question");
    expect(o[1], "");
    ck_assert_int_eq(ends, 0);
    ck_assert_int_eq(write(o[1], "answer", 6), 6);
    pump();
    expect(o[0], "answer");
    shutdown(o[1], SHUT_WR);
    pump();
    expect(o[0], "");
    ck_assert_int_eq(ends, 1);
    finish(o);
}
END_TEST

START_TEST(what_waits_is_delivered_before_the_end) {
    int o[2];
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &far_off);
    static char block[65536];
    size_t sent = 0, got = 0;
    for (int i = 0; i < 50; i++) {
        ssize_t n = write(o[0], block, sizeof block);
        if (n > 0) sent += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    shutdown(o[0], SHUT_WR);
    for (;;) {
        uv_run(&loop, UV_RUN_NOWAIT);
        ssize_t n = read(o[1], block, sizeof block);
        if (n == 0) break;
        if (n > 0) got += (size_t)n;
    }
    ck_assert_uint_eq(got, sent);
    finish(o);
}
END_TEST

START_TEST(a_side_that_vanishes_ends_the_tunnel) {
    for (int side = 0; side < 2; side++) {
        int o[2];
        open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &far_off);
        close(o[side]);
        o[side] = -1;
        pump();
        ck_assert_int_eq(ends, 0); /* it may have ended its half only, as far as can be known */
        ck_assert_int_eq(write(o[1 - side], "x", 1), 1);
        pump();
        ck_assert_int_eq(ends, 1);
        finish(o);
    }
}
END_TEST

/* Runs the loop until the tunnel has ended; whether it did so within the time. */
static bool ends_within(uint64_t ms) {
    uint64_t until = uv_hrtime() + ms * 1000000;
    while (!ends && uv_hrtime() < until)
        uv_run(&loop, UV_RUN_ONCE);
    return ends == 1;
}

START_TEST(I19_limits_of_silence_and_age) {
    int o[2];
    static const struct tunnel_limits idle = {40, 60000, 60000, 10}, half = {60000, 60000, 40, 10},
                                      life = {60000, 60, 60000, 10};
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &idle);
    ck_assert(ends_within(5000));
    finish(o);
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &half);
    shutdown(o[0], SHUT_WR);
    ck_assert(ends_within(5000));
    finish(o);
    open_between(o, slice_make(NULL, 0), slice_make(NULL, 0), &life);
    uint64_t until = uv_hrtime() + 5000000000u;
    while (!ends && uv_hrtime() < until) { /* never silent */
        ck_assert_int_ge(write(o[0], "x", 1), 0);
        uv_run(&loop, UV_RUN_ONCE);
        char sink[64];
        (void)!read(o[1], sink, sizeof sink);
    }
    ck_assert_int_eq(ends, 1);
    ck_assert_int_ge(activity, 1);
    finish(o);
}
END_TEST

static void setup(void) {
    uv_loop_init(&loop);
}
static void teardown(void) {
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

int main(void) {
    Suite *s = suite_create("tunnel");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, bytes_pass_both_ways);
    tcase_add_test(c, nothing_is_lost_under_back_pressure);
    tcase_add_test(c, a_writer_is_stopped_when_nobody_reads);
    tcase_add_test(c, the_end_of_one_side_is_passed_on_and_the_other_may_go_on);
    tcase_add_test(c, what_waits_is_delivered_before_the_end);
    tcase_add_test(c, a_side_that_vanishes_ends_the_tunnel);
    tcase_add_test(c, I19_limits_of_silence_and_age);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
