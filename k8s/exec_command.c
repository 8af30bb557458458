/* Commands over pods/exec (http-api.md 2.8): run, kept, looked up, ended. The exit code of a command that
 * this stream runs is the status channel's (lessons I6); only when background children hold its output, so
 * that no status comes, the mark of the script that waited for it tells. */
#include "k8s/exec_channels.h"
#include "k8s/exec_stream.h"

#include <stdio.h>

#define START_MS      30000 /* from the connection to the command's first mark */
#define LINGER_MS     300   /* for the status, after both marks */
#define AFTER_KILL_MS 2000  /* for the end of the stream, after the tree was ended */
#define KILL_WAIT_MS  25000 /* for the end of the tree */
#define KEEP_GRACE_MS 60000 /* past a kept command's own timeout */
#define OUTPUT_LIMIT  (8ll << 20)
#define COMMAND_MAX   (1536u * 1024)
#define ID_MAX        64

/* ---- Arguments ---- */

static bool id_valid(const char *id) {
    size_t n = id ? strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") : 0;
    return n >= 1 && n <= ID_MAX && id[n] == 0;
}

static bool refuse(struct error *err, const char *what) {
    error_set(err, 400, ERR_BAD_REQUEST, "%s", what);
    return false;
}

bool exec_command_valid(const json_t *args, struct error *err) {
    if (!id_valid(json_string_value(json_object_get(args, "id"))))
        return refuse(err, "an exec id is 1 to 64 letters, digits, _ or -");
    json_t *command = json_object_get(args, "command"), *env = json_object_get(args, "env"), *value;
    size_t i, size = 0;
    const char *name;
    json_array_foreach(command, i, value) {
        if (!json_is_string(value)) return refuse(err, "command must be an array of strings");
        size += json_string_length(value);
    }
    if (command && json_array_size(command) == 0) return refuse(err, "command must not be empty");
    /* env(1) would take such a word for a variable. */
    if (strchr(json_string_value(json_array_get(command, 0)) ? json_string_value(json_array_get(command, 0))
                                                             : "",
               '='))
        return refuse(err, "the name of a program must not contain =");
    json_object_foreach(env, name, value) {
        if (!json_is_string(value)) return refuse(err, "env must be an object of strings");
        if (name[0] == 0 || name[0] == '-' || strchr(name, '='))
            return refuse(err, "a variable's name must not be empty, begin with - or contain =");
        size += strlen(name) + json_string_length(value);
    }
    if (size <= COMMAND_MAX) return true;
    error_set(err, 413, "command_too_large", "the command and its environment exceed %u bytes", COMMAND_MAX);
    return false;
}

static void put_command(const struct exec_stream *s, struct buffer *out) {
    json_t *env = json_object_get(s->args, "env"), *command = json_object_get(s->args, "command"), *value;
    const char *name, *dir = json_string_value(json_object_get(s->args, "workingDir"));
    size_t i;
    exec_param(out, !json_is_true(json_object_get(s->args, "stdin")) ? "0" : s->v5 ? "5" : "4");
    exec_param(out, dir ? dir : "");
    exec_param_number(out, (long long)json_object_size(env));
    json_object_foreach(env, name, value) {
        cleanup_free char *pair = xasprintf("%s=%s", name, json_string_value(value));
        exec_param(out, pair);
    }
    exec_param_number(out, (long long)json_array_size(command));
    json_array_foreach(command, i, value) exec_param(out, json_string_value(value));
}

static void begin(struct exec_stream *s) {
    json_t *limit = json_object_get(s->args, "outputLimit");
    s->output_limit =
        (uint64_t)(json_is_integer(limit) && json_integer_value(limit) >= 0 ? json_integer_value(limit)
                                                                            : OUTPUT_LIMIT);
    s->code = -1;
    exec_marks_init(&s->marks[0], s->nonce, true);
    exec_marks_init(&s->marks[1], s->nonce, false);
    s->marked = true;
}

static bool command_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    begin(s);
    exec_param(out, s->nonce);
    put_command(s, out);
    return true;
}

static long long timeout_ms(const struct exec_stream *s) {
    return json_integer_value(json_object_get(s->args, "timeoutMs"));
}

