/* The body of POST /sandboxes/{id}/exec, checked (http-api.md 2.8). Pure. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <jansson.h>

#define EXEC_DEFAULT_TIMEOUT_S 30
#define EXEC_MAX_TIMEOUT_S     1800
#define EXEC_OUTPUT_LIMIT      (8u * 1024 * 1024) /* bytes kept of each stream */
#define EXEC_MAX_WAIT_S        60

struct exec_args {
    json_t *access;      /* arguments of ACCESS_EXEC without id, keep and digest; owned */
    struct buffer input; /* stdin; has_input says whether there is any */
    bool has_input;
    bool base64; /* the encoding of stdout and stderr in the answer */
    bool detach;
};
void exec_args_free(struct exec_args *);
#define cleanup_exec_args __attribute__((cleanup(exec_args_free)))

/* 400 invalid_field that names the member. On false `out` is empty. */
bool exec_args_parse(const json_t *body, struct exec_args *out, struct error *err);

/* 1 to 255 visible ASCII characters. */
bool idempotency_key_valid(const char *key);

/* ?wait=SECONDS, NULL = 0. */
bool exec_wait_parse(const char *text, int *milliseconds, struct error *err);
