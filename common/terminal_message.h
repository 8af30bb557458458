/* The JSON messages of a terminal over WebSocket, one object in each: what clients, the Router and
 * runtimes say to each other (http-api.md 2.12, controller.md 18.6). Pure, fuzzed. */
#pragma once

#include "common/bytes.h"

#include <jansson.h>

enum terminal_message_type {
    TERMINAL_UNKNOWN, /* of another type, or not a message at all: to be ignored */
    TERMINAL_INPUT,
    TERMINAL_RESIZE,
    TERMINAL_PING,
    TERMINAL_OUTPUT,
    TERMINAL_ERROR,
};

struct terminal_message {
    enum terminal_message_type type;
    struct slice text; /* input and output: `data`; error: `message`. UTF-8, NUL among it; owned by `json` */
    unsigned cols, rows; /* resize: 1 to 65535, as http-api.md 2.12 clamps them */
    json_t *json;
};

/* Reads one message. What no JSON parser would make of Unicode text (half of a surrogate pair, bytes that are
 * not UTF-8) is U+FFFD here, as published servers have it. */
void terminal_message_parse(struct slice bytes, struct terminal_message *out);
void terminal_message_free(struct terminal_message *m);

/* Append one message. Texts that are not UTF-8 are repaired. */
void terminal_message_put_input(struct buffer *out, struct slice text);
void terminal_message_put_resize(struct buffer *out, unsigned cols, unsigned rows);
void terminal_message_put_output(struct buffer *out, struct slice text);
void terminal_message_put_error(struct buffer *out, const char *message);
void terminal_message_put_heartbeat(struct buffer *out, int64_t unix_ms);
void terminal_message_put_pong(struct buffer *out);
void terminal_message_put_close(struct buffer *out, const char *reason, int code);
