/* A client's WebSocket: deadlines, back-pressure, ends, and the budget of large messages
 * (http-api.md 1.13, 2.12; W-64; lessons I28, S22). */
#include "common/websocket.h"
#include "router/terminals.h"
#include "router/websocket_conn.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

static uv_loop_t loop;
static struct websocket_conn *conn;
static int peer;
static _Atomic int64_t held;
static int messages, pings, rooms, ends;
static unsigned end_code;
static struct buffer last;
static bool pause_on_message;

static const struct websocket_conn_limits patient = {.message_max = 200000,
                                                     .ping_ms = 60000,
                                                     .silence_ms = 60000,
                                                     .stall_ms = 60000,
                                                     .close_ms = 60000,
                                                     .held = &held,
                                                     .held_max = 1000000};

static void on_message(void *ctx, struct slice message) {
    (void)ctx;
    messages++;
    buffer_clear(&last);
    if (message.len) buffer_append(&last, message.ptr, message.len);
    if (pause_on_message) websocket_conn_pause(conn);
}
static void on_ping(void *ctx) {
    (void)ctx;
    pings++;
}
static void on_room(void *ctx) {
    (void)ctx;
    rooms++;
}
static void on_end(void *ctx, unsigned code) {
    (void)ctx;
    ck_assert_int_eq(ends++, 0);
    end_code = code;
}
static const struct websocket_conn_events events = {on_message, on_ping, on_room, on_end};

static void open_with(struct slice ahead, const struct websocket_conn_limits *limits) {
    int pair[2];
    messages = pings = rooms = ends = 0;
    pause_on_message = false;
    uv_loop_init(&loop);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    peer = pair[0];
    conn = websocket_conn_open(&loop, pair[1], ahead, limits, &events, NULL);
    ck_assert_ptr_nonnull(conn);
}