static bool keep_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    begin(s);
    const char *digest = json_string_value(json_object_get(s->args, "digest"));
    bool attach = json_is_true(json_object_get(s->args, "attach"));
    exec_param(out, s->nonce);
    exec_param(out, json_string_value(json_object_get(s->args, "id")));
    exec_param(out, digest ? digest : "none");
    exec_param(out, attach ? "attach" : "start");
    exec_param_number(out, (timeout_ms(s) + 999) / 1000);
    exec_param_number(out, (long long)(s->output_limit / 512 + 1));
    if (!attach) put_command(s, out);
    return true;
}

/* ---- Outcomes ---- */

static json_t *outcome_of(const struct exec_stream *s, int code, int64_t ms) {
    bool none = s->timed_out || s->starting_failed;
    json_t *result = json_pack("{s:O, s:i, s:i, s:b, s:b, s:{s:b, s:b}, s:I}", "id",
                               json_object_get(s->args, "id"), "exitCode", none ? -1 : code, "signal", 0,
                               "timedOut", s->timed_out, "killed", s->killed, "truncated", "stdout",
                               s->truncated[0], "stderr", s->truncated[1], "durationMs", (json_int_t)ms);
    if (s->starting_failed) {
        const char *dir = json_string_value(json_object_get(s->args, "workingDir"));
        cleanup_free char *text = xasprintf("cannot change to the working directory %s", dir ? dir : "");
        json_object_set_new(result, "startError", json_string(text));
    }
    return result;
}

static void conclude(struct exec_stream *s) {
    int64_t ms = s->started_at ? (int64_t)(uv_now(s->loop) - s->started_at) : 0;
    exec_succeed(s, outcome_of(s, s->code, ms));
}

/* Both the command's stream and the ending of its tree are through. */
static void settle(struct exec_stream *s) {
    if (s->done || !s->main_over || s->killing) return;
    conclude(s);
}

static void give_output(struct exec_stream *s, int channel, struct slice bytes) {
    uint64_t *seen = &s->output[channel - 1];
    uint64_t room = s->output_limit > *seen ? s->output_limit - *seen : 0;
    size_t n = bytes.len < room ? bytes.len : (size_t)room;
    if (n < bytes.len) s->truncated[channel - 1] = true;
    *seen += n;
    exec_give(s, channel, bytes.ptr, n);
}

/* ---- Ending its tree ---- */

static void on_killed(void *ctx, bool gone) {
    struct exec_stream *s = ctx;
    s->job = NULL;
    s->killing = false;
    s->killed = gone;
    if (s->main_over)
        settle(s);
    else
        exec_patience(s, AFTER_KILL_MS);
}

static void kill_alone(struct exec_stream *s) {
    if (s->pid > 0 && !s->job && !s->killed)
        kill_job_start(s->config, s->loop, &s->place, s->pid, s->pid_start, NULL, NULL);
}

static bool kept(const struct exec_stream *s) {
    return s->row == &exec_row_keep;
}

void exec_command_timer(struct exec_stream *s) {
    if (!s->started) {
        exec_fail_with(s, 504, ERR_SANDBOX_TIMEOUT, "the sandbox did not start the command in time");
    } else if (kept(s)) {
        exec_fail_with(s, 504, ERR_SANDBOX_TIMEOUT, "the sandbox did not end the command after its timeout");
    } else if (s->marks[0].ended && s->marks[1].ended && !s->timed_out) {
        /* Background children hold the streams: no status comes. */
        s->main_over = true;
        conclude(s);
    } else if (!s->timed_out) {
        s->timed_out = s->killing = true;
        s->job = kill_job_start(s->config, s->loop, &s->place, s->pid, s->pid_start, on_killed, s);
        exec_patience(s, KILL_WAIT_MS);
    } else {
        s->main_over = true;
        s->killing = false;
        conclude(s);
    }
}

void exec_command_abandon(struct exec_stream *s) {
    if (!kept(s) && s->started && !s->main_over) kill_alone(s);
}

/* ---- Events ---- */

