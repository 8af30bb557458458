/* The byte stream to an apiserver: nobody waits for room that was there and of which nothing was said. */
#include "k8s/tls_stream.h"
#include "tests/unit/common/suite.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

static uv_loop_t loop;
static struct tls_stream *stream;
static uv_timer_t deadline;
static int writable, peer = -1;
static size_t written;
static pthread_t reader;

static void *read_all(void *ctx) {
    static char sink[1 << 16];
    (void)ctx;
    for (size_t n = 0; n < written;) {
        ssize_t got = recv(peer, sink, sizeof sink, 0);
        if (got <= 0) break;
        n += (size_t)got;
    }
    return NULL;
}

static void on_deadline(uv_timer_t *timer) {
    (void)timer;
    uv_stop(&loop);
}

/* Fills it to the brim with writes that are taken whole, then lets the peer read. */
static void on_connected(void *ctx) {
    static const char data[1 << 16];
    for (size_t room; (room = tls_stream_room(stream)) > 0; written += room)
        ck_assert_uint_eq(tls_stream_write(stream, data, room), room);
    peer = accept(*(int *)ctx, NULL, NULL);
    ck_assert_int_ge(peer, 0);
    ck_assert_int_eq(pthread_create(&reader, NULL, read_all, NULL), 0);
}

static void on_readable(void *ctx) {
    (void)ctx;
}

static void on_writable(void *ctx) {
    (void)ctx;
    writable++;
    ck_assert_uint_gt(tls_stream_room(stream), 0);
    uv_stop(&loop);
}

static void on_error(void *ctx, const struct error *err) {
    (void)ctx;
    ck_abort_msg("%s", err->message);
}

static int listen_at(struct sockaddr_in *at) {
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof *at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(listener >= 0 && bind(listener, (struct sockaddr *)at, sizeof *at) == 0);
    ck_assert(listen(listener, 1) == 0 && getsockname(listener, (struct sockaddr *)at, &len) == 0);
    return listener;
}

START_TEST(a_write_that_leaves_no_room_is_followed_by_word_of_room) {
    static const struct tls_stream_events events = {.on_connected = on_connected,
                                                    .on_readable = on_readable,
                                                    .on_writable = on_writable,
                                                    .on_error = on_error};
    struct sockaddr_in at;
    int listener = listen_at(&at);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &deadline);
    uv_timer_start(&deadline, on_deadline, 60000, 0);
    stream = tls_stream_open(&loop, "127.0.0.1", ntohs(at.sin_port), NULL, NULL, &events, &listener);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(writable, 1);
    tls_stream_close(stream);
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    pthread_join(reader, NULL);
    close(peer);
    close(listener);
}
END_TEST

static uv_sem_t gate;
static bool connected, late;

static void on_connected_only(void *ctx) {
    (void)ctx;
    connected = true;
    uv_sem_post(&gate);
    uv_stop(&loop);
}

static void wait_for_connection(uv_work_t *work) {
    (void)work;
    uv_sem_wait(&gate);
}

static void waited(uv_work_t *work, int status) {
    (void)work, (void)status;
}

static void on_late(uv_timer_t *timer) {
    (void)timer;
    late = true;
    uv_sem_post(&gate);
    uv_stop(&loop);
}

START_TEST(an_address_waits_for_no_worker) {
    static const struct tls_stream_events events = {.on_connected = on_connected_only,
                                                    .on_readable = on_readable,
                                                    .on_writable = on_writable,
                                                    .on_error = on_error};
    struct sockaddr_in at;
    int listener = listen_at(&at);
    setenv("UV_THREADPOOL_SIZE", "1", 1);
    uv_loop_init(&loop);
    ck_assert_int_eq(uv_sem_init(&gate, 0), 0);
    uv_work_t busy; /* the only worker, until there is a connection */
    uv_queue_work(&loop, &busy, wait_for_connection, waited);
    uv_timer_init(&loop, &deadline);
    uv_timer_start(&deadline, on_late, 60000, 0);
    stream = tls_stream_open(&loop, "127.0.0.1", ntohs(at.sin_port), NULL, NULL, &events, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert(connected && !late);
    tls_stream_close(stream);
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    uv_sem_destroy(&gate);
    close(listener);
}
END_TEST

RUN_SUITE("tls_stream", a_write_that_leaves_no_room_is_followed_by_word_of_room,
          an_address_waits_for_no_worker)
