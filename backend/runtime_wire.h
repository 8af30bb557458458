/* What is said to agenttier-runtime and what its answers mean (docs/runtime-protocol.md):
 * pure functions on bytes and JSON. A sandbox's answers are hostile input: nothing is
 * believed that was not checked here, and only known members are passed on. */
#pragma once

#include "backend/access.h"
#include "backend/backend.h"
#include "common/http1.h"

/* An answer of another shape than the protocol's. */
#define ERR_SANDBOX_BAD_ANSWER "sandbox_bad_answer" /* 502 */
#define ERR_SANDBOX_TIMEOUT    "sandbox_timeout"    /* 504 */
/* The stream of a command ended without its outcome: it may or may not have run to its end. */
#define ERR_EXEC_OUTCOME_UNKNOWN "exec_outcome_unknown" /* 502 */

#define WIRE_MAX_JSON    (8u * 1024 * 1024)
#define WIRE_EXEC_ID_MAX 64
#define WIRE_SPEC_MAX    (1536u * 1024) /* an exec's description in JSON */

/* What follows an answer's head. */
enum wire_next {
    WIRE_ERROR, /* the body says what went wrong: wire_error() */
    WIRE_JSON,  /* wire_result() */
    WIRE_EMPTY, /* done */
    WIRE_BYTES, /* the body is the data */
    WIRE_FILE,  /* done: a file came as a descriptor */
    WIRE_FRAMES,
    WIRE_SOCKET /* the connection itself, or a descriptor, is the stream */
};

struct wire_op {
    const char *method;
    const char *path;
    enum wire_next success;
    int status[2];       /* answers that mean success */
    int head_timeout_ms; /* until the head of the answer, from the end of the request */
    bool body;           /* the request has one */
    bool pass_fd;        /* asked for on UNIX sockets */
};
const struct wire_op *wire_op(enum access_op op);

bool wire_exec_id_valid(const char *id);

/* Appends the request's head, and for ACCESS_EXEC the frames that describe the command.
 * 400 bad_request: `args` do not fit the operation. */
bool wire_request(enum access_op op, const json_t *args, const struct runtime_address *to, struct buffer *out,
                  struct error *err);

/* Appends Host and, to a runtime that has a token, Authorization. */
void wire_put_host(const struct runtime_address *to, struct buffer *out);

struct wire_answer {
    enum wire_next next;
    int status;
    enum http1_framing framing;
    uint64_t content_length;
    struct access_head file; /* WIRE_BYTES of ACCESS_READ, WIRE_FILE; fd is -1 */
};
/* What a head means. `with_fd`: a descriptor was asked for. False: 502 sandbox_bad_answer. */
bool wire_answer(enum access_op op, bool with_fd, const struct http1_head *head, struct wire_answer *out,
                 struct error *err);

/* A refusal's body, as an error of backend/access.h. Never fails: a body that makes no sense is
 * itself 502 sandbox_bad_answer. */
void wire_error(int status, struct slice body, struct error *err);

/* The result of a JSON answer, checked and reduced to its known members; new reference.
 * `args` are the request's. NULL: 502 sandbox_bad_answer. */
json_t *wire_result(enum access_op op, const json_t *args, struct slice body, struct error *err);

/* The outcome of an exec (frame `x`), likewise. `id` is the one that was asked for. */
json_t *wire_outcome(struct slice payload, const char *id, struct error *err);
