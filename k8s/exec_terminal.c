/* See exec_terminal.h. A terminal is two streams of pods/exec, because a command on a terminal outlives its
 * stream and never hears that its user has gone (lessons I1; O2). The first is the guard: a script without a
 * terminal, whose input is ours and ends with us, however we end, and which then ends all that runs on the
 * terminal. The second is the terminal itself; its script starts nothing unless its guard is there. */
#include "k8s/exec_terminal.h"

#include "common/json.h"
#include "common/secret.h"
#include "k8s/exec_answers.h"
#include "k8s/exec_params.h"
#include "k8s/exec_scripts.h"
#include "k8s/kill_job.h"
#include "k8s/pod_exec.h"

#include <stdio.h>

#define START_MS 30000 /* from the opening of each stream to the first line of its script */
/* A line for the guard, so that its stream is not idle for those who end idle ones. Seldom: a peer that was
 * written to is given longer to answer (k8s/websocket_client.c). */
#define KEEP_MS        600000
#define ENDING_MS      30000 /* for the guard to end what runs on the terminal */
#define FIRST_LINE_MAX 256
#define ANSWER_MAX     4096
#define NONCE_LEN      32

#define ERR_TERMINAL_NOT_STARTED "terminal_not_started"

enum state {
    GUARDING, /* the guard is being opened */
    STARTING, /* and is there; the terminal is being opened */
    RUNNING,
    ENDING, /* the user has been told, or wants to know no more; the guard ends what is left */
    OVER
};

struct exec_terminal {
    struct access_stream base;
    struct k8s_config *config;
    uv_loop_t *loop;
    struct access_events events;
    void *ctx;
    struct pod_place place;
    void (*on_gone)(void *);
    void *owner;

    char nonce[NONCE_LEN + 1], watch[24], watch_start[24]; /* the latter as the guard gave them */
    char *session, *shell, *dir;
    unsigned cols, rows;

    enum state state;
    struct pod_exec *guard, *terminal;
    bool guard_open, guard_finish;
    struct buffer to_guard, line, answer, held; /* held: shown before the user wanted to see it */
    long long pid, pid_start;                   /* of the terminal's script; 0 = it has not said */
    uv_timer_t timer, kick;
    int handles;
    bool paused, want_writable, closed, destroyed;
};

static struct exec_terminal *terminal_of(struct access_stream *s) {
    return (struct exec_terminal *)s;
}

/* ---- Ends ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct exec_terminal *t = handle->data;
    if (--t->handles > 0) return;
    buffer_free(&t->to_guard);
    buffer_free(&t->line);
    buffer_free(&t->answer);
    buffer_free(&t->held);
    free(t->session);
    free(t->shell);
    free(t->dir);
    free(t);
}

static void destroy(struct exec_terminal *t) {
    if (t->destroyed) return;
    t->destroyed = true;
    uv_close((uv_handle_t *)&t->timer, on_handle_closed);
    uv_close((uv_handle_t *)&t->kick, on_handle_closed);
}

/* Nothing is left to do; only the user may still hold it. */
static void conclude(struct exec_terminal *t) {
    if (t->state == OVER) return;
    t->state = OVER;
    uv_timer_stop(&t->timer);
    uv_timer_stop(&t->kick);
    pod_exec_close(steal_ptr(t->terminal));
    pod_exec_close(steal_ptr(t->guard));
    if (t->on_gone) t->on_gone(t->owner);
    t->on_gone = NULL;
    if (t->closed) destroy(t);
}

static void flush_guard(struct exec_terminal *t) {
    if (!t->guard || !t->guard_open) return;
    if (t->to_guard.len)
        buffer_consume(&t->to_guard, pod_exec_write(t->guard, t->to_guard.data, t->to_guard.len));
    if (t->guard && t->to_guard.len == 0 && t->guard_finish) pod_exec_finish(t->guard);
}

static void on_timer(uv_timer_t *timer);

/* The terminal is over for the user; its guard sees to the rest. */
static void wind_down(struct exec_terminal *t) {
    if (t->state >= ENDING) return;
    bool guarded = t->guard && t->state != GUARDING;
    t->state = ENDING;
    uv_timer_stop(&t->kick);
    pod_exec_close(steal_ptr(t->terminal));
    if (!guarded) { /* no terminal was begun, or the guard lost us and acts by itself */
        conclude(t);
        return;
    }
    buffer_append_char(&t->to_guard, '\n');
    t->guard_finish = true;
    uv_timer_start(&t->timer, on_timer, ENDING_MS, 0);
    flush_guard(t);
}

