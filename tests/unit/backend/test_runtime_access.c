/* runtime_access against a scripted runtime on a UNIX socket that delays, cuts and lies. */
#include "backend/runtime_access.h"
#include "backend/runtime_wire.h"
#include "common/frames.h"
#include "common/json.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef void serve_fn(int conn, const char *request);

static struct {
    char path[104];
    bool tcp;
    uint16_t port;
    int listener;
    pthread_t thread;
    serve_fn *serve;
    size_t request_len; /* the head and what came with it */
} fake;

struct run {
    uv_loop_t loop;
    struct access_stream *stream;
    struct buffer data[3];
    struct access_head head;
    bool heads, started, over, close_on_data, paused, reached;
    int fd;
    json_t *result;
    struct error err;
    const char *input;
    size_t input_len, input_sent;
    int64_t took;
    bool six_seconds; /* from the turn of the loop in which the request went out, before the end */
    uv_check_t turn;
    uv_timer_t limit;
    uint64_t pause_ms; /* after the first data; 0 = not at all */
    uv_timer_t resumer;
};
static uint64_t next_pause_ms; /* of the next run */

/* ---- The scripted runtime ---- */

static void say(int conn, const void *data, size_t len) {
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(conn, (const char *)data + sent, len - sent, MSG_NOSIGNAL);
        if (n <= 0) return;
        sent += (size_t)n;
    }
}
static void say_text(int conn, const char *text) {
    say(conn, text, strlen(text));
}

static void say_json(int conn, int status, const char *json) {
    char text[512];
    snprintf(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(json), json);
    say_text(conn, text);
}

static void say_with_fd(int conn, const char *text, const int *fds, int count) {
    char control[CMSG_SPACE(sizeof(int) * 4)] = {0};
    struct iovec part = {(void *)text, strlen(text)};
    struct msghdr msg = {.msg_iov = &part,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
    ck_assert_int_gt(sendmsg(conn, &msg, 0), 0);
}

static void say_frame(int conn, char type, const void *payload, size_t len) {
    char header[FRAME_HEADER_LEN];
    frame_put_header(header, type, (uint32_t)len);
    say(conn, header, sizeof header);
    say(conn, payload, len);
}

static void *serve_one(void *arg) {
    (void)arg;
    int conn = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);
    if (conn < 0) return NULL;
    static char request[1 << 20];
    size_t n = 0;
    while (n + 1 < sizeof request) {
        request[n] = 0;
        if (strstr(request, "\r\n\r\n")) break;
        ssize_t got = recv(conn, request + n, sizeof request - n - 1, 0);
        if (got <= 0) break;
        n += (size_t)got;
    }
    fake.request_len = n;
    fake.serve(conn, request);
    shutdown(conn, SHUT_WR);
    struct pollfd p = {conn, POLLIN, 0};
    char sink[65536];
    while (poll(&p, 1, 2000) > 0 && recv(conn, sink, sizeof sink, 0) > 0) {
    }
    close(conn);
    return NULL;
}

static void start_fake(serve_fn *serve) {
    fake.serve = serve;
    if (fake.tcp) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        fake.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(fake.listener, (struct sockaddr *)&a, sizeof a), 0);
        getsockname(fake.listener, (struct sockaddr *)&a, &len);
        fake.port = ntohs(a.sin_port);
    } else {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        snprintf(fake.path, sizeof fake.path, "/tmp/access-fake-%d", getpid());
        memcpy(a.sun_path, fake.path, sizeof fake.path);
        unlink(fake.path);
        fake.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(fake.listener, (struct sockaddr *)&a, sizeof a), 0);
    }
    ck_assert_int_eq(listen(fake.listener, 4), 0);
    pthread_create(&fake.thread, NULL, serve_one, NULL);
}

static bool locate(void *ctx, struct object *sandbox, struct runtime_address *out, struct error *err) {
    (void)ctx, (void)sandbox, (void)err;
    if (fake.tcp) {
        strcpy(out->host, "127.0.0.1");
        out->port = fake.port;
        strcpy(out->token, "secret-token");
    } else {
        strcpy(out->unix_path, fake.path);
    }
    return true;
}

/* ---- The user ---- */

