/* Who runs which exec. Process 1 keeps the table; the processes of the connections ask it
 * over a datagram socket. An entry leads to the control socket of the exec's supervisor, so
 * another connection can be handed to it. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <sys/types.h>

#define EXEC_ID_MAX      128
#define EXEC_DIGEST_MAX  128
#define EXEC_RUNNING_MAX 64
#define EXEC_KEPT_MAX    64
#define TERMINALS_MAX    256    /* and so many terminals beside them */
#define EXEC_KEEP_MS     600000 /* an outcome after the end */

enum exec_kind { EXEC_STREAM = 1, EXEC_INVOKE, EXEC_ANONYMOUS, EXEC_TERMINAL };

struct exec_key {
    enum exec_kind kind;
    bool keep;
    char id[EXEC_ID_MAX + 1];
    char digest[EXEC_DIGEST_MAX + 1];
};

/* --- in the process of a connection ------------------------------------------------- */

enum registry_answer {
    REGISTRY_STARTED = 1, /* it is yours: start the command */
    REGISTRY_FOUND,       /* it runs or is kept; *control leads to its supervisor */
    REGISTRY_REUSED,      /* the id belongs to another command */
    REGISTRY_FULL,        /* EXEC_RUNNING_MAX run, or TERMINALS_MAX */
    REGISTRY_NONE         /* no such exec */
};

/* Registers an exec before it starts. With REGISTRY_STARTED *control is this supervisor's
 * own end, on which others' connections arrive; with REGISTRY_FOUND the way to the other
 * supervisor. 0 and err (503) when process 1 does not answer. */
enum registry_answer registry_start(int registry, const struct exec_key *key, int *control,
                                    struct error *err);
/* Finds one. `kept_only`: it must have been started with keep. */
enum registry_answer registry_find(int registry, enum exec_kind kind, const char *id, bool kept_only,
                                   int *control, struct error *err);
/* This supervisor's command has ended: it no longer counts as running. */
void registry_ended(int registry);

/* What arrives on a control socket, with the connection's descriptor (but for EXPIRE). */
enum control_op {
    CONTROL_ATTACH = 1, /* frames from the first byte; `rest` was read already */
    CONTROL_WAIT,       /* the outcome, after at most wait_ms */
    CONTROL_KILL,       /* end the tree, answer 204 when it is gone */
    CONTROL_CANCEL,     /* the same, answered at once */
    CONTROL_EXPIRE      /* from process 1: give up what is kept */
};
struct control_message {
    enum control_op op;
    int64_t wait_ms;
};
/* Hands the connection `fd` over; it stays open here too. `rest` is at most CONTROL_REST_MAX. */
#define CONTROL_REST_MAX (96 * 1024)
bool control_send(int control, struct control_message m, int fd, struct slice rest);
/* Reads one: 1 = read, *fd owned by the caller (-1 = none), the rest appended; 0 = none there
 * now; -1 = process 1 has let go of this exec. */
int control_receive(int control, struct control_message *m, int *fd, struct buffer *rest);

/* --- in process 1 -------------------------------------------------------------------- */

struct registry_entry {
    struct exec_key key;
    pid_t pid;
    int control;
    bool ended; /* only kept ones stay after their end */
    uint64_t serial;
};
struct registry {
    struct registry_entry *entries[EXEC_RUNNING_MAX + EXEC_KEPT_MAX + TERMINALS_MAX + 1];
    size_t count;
    uint64_t serial;
};

/* Serves one message that waits on `socket`. Returns the process it came from, or 0; *ended:
 * its command has ended. */
pid_t registry_serve(struct registry *r, int socket, bool *ended);
/* Whether the process has a terminal and no command. */
bool registry_is_terminal(const struct registry *r, pid_t pid);
/* The process is gone. */
void registry_forget(struct registry *r, pid_t pid);
