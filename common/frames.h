/* The frames of an exec stream (docs/runtime-protocol.md, POST /exec/stream): one type byte,
 * the payload's length as 4 bytes big-endian, the payload. Pure; both ends use it. */
#pragma once

#include "common/bytes.h"

#define FRAME_HEADER_LEN     5
#define FRAME_MAX_PAYLOAD    65536
#define FRAME_INITIAL_CREDIT 262144 /* stdin bytes that may be sent before the first FRAME_WINDOW */

enum frame_type {
    /* to the runtime */
    FRAME_START_PART = 's', /* a part of the description; more follows */
    FRAME_START = 'S',      /* its last, mostly only, part */
    FRAME_STDIN = 'i',
    FRAME_STDIN_END = 'e',
    FRAME_KILL = 'k', /* 1 byte: a signal's number */
    /* from the runtime */
    FRAME_STDOUT = 'o',
    FRAME_STDERR = 'E',
    FRAME_WINDOW = 'w', /* 4 bytes big-endian: that many more stdin bytes */
    FRAME_ALIVE = 'h',
    FRAME_OUTCOME = 'x',
    FRAME_ERROR = '!'
};

struct frame_header {
    char type;
    uint32_t len; /* of the payload */
};

void frame_put_header(char out[FRAME_HEADER_LEN], char type, uint32_t len);
/* Reads a header from the start of `in`: 1 = read, 0 = fewer than FRAME_HEADER_LEN bytes are
 * there, -1 = the payload is longer than allowed. The type is not checked. */
int frame_get_header(struct slice in, struct frame_header *out);

void frame_put_u32(char out[4], uint32_t n);
uint32_t frame_get_u32(const char in[4]);