static void over(struct run *r) {
    ck_assert(!r->over);
    r->over = true;
    r->reached = runtime_access_reached(r->stream);
    access_close(r->stream);
}
static void on_head(void *ctx, const struct access_head *head) {
    struct run *r = ctx;
    r->head = *head;
    r->heads = true;
    if (head->fd >= 0) r->fd = access_take_fd(r->stream);
}
static void on_started(void *ctx) {
    ((struct run *)ctx)->started = true;
}
static void resume(uv_timer_t *timer) {
    struct run *r = timer->data;
    ck_assert_msg(!r->over, "%s", r->err.message);
    access_resume(r->stream);
    uv_close((uv_handle_t *)timer, NULL);
}
static void pause_for(struct run *r) {
    uv_timer_init(&r->loop, &r->resumer);
    r->resumer.data = r;
    uv_timer_start(&r->resumer, resume, r->pause_ms, 0);
    r->pause_ms = 0;
    access_pause(r->stream);
}
static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct run *r = ctx;
    if (r->pause_ms) pause_for(r);
    ck_assert(!r->over && len <= 65536);
    buffer_append(&r->data[channel], data, len);
    if (r->close_on_data) over(r);
}
static void feed(void *ctx) {
    struct run *r = ctx;
    while (r->input_sent < r->input_len) {
        size_t n = access_write(r->stream, r->input + r->input_sent, r->input_len - r->input_sent);
        r->input_sent += n;
        if (n == 0 || r->input_sent < r->input_len) return;
    }
    access_finish(r->stream);
}
static void on_connected(void *ctx, int fd) {
    ((struct run *)ctx)->fd = fd;
    over(ctx);
}
static void on_end(void *ctx, const json_t *result) {
    ((struct run *)ctx)->result = json_deep_copy(result);
    over(ctx);
}
static void on_error(void *ctx, const struct error *err) {
    struct run *r = ctx;
    r->err = *err;
    r->err.details = NULL;
    over(r);
}
static const struct access_events events = {on_head,      on_started, on_data, feed,
                                            on_connected, on_end,     on_error};

static void on_limit(uv_timer_t *limit) {
    struct run *r = limit->data;
    r->six_seconds = !r->over;
}
/* The stream's deadlines count from the same turn: whoever is held up, what is due first is called first. */
static void on_turn(uv_check_t *turn) {
    struct run *r = turn->data;
    if (!r->over && !runtime_access_reached(r->stream)) return;
    uv_timer_start(&r->limit, on_limit, 6000, 0);
    uv_check_stop(turn);
}

