/* The client of previewed applications against a scripted peer that cuts, lies, floods and stalls
 * (lessons S2, S16, S18, S19, I26). */
#include "router/upstream.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>

static uv_loop_t loop;
static struct upstream_pool *pool;

/* What happened to one exchange. */
struct seen {
    struct upstream *u;
    int heads, ends, errors, writables;
    int status;
    char code[40];
    bool unused, had_whole;
    struct buffer body;
    size_t accept; /* body bytes still taken; the rest is refused */
};

static void on_head(void *ctx, const struct http1_head *head, const struct slice *whole) {
    struct seen *s = ctx;
    s->heads++;
    s->status = head->status;
    s->had_whole = whole != NULL;
    if (whole) buffer_append(&s->body, whole->ptr, whole->len);
}

static size_t on_body(void *ctx, const char *data, size_t len) {
    struct seen *s = ctx;
    size_t taken = len < s->accept ? len : s->accept;
    ck_assert_uint_gt(len, 0);
    ck_assert_uint_le(len, UPSTREAM_BUFFER);
    buffer_append(&s->body, data, taken);
    s->accept -= taken;
    return taken;
}

static void on_writable(void *ctx) {
    ((struct seen *)ctx)->writables++;
}
static void on_end(void *ctx) {
    ((struct seen *)ctx)->ends++;
}
static void on_error(void *ctx, const struct error *err, bool unused) {
    struct seen *s = ctx;
    s->errors++;
    s->unused = unused;
    ck_assert_int_eq(err->status, 502);
    snprintf(s->code, sizeof s->code, "%s", err->code);
}
static const struct upstream_events events = {on_head, on_body, on_writable, on_end, on_error, NULL};