static void on_first_line(struct exec_stream *s) {
    char nonce[EXEC_NONCE_LEN + 1];
    const char *head = s->marks[0].head;
    if (head[0] == '!') {
        cleanup_error struct error err = {0};
        exec_refusal(head + 1, NULL, &err);
        exec_fail(s, &err);
        return;
    }
    long long pid = 0, start = 0;
    int n = sscanf(head, "%32s %lld %lld", nonce, &pid, &start);
    bool ours = n >= 1 && strcmp(nonce, s->nonce) == 0;
    if (ours && n == 1 && strcmp(head + EXEC_NONCE_LEN, " !") == 0) {
        s->starting_failed = true;
        return;
    }
    if (!ours || n != 3 || pid < 0 || (pid == 0 && !kept(s)) || start < 0) {
        exec_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                       "the sandbox's shell gave an answer that makes no sense");
        return;
    }
    s->pid = pid;
    s->pid_start = start;
    s->started = true;
    s->started_at = uv_now(s->loop);
    if (s->row->asks) exec_go(s);
    if (s->done) return;
    long long ms = timeout_ms(s);
    if (ms > 0)
        exec_patience(s, (int)(ms + (kept(s) ? KEEP_GRACE_MS : 0) < INT32_MAX
                                   ? ms + (kept(s) ? KEEP_GRACE_MS : 0)
                                   : INT32_MAX));
    else
        exec_patience(s, 0);
    if (s->events.on_started) s->events.on_started(s->ctx);
}

static void on_command_data(struct exec_stream *s, int channel, const char *data, size_t len) {
    struct exec_marks *m = &s->marks[channel - 1];
    bool first = m->wants_head;
    buffer_clear(&s->scratch);
    if (!exec_marks_feed(m, slice_make(data, len), &s->scratch)) {
        exec_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                       "the sandbox's shell gave an answer that makes no sense");
        return;
    }
    if (first && !m->wants_head) on_first_line(s);
    if (s->done) return;
    if (!s->started && channel == 2) {
        /* The streams travel apart: this may be ahead of the first line. Or the shell complains. */
        if (!buffer_append(&s->answer, s->scratch.data, s->scratch.len))
            exec_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox's shell says nothing but complaints");
        return;
    }
    if (!s->closed) give_output(s, channel, buffer_slice(&s->scratch));
    if (first && s->started && !exec_over(s)) { /* what was ahead */
        struct buffer ahead = s->answer;
        s->answer = (struct buffer){0};
        give_output(s, 2, buffer_slice(&ahead));
        buffer_free(&ahead);
    }
    if (exec_over(s) || kept(s) || s->timed_out || !s->marks[0].ended || !s->marks[1].ended) return;
    struct exec_ended ended;
    if (exec_ended(s->marks[0].tail, &ended)) {
        s->code = ended.code;
        exec_patience(s, LINGER_MS);
    }
}

static void flush_marks(struct exec_stream *s) {
    for (int channel = 1; channel <= 2 && !exec_over(s); channel++) {
        buffer_clear(&s->scratch);
        exec_marks_flush(&s->marks[channel - 1], &s->scratch);
        if (s->started) give_output(s, channel, buffer_slice(&s->scratch));
    }
}

static void on_command_end(struct exec_stream *s, int exit_code) {
    flush_marks(s);
    if (s->done) return;
    s->main_over = true;
    if (s->closed) return;
    if (!s->started && !s->starting_failed) {
        cleanup_error struct error err = {0};
        exec_complaint(buffer_slice(&s->answer), exit_code, NULL, &err);
        if (err.status == 404) err.status = 502;
        exec_fail(s, &err);
        return;
    }
    /* The script ends both streams with a mark, unless a signal ended it. */
    if (s->started && exit_code < 128 && !(s->marks[0].ended && s->marks[1].ended)) {
        exec_fail_with(s, 502, ERR_EXEC_OUTCOME_UNKNOWN,
                       "the command has ended, but not all of its output came");
        return;
    }
    s->code = exit_code;
    settle(s);
}

void exec_command_error(struct exec_stream *s, const struct error *err) {
    flush_marks(s);
    if (s->done) return;
    s->main_over = true;
    if (s->timed_out) {
        settle(s);
    } else if (s->row->asks && !s->started && strcmp(err->code, ERR_EXEC_OUTCOME_UNKNOWN) == 0) {
        exec_fail_with(s, 502, ERR_SANDBOX_UNREACHABLE,
                       "the connection to the pod was lost before the command began; try again");
    } else {
        if (s->started && !kept(s) && !s->marks[0].ended) kill_alone(s);
        exec_fail(s, err);
    }
}