static void pump(void) {
    for (int i = 0; i < 30; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

/* Until the connection has ended. */
static void drain(void) {
    while (!ends)
        uv_run(&loop, UV_RUN_ONCE);
}

static void done(void) {
    websocket_conn_free(conn);
    if (peer >= 0) close(peer);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ck_assert_int_eq(atomic_load(&held), 0);
    buffer_free(&last);
}

static void put(enum websocket_opcode opcode, const char *text, size_t len, struct buffer *out) {
    static const unsigned char mask[4] = {1, 2, 3, 4};
    websocket_put_masked(out, opcode, slice_make(text, len), mask);
}

static void say(enum websocket_opcode opcode, const char *text, size_t len) {
    cleanup_buffer struct buffer out = {0};
    put(opcode, text, len, &out);
    for (size_t sent = 0; sent < out.len;) {
        ssize_t n = send(peer, out.data + sent, out.len - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        if (n < 0) ck_assert_int_eq(errno, EAGAIN);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    pump();
}

/* What the client has got. */
static size_t hear(char *out, size_t cap) {
    pump();
    ssize_t n = recv(peer, out, cap, 0);
    return n > 0 ? (size_t)n : 0;
}

START_TEST(messages_and_answers) {
    cleanup_buffer struct buffer ahead = {0};
    char got[64];
    put(WEBSOCKET_TEXT, "early", 5, &ahead);
    open_with(slice_make(ahead.data, ahead.len - 1), &patient);
    pump();
    ck_assert_int_eq(messages, 0); /* its last byte is missing */
    ck_assert_int_eq(send(peer, ahead.data + ahead.len - 1, 1, 0), 1);
    pump();
    ck_assert_int_eq(messages, 1);
    ck_assert_str_eq(buffer_cstr(&last), "early");
    say(WEBSOCKET_BINARY, "bytes", 5);
    ck_assert_int_eq(messages, 2);
    say(WEBSOCKET_PING, "p", 1);
    websocket_conn_send(conn, slice_of("hi"));
    ck_assert_uint_eq(hear(got, sizeof got), 7);
    ck_assert_mem_eq(got, "\x8a\x01p\x81\x02hi", 7);
    ck_assert_int_eq(atomic_load(&held), 0); /* idle */
    done();
}
END_TEST

START_TEST(ends_of_all_kinds) {
    static const struct {
        enum websocket_opcode opcode;
        const char *payload;
        size_t len;
        unsigned code;
    } cases[] = {{WEBSOCKET_CLOSE, "", 0, 1000},
                 {WEBSOCKET_CLOSE, "\x0f\xa0", 2, 4000},
                 {WEBSOCKET_CLOSE, "\x03\xed", 2, 1002},
                 {WEBSOCKET_TEXT, "\xff", 1, 1007},
                 {WEBSOCKET_CONTINUATION, "x", 1, 1002}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[8];
        open_with(slice_make(NULL, 0), &patient);
        say(cases[i].opcode, cases[i].payload, cases[i].len);
        ck_assert_uint_ge(hear(got, sizeof got), 4);
        ck_assert_uint_eq((unsigned char)got[0], 0x88);
        ck_assert_uint_eq((unsigned)(unsigned char)got[2] << 8 | (unsigned char)got[3], cases[i].code);
        /* Whoever has seen it closes; until then what they send is dropped. */
        shutdown(peer, SHUT_WR);
        drain();
        ck_assert_uint_eq(end_code, cases[i].code);
        done();
    }
}
END_TEST

START_TEST(a_client_that_vanishes) {
    for (int paused = 0; paused < 2; paused++) {
        open_with(slice_make(NULL, 0), &patient);
        if (paused) websocket_conn_pause(conn);
        close(peer);
        peer = -1;
        drain();
        ck_assert_uint_eq(end_code, 1006);
        done();
    }
}
END_TEST

START_TEST(our_close_does_not_wait_for_ever) {
    struct websocket_conn_limits limits = patient;
    char got[64];
    limits.close_ms = 50;
    open_with(slice_make(NULL, 0), &limits);
    websocket_conn_send(conn, slice_of("bye"));
    websocket_conn_close(conn, 1012, "");
    websocket_conn_close(conn, 1000, ""); /* the first one counts */
    websocket_conn_send(conn, slice_of("too late"));
    drain();
    ck_assert_uint_eq(end_code, 1012);
    ck_assert_uint_eq(hear(got, sizeof got), 9);
    ck_assert_mem_eq(got,
                     "\x81\x03"
                     "bye\x88\x02\x03\xf4",
                     9);
    done();
}
END_TEST

#define SILENCE_MS 2000

/* Pongs for twice the deadline. False: no evidence, as this thread was held up and may have been silent for
 * that long. */
static bool is_kept_by_pongs(const struct websocket_conn_limits *limits) {
    char got[4096];
    uint64_t began = uv_hrtime(), said = began, now;
    open_with(slice_make(NULL, 0), limits);
    do {
        uint64_t before = said;
        said = uv_hrtime();
        say(WEBSOCKET_PONG, "", 0);
        hear(got, sizeof got);
        now = uv_hrtime();
        if (now - before >= (SILENCE_MS - 100) * 1000000ull) return false;
        ck_assert_int_eq(ends, 0);
    } while (now - began < 2 * SILENCE_MS * 1000000ull);
    return true;
}

START_TEST(silence_and_pongs) {
    struct websocket_conn_limits limits = patient;
    limits.ping_ms = 20;
    limits.silence_ms = SILENCE_MS;
    limits.close_ms = 20;
    while (!is_kept_by_pongs(&limits))
        done();
    ck_assert_int_gt(pings, 5);
    /* Messages alone keep nobody alive, as it is for published clients. */
    uint64_t until = uv_hrtime() + 20000000000;
    while (!ends && uv_hrtime() < until)
        if (!ends) say(WEBSOCKET_TEXT, "x", 1);
    ck_assert_int_eq(ends, 1);
    done();
}
END_TEST

START_TEST(a_paused_client_may_be_silent) {
    struct websocket_conn_limits limits = patient;
    limits.ping_ms = limits.close_ms = 20;
    limits.silence_ms = 1500;
    open_with(slice_make(NULL, 0), &limits);
    pause_on_message = true;
    say(WEBSOCKET_TEXT, "one", 3);
    say(WEBSOCKET_TEXT, "two", 3);
    ck_assert_int_eq(messages, 1);
    uint64_t until = uv_hrtime() + 2000000000;
    while (uv_hrtime() < until)
        uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(ends, 0);
    websocket_conn_resume(conn);
    pump();
    ck_assert_int_eq(messages, 2);
    ck_assert_str_eq(buffer_cstr(&last), "two");
    done();
}
END_TEST

START_TEST(who_reads_nothing_is_given_up) {
    struct websocket_conn_limits limits = patient;
    limits.stall_ms = 2000;
    limits.close_ms = 50;
    open_with(slice_make(NULL, 0), &limits);
    cleanup_free char *text = xcalloc(1, 40000);
    memset(text, 'x', 40000);
    int sent = 0;
    while (!websocket_conn_full(conn) && ++sent < 1000)
        websocket_conn_send(conn, slice_make(text, 40000));
    ck_assert_int_lt(sent, 1000);
    ck_assert_int_gt(atomic_load(&held), 65536);
    ck_assert_int_eq(rooms, 0);
    /* A reader makes room. */
    char got[65536];
    for (int i = 0; i < 200 && !rooms; i++)
        hear(got, sizeof got);
    ck_assert_int_eq(rooms, 1);
    while (!websocket_conn_full(conn))
        websocket_conn_send(conn, slice_make(text, 40000));
    drain();
    ck_assert_uint_eq(end_code, 1006);
    done();
}
END_TEST

START_TEST(long_messages_and_the_budget) {
    struct websocket_conn_limits limits = patient;
    cleanup_free char *text = xcalloc(1, 300000);
    char got[128];
    memset(text, 'x', 300000);
    open_with(slice_make(NULL, 0), &limits);
    say(WEBSOCKET_TEXT, text, 200000);
    ck_assert_int_eq(messages, 1);
    ck_assert_uint_eq(last.len, 200000);
    say(WEBSOCKET_TEXT, text, 200001);
    shutdown(peer, SHUT_WR);
    drain();
    ck_assert_uint_eq(end_code, 1009);
    done();
    /* The budget is shared: others hold all of it. */
    limits.held_max = 100000;
    atomic_store(&held, 90000);
    open_with(slice_make(NULL, 0), &limits);
    say(WEBSOCKET_TEXT, text, 30000);
    ck_assert_int_eq(messages, 1);
    cleanup_buffer struct buffer frame = {0};
    put(WEBSOCKET_TEXT, text, 150000, &frame);
    for (size_t sent = 0; sent < frame.len - 1 && !ends;) { /* never whole */
        ssize_t n = send(peer, frame.data + sent, frame.len - 1 - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        pump();
    }
    ck_assert_uint_ge(hear(got, sizeof got), 4);
    ck_assert_uint_eq((unsigned)(unsigned char)got[2] << 8 | (unsigned char)got[3], 1013);
    shutdown(peer, SHUT_WR);
    drain();
    ck_assert_int_eq(messages, 1);
    atomic_fetch_sub(&held, 90000);
    done();
}
END_TEST

START_TEST(W71_counts_of_terminals) {
    struct terminals *t = terminals_new(2, 3);
    struct error err = {0};
    ck_assert(terminals_admit(t, "a", "s1", &err) && terminals_admit(t, "a", "s2", &err));
    ck_assert(!terminals_admit(t, "a", "s3", &err));
    ck_assert_int_eq(err.status, 429);
    error_clear(&err);
    ck_assert(terminals_admit(t, "b", "s1", &err) && terminals_admit(t, "b", "s1", &err));
    ck_assert(!terminals_admit(t, "c", "s1", &err) && err.retry_after > 0);
    error_clear(&err);
    terminals_leave(t, "a", "s1", TERMINAL_CLIENT_LEFT);
    ck_assert(terminals_admit(t, "c", "s1", &err));
    cleanup_buffer struct buffer text = {0};
    terminals_render(t, &text);
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&text), "\nagenttier_terminals 4\n"));
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&text), "\nagenttier_terminals_refused_total 2\n"));
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&text), "{reason=\"client_left\"} 1\n"));
    terminals_free(t);
    t = terminals_new(0, 0);
    for (int i = 0; i < 1000; i++)
        ck_assert(terminals_admit(t, "a", "s", &err));
    for (int i = 0; i < 1000; i++)
        terminals_leave(t, "a", "s", TERMINAL_SHELL_ENDED);
    terminals_free(t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("websocket_conn");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, messages_and_answers);
    tcase_add_test(c, ends_of_all_kinds);
    tcase_add_test(c, a_client_that_vanishes);
    tcase_add_test(c, our_close_does_not_wait_for_ever);
    tcase_add_test(c, silence_and_pongs);
    tcase_add_test(c, a_paused_client_may_be_silent);
    tcase_add_test(c, who_reads_nothing_is_given_up);
    tcase_add_test(c, long_messages_and_the_budget);
    tcase_add_test(c, W71_counts_of_terminals);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
