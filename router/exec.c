/* POST /sandboxes/{id}/exec and GET, DELETE /sandboxes/{id}/exec/{execId}: commands
 * (http-api.md 2.8, tutorial.md row 4).
 *
 * The outcome comes only from the sandbox's runtime: a connection that ends without one is an
 * error, never an exit code (lesson I6). A client that goes away takes its command with it,
 * unless it asked for one that outlives it (detach, Idempotency-Key). */
#include "common/secret.h"
#include "router/activity.h"
#include "router/exec_args.h"
#include "router/exec_render.h"
#include "router/handlers.h"
#include "router/router.h"

#include <stdatomic.h>
#include <stdio.h>

/* While a command is silent the client gets a space this often: proxies cut connections on which
 * nothing moves, and whitespace before JSON is legal (lesson I5). */
#define HEARTBEAT_MS 15000
/* Output of all commands under way that this process holds. Above it nothing new starts, and what
 * runs loses further output (and says that it was truncated). */
#define OUTPUT_BUDGET (256ll << 20)
/* An answer up to this size has a Content-Length. */
#define SMALL_ANSWER 65536

struct exec {
    struct request *r;
    struct access_stream *stream;
    uv_timer_t heartbeat;
    uint64_t spoke_at; /* loop time of the last heartbeat to the client */
    json_t *args;      /* of the access operation */
    struct buffer input;
    size_t input_sent;
    bool has_input, input_gone, started;
    bool base64, detach, keep, idempotent;
    const char *status; /* "exited" for a look-up */
    struct buffer output[2];
    bool truncated[2];
    int64_t held; /* of the budget */
    struct exec_render render;
    struct buffer text; /* rendered, not yet taken by the connection */
    bool rendering, begun;
};

static const char *exec_id(const struct exec *e) {
    return json_string_value(json_object_get(e->args, "id"));
}

/* ---- The budget ---- */

static void hold(struct exec *e, int64_t bytes) {
    atomic_fetch_add(&e->r->router->exec_output_bytes, bytes);
    e->held += bytes;
}

static void release_output(struct exec *e) {
    buffer_free(&e->output[0]);
    buffer_free(&e->output[1]);
    hold(e, -e->held);
}

/* ---- The answer ---- */

static void write_some(struct exec *e) {
    for (;;) {
        if (e->text.len == 0 && !exec_render_more(&e->render, &e->text)) {
            e->rendering = false;
            reply_stream_end(e->r);
            return;
        }
        size_t taken = reply_stream_write(e->r, e->text.data, e->text.len);
        bool all = taken == e->text.len;
        buffer_consume(&e->text, taken);
        if (!all) return;
    }
}

static void begin(struct exec *e) {
    if (e->begun) return;
    e->begun = true;
    reply_header(e->r, "Content-Type", "application/json");
    reply_stream_begin(e->r, 200, -1);
}

static void answer(struct exec *e, const json_t *outcome) {
    struct slice output[2] = {buffer_slice(&e->output[0]), buffer_slice(&e->output[1])};
    exec_render_init(&e->render, outcome, e->status, output, e->truncated, e->base64);
    uv_timer_stop(&e->heartbeat);
    if (!e->begun && output[0].len + output[1].len <= SMALL_ANSWER / 6) {
        cleanup_buffer struct buffer text = {0};
        while (exec_render_more(&e->render, &text)) {
        }
        size_t len;
        char *data = buffer_steal(&text, &len);
        reply_text(e->r, 200, "application/json", data, len);
        return;
    }
    begin(e);
    e->rendering = true;
    write_some(e);
}

static void refuse(struct exec *e, const struct error *err) {
    uv_timer_stop(&e->heartbeat);
    if (e->begun) { /* the status cannot change any more; the client sees a body that is cut */
        reply_stream_abort(e->r);
        return;
    }
    cleanup_error struct error told = *err;
    told.details = err->details ? json_deep_copy(err->details) : json_object();
    json_object_set_new(told.details, "execId", json_string(exec_id(e)));
    if (e->idempotent && err->status == 409 && strcmp(err->code, "exec_id_reused") == 0) {
        told.code = "idempotency_key_reused";
        snprintf(told.message, sizeof told.message,
                 "this Idempotency-Key was used with another body; a new command needs a new key");
    }
    reply_error(e->r, &told);
}

static void on_heartbeat(uv_timer_t *timer) {
    struct exec *e = timer->data;
    router_touch(e->r); /* a command that runs is use of the sandbox (W-19) */
    if (uv_now(timer->loop) - e->spoke_at < HEARTBEAT_MS) return;
    e->spoke_at = uv_now(timer->loop);
    begin(e);
    reply_stream_write(e->r, " ", 1);
}

