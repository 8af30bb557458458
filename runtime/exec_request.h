/* What to run: the JSON of `S` frames, /exec and /invoke, checked, with its environment. */
#pragma once

#include "runtime/registry.h"

#include "common/json.h"

#define EXEC_OUTPUT_LIMIT (8 * 1024 * 1024) /* bytes of each stream, unless the request says less */
#define EXEC_OUTPUT_MAX   (256 * 1024 * 1024)
#define EXEC_TIMEOUT_MAX  ((int64_t)7 * 24 * 3600 * 1000)

struct exec_request {
    json_t *json; /* owns the strings that argv and dir point to */
    struct exec_key key;
    char **argv;
    char **env;         /* whole */
    const char *dir;    /* NULL = the runtime's */
    int64_t timeout_ms; /* 0 = none */
    uint64_t output_limit;
    bool attach;
    bool wants_stdin;
    const char *stdin_text; /* /exec and /invoke; NULL = none */
};

/* docs/runtime-protocol.md, `S`. Unknown members are ignored: newer clients may send more. */
bool exec_request_parse_stream(struct slice text, struct exec_request *out, struct error *err);
/* controller.md 18.4 and 18.5: unknown members are refused. */
bool exec_request_parse_reference(struct slice text, bool invoke, struct exec_request *out,
                                  struct error *err);
void exec_request_free(struct exec_request *r);
#define cleanup_exec_request __attribute__((cleanup(exec_request_free)))