static void fail(struct exec_terminal *t, const struct error *err) {
    if (t->state >= ENDING) return;
    struct access_events events = t->events;
    void *ctx = t->ctx;
    wind_down(t);
    if (!t->closed && events.on_error) events.on_error(ctx, err);
}

static void fail_with(struct exec_terminal *t, int status, const char *code, const char *text) {
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "%s", text);
    fail(t, &err);
}

/* A stream that could not be opened, or was lost. */
static void fail_stream(struct exec_terminal *t, const struct error *err) {
    bool not_started = t->state < RUNNING && strcmp(err->code, ERR_SANDBOX_UNREACHABLE) == 0;
    if (not_started && strstr(err->message, "\"/bin/sh\"") && strstr(err->message, "no such file"))
        fail_with(t, 502, ERR_TERMINAL_NOT_STARTED,
                  "the sandbox's image has no /bin/sh, which a terminal needs where agenttier-runtime is not "
                  "in the pod");
    else if (not_started)
        fail_with(t, 502, ERR_TERMINAL_NOT_STARTED, err->message);
    else
        fail(t, err);
}

static void bad_answer(struct exec_terminal *t) {
    fail_with(t, 502, ERR_TERMINAL_NOT_STARTED, "the sandbox's shell gave an answer that makes no sense");
}

/* Whoever should have ended what is left is no more. */
static void end_by_job(struct exec_terminal *t) {
    if (t->pid > 0) kill_job_start(t->config, t->loop, &t->place, t->pid, t->pid_start, NULL, NULL);
}

static void on_timer(uv_timer_t *timer) {
    struct exec_terminal *t = timer->data;
    switch (t->state) {
    case GUARDING:
    case STARTING:
        fail_with(t, 504, "sandbox_timeout", "the sandbox did not start the terminal in time");
        break;
    case RUNNING:
        if (t->to_guard.len == 0) buffer_append_str(&t->to_guard, "-\n");
        flush_guard(t);
        break;
    case ENDING:
        end_by_job(t);
        conclude(t);
        break;
    case OVER: break;
    }
}

/* ---- First lines ---- */

/* A whole number of up to 18 digits at *at, which moves on behind it. */
static bool take_number(const char **at, char *text, size_t cap, long long *out) {
    size_t n = strspn(*at, "0123456789");
    uint64_t value;
    if (n == 0 || n >= cap || !slice_parse_u64(slice_make(*at, n), 999999999999999999u, &value)) return false;
    if (text) snprintf(text, cap, "%.*s", (int)n, *at);
    *out = (long long)value;
    *at += n;
    return true;
}

/* "+PID START" */
static bool take_process(const char *line, char *pid_text, char *start_text, long long *pid,
                         long long *start) {
    if (*line++ != '+') return false;
    if (!take_number(&line, pid_text, 24, pid) || *pid == 0 || *line++ != ' ') return false;
    return take_number(&line, start_text, 24, start) && *line == 0;
}

/* Moves the first line, without its end, into t->line. 1: it is whole; 0: not yet; -1: it is none. */
static int take_line(struct exec_terminal *t, const char **data, size_t *len) {
    const char *end = memchr(*data, '\n', *len);
    size_t n = end ? (size_t)(end - *data) : *len;
    if (t->line.len + n > FIRST_LINE_MAX) return -1;
    buffer_append(&t->line, *data, n);
    *data += n + (end != NULL);
    *len -= n + (end != NULL);
    if (!end) return 0;
    if (t->line.len && t->line.data[t->line.len - 1] == '\r') t->line.len--; /* a terminal's line */
    buffer_append_char(&t->line, 0);
    return 1;
}

/* ---- The terminal ---- */

static void give(struct exec_terminal *t, const char *data, size_t len) {
    while (len && t->state == RUNNING && !t->closed) {
        size_t n = len < 65536 ? len : 65536;
        if (t->events.on_data) t->events.on_data(t->ctx, 1, data, n);
        data += n;
        len -= n;
    }
}

static void on_kick(uv_timer_t *kick) {
    struct exec_terminal *t = kick->data;
    if (t->held.len && !t->paused) {
        cleanup_buffer struct buffer held = t->held;
        t->held = (struct buffer){0};
        give(t, held.data, held.len);
    }
    if (t->state != RUNNING || t->closed || !t->want_writable) return;
    t->want_writable = false;
    if (t->events.on_writable) t->events.on_writable(t->ctx);
}

static void started(struct exec_terminal *t) {
    t->state = RUNNING;
    buffer_free(&t->line);
    uv_timer_start(&t->timer, on_timer, KEEP_MS, KEEP_MS);
    uv_timer_start(&t->kick, on_kick, 0, 0);
    if (t->paused) pod_exec_pause(t->terminal);
    if (t->events.on_started) t->events.on_started(t->ctx);
}

