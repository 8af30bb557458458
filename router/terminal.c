/* GET /ws/terminal/{id}: a shell of the sandbox for a browser (http-api.md 2.12, 5.6).
 *
 * Between a client's WebSocket (router/websocket_conn.h) and the sandbox's terminal (backend/access.h):
 * messages into keys and sizes, what the terminal shows into messages. Whichever side is slower makes the
 * other one wait; an idle terminal holds no buffer. Every end is told to the client with its reason (W-20,
 * W-53). */
#include "backend/templates.h"
#include "common/log.h"
#include "common/terminal_message.h"
#include "common/text.h"
#include "router/activity.h"
#include "router/auth.h"
#include "router/handlers.h"
#include "router/preview_upgrade.h"
#include "router/router.h"
#include "router/sandbox_view.h"
#include "router/terminals.h"
#include "router/websocket_conn.h"

#define COLS         120
#define ROWS         40
#define SHELL        "/bin/bash" /* of a template that names none */
#define MESSAGE_MAX  (1024 * 1024)
#define PING_MS      30000
#define SILENCE_MS   70000
#define STALL_MS     10000
#define CLOSE_MS     2000
#define HELD_MAX     (64ll << 20) /* of large messages in all terminals together */
#define PIECE_MAX    16384        /* of the terminal's output in one message */
#define INPUT_MAX    65536        /* waits for the sandbox: then the client has to wait */
#define TICK_MS      1000         /* how often it is looked whether the sandbox is still there */
#define REASON_MS    100          /* and after the terminal was lost, until it is known why */
#define REASON_LOOKS 20
#define STOP_LOOKS   100 /* where the runtime has said that it stops: it may take its grace of 5 s and more */

struct terminal {
    struct request *r;
    struct websocket_conn *conn; /* once the 101 is out */
    struct access_stream *shell; /* NULL before it was opened, and once it has ended */
    uv_timer_t tick;
    bool started, used;
    bool leaving; /* the client was told of the end, or has gone */
    bool view_only;
    uint64_t level_at; /* when view_only was looked up */
    uint64_t touched_at;
    struct buffer input; /* keys that the sandbox has not taken */
    char tail[4];        /* of its output: the start of a character */
    size_t tail_len;
    enum terminal_ending ending;
    int looks_left; /* for the reason why it was lost; 0: it was not */
};

static const struct ending {
    const char *reason; /* of a close message before the close frame; NULL: there is none */
    int code;
    unsigned close;
} endings[TERMINAL_ENDINGS] = {
    [TERMINAL_CLIENT_LEFT] = {NULL, 0, WEBSOCKET_CLOSE_NORMAL},
    [TERMINAL_SHELL_ENDED] = {NULL, 0, WEBSOCKET_CLOSE_NORMAL},
    [TERMINAL_NOT_STARTED] = {NULL, 0, WEBSOCKET_CLOSE_INTERNAL},
    [TERMINAL_SANDBOX_LOST] = {NULL, 0, WEBSOCKET_CLOSE_INTERNAL},
    [TERMINAL_SANDBOX_STOPPED] = {"sandbox_stopped", 4001, 4004},
    [TERMINAL_SANDBOX_DELETED] = {"sandbox_deleted", 4001, 4004},
    [TERMINAL_ACCESS_REVOKED] = {"access_revoked", 4003, 4009},
    [TERMINAL_SESSION_EXPIRED] = {"session_expired", 4003, 4009},
    [TERMINAL_SERVER_STOPS] = {NULL, 0, WEBSOCKET_CLOSE_RESTART},
};

/* ---- To the client ---- */

static void say_output(struct terminal *t, const char *bytes, size_t len) {
    cleanup_buffer struct buffer json = {0};
    terminal_message_put_output(&json, slice_make(bytes, len));
    websocket_conn_send(t->conn, buffer_slice(&json));
}

/* Whole characters only: what may be the start of one waits for its rest (W-16). */
static void show(struct terminal *t, struct slice bytes) {
    while (bytes.len) {
        char piece[PIECE_MAX + sizeof t->tail];
        size_t n = bytes.len < PIECE_MAX ? bytes.len : PIECE_MAX;
        memcpy(piece, t->tail, t->tail_len);
        memcpy(piece + t->tail_len, bytes.ptr, n);
        size_t len = t->tail_len + n, held = utf8_incomplete_tail(slice_make(piece, len));
        if (len > held) say_output(t, piece, len - held);
        memcpy(t->tail, piece + len - held, held);
        t->tail_len = held;
        bytes = slice_make(bytes.ptr + n, bytes.len - n);
    }
}