static struct run *run(enum access_op op, json_t *args, serve_fn *serve, const char *input,
                       size_t input_len) {
    struct run *r = xcalloc(1, sizeof *r);
    r->fd = -1;
    r->input = input;
    r->input_len = input_len;
    r->pause_ms = next_pause_ms;
    next_pause_ms = 0;
    uv_loop_init(&r->loop);
    start_fake(serve);
    struct access *a = runtime_access_new(locate, NULL);
    struct error err = {0};
    int64_t before = (int64_t)uv_hrtime();
    r->stream = access_open(a, &r->loop, NULL, op, args, &events, r, &err);
    ck_assert_msg(r->stream != NULL, "%s", err.message);
    if (input) feed(r);
    ck_assert(!r->over && !runtime_access_reached(r->stream));
    uv_check_init(&r->loop, &r->turn);
    uv_timer_init(&r->loop, &r->limit);
    r->turn.data = r->limit.data = r;
    uv_check_start(&r->turn, on_turn);
    uv_unref((uv_handle_t *)&r->turn);
    uv_unref((uv_handle_t *)&r->limit);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    r->took = ((int64_t)uv_hrtime() - before) / 1000000;
    uv_close((uv_handle_t *)&r->turn, NULL);
    uv_close((uv_handle_t *)&r->limit, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    ck_assert(r->over && (r->reached || r->err.status == 400)); /* 400: found before */
    ck_assert_int_eq(uv_loop_close(&r->loop), 0);
    pthread_join(fake.thread, NULL);
    close(fake.listener);
    runtime_access_free(a);
    json_decref(args);
    return r;
}
static void done(struct run *r) {
    for (int i = 0; i < 3; i++)
        buffer_free(&r->data[i]);
    json_decref(r->result);
    if (r->fd >= 0) close(r->fd);
    free(r);
}
static void expect_error(struct run *r, int status, const char *code) {
    ck_assert_msg(r->err.status == status && r->err.code && strcmp(r->err.code, code) == 0, "%d %s: %s",
                  r->err.status, r->err.code ? r->err.code : "-", r->err.message);
    ck_assert(!r->result);
    done(r);
}

static json_t *path_args(void) {
    return json_pack("{s:s}", "path", "/workspace/a b");
}
static json_t *exec_args(void) {
    return json_pack("{s:s, s:[s,s], s:i, s:b}", "id", "e1", "command", "cat", "-", "timeoutMs", 30000,
                     "stdin", 1);
}

#define FILE_HEADERS "ETag: \"1-2\"\r\nX-File-Mode: 0644\r\nX-File-Mtime: 1700000000\r\n"
#define OUTCOME                                                                                              \
    "{\"id\":\"e1\",\"exitCode\":3,\"signal\":0,\"timedOut\":false,\"killed\":false,"                        \
    "\"truncated\":{\"stdout\":false,\"stderr\":true},\"durationMs\":12}"
#define UPGRADED                                                                                             \
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: agenttier-exec/1\r\n\r\n"

/* ---- Simple answers ---- */

static void serve_stat(int conn, const char *request) {
    ck_assert_msg(strncmp(request, "GET /stat?path=/workspace/a%20b HTTP/1.1\r\n", 41) == 0, "%s", request);
    say_json(conn, 200,
             "{\"name\":\"a b\",\"path\":\"/workspace/a b\",\"type\":\"file\",\"size\":5,\"isDir\":false,"
             "\"mode\":\"-rw-r--r--\",\"modifiedAt\":1700000000,\"evil\":1}");
}
START_TEST(stat_is_reduced_to_known_members) {
    struct run *r = run(ACCESS_STAT, path_args(), serve_stat, NULL, 0);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert_int_eq(json_integer_value(json_object_get(r->result, "size")), 5);
    ck_assert_ptr_null(json_object_get(r->result, "evil"));
    done(r);
}
END_TEST

static void serve_refusal(int conn, const char *request) {
    (void)request;
    say_json(conn, 404, "{\"code\":404,\"error\":\"no such file: a b\",\"reason\":\"file_not_found\"}\n");
}
START_TEST(refusals_keep_their_code) {
    struct run *r = run(ACCESS_STAT, path_args(), serve_refusal, NULL, 0);
    ck_assert_str_eq(r->err.message, "no such file: a b");
    expect_error(r, 404, "file_not_found");
}
END_TEST

static void serve_strange_reason(int conn, const char *request) {
    (void)request;
    say_json(conn, 403, "{\"error\":\"x\\ny\",\"reason\":\"admin_please\"}");
}
static void serve_garbage(int conn, const char *request) {
    (void)request;
    say_text(conn, "SSH-2.0-OpenSSH_9.2\r\n\r\n");
}
static void serve_nothing(int conn, const char *request) {
    (void)conn, (void)request;
}
static void serve_short(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"name\":");
}
static void serve_huge_head(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 20000; i++)
        say_text(conn, "X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n");
}
static void serve_huge_json(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n");
    static char spaces[1 << 20];
    memset(spaces, ' ', sizeof spaces);
    for (int i = 0; i < 10; i++)
        say(conn, spaces, sizeof spaces);
}
static void serve_wrong_shape(int conn, const char *request) {
    (void)request;
    say_json(conn, 200, "{\"name\":\"a\"}");
}
static void serve_interim_flood(int conn, const char *request) {
    (void)request;
    for (int i = 0; i < 100; i++)
        say_text(conn, "HTTP/1.1 103 Early\r\n\r\n");
}
static void serve_redirect(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 301 Moved\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n");
}
START_TEST(lies_are_bad_answers) {
    expect_error(run(ACCESS_STAT, path_args(), serve_garbage, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_nothing, NULL, 0), 502, "sandbox_unreachable");
    expect_error(run(ACCESS_STAT, path_args(), serve_short, NULL, 0), 502, "sandbox_unreachable");
    expect_error(run(ACCESS_STAT, path_args(), serve_huge_head, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_LIST, path_args(), serve_huge_json, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_wrong_shape, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_interim_flood, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_redirect, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_strange_reason, NULL, 0), 502, "sandbox_unreachable");
}
END_TEST

static void serve_late(int conn, const char *request) {
    (void)request;
    struct pollfd p = {conn, POLLIN, 0};
    poll(&p, 1, 60000); /* until the other side gives up */
}
START_TEST(a_late_head_is_a_timeout) {
    struct run *r = run(ACCESS_STAT, path_args(), serve_late, NULL, 0);
    ck_assert_int_ge(r->took, 4900);
    ck_assert(!r->six_seconds);
    expect_error(r, 504, "sandbox_timeout");
}
END_TEST

