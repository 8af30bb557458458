/* Inside exec_access: a stream over pods/exec, shared by exec_access.c (the connection, input, deadlines,
 * the interface), exec_command.c (commands) and exec_files.c (files and archives). */
#pragma once

#include "backend/access.h"
#include "common/json.h"
#include "k8s/exec_answers.h"
#include "k8s/exec_marks.h"
#include "k8s/exec_params.h"
#include "k8s/exec_scripts.h"
#include "k8s/kill_job.h"
#include "k8s/pod_exec.h"
#include "k8s/pod_place.h"
#include "k8s/tar_filter.h"

#define EXEC_PENDING_MAX 65536
#define EXEC_LINE_MAX    8192
#define EXEC_WORDS_MAX   4096
#define EXEC_ANSWER_MAX  (8u * 1024 * 1024)

#define ERR_SANDBOX_BAD_ANSWER "sandbox_bad_answer"
#define ERR_SANDBOX_TIMEOUT    "sandbox_timeout"

struct exec_stream;

/* How an operation is done. */
struct exec_row {
    const char *script;
    bool input;      /* the user's writes follow the parameters */
    int patience_ms; /* without a sign of progress */
    bool (*params)(struct exec_stream *s, struct buffer *out, struct error *err);
    void (*on_data)(struct exec_stream *s, int channel, const char *data, size_t len);
    void (*on_line)(struct exec_stream *s, const char *line); /* the first line, behind its "+" */
    void (*on_body)(struct exec_stream *s, const char *data, size_t len);
    void (*on_end)(struct exec_stream *s, int exit_code);
    bool asks; /* the script waits for exec_go() after its first line */
};

struct exec_stream {
    struct access_stream base;
    struct k8s_config *config;
    uv_loop_t *loop;
    enum access_op op;
    const struct exec_row *row;
    struct access_events events;
    void *ctx;
    json_t *args;
    struct pod_place place;
    void (*on_gone)(void *); /* tells the owner once that the stream is over */
    void *owner;

    struct pod_exec *exec;
    uv_timer_t timer, kick;
    int handles;
    bool open, v5, ready, closed, done, destroyed, paused, finished, end_sent, want_writable, told_drained;
    struct error deferred;
    char nonce[EXEC_NONCE_LEN + 1];

    struct buffer pending; /* input that the WebSocket has not taken */
    uint64_t written, declared;
    bool has_size;

    /* files */
    struct buffer line, words, answer, scratch;
    bool has_line;
    uint64_t wanted, got; /* of ACCESS_READ */
    struct tar_filter *tar;

    /* commands */
    struct exec_marks marks[2];
    bool marked, started, timed_out, killing, killed, main_over, starting_failed;
    int code;
    long long pid, pid_start;
    uint64_t started_at, output_limit, output[2];
    bool truncated[2];
    struct kill_job *job;
};

static inline bool exec_over(const struct exec_stream *s) {
    return s->closed || s->done;
}

/* exec_access.c */
void exec_stop(struct exec_stream *s); /* ends the connection; one last event may follow */
void exec_fail(struct exec_stream *s, const struct error *err);
void exec_fail_with(struct exec_stream *s, int status, const char *code, const char *text);
void exec_succeed(struct exec_stream *s, json_t *result); /* takes `result`; NULL = {} */
void exec_patience(struct exec_stream *s, int ms);        /* of the timer, from now; 0 = endless */
void exec_give(struct exec_stream *s, int channel, const char *data, size_t len);
void exec_go(struct exec_stream *s);      /* lets the script go on; the user's input may follow */
void exec_destroy(struct exec_stream *s); /* when the user closed it and nothing is left to do */

/* exec_command.c */
extern const struct exec_row exec_row_command, exec_row_keep, exec_row_outcome, exec_row_kill;
bool exec_command_valid(const json_t *args, struct error *err);
void exec_command_error(struct exec_stream *s, const struct error *err); /* the connection failed */
void exec_command_timer(struct exec_stream *s);
void exec_command_abandon(struct exec_stream *s); /* the user closed it */

/* exec_files.c */
const struct exec_row *exec_file_row(enum access_op op);
