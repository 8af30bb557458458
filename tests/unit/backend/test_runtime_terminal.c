/* Terminals through a scripted runtime that answers, cuts and lies (http-api.md 5.3, 5.4; W-16, W-17, W-20).
 */
#include "backend/runtime_access.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/websocket.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef void script_fn(int conn, const char *head);

static struct {
    char dir[64];
    struct runtime_address address;
    int listener;
    pthread_t thread;
    script_fn *script;
    struct buffer in; /* of the connection, behind the head */
} fake;

static struct run {
    uv_loop_t loop;
    struct access_stream *stream;
    uv_timer_t timer;
    struct buffer data;
    int pieces, pauses;
    bool started, over, ended, pausing, close_on_data;
    const char *input;
    size_t input_len, sent;
    struct error err;
} run;

/* ---- The runtime ---- */

static void say(int conn, const void *data, size_t len) {
    for (size_t done = 0; done < len;) {
        ssize_t n = send(conn, (const char *)data + done, len - done, MSG_NOSIGNAL);
        if (n <= 0) return;
        done += (size_t)n;
    }
}
static void say_text(int conn, const char *text) {
    say(conn, text, strlen(text));
}
static void say_frame(int conn, enum websocket_opcode opcode, const char *payload) {
    cleanup_buffer struct buffer out = {0};
    websocket_put(&out, opcode, slice_of(payload));
    say(conn, out.data, out.len);
}
static void say_close(int conn, uint16_t code) {
    cleanup_buffer struct buffer out = {0};
    websocket_put_close(&out, code, "");
    say(conn, out.data, out.len);
}

static void accept_upgrade(int conn, const char *head) {
    const char *key = strstr(head, "Sec-WebSocket-Key: ");
    ck_assert_ptr_nonnull(key);
    char accept[WEBSOCKET_ACCEPT_LEN + 1], text[256];
    ck_assert(websocket_accept(slice_make(key + 19, 24), accept));
    snprintf(text, sizeof text,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n",
             accept);
    say_text(conn, text);
}

static bool read_more(int conn) {
    char bytes[65536];
    ssize_t n = recv(conn, bytes, sizeof bytes, 0);
    if (n > 0) buffer_append(&fake.in, bytes, (size_t)n);
    return n > 0;
}

/* The next message of the Router as text; "" at its end. */
static void hear(int conn, struct buffer *out) {
    static struct websocket_reader r = {.limit = 1 << 20};
    struct websocket_message m;
    buffer_clear(out);
    int got;
    while ((got = websocket_read(&r, &fake.in, &m)) == 0)
        if (!read_more(conn)) return;
    ck_assert_int_eq(got, 1);
    buffer_append(out, m.payload.ptr, m.payload.len);
    if (m.opcode == WEBSOCKET_PONG) buffer_append_str(out, "(pong)");
}

static void *serve(void *arg) {
    int conn = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);
    if (conn < 0) return NULL;
    cleanup_buffer struct buffer head = {0};
    for (const char *end = NULL; !end && read_more(conn);) {
        end = strstr(buffer_cstr(&fake.in), "\r\n\r\n");
        if (!end) continue;
        size_t len = (size_t)(end + 4 - fake.in.data);
        buffer_append(&head, fake.in.data, len);
        buffer_consume(&fake.in, len);
    }
    fake.script(conn, buffer_cstr(&head));
    shutdown(conn, SHUT_WR);
    while (read_more(conn))
        buffer_clear(&fake.in);
    buffer_free(&fake.in);
    close(conn);
    return NULL;
}

/* ---- The user ---- */