START_TEST(nobody_listens) {
    struct access *a = runtime_access_new(locate, NULL);
    struct error err = {0};
    uv_loop_t loop;
    uv_loop_init(&loop);
    strcpy(fake.path, "/tmp/access-nobody");
    cleanup_json json_t *args = path_args();
    ck_assert_ptr_null(access_open(a, &loop, NULL, ACCESS_STAT, args, &events, NULL, &err));
    ck_assert_int_eq(err.status, 502);
    ck_assert_str_eq(err.code, "sandbox_unreachable");
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    runtime_access_free(a);
}
END_TEST

/* ---- Files ---- */

static int temporary_file(const char *text) {
    int fd = memfd_create("x", MFD_CLOEXEC);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}
#define FD_HEAD                                                                                              \
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-File-Size: 5\r\nX-File-Offset: 0\r\nX-File-Length: "          \
    "5\r\n" FILE_HEADERS "\r\n"
static void serve_fd(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "&pass=fd"));
    cleanup_close int fd = temporary_file("hello");
    say_with_fd(conn, FD_HEAD, &fd, 1);
}
static void serve_short_fd(int conn, const char *request) {
    (void)request;
    cleanup_close int fd = temporary_file("hell");
    say_with_fd(conn, FD_HEAD, &fd, 1);
}
static void serve_two_fds(int conn, const char *request) {
    (void)request;
    cleanup_close int fd = temporary_file("hello");
    say_with_fd(conn, FD_HEAD, (int[]){fd, fd}, 2);
}
static void serve_directory_fd(int conn, const char *request) {
    (void)request;
    cleanup_close int fd = open("/", O_RDONLY | O_CLOEXEC);
    say_with_fd(conn, FD_HEAD, &fd, 1);
}
static void serve_no_fd(int conn, const char *request) {
    (void)request;
    say_text(conn, FD_HEAD);
}
static void serve_fd_unasked(int conn, const char *request) {
    (void)request;
    cleanup_close int fd = temporary_file("hello");
    say_with_fd(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", &fd, 1);
}
START_TEST(files_come_as_descriptors) {
    struct run *r = run(ACCESS_READ, path_args(), serve_fd, NULL, 0);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert_int_ge(r->fd, 0);
    char text[8] = "";
    ck_assert_int_eq(pread(r->fd, text, 8, 0), 5);
    ck_assert_str_eq(text, "hello");
    ck_assert_str_eq(r->head.etag, "\"1-2\"");
    ck_assert_int_eq(r->head.mode, 0644);
    done(r);
    expect_error(run(ACCESS_READ, path_args(), serve_short_fd, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_READ, path_args(), serve_two_fds, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_READ, path_args(), serve_directory_fd, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_READ, path_args(), serve_no_fd, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_STAT, path_args(), serve_fd_unasked, NULL, 0), 502, "sandbox_bad_answer");
}
END_TEST

static void serve_stream(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "Authorization: Bearer secret-token\r\n"));
    ck_assert_ptr_null(strstr(request, "pass=fd"));
    ck_assert_ptr_nonnull(strstr(request, "Range: bytes=2-4\r\n"));
    say_text(conn, "HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 2-4/9\r\n"
                   "X-File-Size: 9\r\n" FILE_HEADERS "\r\nllo and more than was said");
}
static void serve_wrong_range(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 2-5/9\r\n"
                   "X-File-Size: 9\r\n" FILE_HEADERS "\r\nllo");
}
static void serve_cut_file(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-File-Size: 9\r\n" FILE_HEADERS "\r\nhell");
}
static json_t *range_args(void) {
    return json_pack("{s:s,s:i,s:i}", "path", "/a", "offset", 2, "length", 3);
}
START_TEST(files_over_tcp_are_streamed) {
    fake.tcp = true;
    struct run *r = run(ACCESS_READ, range_args(), serve_stream, NULL, 0);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert_str_eq(buffer_cstr(&r->data[1]), "llo");
    ck_assert_uint_eq(r->head.offset, 2);
    ck_assert_uint_eq(r->head.size, 9);
    done(r);
    expect_error(run(ACCESS_READ, range_args(), serve_wrong_range, NULL, 0), 502, "sandbox_bad_answer");
    r = run(ACCESS_READ, path_args(), serve_cut_file, NULL, 0);
    ck_assert_uint_eq(r->data[1].len, 4);
    expect_error(r, 502, "sandbox_unreachable");
    fake.tcp = false;
}
END_TEST