static void refused(struct exec_terminal *t, const char *why) {
    cleanup_error struct error err = {0};
    if (strcmp(why, "no_directory") == 0)
        error_set(&err, 502, ERR_TERMINAL_NOT_STARTED, "the directory %.300s cannot be entered", t->dir);
    else if (strcmp(why, "unguarded") == 0)
        error_set(&err, 502, ERR_SANDBOX_UNREACHABLE,
                  "the connection to the sandbox was lost; connect again");
    else
        error_set(&err, 502, ERR_TERMINAL_NOT_STARTED,
                  "the sandbox's shell gave an answer that makes no sense");
    fail(t, &err);
}

static void on_terminal_open(void *ctx, bool can_close_stdin) {
    (void)can_close_stdin;
    struct exec_terminal *t = ctx;
    pod_exec_resize(t->terminal, (int)t->cols, (int)t->rows);
}

static void on_terminal_data(void *ctx, int channel, const char *data, size_t len) {
    (void)channel; /* a terminal has one */
    struct exec_terminal *t = ctx;
    if (t->state == STARTING) {
        int got = take_line(t, &data, &len);
        if (got == 0) return;
        const char *line = got > 0 ? t->line.data : "";
        if (line[0] == '!') {
            refused(t, line + 1);
            return;
        }
        if (!take_process(line, NULL, NULL, &t->pid, &t->pid_start)) {
            t->pid = 0;
            bad_answer(t);
            return;
        }
        started(t);
        if (t->paused) {
            buffer_append(&t->held, data, len);
            return;
        }
    }
    give(t, data, len);
}

static void on_terminal_room(void *ctx) {
    struct exec_terminal *t = ctx;
    if (t->state == RUNNING) uv_timer_start(&t->kick, on_kick, 0, 0);
}

static void on_terminal_end(void *ctx, const struct pod_exec_outcome *outcome) {
    struct exec_terminal *t = ctx;
    if (t->state == STARTING) {
        bad_answer(t);
        return;
    }
    if (t->state != RUNNING) return;
    cleanup_json json_t *result = json_pack("{s:i}", "exitCode", outcome->exit_code);
    wind_down(t);
    if (!t->closed && t->events.on_end) t->events.on_end(t->ctx, result);
}

static void on_terminal_error(void *ctx, const struct error *err) {
    fail_stream(ctx, err);
}

static void open_terminal(struct exec_terminal *t) {
    static const struct pod_exec_events events = {.on_open = on_terminal_open,
                                                  .on_data = on_terminal_data,
                                                  .on_writable = on_terminal_room,
                                                  .on_end = on_terminal_end,
                                                  .on_error = on_terminal_error};
    cleanup_error struct error err = {0};
    char cols[12], rows[12];
    snprintf(cols, sizeof cols, "%u", t->cols);
    snprintf(rows, sizeof rows, "%u", t->rows);
    /* The nonce is near the front, where the guard looks for it. */
    const char *command[] = {"/bin/sh",  "-c",     "eval \"$8\"", t->nonce, t->watch, t->watch_start,
                             t->session, t->shell, cols,          rows,     t->dir,   exec_script_terminal,
                             NULL};
    struct pod_exec_request request = pod_exec_at(&t->place, command);
    request.tty = true;
    t->state = STARTING;
    uv_timer_start(&t->timer, on_timer, START_MS, 0);
    t->terminal = pod_exec_open(t->config, t->loop, &request, &events, t, &err);
    if (!t->terminal) fail(t, &err);
}

/* ---- The guard ---- */

static void on_guard_open(void *ctx, bool can_close_stdin) {
    (void)can_close_stdin; /* an empty line ends it too */
    struct exec_terminal *t = ctx;
    t->guard_open = true;
    exec_param(&t->to_guard, t->nonce);
    flush_guard(t);
}

static void on_guard_data(void *ctx, int channel, const char *data, size_t len) {
    struct exec_terminal *t = ctx;
    long long pid, start;
    if (t->state == GUARDING && channel == 1) {
        int got = take_line(t, &data, &len);
        if (got == 0) return;
        if (got < 0 || len || !take_process(t->line.data, t->watch, t->watch_start, &pid, &start)) {
            bad_answer(t);
            return;
        }
        buffer_clear(&t->line);
        buffer_clear(&t->answer);
        open_terminal(t);
        return;
    }
    /* What it complains about while it begins, or its last word. */
    if (channel == 1 || t->state == GUARDING) buffer_append(&t->answer, data, len);
}

static void on_guard_room(void *ctx) {
    flush_guard(ctx);
}

