#include "k8s/exec_access.h"

#include "common/secret.h"
#include "k8s/exec_stream.h"
#include "k8s/exec_terminal.h"

#include <stdio.h>

#define WRITE_MAX 16384 /* taken at once through the tar filter */

static struct exec_stream *stream_of(struct access_stream *s) {
    return (struct exec_stream *)s;
}

/* ---- Ends ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct exec_stream *s = handle->data;
    if (--s->handles > 0) return;
    buffer_free(&s->pending);
    buffer_free(&s->line);
    buffer_free(&s->words);
    buffer_free(&s->answer);
    buffer_free(&s->scratch);
    exec_marks_free(&s->marks[0]);
    exec_marks_free(&s->marks[1]);
    tar_filter_free(s->tar);
    error_clear(&s->deferred);
    json_decref(s->args);
    free(s);
}

void exec_stop(struct exec_stream *s) {
    if (s->done) return;
    s->done = true;
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->kick);
    pod_exec_close(steal_ptr(s->exec));
    kill_job_forget(steal_ptr(s->job));
    if (s->on_gone) s->on_gone(s->owner);
    s->on_gone = NULL;
}

void exec_fail(struct exec_stream *s, const struct error *err) {
    if (s->done) return;
    exec_stop(s);
    if (!s->closed && s->events.on_error) s->events.on_error(s->ctx, err);
}

void exec_fail_with(struct exec_stream *s, int status, const char *code, const char *text) {
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "%s", text);
    exec_fail(s, &err);
}

void exec_succeed(struct exec_stream *s, json_t *result) {
    cleanup_json json_t *owned = result ? result : json_object();
    if (s->done) return;
    exec_stop(s);
    if (!s->closed && s->events.on_end) s->events.on_end(s->ctx, owned);
}

void exec_destroy(struct exec_stream *s) {
    if (s->destroyed) return;
    s->destroyed = true;
    exec_stop(s);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->kick, on_handle_closed);
}

/* ---- Deadlines ---- */

static void on_timer(uv_timer_t *timer) {
    struct exec_stream *s = timer->data;
    if (s->op == ACCESS_EXEC)
        exec_command_timer(s);
    else
        exec_fail_with(s, 504, ERR_SANDBOX_TIMEOUT, "the sandbox did not answer in time");
}

void exec_patience(struct exec_stream *s, int ms) {
    if (ms)
        uv_timer_start(&s->timer, on_timer, (uint64_t)ms, 0);
    else
        uv_timer_stop(&s->timer);
}

/* Something moved. Input that the user has not sent is waited for; what he does not read too. */
static void progress(struct exec_stream *s) {
    if (s->done || s->op == ACCESS_EXEC || !s->open) return;
    bool users_turn = s->paused || (s->row->input && !s->finished && s->pending.len == 0);
    int ms = s->row->patience_ms;
    if (s->op == ACCESS_EXEC_ATTACH) ms += (int)json_integer_value(json_object_get(s->args, "wait"));
    exec_patience(s, users_turn ? 0 : ms);
}

/* ---- Input ---- */

static void put_input(struct exec_stream *s, const char *data, size_t len) {
    if (len == 0) return;
    if (!s->v5) buffer_printf(&s->pending, "%zu\n", len);
    buffer_append(&s->pending, data, len);
}

/* What ends the input, when the user has no more. */
static bool put_end(struct exec_stream *s, struct error *err) {
    if (s->op == ACCESS_WRITE) {
        char trailer[EXEC_NONCE_LEN + 22];
        snprintf(trailer, sizeof trailer, "%s %020llu", s->nonce, (unsigned long long)s->written);
        put_input(s, trailer, sizeof trailer - 1);
    } else if (s->op == ACCESS_ARCHIVE_WRITE) {
        cleanup_buffer struct buffer end = {0};
        if (!tar_filter_finish(s->tar, &end, err)) return false;
        put_input(s, end.data, end.len);
    }
    if (!s->v5) buffer_append_str(&s->pending, "0\n");
    return true;
}

static void flush(struct exec_stream *s) {
    if (s->done || !s->open || !s->exec) return;
    if (s->pending.len) {
        size_t n = pod_exec_write(s->exec, s->pending.data, s->pending.len);
        if (s->done) return;
        if (n) buffer_consume(&s->pending, n);
        if (n) progress(s);
    }
    if (s->pending.len == 0 && s->end_sent) pod_exec_finish(s->exec);
}

static void on_kick(uv_timer_t *timer) {
    struct exec_stream *s = timer->data;
    if (exec_over(s)) return;
    if (s->deferred.status) {
        exec_fail(s, &s->deferred);
        return;
    }
    if (!s->ready || !s->events.on_writable) return;
    bool room = s->want_writable && !s->finished && s->pending.len < EXEC_PENDING_MAX / 2;
    bool drained = s->finished && s->end_sent && s->pending.len == 0 && !s->told_drained;
    if (!room && !drained) return;
    s->want_writable = false;
    if (drained) s->told_drained = true;
    s->events.on_writable(s->ctx);
}