/* Reads a chunked or plain body of `want` content bytes and more, slowly. */
static size_t swallow(int conn, size_t want) {
    char buf[4096];
    size_t total = 0;
    while (total < want) {
        ssize_t n = recv(conn, buf, sizeof buf, 0);
        if (n <= 0) break;
        total += (size_t)n;
    }
    return total;
}
#define BIG (3u << 20)
static void serve_upload(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "Content-Length: 3145728\r\n"));
    size_t early = fake.request_len - (size_t)(strstr(request, "\r\n\r\n") + 4 - request);
    swallow(conn, BIG - early);
    say_json(conn, 201, "{\"path\":\"/a\",\"bytes\":3145728,\"etag\":\"\\\"1\\\"\",\"created\":false}");
}
static void serve_short_upload(int conn, const char *request) {
    size_t early = fake.request_len - (size_t)(strstr(request, "\r\n\r\n") + 4 - request);
    swallow(conn, BIG - early);
    say_json(conn, 201, "{\"path\":\"/a\",\"bytes\":314,\"etag\":\"\\\"1\\\"\",\"created\":false}");
}
static void serve_early_refusal(int conn, const char *request) {
    (void)request;
    swallow(conn, 100000);
    say_json(conn, 507, "{\"code\":507,\"error\":\"full\",\"reason\":\"disk_full\"}   \n");
}
static void serve_any_upload(int conn, const char *request) {
    (void)request;
    swallow(conn, 1 << 20);
}
static char big[BIG];
static json_t *write_args(size_t size) {
    return json_pack("{s:s,s:I}", "path", "/a", "size", (json_int_t)size);
}
START_TEST(uploads) {
    memset(big, 'x', sizeof big);
    struct run *r = run(ACCESS_WRITE, write_args(BIG), serve_upload, big, BIG);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    done(r);
    expect_error(run(ACCESS_WRITE, write_args(BIG), serve_short_upload, big, BIG), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_WRITE, write_args(BIG), serve_early_refusal, big, BIG), 507, "disk_full");
    /* less and more than was declared */
    expect_error(run(ACCESS_WRITE, write_args(20), serve_any_upload, big, 19), 400, "bad_request");
    expect_error(run(ACCESS_WRITE, write_args(20), serve_any_upload, big, 21), 400, "bad_request");
}
END_TEST

static void serve_chunked_upload(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "Transfer-Encoding: chunked\r\n"));
    static char body[BIG + (1 << 20)];
    const char *early = strstr(request, "\r\n\r\n") + 4;
    size_t n = fake.request_len - (size_t)(early - request), total = 0, at = 0;
    memcpy(body, early, n);
    struct http1_chunked d = {0};
    for (;;) {
        size_t used;
        struct slice piece;
        int rc = http1_chunked_decode(&d, slice_make(body + at, n - at), &used, &piece);
        ck_assert_int_ge(rc, 0);
        at += used;
        total += piece.len;
        if (rc == 1) break;
        if (at < n && used) continue;
        ssize_t got = recv(conn, body + n, sizeof body - n, 0);
        ck_assert_int_gt(got, 0);
        n += (size_t)got;
    }
    char text[128], answer[256];
    int len = snprintf(text, sizeof text, "{\"path\":\"/a\",\"bytes\":%zu,\"entries\":7}", total);
    snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len, text);
    say_text(conn, answer);
}
START_TEST(chunked_uploads) {
    struct run *r = run(ACCESS_ARCHIVE_WRITE, path_args(), serve_chunked_upload, big, BIG);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert_int_eq(json_integer_value(json_object_get(r->result, "bytes")), BIG);
    done(r);
    r = run(ACCESS_ARCHIVE_WRITE, path_args(), serve_chunked_upload, "", 0);
    ck_assert_int_eq(json_integer_value(json_object_get(r->result, "bytes")), 0);
    done(r);
}
END_TEST

static void serve_archive(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
}
static void serve_cut_archive(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
}
static void serve_endless_archive(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 200 OK\r\n\r\nhello");
}
START_TEST(archives_that_are_cut_are_errors) {
    struct run *r = run(ACCESS_ARCHIVE_READ, path_args(), serve_archive, NULL, 0);
    ck_assert_ptr_nonnull(r->result);
    ck_assert_str_eq(buffer_cstr(&r->data[1]), "hello");
    done(r);
    expect_error(run(ACCESS_ARCHIVE_READ, path_args(), serve_cut_archive, NULL, 0), 502,
                 "sandbox_unreachable");
    expect_error(run(ACCESS_ARCHIVE_READ, path_args(), serve_endless_archive, NULL, 0), 502,
                 "sandbox_bad_answer");
}
END_TEST

/* ---- Commands ---- */