static void pump(void) {
    for (int i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

/* A connection to a peer whose end is returned. */
static int connect_to(struct seen *s, const char *uid, int port) {
    int fds[2];
    struct error err = {0};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    s->accept = SIZE_MAX;
    s->u = upstream_adopt(pool, uid, port, fds[0], &err);
    ck_assert_ptr_nonnull(s->u);
    return fds[1];
}

static const char get_head[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

static void send_get(struct seen *s) {
    upstream_send(s->u, "GET", slice_of(get_head), HTTP1_BODY_NONE, 0, &events, s);
}

static void say(int peer, const char *text, size_t len) {
    ck_assert_int_eq(write(peer, text, len), (ssize_t)len);
}

static void expect_at_peer(int peer, const char *want) {
    char got[4096];
    ssize_t n = read(peer, got, sizeof got - 1);
    ck_assert_int_ge(n, 0);
    got[n] = '\0';
    ck_assert_str_eq(got, want);
}

static void finish(struct seen *s) {
    upstream_close(s->u);
    buffer_free(&s->body);
    *s = (struct seen){.accept = SIZE_MAX};
}

static void setup(void) {
    uv_loop_init(&loop);
    pool = upstream_pool_new(&loop);
}

static void teardown(void) {
    upstream_pool_free(pool);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

/* Closed with bytes unread, a socket resets the connection. */
static void close_peer(int peer) {
    char sink[4096];
    while (read(peer, sink, sizeof sink) > 0)
        continue;
    close(peer);
}

/* One whole answer on a fresh connection. Returns whether it was reusable. */
static bool exchange(const char *method, const char *answer, size_t len, size_t step, bool close_after,
                     struct seen *s) {
    int peer = connect_to(s, "uid", 80);
    upstream_send(s->u, method, slice_of(get_head), HTTP1_BODY_NONE, 0, &events, s);
    pump();
    for (size_t at = 0; at < len; at += step) {
        if (send(peer, answer + at, len - at < step ? len - at : step, MSG_NOSIGNAL) < 0) break;
        pump();
    }
    if (close_after) {
        close_peer(peer);
        pump();
    }
    size_t idle = upstream_pool_idle(pool);
    upstream_close(s->u);
    s->u = NULL;
    bool reusable = upstream_pool_idle(pool) > idle;
    if (!close_after) close(peer);
    pump();
    ck_assert_uint_eq(upstream_pool_idle(pool), idle);
    ck_assert_int_eq(s->ends + s->errors <= 1, 1);
    return reusable;
}

static char *big_head(size_t value) {
    char *fill = malloc(value + 1);
    memset(fill, 'a', value);
    fill[value] = '\0';
    char *head = xasprintf("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Big: %s\r\n\r\n", fill);
    free(fill);
    return head;
}

START_TEST(answers_are_read_however_they_arrive) {
    static const struct {
        const char *method, *bytes, *body;
        bool close, reusable;
    } cases[] = {
        {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false, true},
        {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", false, true},
        {"GET",
         "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n",
         "abcde", false, true},
        {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", "ab", false, false},
        {"GET", "HTTP/1.0 200 OK\r\n\r\nuntil close", "until close", true, false},
        {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", false, false},
        {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", "ab", false,
         true},
        {"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
         "", false, true},
        {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", "", false, true},
        {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "", false, true},
        {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", false, true},
        /* more than was announced: the rest belongs to nobody, and the connection is not used again */
        {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n", "ab", false, false},
        {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t step = 1; step <= 1000; step = step < 10 ? step + 1 : step * 10) {
            struct seen s = {0};
            bool reusable =
                exchange(cases[i].method, cases[i].bytes, strlen(cases[i].bytes), step, cases[i].close, &s);
            ck_assert_msg(s.heads == 1 && s.ends == 1 && s.errors == 0, "case %zu step %zu: %s", i, step,
                          s.code);
            ck_assert_str_eq(buffer_cstr(&s.body), cases[i].body);
            /* Bytes too many that come after the end are seen when the connection is idle. */
            if (step == 1000) ck_assert_msg(reusable == cases[i].reusable, "case %zu", i);
            finish(&s);
        }
    }
}
END_TEST

START_TEST(bad_answers_are_errors) {
    static const struct {
        const char *bytes, *code;
        bool close;
        int heads; /* 1: the answer had begun */
    } cases[] = {
        {"", "upstream_reset", true, 0},
        {"HTTP/1.1 200 OK\r\nContent-Le", "upstream_reset", true, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "upstream_reset", true, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "upstream_reset", true, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "upstream_reset", true, 1},
        {"SSH-2.0-OpenSSH\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/2 200\r\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\n\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nA: b\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "upstream_bad_answer", false,
         0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "upstream_bad_answer",
         false, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "upstream_bad_answer", false, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "upstream_bad_answer", false,
         0},
        {"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "upstream_bad_answer", false,
         0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t step = 1; step <= 1000; step *= 1000) {
            struct seen s = {0};
            ck_assert(!exchange("GET", cases[i].bytes, strlen(cases[i].bytes), step, cases[i].close, &s));
            ck_assert_msg(s.errors == 1 && s.ends == 0, "case %zu step %zu", i, step);
            ck_assert_msg(!strcmp(s.code, cases[i].code), "case %zu step %zu: %s", i, step, s.code);
            if (step > 1) ck_assert_int_eq(s.heads, cases[i].heads);
            finish(&s);
        }
    }
}
END_TEST

START_TEST(heads_are_bounded) {
    struct seen s = {0};
    cleanup_free char *fits = big_head(60000), *big = big_head(70000);
    ck_assert(exchange("GET", fits, strlen(fits), 4096, false, &s));
    ck_assert_int_eq(s.ends, 1);
    finish(&s);
    ck_assert(!exchange("GET", big, strlen(big), 4096, false, &s));
    ck_assert_str_eq(s.code, "upstream_bad_answer");
    finish(&s);
    /* 1xx without end */
    struct buffer flood = {0};
    for (int i = 0; i < 40; i++)
        buffer_append_str(&flood, "HTTP/1.1 100 Continue\r\n\r\n");
    ck_assert(!exchange("GET", flood.data, flood.len, flood.len, false, &s));
    ck_assert_str_eq(s.code, "upstream_bad_answer");
    ck_assert_int_eq(s.heads, 0);
    finish(&s);
    buffer_free(&flood);
    /* too many headers */
    buffer_append_str(&flood, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 200; i++)
        buffer_append_str(&flood, "A: b\r\n");
    buffer_append_str(&flood, "\r\n");
    ck_assert(!exchange("GET", flood.data, flood.len, flood.len, false, &s));
    ck_assert_str_eq(s.code, "upstream_bad_answer");
    finish(&s);
    buffer_free(&flood);
}
END_TEST

START_TEST(first_event_passes_at_once) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    send_get(&s);
    static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    say(peer, head, sizeof head - 1);
    pump();
    ck_assert_int_eq(s.heads, 1);
    ck_assert(!s.had_whole);
    say(peer, "6\r\ndata:1", 9);
    pump();
    ck_assert_str_eq(buffer_cstr(&s.body), "data:1");
    close(peer);
    pump();
    ck_assert_int_eq(s.errors, 1);
    finish(&s);
}
END_TEST

START_TEST(slow_reader_stops_the_application) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    s.accept = 1000;
    send_get(&s);
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n";
    say(peer, head, sizeof head - 1);
    static char block[65536];
    memset(block, 'x', sizeof block);
    size_t sent = 0;
    for (int idle = 0; idle < 5;) {
        ssize_t n = write(peer, block, sizeof block);
        if (n > 0) sent += (size_t)n;
        idle = n > 0 ? 0 : idle + 1;
        pump();
    }
    /* Taken, one buffer of ours, the sockets'; no more. */
    ck_assert_uint_eq(s.body.len, 1000);
    ck_assert_uint_lt(sent, 1000000);
    /* The reader goes on, in pieces. */
    for (int i = 0; i < 2000 && !s.ends && !s.errors; i++) {
        s.accept = 30000;
        upstream_resume(s.u);
        size_t left = 8000000 - sent;
        if (left) {
            ssize_t n = write(peer, block, left < sizeof block ? left : sizeof block);
            if (n > 0) sent += (size_t)n;
        }
        pump();
    }
    ck_assert_int_eq(s.ends, 1);
    ck_assert_uint_eq(s.body.len, 8000000);
    finish(&s);
    close(peer);
}
END_TEST

START_TEST(eof_while_the_reader_is_slow_loses_nothing) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    s.accept = 3;
    send_get(&s);
    static const char answer[] = "HTTP/1.0 200 OK\r\n\r\n0123456789";
    say(peer, answer, sizeof answer - 1);
    close_peer(peer);
    pump();
    ck_assert_int_eq(s.ends, 0);
    s.accept = 4;
    upstream_resume(s.u);
    pump();
    ck_assert_int_eq(s.ends, 0);
    s.accept = 100;
    upstream_resume(s.u);
    pump();
    ck_assert_int_eq(s.ends, 1);
    ck_assert_str_eq(buffer_cstr(&s.body), "0123456789");
    finish(&s);
}
END_TEST

START_TEST(chunked_request_is_encoded) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    upstream_send(s.u, "POST", slice_of("POST / HTTP/1.1\r\n\r\n"), HTTP1_BODY_CHUNKED, 0, &events, &s);
    ck_assert_uint_eq(upstream_write(s.u, "hello", 5), 5);
    ck_assert_uint_eq(upstream_write(s.u, "", 0), 0);
    ck_assert_uint_eq(upstream_write(s.u, "0123456789abcdef!", 17), 17);
    upstream_finish(s.u);
    pump();
    expect_at_peer(peer, "POST / HTTP/1.1\r\n\r\n5\r\nhello\r\n11\r\n0123456789abcdef!\r\n0\r\n\r\n");
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    say(peer, answer, sizeof answer - 1);
    pump();
    ck_assert_int_eq(s.ends, 1);
    finish(&s);
    ck_assert_uint_eq(upstream_pool_idle(pool), 1);
    close(peer);
}
END_TEST

START_TEST(big_request_body_has_back_pressure) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    const size_t total = 5000000;
    upstream_send(s.u, "PUT", slice_of("PUT / HTTP/1.1\r\n\r\n"), HTTP1_BODY_LENGTH, total, &events, &s);
    cleanup_free char *body = malloc(total), *got = malloc(total + 100);
    for (size_t i = 0; i < total; i++)
        body[i] = (char)('a' + i % 23);
    size_t sent = 0, received = 0;
    while ((sent += upstream_write(s.u, body + sent, total - sent)) < total) {
        size_t stuck = sent;
        ck_assert_uint_eq(upstream_write(s.u, body + sent, total - sent), 0);
        ck_assert_uint_lt(sent - received, 1000000);
        int before = s.writables;
        while (s.writables == before) {
            ssize_t n = read(peer, got + received, total + 100 - received);
            if (n > 0) received += (size_t)n;
            pump();
        }
        ck_assert_uint_eq(stuck, sent);
    }
    ck_assert_uint_eq(upstream_write(s.u, "more", 4), 4); /* never more than was announced */
    upstream_finish(s.u);
    for (ssize_t n; (n = read(peer, got + received, total + 100 - received)) > 0; pump())
        received += (size_t)n;
    ck_assert_uint_eq(received, total + 18);
    ck_assert_int_eq(memcmp(got + 18, body, total), 0);
    finish(&s);
    close(peer);
}
END_TEST

START_TEST(short_body_does_not_look_complete) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    upstream_send(s.u, "PUT", slice_of("H\r\n\r\n"), HTTP1_BODY_LENGTH, 10, &events, &s);
    upstream_write(s.u, "abc", 3);
    upstream_finish(s.u);
    pump();
    expect_at_peer(peer, "H\r\n\r\nabc");
    expect_at_peer(peer, ""); /* end of stream */
    static const char answer[] = "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n";
    say(peer, answer, sizeof answer - 1);
    pump();
    ck_assert_int_eq(s.ends, 1);
    finish(&s);
    ck_assert_uint_eq(upstream_pool_idle(pool), 0);
    close(peer);
}
END_TEST

START_TEST(early_answer_survives_a_closed_request_side) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    upstream_send(s.u, "POST", slice_of("H\r\n\r\n"), HTTP1_BODY_CHUNKED, 0, &events, &s);
    expect_at_peer(peer, "H\r\n\r\n");
    static const char answer[] = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig";
    say(peer, answer, sizeof answer - 1);
    close(peer);
    static char block[100000];
    ck_assert_uint_eq(upstream_write(s.u, block, sizeof block), sizeof block); /* dropped */
    pump();
    ck_assert_int_eq(s.ends, 1);
    ck_assert_int_eq(s.status, 413);
    ck_assert_str_eq(buffer_cstr(&s.body), "big");
    ck_assert_uint_eq(upstream_write(s.u, block, sizeof block), sizeof block);
    finish(&s);
}
END_TEST

/* ---- The pool ---- */

static const char ok_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static int idle_connection(const char *uid, int port) {
    struct seen s = {0};
    int peer = connect_to(&s, uid, port);
    send_get(&s);
    expect_at_peer(peer, get_head);
    say(peer, ok_answer, sizeof ok_answer - 1);
    pump();
    ck_assert_int_eq(s.ends, 1);
    finish(&s);
    return peer;
}

START_TEST(idle_connections_belong_to_their_target) {
    int peer = idle_connection("uid-a", 80);
    ck_assert_uint_eq(upstream_pool_idle(pool), 1);
    ck_assert_ptr_null(upstream_reuse(pool, "uid-b", 80, UPSTREAM_IDLE_MS, true));
    ck_assert_ptr_null(upstream_reuse(pool, "uid-a", 81, UPSTREAM_IDLE_MS, true));
    struct seen s = {.accept = SIZE_MAX};
    s.u = upstream_reuse(pool, "uid-a", 80, UPSTREAM_IDLE_MS, true);
    ck_assert_ptr_nonnull(s.u);
    ck_assert_ptr_null(upstream_reuse(pool, "uid-a", 80, UPSTREAM_IDLE_MS, true));
    send_get(&s);
    expect_at_peer(peer, get_head);
    say(peer, ok_answer, sizeof ok_answer - 1);
    pump();
    ck_assert_int_eq(s.ends, 1);
    finish(&s);
    ck_assert_uint_eq(upstream_pool_idle(pool), 1);
    close(peer);
}
END_TEST

START_TEST(closed_or_talking_connections_are_dropped) {
    close(idle_connection("uid", 80));
    ck_assert_uint_eq(upstream_pool_idle(pool), 1);
    /* before the loop has seen it */
    ck_assert_ptr_null(upstream_reuse(pool, "uid", 80, UPSTREAM_IDLE_MS, true));
    ck_assert_uint_eq(upstream_pool_idle(pool), 0);
    int peer = idle_connection("uid", 80);
    say(peer, "HTTP/1.1 200 OK\r\n\r\n", 19); /* an answer to no question */
    ck_assert_ptr_null(upstream_reuse(pool, "uid", 80, UPSTREAM_IDLE_MS, true));
    close(peer);
    peer = idle_connection("uid", 80);
    close(peer);
    pump();
    ck_assert_uint_eq(upstream_pool_idle(pool), 0);
    peer = idle_connection("uid", 80);
    usleep(30000);
    uv_update_time(&loop);
    ck_assert_ptr_null(upstream_reuse(pool, "uid", 80, 10, true)); /* idle for too long for this request */
    ck_assert_uint_eq(upstream_pool_idle(pool), 1);
    close(peer);
}
END_TEST

START_TEST(a_reused_connection_that_dies_was_unused) {
    int peer = idle_connection("uid", 80);
    struct seen s = {.accept = SIZE_MAX};
    s.u = upstream_reuse(pool, "uid", 80, UPSTREAM_IDLE_MS, true);
    send_get(&s);
    close(peer);
    pump();
    ck_assert_int_eq(s.errors, 1);
    ck_assert(s.unused);
    ck_assert_str_eq(s.code, "upstream_reset");
    finish(&s);
    peer = idle_connection("uid", 80);
    s.u = upstream_reuse(pool, "uid", 80, UPSTREAM_IDLE_MS, true);
    send_get(&s);
    say(peer, "H", 1);
    close(peer);
    pump();
    ck_assert_int_eq(s.errors, 1);
    ck_assert(!s.unused);
    finish(&s);
}
END_TEST

START_TEST(the_pool_is_bounded) {
    int peers[UPSTREAM_MAX_IDLE + 100];
    size_t n = 0;
    for (int i = 0; i < UPSTREAM_MAX_TARGET; i++)
        peers[n++] = idle_connection("uid", 80);
    /* Another exchange of the same target while all are idle is not kept. */
    peers[n++] = idle_connection("uid", 80);
    ck_assert_uint_eq(upstream_pool_idle(pool), UPSTREAM_MAX_TARGET);
    for (int i = 0; i < UPSTREAM_MAX_IDLE; i++)
        peers[n++] = idle_connection("other", 1000 + i);
    ck_assert_uint_eq(upstream_pool_idle(pool), UPSTREAM_MAX_IDLE);
    ck_assert_ptr_null(upstream_reuse(pool, "uid", 80, UPSTREAM_IDLE_MS, true)); /* the oldest went */
    char long_uid[100];
    memset(long_uid, 'u', sizeof long_uid);
    long_uid[99] = '\0';
    peers[n++] = idle_connection(long_uid, 80); /* no key for it: never kept */
    ck_assert_uint_eq(upstream_pool_idle(pool), UPSTREAM_MAX_IDLE);
    for (int i = 0; i < UPSTREAM_MAX_ACTIVE; i++)
        ck_assert(upstream_pool_admit(pool));
    ck_assert(!upstream_pool_admit(pool));
    upstream_pool_leave(pool);
    ck_assert(upstream_pool_admit(pool));
    while (n)
        close(peers[--n]);
}
END_TEST

START_TEST(close_in_the_middle_is_safe) {
    struct seen s = {0};
    int peer = connect_to(&s, "uid", 80);
    send_get(&s);
    say(peer, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 41);
    pump();
    finish(&s);
    ck_assert_uint_eq(upstream_pool_idle(pool), 0);
    close(peer);
    peer = connect_to(&s, "uid", 80);
    finish(&s); /* never sent */
    close(peer);
    pump();
}
END_TEST

static size_t close_on_body(void *ctx, const char *data, size_t len) {
    struct seen *s = ctx;
    (void)data;
    upstream_close(s->u);
    s->u = NULL;
    return len / 2;
}

static void close_on_head(void *ctx, const struct http1_head *head, const struct slice *whole) {
    (void)head, (void)whole;
    close_on_body(ctx, NULL, 0);
}

START_TEST(close_within_an_event_is_safe) {
    static const struct upstream_events on_body_events = {on_head, close_on_body, on_writable,
                                                          on_end,  on_error,      NULL};
    static const struct upstream_events on_head_events = {close_on_head, on_body,  on_writable,
                                                          on_end,        on_error, NULL};
    for (size_t step = 1; step <= 100; step *= 100) {
        for (int which = 0; which < 2; which++) {
            struct seen s = {0};
            int peer = connect_to(&s, "uid", 80);
            upstream_send(s.u, "GET", slice_of(get_head), HTTP1_BODY_NONE, 0,
                          which ? &on_body_events : &on_head_events, &s);
            static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcd";
            for (size_t at = 0; at < sizeof answer - 1 && s.u; at += step) {
                say(peer, answer + at, sizeof answer - 1 - at < step ? sizeof answer - 1 - at : step);
                pump();
            }
            ck_assert_ptr_null(s.u);
            ck_assert_int_eq(s.ends + s.errors, 0);
            close(peer);
            pump();
        }
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("upstream");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 30);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, answers_are_read_however_they_arrive);
    tcase_add_test(c, bad_answers_are_errors);
    tcase_add_test(c, heads_are_bounded);
    tcase_add_test(c, first_event_passes_at_once);
    tcase_add_test(c, slow_reader_stops_the_application);
    tcase_add_test(c, eof_while_the_reader_is_slow_loses_nothing);
    tcase_add_test(c, chunked_request_is_encoded);
    tcase_add_test(c, big_request_body_has_back_pressure);
    tcase_add_test(c, short_body_does_not_look_complete);
    tcase_add_test(c, early_answer_survives_a_closed_request_side);
    tcase_add_test(c, idle_connections_belong_to_their_target);
    tcase_add_test(c, closed_or_talking_connections_are_dropped);
    tcase_add_test(c, a_reused_connection_that_dies_was_unused);
    tcase_add_test(c, the_pool_is_bounded);
    tcase_add_test(c, close_in_the_middle_is_safe);
    tcase_add_test(c, close_within_an_event_is_safe);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