static void tell_writable(struct exec_stream *s) {
    if (!s->done) uv_timer_start(&s->kick, on_kick, 0, 0);
}

static void fail_later(struct exec_stream *s, struct error *err) {
    if (!s->deferred.status) error_move(&s->deferred, err);
    tell_writable(s);
}

static void end_input(struct exec_stream *s) {
    cleanup_error struct error err = {0};
    if (s->end_sent) return;
    s->end_sent = true;
    if (s->row->input && !put_end(s, &err)) {
        fail_later(s, &err);
        return;
    }
    flush(s);
    tell_writable(s);
}

/* ---- The connection ---- */

/* All is said that goes before the user's input. */
static void begin_input(struct exec_stream *s) {
    s->ready = true;
    flush(s);
    if (s->done) return;
    bool input = s->row->input && (s->op != ACCESS_EXEC || json_is_true(json_object_get(s->args, "stdin")));
    if (!input) {
        s->end_sent = true;
        flush(s);
    } else if (s->finished) {
        end_input(s);
    } else {
        tell_writable(s);
    }
}

void exec_go(struct exec_stream *s) {
    exec_param(&s->pending, "go");
    begin_input(s);
}

static void on_open(void *ctx, bool can_close_stdin) {
    struct exec_stream *s = ctx;
    cleanup_error struct error err = {0};
    s->open = true;
    s->v5 = can_close_stdin;
    if (s->paused) pod_exec_pause(s->exec);
    if (!s->row->params(s, &s->pending, &err)) {
        exec_fail(s, &err);
        return;
    }
    if (s->row->asks)
        flush(s);
    else
        begin_input(s);
    if (s->done) return;
    if (s->op == ACCESS_EXEC)
        exec_patience(s, s->row->patience_ms);
    else
        progress(s);
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct exec_stream *s = ctx;
    progress(s);
    s->row->on_data(s, channel, data, len);
}

static void on_room(void *ctx) {
    struct exec_stream *s = ctx;
    flush(s);
    tell_writable(s);
}

static void on_end(void *ctx, const struct pod_exec_outcome *outcome) {
    struct exec_stream *s = ctx;
    pod_exec_close(steal_ptr(s->exec));
    s->row->on_end(s, outcome->exit_code);
}

/* What the container runtimes say of an image without a shell. */
static bool no_shell(const struct error *err) {
    return strcmp(err->code, ERR_SANDBOX_UNREACHABLE) == 0 && strstr(err->message, "\"/bin/sh\"") &&
           strstr(err->message, "no such file or directory");
}

static void on_error(void *ctx, const struct error *err) {
    struct exec_stream *s = ctx;
    pod_exec_close(steal_ptr(s->exec));
    if (no_shell(err)) {
        exec_fail_with(
            s, 501, "image_without_shell",
            "the sandbox's image has no /bin/sh, which this needs where agenttier-runtime is not in the pod");
        return;
    }
    if (s->op == ACCESS_EXEC)
        exec_command_error(s, err);
    else
        exec_fail(s, err);
}

void exec_give(struct exec_stream *s, int channel, const char *data, size_t len) {
    while (len && !exec_over(s)) {
        size_t n = len < 65536 ? len : 65536;
        if (s->events.on_data) s->events.on_data(s->ctx, channel, data, n);
        data += n;
        len -= n;
    }
}

/* ---- The interface ---- */

static size_t stream_write(struct access_stream *stream, const char *data, size_t len) {
    struct exec_stream *s = stream_of(stream);
    cleanup_error struct error err = {0};
    /* Without a connection the command is over, and only its tree is still being ended. */
    if (exec_over(s) || !s->exec || s->finished || s->deferred.status) return len;
    if (s->has_size && len > s->declared - s->written) {
        error_set(&err, 400, ERR_BAD_REQUEST, "the input is longer than was declared");
        fail_later(s, &err);
        return len;
    }
    size_t room = s->ready && s->pending.len < EXEC_PENDING_MAX ? EXEC_PENDING_MAX - s->pending.len : 0;
    size_t n = len < room ? len : room;
    if (s->tar && n > WRITE_MAX) n = WRITE_MAX;
    if (n < len) s->want_writable = true;
    if (n == 0) return 0;
    if (s->tar) {
        buffer_clear(&s->scratch);
        if (!tar_filter_feed(s->tar, slice_make(data, n), &s->scratch, &err)) {
            fail_later(s, &err);
            return len;
        }
        put_input(s, s->scratch.data, s->scratch.len);
    } else {
        put_input(s, data, n);
    }
    s->written += n;
    flush(s);
    if (n < len) tell_writable(s);
    return n;
}