static void on_guard_end(void *ctx, const struct pod_exec_outcome *outcome) {
    struct exec_terminal *t = ctx;
    cleanup_error struct error err = {0};
    pod_exec_close(steal_ptr(t->guard));
    if (t->state == GUARDING) {
        exec_complaint(buffer_slice(&t->answer), outcome->exit_code, NULL, &err);
        fail_with(t, 502, ERR_TERMINAL_NOT_STARTED, err.message);
        return;
    }
    if (outcome->exit_code != 0 || !slice_equal_str(buffer_slice(&t->answer), "+gone\n")) end_by_job(t);
    if (t->state == ENDING)
        conclude(t);
    else
        fail_with(t, 502, ERR_SANDBOX_UNREACHABLE,
                  "the terminal was ended inside the sandbox; connect again");
}

static void on_guard_error(void *ctx, const struct error *err) {
    struct exec_terminal *t = ctx;
    pod_exec_close(steal_ptr(t->guard)); /* its input has ended with the stream, so it does its work */
    if (t->state == ENDING)
        conclude(t);
    else
        fail_stream(t, err);
}

/* ---- The interface ---- */

static size_t stream_write(struct access_stream *stream, const char *data, size_t len) {
    struct exec_terminal *t = terminal_of(stream);
    if (t->closed || t->state >= ENDING) return len;
    size_t n = t->state == RUNNING ? pod_exec_write(t->terminal, data, len) : 0;
    if (n < len) t->want_writable = true;
    return n;
}

static void stream_finish(struct access_stream *stream) {
    (void)stream; /* a terminal has no end of input */
}

static void stream_pause(struct access_stream *stream) {
    struct exec_terminal *t = terminal_of(stream);
    t->paused = true;
    if (t->state == RUNNING && !t->closed) pod_exec_pause(t->terminal);
}

static void stream_resume(struct access_stream *stream) {
    struct exec_terminal *t = terminal_of(stream);
    t->paused = false;
    if (t->state != RUNNING || t->closed) return;
    if (t->held.len) uv_timer_start(&t->kick, on_kick, 0, 0);
    pod_exec_resume(t->terminal);
}

static void stream_resize(struct access_stream *stream, unsigned cols, unsigned rows) {
    struct exec_terminal *t = terminal_of(stream);
    t->cols = cols;
    t->rows = rows;
    if (t->terminal && t->state < ENDING) pod_exec_resize(t->terminal, (int)cols, (int)rows);
}

static void stream_close(struct access_stream *stream) {
    struct exec_terminal *t = terminal_of(stream);
    if (t->closed) return;
    t->closed = true;
    if (t->state == OVER)
        destroy(t);
    else
        wind_down(t);
}

static const struct access_stream_ops stream_ops = {.write = stream_write,
                                                    .finish = stream_finish,
                                                    .pause = stream_pause,
                                                    .resume = stream_resume,
                                                    .resize = stream_resize,
                                                    .close = stream_close};

struct access_stream *exec_terminal_open(struct k8s_config *config, uv_loop_t *loop,
                                         const struct pod_place *place, const json_t *args,
                                         const struct access_events *events, void *ctx,
                                         void (*on_gone)(void *), void *owner, struct error *err) {
    static const struct pod_exec_events guard_events = {.on_open = on_guard_open,
                                                        .on_data = on_guard_data,
                                                        .on_writable = on_guard_room,
                                                        .on_end = on_guard_end,
                                                        .on_error = on_guard_error};
    struct access_terminal wish;
    if (!access_terminal_read(args, &wish, err)) return NULL;
    struct exec_terminal *t = xcalloc(1, sizeof *t);
    *t = (struct exec_terminal){.base.ops = &stream_ops,
                                .config = config,
                                .loop = loop,
                                .events = *events,
                                .ctx = ctx,
                                .place = *place,
                                .session = xstrdup(wish.session),
                                .shell = xstrdup(wish.shell),
                                .dir = xstrdup(wish.dir ? wish.dir : ""),
                                .cols = wish.cols,
                                .rows = wish.rows,
                                .answer = {.limit = ANSWER_MAX},
                                .handles = 2};
    random_hex(t->nonce, NONCE_LEN / 2);
    uv_timer_init(loop, &t->timer);
    uv_timer_init(loop, &t->kick);
    t->timer.data = t->kick.data = t;
    uv_timer_start(&t->timer, on_timer, START_MS, 0);
    const char *command[] = {"/bin/sh", "-c", exec_script_guard, NULL};
    struct pod_exec_request request = pod_exec_at(&t->place, command);
    t->guard = pod_exec_open(config, loop, &request, &guard_events, t, err);
    if (!t->guard) {
        t->closed = true;
        conclude(t);
        return NULL;
    }
    t->on_gone = on_gone;
    t->owner = owner;
    return &t->base;
}