static void finish(void) {
    ck_assert(!run.over);
    run.over = true;
    access_close(run.stream);
    uv_close((uv_handle_t *)&run.timer, NULL);
}
static void feed(void) {
    while (run.sent < run.input_len) {
        size_t n = access_write(run.stream, run.input + run.sent, run.input_len - run.sent);
        run.sent += n;
        if (n == 0) return;
    }
}
static void on_started(void *ctx) {
    run.started = true;
}
static void on_writable(void *ctx) {
    feed();
}
static void resume(uv_timer_t *timer) {
    if (!run.over) access_resume(run.stream);
}
static void on_data(void *ctx, int channel, const char *data, size_t len) {
    ck_assert(channel == 1 && len <= 65536 && !run.over);
    ck_assert(!uv_is_active((uv_handle_t *)&run.timer)); /* paused */
    buffer_append(&run.data, data, len);
    run.pieces++;
    if (run.close_on_data) {
        finish();
    } else if (run.pausing) {
        run.pauses++;
        access_pause(run.stream);
        uv_timer_start(&run.timer, resume, 1, 0);
    }
}
static void on_end(void *ctx, const json_t *result) {
    ck_assert(json_is_object(result));
    run.ended = true;
    finish();
}
static void on_error(void *ctx, const struct error *err) {
    run.err = *err;
    run.err.details = NULL;
    finish();
}
static const struct access_events events = {.on_started = on_started,
                                            .on_data = on_data,
                                            .on_writable = on_writable,
                                            .on_end = on_end,
                                            .on_error = on_error};

static json_t *args(void) {
    return json_pack("{s:s, s:s, s:i, s:i}", "session", "agenttier-a", "shell", "/bin/z sh", "cols", 120,
                     "rows", 40);
}

static void go(script_fn *script, unsigned cols) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct error err = {0};
    cleanup_json json_t *wish = args();
    fake.script = script;
    strcpy(fake.dir, "/tmp/terminal-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fake.dir));
    snprintf(fake.address.unix_path, sizeof fake.address.unix_path, "%s/s", fake.dir);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", fake.address.unix_path);
    fake.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fake.listener, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(fake.listener, 4), 0);
    pthread_create(&fake.thread, NULL, serve, NULL);
    uv_loop_init(&run.loop);
    uv_timer_init(&run.loop, &run.timer);
    run.stream = runtime_access_open_at(&fake.address, &run.loop, ACCESS_TERMINAL, wish, &events, NULL, &err);
    ck_assert_msg(run.stream != NULL, "%s", err.message);
    if (cols) access_resize(run.stream, cols, 7);
    feed();
    ck_assert(!run.over && run.sent == 0 && !runtime_access_reached(run.stream));
    uv_run(&run.loop, UV_RUN_DEFAULT);
    ck_assert(run.over);
    ck_assert_int_eq(uv_loop_close(&run.loop), 0);
    pthread_join(fake.thread, NULL);
    close(fake.listener);
    unlink(fake.address.unix_path);
    rmdir(fake.dir);
}

static void setup(void) {
    memset(&run, 0, sizeof run);
}
static void teardown(void) {
    buffer_free(&run.data);
}

static void expect_error(int status, const char *code) {
    ck_assert_msg(run.err.status == status && strcmp(run.err.code, code) == 0, "%d %s: %s", run.err.status,
                  run.err.code ? run.err.code : "-", run.err.message);
}

/* ---- What a runtime does ---- */

static void script_session(int conn, const char *head) {
    cleanup_buffer struct buffer m = {0};
    ck_assert_msg(strncmp(head,
                          "GET /pty?shell=/bin/z%20sh&cols=120&rows=40&session=agenttier-a HTTP/1.1\r\n"
                          "Host: sandbox\r\n",
                          88) == 0,
                  "%s", head);
    accept_upgrade(conn, head);
    hear(conn, &m);
    ck_assert_str_eq(buffer_cstr(&m), "{\"type\":\"resize\",\"cols\":90,\"rows\":7}");
    hear(conn, &m);
    ck_assert_str_eq(buffer_cstr(&m), "{\"type\":\"input\",\"data\":\"ls\\r\"}");
    say_frame(conn, WEBSOCKET_PING, "x");
    hear(conn, &m);
    ck_assert_str_eq(buffer_cstr(&m), "x(pong)");
    say_frame(conn, WEBSOCKET_TEXT, "{\"type\":\"heartbeat\",\"ts\":1}");
    say_frame(conn, WEBSOCKET_TEXT, "not JSON");
    say_frame(conn, WEBSOCKET_BINARY, "{\"type\":\"output\",\"stream\":\"stdout\",\"data\":\"a\\u0000\"}");
    say_frame(conn, WEBSOCKET_TEXT, "{\"type\":\"output\",\"data\":\"é\"}");
    say_close(conn, 1000);
    say_frame(conn, WEBSOCKET_TEXT, "{\"type\":\"output\",\"data\":\"after the end\"}");
}
START_TEST(a_session) {
    run.input = "ls\r";
    run.input_len = 3;
    go(script_session, 90);
    ck_assert_msg(run.started && run.ended, "%s", run.err.message);
    ck_assert(slice_equal(buffer_slice(&run.data), slice_make("a\0é", 4)));
}
END_TEST