static void stream_finish(struct access_stream *stream) {
    struct exec_stream *s = stream_of(stream);
    cleanup_error struct error err = {0};
    if (exec_over(s) || s->finished) return;
    s->finished = true;
    if (s->has_size && s->written != s->declared) {
        error_set(&err, 400, ERR_BAD_REQUEST, "the input ended before its declared length");
        fail_later(s, &err);
        return;
    }
    if (s->ready) end_input(s);
    progress(s);
}

static void stream_pause(struct access_stream *stream) {
    struct exec_stream *s = stream_of(stream);
    if (exec_over(s) || s->paused) return;
    s->paused = true;
    if (s->open && s->exec) pod_exec_pause(s->exec);
    progress(s);
}

static void stream_resume(struct access_stream *stream) {
    struct exec_stream *s = stream_of(stream);
    if (exec_over(s) || !s->paused) return;
    s->paused = false;
    if (s->open && s->exec) pod_exec_resume(s->exec);
    progress(s);
}

static void stream_close(struct access_stream *stream) {
    struct exec_stream *s = stream_of(stream);
    if (s->closed) return;
    s->closed = true;
    if (!s->done && s->op == ACCESS_EXEC) exec_command_abandon(s);
    exec_destroy(s);
}

static const struct access_stream_ops stream_ops = {.write = stream_write,
                                                    .finish = stream_finish,
                                                    .pause = stream_pause,
                                                    .resume = stream_resume,
                                                    .close = stream_close};

static const struct exec_row *row_of(enum access_op op, const json_t *args) {
    switch (op) {
    case ACCESS_EXEC:
        return json_is_true(json_object_get(args, "keep")) || json_is_true(json_object_get(args, "attach"))
                   ? &exec_row_keep
                   : &exec_row_command;
    case ACCESS_EXEC_ATTACH: return &exec_row_outcome;
    case ACCESS_EXEC_KILL: return &exec_row_kill;
    default: return exec_file_row(op);
    }
}

static bool args_valid(enum access_op op, const json_t *args, struct error *err) {
    if (op == ACCESS_EXEC || op == ACCESS_EXEC_ATTACH || op == ACCESS_EXEC_KILL)
        return exec_command_valid(args, err);
    const char *path = json_string_value(json_object_get(args, "path"));
    if (path && path[0] == '/' && strlen(path) <= 4096) return true;
    error_set(err, 400, "bad_path", "a path must be absolute and at most 4096 bytes long");
    return false;
}

struct access_stream *exec_access_open(struct k8s_config *config, uv_loop_t *loop,
                                       const struct pod_place *place, enum access_op op, const json_t *args,
                                       const struct access_events *events, void *ctx, void (*on_gone)(void *),
                                       void *owner, struct error *err) {
    static const struct pod_exec_events exec_events = {.on_open = on_open,
                                                       .on_data = on_data,
                                                       .on_writable = on_room,
                                                       .on_end = on_end,
                                                       .on_error = on_error};
    if (op == ACCESS_TERMINAL)
        return exec_terminal_open(config, loop, place, args, events, ctx, on_gone, owner, err);
    const struct exec_row *row = row_of(op, args);
    if (!row) {
        error_set(err, 501, "not_implemented", "this needs agenttier-runtime in the sandbox");
        return NULL;
    }
    if (!args_valid(op, args, err)) return NULL;
    struct exec_stream *s = xcalloc(1, sizeof *s);
    *s = (struct exec_stream){.base.ops = &stream_ops,
                              .config = config,
                              .loop = loop,
                              .op = op,
                              .row = row,
                              .events = *events,
                              .ctx = ctx,
                              .place = *place,
                              .line = {.limit = EXEC_LINE_MAX},
                              .words = {.limit = EXEC_WORDS_MAX},
                              .answer = {.limit = EXEC_ANSWER_MAX}};
    s->args = json_copy((json_t *)args);
    random_hex(s->nonce, EXEC_NONCE_LEN / 2);
    const json_t *size = json_object_get(args, "size");
    s->has_size = op == ACCESS_WRITE && json_is_integer(size) && json_integer_value(size) >= 0;
    s->declared = s->has_size ? (uint64_t)json_integer_value(size) : 0;
    if (op == ACCESS_ARCHIVE_READ || op == ACCESS_ARCHIVE_WRITE)
        s->tar = tar_filter_new(op == ACCESS_ARCHIVE_READ ? TAR_FROM_SANDBOX : TAR_TO_SANDBOX);
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->kick);
    s->timer.data = s->kick.data = s;
    s->handles = 2;
    const char *command[] = {"/bin/sh", "-c", row->script, NULL};
    struct pod_exec_request request = pod_exec_at(&s->place, command);
    s->exec = pod_exec_open(config, loop, &request, &exec_events, s, err);
    if (!s->exec) {
        s->closed = true;
        exec_destroy(s);
        return NULL;
    }
    s->on_gone = on_gone;
    s->owner = owner;
    return &s->base;
}