static void serve_exec(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "Upgrade: agenttier-exec/1\r\n"));
    say_text(conn, UPGRADED);
    say_frame(conn, 'h', "", 0);
    /* everything in pieces of one byte */
    char header[5];
    frame_put_header(header, 'o', 3);
    for (int i = 0; i < 5; i++)
        say(conn, header + i, 1);
    say_text(conn, "a");
    say_text(conn, "bc");
    say_frame(conn, 'E', "err", 3);
    say_frame(conn, 'o', "", 0);
    say_frame(conn, 'x', OUTCOME, strlen(OUTCOME));
}
/* The deadline behind a command's own timeout is the sandbox's, not the one of a user who reads slowly. */
START_TEST(a_slow_reader_is_not_the_sandboxs_delay) {
    next_pause_ms = 15500;
    json_t *args = json_pack("{s:s, s:[s], s:i}", "id", "e1", "command", "true", "timeoutMs", 1);
    struct run *r = run(ACCESS_EXEC, args, serve_exec, NULL, 0);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert_int_eq(json_integer_value(json_object_get(r->result, "exitCode")), 3);
    ck_assert_int_ge(r->took, 15500);
    done(r);
}
END_TEST

static void serve_exec_cut(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    say_frame(conn, 'o', "abc", 3);
}
static void serve_exec_strange(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    say_frame(conn, 'Z', "abc", 3);
}
static void serve_exec_long_frame(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    say(conn, "o\xff\xff\xff\xff", 5);
}
static void serve_exec_other_id(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    static const char other[] =
        "{\"id\":\"e2\",\"exitCode\":0,\"signal\":0,\"timedOut\":false,\"killed\":false,"
        "\"truncated\":{\"stdout\":false,\"stderr\":true},\"durationMs\":12}";
    say_frame(conn, 'x', other, strlen(other));
}
static void serve_exec_no_code(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    static const char other[] = "{\"id\":\"e1\",\"timedOut\":false}";
    say_frame(conn, 'x', other, strlen(other));
}
static void serve_exec_refused(int conn, const char *request) {
    (void)request;
    say_text(conn, UPGRADED);
    static const char refusal[] = "{\"code\":429,\"error\":\"64 run\",\"reason\":\"too_many_execs\"}";
    say_frame(conn, '!', refusal, strlen(refusal));
}
static void serve_exec_plain(int conn, const char *request) {
    (void)request;
    say_json(conn, 200, "{}");
}
START_TEST(commands) {
    struct run *r = run(ACCESS_EXEC, exec_args(), serve_exec, NULL, 0);
    ck_assert_msg(r->result != NULL, "%s", r->err.message);
    ck_assert(r->started);
    ck_assert_str_eq(buffer_cstr(&r->data[1]), "abc");
    ck_assert_str_eq(buffer_cstr(&r->data[2]), "err");
    ck_assert_int_eq(json_integer_value(json_object_get(r->result, "exitCode")), 3);
    done(r);
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_cut, NULL, 0), 502, "exec_outcome_unknown");
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_strange, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_long_frame, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_other_id, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_no_code, NULL, 0), 502, "sandbox_bad_answer");
    r = run(ACCESS_EXEC, exec_args(), serve_exec_refused, NULL, 0);
    ck_assert(!r->started);
    expect_error(r, 429, "too_many_execs");
    expect_error(run(ACCESS_EXEC, exec_args(), serve_exec_plain, NULL, 0), 502, "sandbox_bad_answer");
}
END_TEST

/* Echoes stdin frames back and grants credit as it goes. */
static void serve_echo(int conn, const char *request) {
    say_text(conn, UPGRADED);
    say_frame(conn, 'h', "", 0);
    static char in[1 << 20];
    const char *frames = strstr(request, "\r\n\r\n") + 4;
    size_t raw = fake.request_len - (size_t)(frames - request);
    memcpy(in, frames, raw);
    for (;;) {
        struct frame_header got;
        int rc = frame_get_header(slice_make(in, raw), &got);
        if (rc == 1 && raw >= FRAME_HEADER_LEN + got.len) {
            if (got.type == 'e') break;
            if (got.type == 'i') {
                say_frame(conn, 'o', in + FRAME_HEADER_LEN, got.len);
                char credit[4];
                frame_put_u32(credit, got.len);
                say_frame(conn, 'w', credit, 4);
            } else {
                ck_assert_int_eq(got.type, 'S');
            }
            raw -= FRAME_HEADER_LEN + got.len;
            memmove(in, in + FRAME_HEADER_LEN + got.len, raw);
            continue;
        }
        ssize_t k = recv(conn, in + raw, sizeof in - raw, 0);
        if (k <= 0) return;
        raw += (size_t)k;
    }
    say_frame(conn, 'x', OUTCOME, strlen(OUTCOME));
}
START_TEST(standard_input_is_exact) {
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (char)(i * 7 + i / 251);
    static const size_t sizes[] = {0, 1, 65536, BIG};
    for (size_t i = 0; i < 4; i++) {
        struct run *r = run(ACCESS_EXEC, exec_args(), serve_echo, big, sizes[i]);
        ck_assert_msg(r->result != NULL, "%zu: %s", sizes[i], r->err.message);
        ck_assert_uint_eq(r->data[1].len, sizes[i]);
        ck_assert(sizes[i] == 0 || memcmp(r->data[1].data, big, sizes[i]) == 0);
        done(r);
    }
}
END_TEST