#define LARGE (3u << 20)
static void script_echo_size(int conn, const char *head) {
    cleanup_buffer struct buffer m = {0}, all = {0};
    accept_upgrade(conn, head);
    poll(NULL, 0, 50); /* until the Router has to wait */
    while (all.len < LARGE) {
        hear(conn, &m);
        cleanup_json json_t *json = json_parse_object(buffer_slice(&m), NULL);
        const json_t *data = json_object_get(json, "data");
        ck_assert(json_is_string(data));
        buffer_append(&all, json_string_value(data), json_string_length(data));
    }
    char hex[SHA256_HEX_LEN + 1], text[256];
    sha256_hex(buffer_slice(&all), hex);
    snprintf(text, sizeof text, "{\"type\":\"output\",\"data\":\"%s\"}", hex);
    say_frame(conn, WEBSOCKET_TEXT, text);
    say_close(conn, 1000);
}
START_TEST(W17_all_input_arrives) {
    cleanup_free char *input = xcalloc(1, LARGE + 8);
    for (size_t i = 0; i < LARGE; i += 4)
        memcpy(input + i, i % 12 ? "😀" : "ab\r\x03", 4);
    run.input = input;
    run.input_len = LARGE;
    go(script_echo_size, 0);
    ck_assert_msg(run.ended, "%s", run.err.message);
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(slice_make(input, LARGE), hex);
    ck_assert_str_eq(buffer_cstr(&run.data), hex);
}
END_TEST

static void script_output(int conn, const char *head) {
    accept_upgrade(conn, head);
    char text[6000];
    for (int i = 0; i < 200; i++) {
        snprintf(text, sizeof text, "{\"type\":\"output\",\"data\":\"%05d%0*d\"}", i, 4091, 0);
        say_frame(conn, WEBSOCKET_TEXT, text);
    }
    say_close(conn, 1000);
}
START_TEST(a_paused_terminal_says_nothing) {
    run.pausing = true;
    go(script_output, 0);
    ck_assert_msg(run.ended, "%s", run.err.message);
    ck_assert_int_eq(run.pauses, 200);
    ck_assert_uint_eq(run.data.len, 200 * 4096);
}
END_TEST

START_TEST(closing_within_an_event) {
    run.close_on_data = true;
    go(script_output, 0);
    ck_assert_int_eq(run.pieces, 1);
    ck_assert(!run.ended && run.err.status == 0);
}
END_TEST

/* ---- Ends that are none, and lies ---- */