/* ---- Events of the sandbox ---- */

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct exec *e = ctx;
    int i = channel == 2;
    struct buffer *b = &e->output[i];
    if (e->truncated[i]) return;
    size_t room = EXEC_OUTPUT_LIMIT - b->len, n = len < room ? len : room;
    if (b->len + n > b->cap) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap < b->len + n)
            cap *= 2;
        if (cap > EXEC_OUTPUT_LIMIT + 1) cap = EXEC_OUTPUT_LIMIT + 1; /* and a NUL */
        if (atomic_load(&e->r->router->exec_output_bytes) + (int64_t)(cap - b->cap) > OUTPUT_BUDGET) {
            e->truncated[i] = true;
            return;
        }
        hold(e, (int64_t)(cap - b->cap));
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    buffer_append(b, data, n);
    if (n < len) e->truncated[i] = true;
}

static void detach_when_ready(struct exec *e) {
    if (!e->detach || !e->started || !e->input_gone) return;
    access_close(steal_ptr(e->stream));
    uv_timer_stop(&e->heartbeat);
    reply_json(e->r, 202, json_pack("{s:s, s:s}", "execId", exec_id(e), "status", "running"));
}

static void on_started(void *ctx) {
    struct exec *e = ctx;
    e->started = true;
    detach_when_ready(e);
}

static void feed_input(struct exec *e) {
    while (e->input_sent < e->input.len) {
        size_t n = access_write(e->stream, e->input.data + e->input_sent, e->input.len - e->input_sent);
        e->input_sent += n;
        if (e->input_sent < e->input.len) return; /* on_writable follows */
    }
    buffer_free(&e->input);
    e->input_sent = 0;
    access_finish(e->stream);
}

static void on_writable(void *ctx) {
    struct exec *e = ctx;
    if (e->input.len) {
        feed_input(e);
        return;
    }
    e->input_gone = true;
    detach_when_ready(e);
}

static void on_end(void *ctx, const json_t *result) {
    struct exec *e = ctx;
    access_close(steal_ptr(e->stream));
    answer(e, result);
}

static void on_error(void *ctx, const struct error *err) {
    struct exec *e = ctx;
    refuse(e, err);
    access_close(steal_ptr(e->stream));
}

static const struct access_events run_events = {
    .on_started = on_started,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_end = on_end,
    .on_error = on_error,
};

/* ---- The exchange ---- */

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_client_writable(struct request *r) {
    struct exec *e = r->state;
    if (e->rendering) write_some(e);
}

static void on_close(struct request *r, bool aborted) {
    (void)aborted;
    struct exec *e = r->state;
    access_close(e->stream); /* kills the command, unless it was started to outlive this */
    release_output(e);
    exec_render_free(&e->render);
    buffer_free(&e->text);
    buffer_free(&e->input);
    json_decref(e->args);
    uv_close((uv_handle_t *)&e->heartbeat, on_timer_closed);
}

static const struct stream_ops stream = {.on_writable = on_client_writable, .on_close = on_close};

static struct exec *exec_new(struct request *r, json_t *args) {
    struct exec *e = xcalloc(1, sizeof *e);
    e->r = r;
    e->args = args;
    uv_timer_init(r->uv, &e->heartbeat);
    e->heartbeat.data = e;
    request_stream(r, &stream, e);
    return e;
}

static void exec_open(struct exec *e, enum access_op op, const struct access_events *events) {
    cleanup_error struct error err = {0};
    e->stream = access_open(e->r->backend->access, e->r->uv, e->r->sandbox, op, e->args, events, e, &err);
    if (!e->stream) refuse(e, &err);
}

/* ---- POST ---- */

/* Names the command: by chance, or by the caller's key, so that a retry finds the first run
 * (lessons I8, I31). The key is bound to its owner and to this very sandbox. */
static void name_exec(struct request *r, const char *key, json_t *args) {
    char hex[SHA256_HEX_LEN + 1], id[48];
    if (!key) {
        random_hex(hex, 16);
        snprintf(id, sizeof id, "x-%.32s", hex);
    } else {
        cleanup_buffer struct buffer name = {0};
        buffer_append(&name, r->identity.sub, strlen(r->identity.sub) + 1);
        buffer_append(&name, r->sandbox->uid, strlen(r->sandbox->uid) + 1);
        buffer_append_str(&name, key);
        sha256_hex(buffer_slice(&name), hex);
        snprintf(id, sizeof id, "k-%.40s", hex);
        cleanup_free char *canonical = json_dumps(r->body, JSON_COMPACT | JSON_SORT_KEYS);
        sha256_hex(slice_of(canonical), hex);
        json_object_set_new(args, "digest", json_string(hex));
    }
    json_object_set_new(args, "id", json_string(id));
}

