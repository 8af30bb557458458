/* One running command, its tree of processes, its output, and those who watch it. Runs in a
 * process of its own: first that of the connection that started the command. */
#pragma once

#include "runtime/conn.h"
#include "runtime/exec_request.h"

#include "common/frames.h"

#define KILL_GRACE_MS   2000 /* between TERM and KILL */
#define KILL_GIVE_UP_MS 5000 /* after the first KILL: what is left cannot be ended */
#define KILL_REPEAT_MS  20
#define DRAIN_MS        100               /* for pipes that background children hold open */
#define ALIVE_MS        10000             /* between frames */
#define UNREAD_MS       120000            /* a client that takes nothing after the command's end is dropped */
#define OUTPUT_WINDOW   FRAME_MAX_PAYLOAD /* not yet sent: the command's pipes are left alone above it */
#define VIEWERS_MAX     16

enum phase {
    PHASE_RUNNING,
    PHASE_TERMINATING, /* TERM was sent */
    PHASE_KILLING,     /* KILL is sent until none is left */
    PHASE_GONE         /* none is left, or none can be ended */
};

struct stream {
    int fd; /* -1 = at its end */
    struct buffer data;
    uint64_t taken;     /* bytes read in all */
    uint64_t must_take; /* of them: all that was written when the command ended */
    bool truncated;
};

enum viewer_kind {
    VIEWER_FRAMES, /* /exec/stream */
    VIEWER_JSON,   /* /exec */
    VIEWER_EVENTS, /* /invoke */
    VIEWER_WAIT,   /* GET /exec/{id} */
    VIEWER_KILL    /* DELETE /exec/{id} */
};

/* Someone on a connection who follows the command. */
struct viewer {
    enum viewer_kind kind;
    int fd;
    size_t sent[2];      /* of each stream's data */
    struct buffer out;   /* not yet taken by the socket */
    struct buffer in;    /* frames not yet whole */
    uint32_t stdin_left; /* of the current stdin frame */
    uint64_t stdin_got;  /* stdin bytes received from this one */
    uint64_t stdin_granted;
    int64_t deadline;  /* VIEWER_WAIT */
    int64_t last_sent; /* when something last went out */
    int64_t next_alive;
    int stage; /* of a JSON answer */
    bool begun;
    bool complete; /* everything is in `out` or sent */
    bool broken;   /* gone, or to be closed */
};

struct supervisor {
    const struct exec_request *request;
    int registry, signals, control;
    pid_t pid;      /* of the command; -1 = not started or reaped */
    int status;     /* wait status */
    bool ended;     /* the command itself */
    bool childless; /* no process of the tree is left */
    bool timed_out, killed;
    bool finished; /* the outcome stands */
    char start_error[512];
    int64_t started, ended_at, finished_at; /* monotonic ms */
    int64_t started_wall;
    enum phase phase;
    int64_t phase_end, next_kill, drain_since;
    struct stream streams[2];
    int stdin_fd;
    struct buffer stdin_data; /* accepted, not yet written */
    uint64_t stdin_accepted;
    bool stdin_ended;
    bool stopping; /* the runtime stops */
    char *scratch; /* for reads */
    struct viewer viewers[VIEWERS_MAX];
    size_t viewer_count;
};

/* Starts the command of `request` for the connection, already registered, and stays until
 * nobody needs this process. `kind` says what the connection gets. */
void supervisor_run(struct conn *c, int registry, int control, const struct exec_request *request,
                    enum viewer_kind kind);

/* --- between supervisor.c, viewer.c and outcome.c --- */

/* Sends one signal to the whole tree. */
void supervisor_signal(struct supervisor *s, int sig);
void supervisor_accept_stdin(struct supervisor *s, struct viewer *v, struct slice bytes);
void supervisor_end_stdin(struct supervisor *s);

struct viewer *viewer_add(struct supervisor *s, int fd, enum viewer_kind kind);
void viewer_read(struct supervisor *s, struct viewer *v);
/* All that a client sent before it left; the viewer is broken after it. */
void viewer_take_rest(struct supervisor *s, struct viewer *v);
/* Sends what can be sent now. */
void viewer_pump(struct supervisor *s, struct viewer *v, int64_t now);
/* Whether there is more for it than it took so far. */
bool viewer_lags(const struct supervisor *s, const struct viewer *v);
void viewer_parse(struct supervisor *s, struct viewer *v);
void viewer_free(struct viewer *v);

void outcome_text(const struct supervisor *s, struct buffer *out);
/* The next piece of an answer to /exec, or nothing more: v->complete. */
void outcome_reference_piece(const struct supervisor *s, struct viewer *v);
int outcome_exit_code(const struct supervisor *s);
int64_t outcome_duration(const struct supervisor *s);