static void script_no_shell(int conn, const char *head) {
    accept_upgrade(conn, head);
    say_frame(conn, WEBSOCKET_TEXT, "{\"type\":\"error\",\"message\":\"/bin/zsh: no such file\"}");
    say_close(conn, 1011);
}
static void script_cut(int conn, const char *head) {
    accept_upgrade(conn, head);
    say_frame(conn, WEBSOCKET_TEXT, "{\"type\":\"output\",\"data\":\"x\"}");
}
static void script_stops(int conn, const char *head) {
    accept_upgrade(conn, head);
    say_close(conn, 1001);
}
static void script_refuses(int conn, const char *head) {
    say_text(conn, "HTTP/1.1 429 X\r\nContent-Length: 67\r\n\r\n"
                   "{\"code\":429,\"error\":\"64 commands run\",\"reason\":\"too_many_execs\"}\n");
}
static void script_refuses_until_close(int conn, const char *head) {
    say_text(conn, "HTTP/1.0 404 X\r\n\r\nnot found");
}
static void script_wrong_accept(int conn, const char *head) {
    say_text(conn, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
}
static void script_no_http(int conn, const char *head) {
    say_text(conn, "hello\r\n\r\n");
}
static void script_masked(int conn, const char *head) {
    accept_upgrade(conn, head);
    say(conn, "\x81\x82\0\0\0\0{}", 8);
}
static void script_too_long(int conn, const char *head) {
    accept_upgrade(conn, head);
    say(conn, "\x81\x7f\0\0\0\0\0\x02\0\0", 10);
}
static void script_descriptor(int conn, const char *head) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char text[] = "HTTP/1.1 101 X\r\n";
    struct iovec part = {text, sizeof text - 1};
    struct msghdr msg = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    *c = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    ck_assert_int_gt(sendmsg(conn, &msg, MSG_NOSIGNAL), 0);
    close(fd);
}

static const struct {
    script_fn *script;
    int status;
    const char *code;
    bool started;
} failures[] = {
    {script_no_shell, 502, "terminal_not_started", true},
    {script_cut, 502, "sandbox_unreachable", true},
    {script_stops, 502, "sandbox_stopping", true},
    {script_refuses, 429, "too_many_execs", false},
    {script_refuses_until_close, 502, "sandbox_bad_answer", false},
    {script_wrong_accept, 502, "sandbox_bad_answer", false},
    {script_no_http, 502, "sandbox_bad_answer", false},
    {script_masked, 502, "sandbox_bad_answer", true},
    {script_too_long, 502, "sandbox_bad_answer", true},
    {script_descriptor, 502, "sandbox_unreachable", false},
};

START_TEST(every_other_end_is_an_error) {
    go(failures[_i].script, 0);
    expect_error(failures[_i].status, failures[_i].code);
    ck_assert(run.started == failures[_i].started && !run.ended);
    if (_i == 0) ck_assert_str_eq(run.err.message, "/bin/zsh: no such file");
}
END_TEST

START_TEST(arguments_are_checked) {
    static const char *const bad[][2] = {{"session", ""}, {"session", "a b"}, {"session", "a;b"},
                                         {"shell", "sh"}, {"shell", ""},      {"workingDir", "x"}};
    uv_loop_t loop;
    uv_loop_init(&loop);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        cleanup_json json_t *wish = args();
        json_object_set_new(wish, bad[i][0], json_string(bad[i][1]));
        ck_assert_ptr_null(
            runtime_access_open_at(&fake.address, &loop, ACCESS_TERMINAL, wish, &events, NULL, &err));
        ck_assert_int_eq(err.status, 400);
        error_clear(&err);
    }
    static const int sizes[] = {0, -1, 65536};
    for (size_t i = 0; i < 3; i++) {
        struct error err = {0};
        cleanup_json json_t *wish = args();
        json_object_set_new(wish, i == 1 ? "cols" : "rows", json_integer(sizes[i]));
        ck_assert_ptr_null(
            runtime_access_open_at(&fake.address, &loop, ACCESS_TERMINAL, wish, &events, NULL, &err));
        ck_assert_int_eq(err.status, 400);
        error_clear(&err);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("runtime_terminal");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, a_session);
    tcase_add_test(c, W17_all_input_arrives);
    tcase_add_test(c, a_paused_terminal_says_nothing);
    tcase_add_test(c, closing_within_an_event);
    tcase_add_loop_test(c, every_other_end_is_an_error, 0, (int)(sizeof failures / sizeof *failures));
    tcase_add_test(c, arguments_are_checked);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