static bool budget_left(struct request *r, struct error *err) {
    if (atomic_load(&r->router->exec_output_bytes) < OUTPUT_BUDGET) return true;
    error_set(err, 503, "busy", "the commands under way hold too much output; retry in a moment");
    err->retry_after = 2;
    return false;
}

void exec_create(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_exec_args struct exec_args args = {0};
    const char *key = request_header(r, "Idempotency-Key");
    if (key && !idempotency_key_valid(key)) {
        error_set(&err, 400, ERR_BAD_REQUEST, "Idempotency-Key must be 1 to 255 visible ASCII characters");
        reply_error(r, &err);
        return;
    }
    if (!exec_args_parse(r->body, &args, &err) || !budget_left(r, &err)) {
        reply_error(r, &err);
        return;
    }
    router_touch(r);
    name_exec(r, key, args.access);
    struct exec *e = exec_new(r, steal_ptr(args.access));
    e->base64 = args.base64;
    e->detach = args.detach;
    e->idempotent = key != NULL;
    e->keep = e->detach || e->idempotent;
    e->has_input = args.has_input;
    e->input_gone = !args.has_input;
    e->input.data = buffer_steal(&args.input, &e->input.len);
    hold(e, (int64_t)e->input.len);
    if (e->keep) json_object_set_new(e->args, "keep", json_true());
    if (e->detach && !key) {
        /* A start needs a digest to be kept under; a random id is never asked for again by a start. */
        json_object_set_new(e->args, "digest", json_string("detached"));
    }
    exec_open(e, ACCESS_EXEC, &run_events);
    if (!e->stream) return;
    if (e->has_input) feed_input(e);
    uint64_t tick = router_touch_interval_ms(r);
    if (tick > HEARTBEAT_MS) tick = HEARTBEAT_MS;
    e->spoke_at = uv_now(r->uv);
    uv_timer_start(&e->heartbeat, on_heartbeat, tick, tick);
}

/* ---- GET: the outcome, then its output ---- */

static void on_looked_up(void *ctx, const json_t *result) {
    struct exec *e = ctx;
    access_close(steal_ptr(e->stream));
    if (json_is_true(json_object_get(result, "running"))) {
        reply_json(e->r, 200, json_pack("{s:s, s:s}", "execId", exec_id(e), "status", "running"));
        return;
    }
    json_object_set_new(e->args, "attach", json_true());
    e->status = "exited";
    exec_open(e, ACCESS_EXEC, &run_events);
}

static const struct access_events look_up_events = {.on_end = on_looked_up, .on_error = on_error};

static bool known_id(struct request *r, struct error *err) {
    const char *id = request_param(r, "execId");
    size_t n = strlen(id);
    if (n >= 1 && n <= 64 &&
        strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n)
        return true;
    error_set(err, 404, "exec_not_found", "no command with this id is known");
    return false;
}

void exec_get(struct request *r) {
    cleanup_error struct error err = {0};
    int wait_ms;
    const char *encoding = request_query(r, "encoding");
    if (!known_id(r, &err) || !exec_wait_parse(request_query(r, "wait"), &wait_ms, &err) ||
        !budget_left(r, &err)) {
        reply_error(r, &err);
        return;
    }
    struct exec *e = exec_new(r, json_pack("{s:s, s:i}", "id", request_param(r, "execId"), "wait", wait_ms));
    e->base64 = encoding && strcmp(encoding, "base64") == 0;
    e->input_gone = true;
    exec_open(e, ACCESS_EXEC_ATTACH, &look_up_events);
}

/* ---- DELETE ---- */

static void on_killed(void *ctx, const json_t *result) {
    (void)result;
    struct exec *e = ctx;
    access_close(steal_ptr(e->stream));
    reply_empty(e->r, 204);
}

static const struct access_events kill_events = {.on_end = on_killed, .on_error = on_error};

void exec_delete(struct request *r) {
    cleanup_error struct error err = {0};
    if (!known_id(r, &err)) {
        reply_error(r, &err);
        return;
    }
    struct exec *e = exec_new(r, json_pack("{s:s}", "id", request_param(r, "execId")));
    exec_open(e, ACCESS_EXEC_KILL, &kill_events);
}