/* Tells the client how it ended, once. */
static void finish(struct terminal *t, enum terminal_ending how) {
    const struct ending *e = &endings[how];
    cleanup_buffer struct buffer json = {0};
    if (t->leaving) return;
    t->leaving = true;
    t->ending = how;
    access_close(steal_ptr(t->shell));
    buffer_free(&t->input);
    if (!t->conn) return; /* told when the 101 is out */
    if (e->reason) {
        terminal_message_put_close(&json, e->reason, e->code);
        websocket_conn_send(t->conn, buffer_slice(&json));
    }
    websocket_conn_close(t->conn, e->close, "");
}

static void fail_to_start(struct terminal *t, const struct error *err) {
    cleanup_buffer struct buffer json = {0};
    terminal_message_put_error(&json, err->message);
    websocket_conn_send(t->conn, buffer_slice(&json));
    finish(t, TERMINAL_NOT_STARTED);
}

/* ---- The sandbox as the store has it ---- */

/* Whether the sandbox has come to an end, and how. A stop that was accepted is the reason why a terminal has
 * ended or was lost, also while other processes of the sandbox take their time; one that works goes on. */
static bool sandbox_over(const struct terminal *t, enum terminal_ending *how) {
    const struct object *was = t->r->sandbox;
    struct store *store = t->r->backend->store;
    cleanup_object struct object *now = store->ops->get(store, KIND_SANDBOX, was->namespace, was->name);
    *how = TERMINAL_SANDBOX_DELETED;
    if (!now || strcmp(now->uid, was->uid) != 0 || json_at(now->json, "metadata.deletionTimestamp"))
        return true;
    *how = TERMINAL_SANDBOX_STOPPED;
    return strcmp(json_str_at(now->json, "status.phase"), "Running") != 0 ||
           (!t->shell && sandbox_is_stopping(now->json));
}

/* Viewers look on (W-33). A level may change while the terminal is open. */
static bool may_type(struct terminal *t) {
    struct request *r = t->r;
    uint64_t now = uv_now(r->uv);
    if (t->level_at && now - t->level_at < TICK_MS) return !t->view_only;
    struct store *store = r->backend->store;
    cleanup_object struct object *sandbox =
        store->ops->get(store, KIND_SANDBOX, r->sandbox->namespace, r->sandbox->name);
    bool same = sandbox && strcmp(sandbox->uid, r->sandbox->uid) == 0;
    const json_t *json = same ? sandbox->json : r->sandbox->json;
    t->view_only = identity_access(&r->identity, json) < ACCESS_LEVEL_COLLABORATOR;
    t->level_at = now ? now : 1;
    return !t->view_only;
}

/* ---- Events of the sandbox ---- */

static void on_started(void *ctx) {
    struct terminal *t = ctx;
    t->started = true;
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct terminal *t = ctx;
    (void)channel;
    show(t, slice_make(data, len));
    if (websocket_conn_full(t->conn)) access_pause(t->shell);
}

/* Gives the sandbox what it takes of the keys. */
static void feed(struct terminal *t) {
    size_t sent = 0;
    while (t->shell && sent < t->input.len) {
        size_t n = access_write(t->shell, t->input.data + sent, t->input.len - sent);
        if (n == 0) break; /* on_writable follows */
        sent += n;
    }
    if (sent) buffer_consume(&t->input, sent);
    if (t->input.len == 0) buffer_free(&t->input);
    if (t->input.len < INPUT_MAX) websocket_conn_resume(t->conn);
}

static void on_writable(void *ctx) {
    feed(ctx);
}

static void on_end(void *ctx, const json_t *result) {
    struct terminal *t = ctx;
    enum terminal_ending how;
    (void)result;
    access_close(steal_ptr(t->shell));
    if (t->tail_len) say_output(t, t->tail, t->tail_len);
    /* A sandbox that stops ends its shells, too. */
    finish(t, sandbox_over(t, &how) ? how : TERMINAL_SHELL_ENDED);
}

static void on_tick(uv_timer_t *tick);