const struct exec_row exec_row_command = {.script = exec_script_command,
                                          .input = true,
                                          .asks = true,
                                          .patience_ms = START_MS,
                                          .params = command_params,
                                          .on_data = on_command_data,
                                          .on_end = on_command_end};

/* ---- Kept commands ---- */

static void take_ended(struct exec_stream *s, const struct exec_ended *ended) {
    s->timed_out = ended->timed_out;
    s->killed = ended->killed || ended->timed_out;
    for (int i = 0; i < 2; i++)
        if (ended->size[i] > (s->output_limit ? s->output_limit : OUTPUT_LIMIT)) s->truncated[i] = true;
}

static void on_keep_end(struct exec_stream *s, int exit_code) {
    struct exec_ended ended;
    if (s->starting_failed || !s->started) {
        on_command_end(s, exit_code);
        return;
    }
    flush_marks(s);
    if (exec_over(s)) return;
    if (!s->marks[0].ended || !s->marks[1].ended || !exec_ended(s->marks[0].tail, &ended) || ended.ms < 0) {
        exec_fail_with(s, 502, "exec_outcome_unknown", "the sandbox lost the command's outcome");
        return;
    }
    take_ended(s, &ended);
    exec_succeed(s, outcome_of(s, ended.code, ended.ms));
}

const struct exec_row exec_row_keep = {.script = exec_script_keep,
                                       .input = true,
                                       .patience_ms = START_MS,
                                       .params = keep_params,
                                       .on_data = on_command_data,
                                       .on_end = on_keep_end};

/* ---- Looking up and ending kept commands: one line each ---- */

static bool outcome_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, json_string_value(json_object_get(s->args, "id")));
    exec_param_number(out, json_integer_value(json_object_get(s->args, "wait")) / 100);
    return true;
}

static bool kill_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, json_string_value(json_object_get(s->args, "id")));
    return true;
}

static void on_line_data(struct exec_stream *s, int channel, const char *data, size_t len) {
    struct buffer *to = channel == 1 ? &s->line : &s->words;
    buffer_append(to, data, len < to->limit - to->len ? len : to->limit - to->len);
}

/* The whole answer is one line; behind its "+", or NULL after failing. */
static const char *answer_line(struct exec_stream *s, int exit_code) {
    const char *line = buffer_cstr(&s->line);
    cleanup_error struct error err = {0};
    if (s->line.len && s->line.data[s->line.len - 1] == '\n') s->line.data[--s->line.len] = 0;
    if (line[0] == '+' && exit_code == 0) return line + 1;
    if (line[0] == '!')
        exec_refusal(line + 1, NULL, &err);
    else
        exec_complaint(buffer_slice(&s->words), exit_code, NULL, &err);
    exec_fail(s, &err);
    return NULL;
}

static void on_outcome_end(struct exec_stream *s, int exit_code) {
    const char *line = answer_line(s, exit_code);
    struct exec_ended ended;
    if (!line) return;
    if (strcmp(line, "running") == 0) {
        exec_succeed(s, json_pack("{s:O, s:b}", "id", json_object_get(s->args, "id"), "running", 1));
    } else if (exec_ended(line, &ended) && ended.ms >= 0) {
        take_ended(s, &ended);
        exec_succeed(s, outcome_of(s, ended.code, ended.ms));
    } else {
        exec_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox gave an outcome that makes no sense");
    }
}

static void on_kill_end(struct exec_stream *s, int exit_code) {
    const char *line = answer_line(s, exit_code);
    if (!line) return;
    if (strcmp(line, "gone") == 0)
        exec_succeed(s, NULL);
    else
        exec_fail_with(s, 500, ERR_INTERNAL, "processes of the command are left that cannot be ended");
}

const struct exec_row exec_row_outcome = {.script = exec_script_outcome,
                                          .patience_ms = 15000,
                                          .params = outcome_params,
                                          .on_data = on_line_data,
                                          .on_end = on_outcome_end};
const struct exec_row exec_row_kill = {.script = exec_script_kill_kept,
                                       .patience_ms = 30000,
                                       .params = kill_params,
                                       .on_data = on_line_data,
                                       .on_end = on_kill_end};