START_TEST(closing_within_an_event) {
    struct run *r = xcalloc(1, sizeof *r);
    r->fd = -1;
    r->close_on_data = true;
    uv_loop_init(&r->loop);
    start_fake(serve_exec);
    struct access *a = runtime_access_new(locate, NULL);
    cleanup_json json_t *args = exec_args();
    r->stream = access_open(a, &r->loop, NULL, ACCESS_EXEC, args, &events, r, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    ck_assert(r->over);
    ck_assert_uint_eq(r->data[2].len, 0);
    ck_assert_int_eq(uv_loop_close(&r->loop), 0);
    pthread_join(fake.thread, NULL);
    close(fake.listener);
    runtime_access_free(a);
    done(r);
}
END_TEST

/* ---- Ports ---- */

static void serve_dial_tcp(int conn, const char *request) {
    (void)request;
    say_text(conn, "HTTP/1.1 101 Yes\r\nUpgrade: agenttier-dial\r\nConnection: Upgrade\r\n\r\nSSH-2.0");
}
static void serve_dial_fd(int conn, const char *request) {
    ck_assert_ptr_nonnull(strstr(request, "POST /dial?port=8000&pass=fd"));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    cleanup_close int l = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    bind(l, (struct sockaddr *)&a, sizeof a);
    listen(l, 1);
    getsockname(l, (struct sockaddr *)&a, &len);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    say_with_fd(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &fd, 1);
}
static void serve_dial_file(int conn, const char *request) {
    (void)request;
    cleanup_close int fd = temporary_file("x");
    say_with_fd(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &fd, 1);
}
static void serve_dial_closed(int conn, const char *request) {
    (void)request;
    say_json(conn, 502, "{\"code\":502,\"error\":\"nobody there\",\"reason\":\"port_closed\"}");
}
static json_t *port_args(void) {
    return json_pack("{s:i}", "port", 8000);
}
START_TEST(ports) {
    struct run *r = run(ACCESS_DIAL, port_args(), serve_dial_fd, NULL, 0);
    ck_assert_msg(r->fd >= 0, "%s", r->err.message);
    done(r);
    expect_error(run(ACCESS_DIAL, port_args(), serve_dial_file, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_DIAL, port_args(), serve_dial_tcp, NULL, 0), 502, "sandbox_bad_answer");
    expect_error(run(ACCESS_DIAL, port_args(), serve_dial_closed, NULL, 0), 502, "port_closed");
    fake.tcp = true;
    r = run(ACCESS_DIAL, port_args(), serve_dial_tcp, NULL, 0);
    ck_assert_msg(r->fd >= 0, "%s", r->err.message);
    char text[32] = "";
    ck_assert_int_eq(recv(r->fd, text, sizeof text - 1, 0), 7);
    ck_assert_str_eq(text, "SSH-2.0");
    done(r);
    fake.tcp = false;
}
END_TEST

/* ---- The pure part ---- */

START_TEST(requests_that_do_not_fit) {
    struct runtime_address to = {.host = "10.0.0.1", .port = 9000};
    static const struct {
        enum access_op op;
        const char *args;
    } bad[] = {{ACCESS_STAT, "{}"},
               {ACCESS_STAT, "{\"path\":\"a\"}"},
               {ACCESS_EXEC, "{\"id\":\"a/b\",\"command\":[\"x\"]}"},
               {ACCESS_EXEC, "{\"id\":\"a\",\"command\":[]}"},
               {ACCESS_EXEC, "{\"id\":\"a\",\"command\":[1]}"},
               {ACCESS_EXEC_KILL, "{\"id\":\"../x\"}"},
               {ACCESS_EXEC_ATTACH, "{\"id\":\"x\",\"wait\":-1}"},
               {ACCESS_DIAL, "{\"port\":0}"},
               {ACCESS_DIAL, "{\"port\":65536}"},
               {ACCESS_READ, "{\"path\":\"/a\",\"offset\":-1}"},
               {ACCESS_READ, "{\"path\":\"/a\",\"offset\":9223372036854775807,\"length\":2}"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cleanup_json json_t *args = json_loads(bad[i].args, 0, NULL);
        cleanup_buffer struct buffer out = {0};
        cleanup_error struct error err = {0};
        ck_assert_msg(!wire_request(bad[i].op, args, &to, &out, &err), "%s", bad[i].args);
        ck_assert_int_eq(err.status, 400);
    }
}
END_TEST

START_TEST(long_commands_take_several_frames) {
    struct runtime_address to = {.unix_path = "/x"};
    cleanup_free char *text = xcalloc(1, 100001);
    memset(text, 'a', 100000);
    cleanup_json json_t *args = json_pack("{s:s,s:[s]}", "id", "a", "command", text);
    cleanup_buffer struct buffer out = {0};
    ck_assert(wire_request(ACCESS_EXEC, args, &to, &out, NULL));
    const char *at = strstr(buffer_cstr(&out), "\r\n\r\n") + 4;
    struct frame_header h;
    ck_assert_int_eq(frame_get_header(slice_make(at, 5), &h), 1);
    ck_assert_int_eq(h.type, 's');
    at += 5 + h.len;
    ck_assert_int_eq(frame_get_header(slice_make(at, 5), &h), 1);
    ck_assert_int_eq(h.type, 'S');
    ck_assert_ptr_eq(at + 5 + h.len, out.data + out.len);
}
END_TEST

static void over_tcp(void) {
    fake.tcp = true;
}

START_TEST(nobody_listens_over_tcp) {
    struct run *r = xcalloc(1, sizeof *r);
    r->fd = -1;
    uv_loop_init(&r->loop);
    int gone = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    ck_assert(bind(gone, (struct sockaddr *)&a, len) == 0 &&
              getsockname(gone, (struct sockaddr *)&a, &len) == 0);
    struct runtime_address to = {.host = "127.0.0.1", .port = ntohs(a.sin_port)};
    cleanup_json json_t *args = path_args();
    r->stream = runtime_access_open_at(&to, &r->loop, ACCESS_STAT, args, &events, r, NULL);
    if (r->stream) {
        uv_run(&r->loop, UV_RUN_DEFAULT);
        ck_assert(r->over && !r->reached); /* so the same may be tried in another way */
        ck_assert_str_eq(r->err.code, "sandbox_unreachable");
    }
    ck_assert_int_eq(uv_loop_close(&r->loop), 0);
    close(gone);
    done(r);
}
END_TEST

int main(void) {
    Suite *s = suite_create("runtime_access");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, stat_is_reduced_to_known_members);
    tcase_add_test(t, refusals_keep_their_code);
    tcase_add_test(t, lies_are_bad_answers);
    tcase_add_test(t, a_late_head_is_a_timeout);
    tcase_add_test(t, nobody_listens);
    tcase_add_test(t, files_come_as_descriptors);
    tcase_add_test(t, files_over_tcp_are_streamed);
    tcase_add_test(t, uploads);
    tcase_add_test(t, chunked_uploads);
    tcase_add_test(t, archives_that_are_cut_are_errors);
    tcase_add_test(t, commands);
    tcase_add_test(t, standard_input_is_exact);
    tcase_add_test(t, closing_within_an_event);
    tcase_add_test(t, ports);
    tcase_add_test(t, requests_that_do_not_fit);
    tcase_add_test(t, long_commands_take_several_frames);
    tcase_add_test(t, a_slow_reader_is_not_the_sandboxs_delay);
    /* And what does not need descriptors once more, as it is in pods. */
    TCase *tcp = tcase_create("tcp");
    tcase_set_timeout(tcp, 60);
    tcase_add_checked_fixture(tcp, over_tcp, NULL);
    tcase_add_test(tcp, stat_is_reduced_to_known_members);
    tcase_add_test(tcp, refusals_keep_their_code);
    tcase_add_test(tcp, lies_are_bad_answers);
    tcase_add_test(tcp, uploads);
    tcase_add_test(tcp, chunked_uploads);
    tcase_add_test(tcp, archives_that_are_cut_are_errors);
    tcase_add_test(tcp, commands);
    tcase_add_test(tcp, standard_input_is_exact);
    tcase_add_test(tcp, closing_within_an_event);
    tcase_add_test(tcp, nobody_listens_over_tcp);
    suite_add_tcase(s, tcp);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