static void on_error(void *ctx, const struct error *err) {
    struct terminal *t = ctx;
    enum terminal_ending how;
    access_close(steal_ptr(t->shell));
    log_info("terminal lost", "sandbox", t->r->sandbox->name, "code", err->code, "error", err->message,
             "request_id", t->r->request_id, NULL);
    if (sandbox_over(t, &how)) {
        finish(t, how);
    } else if (!t->started || strcmp(err->code, ERR_TERMINAL_NOT_STARTED) == 0) {
        fail_to_start(t, err);
    } else {
        /* The store learns a moment later that the sandbox has stopped. */
        t->looks_left = strcmp(err->code, ERR_SANDBOX_STOPPING) == 0 ? STOP_LOOKS : REASON_LOOKS;
        uv_timer_start(&t->tick, on_tick, REASON_MS, REASON_MS);
    }
}

static const struct access_events shell_events = {.on_started = on_started,
                                                  .on_data = on_data,
                                                  .on_writable = on_writable,
                                                  .on_end = on_end,
                                                  .on_error = on_error};

/* ---- Events of the client ---- */

static void on_message(void *ctx, struct slice message) {
    struct terminal *t = ctx;
    struct terminal_message m;
    cleanup_buffer struct buffer pong = {0};
    if (t->leaving) return;
    terminal_message_parse(message, &m);
    switch (m.type) {
    case TERMINAL_PING:
        terminal_message_put_pong(&pong);
        /* Who asks and does not read gets no more answers than may wait for it. */
        if (!websocket_conn_full(t->conn)) websocket_conn_send(t->conn, buffer_slice(&pong));
        break;
    case TERMINAL_RESIZE:
        if (t->shell && may_type(t)) access_resize(t->shell, m.cols, m.rows);
        break;
    case TERMINAL_INPUT:
        if (!t->shell || !may_type(t)) break;
        t->used = true;
        buffer_append(&t->input, m.text.ptr, m.text.len);
        feed(t);
        if (t->input.len >= INPUT_MAX) websocket_conn_pause(t->conn);
        break;
    case TERMINAL_OUTPUT:
    case TERMINAL_ERROR:
    case TERMINAL_UNKNOWN: break;
    }
    terminal_message_free(&m);
}

static void on_ping(void *ctx) {
    struct terminal *t = ctx;
    struct timespec now;
    cleanup_buffer struct buffer json = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    terminal_message_put_heartbeat(&json, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    websocket_conn_send(t->conn, buffer_slice(&json));
}

static void on_room(void *ctx) {
    struct terminal *t = ctx;
    if (t->shell) access_resume(t->shell);
}

static void on_conn_end(void *ctx, unsigned code) {
    struct terminal *t = ctx;
    (void)code;
    t->leaving = true;
    access_close(steal_ptr(t->shell));
    request_upgrade_end(t->r);
}

static const struct websocket_conn_events conn_events = {
    .on_message = on_message, .on_ping = on_ping, .on_room = on_room, .on_end = on_conn_end};

/* ---- Once a second ---- */

static void note_use(struct terminal *t) {
    uint64_t now = uv_now(t->r->uv);
    if (!t->used || (t->touched_at && now - t->touched_at < router_touch_interval_ms(t->r))) return;
    t->used = false;
    t->touched_at = now ? now : 1;
    router_touch(t->r); /* W-19 */
}

static void on_tick(uv_timer_t *tick) {
    struct terminal *t = tick->data;
    enum terminal_ending how;
    if (t->leaving) return;
    note_use(t);
    if (sandbox_over(t, &how))
        finish(t, how);
    else if (t->looks_left && --t->looks_left == 0)
        finish(t, TERMINAL_SANDBOX_LOST);
}

/* ---- The exchange ---- */

/* The template's shell; whether the image has it is seen in the sandbox (W-70). */
static char *shell_of(const struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *spec = template_resolve(r->backend->store, r->sandbox->json, &err);
    const char *shell = json_str_at(spec, "harness.shell");
    return xstrdup(shell[0] == '/' ? shell : SHELL);
}

static void open_shell(struct terminal *t) {
    struct request *r = t->r;
    cleanup_error struct error err = {0};
    cleanup_free char *shell = shell_of(r), *session = xasprintf("agenttier-%s", r->sandbox->name);
    cleanup_json json_t *args =
        json_pack("{s:s, s:s, s:i, s:i}", "session", session, "shell", shell, "cols", COLS, "rows", ROWS);
    t->shell =
        access_open(r->backend->access, r->uv, r->sandbox, ACCESS_TERMINAL, args, &shell_events, t, &err);
    if (!t->shell) on_error(t, &err);
}

static void on_socket(struct request *r, int fd, struct slice ahead) {
    struct terminal *t = r->state;
    struct websocket_conn_limits limits = {.message_max = MESSAGE_MAX,
                                           .ping_ms = PING_MS,
                                           .silence_ms = SILENCE_MS,
                                           .stall_ms = STALL_MS,
                                           .close_ms = CLOSE_MS,
                                           .held = terminals_held(r->router->terminals),
                                           .held_max = HELD_MAX};
    t->conn = websocket_conn_open(r->uv, fd, ahead, &limits, &conn_events, t);
    if (!t->conn) {
        request_upgrade_end(r);
        return;
    }
    if (t->leaving) { /* access was revoked meanwhile */
        t->leaving = false;
        finish(t, t->ending);
        return;
    }
    uv_timer_start(&t->tick, on_tick, TICK_MS, TICK_MS);
    open_shell(t);
}

static void on_revoked(struct request *r) {
    finish(r->state, auth_credential_expired(r) ? TERMINAL_SESSION_EXPIRED : TERMINAL_ACCESS_REVOKED);
}

static void on_drain(struct request *r) {
    finish(r->state, TERMINAL_SERVER_STOPS);
}

static void on_tick_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_close(struct request *r, bool aborted) {
    struct terminal *t = r->state;
    (void)aborted;
    r->state = NULL;
    access_close(steal_ptr(t->shell));
    websocket_conn_free(steal_ptr(t->conn));
    terminals_leave(r->router->terminals, r->identity.sub, r->sandbox->uid, t->ending);
    log_info("terminal ended", "sandbox", r->sandbox->name, "user", r->identity.sub, "reason",
             terminal_ending_names[t->ending], "request_id", r->request_id, NULL);
    buffer_free(&t->input);
    uv_close((uv_handle_t *)&t->tick, on_tick_closed);
}

static const struct stream_ops stream = {
    .on_revoked = on_revoked, .on_drain = on_drain, .on_close = on_close};

struct header_list {
    struct http1_header items[HTTP1_MAX_HEADERS];
    size_t count;
};

static bool collect(void *ctx, struct slice name, struct slice value) {
    struct header_list *list = ctx;
    if (list->count == HTTP1_MAX_HEADERS) return false;
    list->items[list->count++] = (struct http1_header){name, value};
    return true;
}

static bool check_handshake(struct request *r, struct preview_upgrade *upgrade, struct error *err) {
    cleanup_error struct error why = {0};
    struct header_list list = {.count = 0};
    const char *version = request_header(r, "Sec-WebSocket-Version");
    if (strcmp(r->method, "GET") != 0) {
        error_set(err, 405, "method_not_allowed", "a terminal is opened by GET");
        reply_header(r, "Allow", "GET");
        return false;
    }
    request_each_header(r, collect, &list);
    if (preview_upgrade_wanted(list.items, list.count, r->method, r->http_1_0, r->body_length, upgrade,
                               &why) &&
        upgrade->websocket && strcmp(version, "13") == 0)
        return true;
    error_set(err, 400, ERR_BAD_REQUEST, "Bad Request");
    reply_header(r, "Sec-WebSocket-Version", "13");
    return false;
}

void terminal_open(struct request *r) {
    cleanup_error struct error err = {0};
    struct preview_upgrade upgrade;
    if (!check_handshake(r, &upgrade, &err) ||
        !terminals_admit(r->router->terminals, r->identity.sub, r->sandbox->uid, &err)) {
        reply_error(r, &err);
        return;
    }
    struct terminal *t = xcalloc(1, sizeof *t);
    t->r = r;
    t->used = true; /* who opens one uses the sandbox */
    uv_timer_init(r->uv, &t->tick);
    t->tick.data = t;
    request_stream(r, &stream, t);
    reply_header(r, "Upgrade", "websocket");
    reply_header(r, "Sec-WebSocket-Accept", upgrade.accept);
    reply_upgrade(r, on_socket);
}
