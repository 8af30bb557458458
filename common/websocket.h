/* WebSocket without its connection: the handshake's answer, frames into messages, messages into frames, of
 * either side. Strict where two readers could differ; no extensions. Pure. (RFC 6455; lesson S22) */
#pragma once

#include "common/bytes.h"

enum websocket_opcode {
    WEBSOCKET_CONTINUATION = 0,
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_CLOSE = 8,
    WEBSOCKET_PING = 9,
    WEBSOCKET_PONG = 10
};

#define WEBSOCKET_ACCEPT_LEN 28
/* Whether it is 16 bytes in base64, as Sec-WebSocket-Key must be; then the value of Sec-WebSocket-Accept. */
bool websocket_accept(struct slice key, char out[WEBSOCKET_ACCEPT_LEN + 1]);

/* Zero-initialise and set `limit`. */
struct websocket_reader {
    size_t limit;          /* bytes of a message, also when it comes in pieces */
    bool of_server;        /* the frames are a server's: they must not be masked */
    struct buffer message; /* the pieces so far */
    enum websocket_opcode opcode;
    bool in_message;
};
struct websocket_message {
    enum websocket_opcode opcode; /* TEXT, BINARY, CLOSE, PING or PONG */
    struct slice payload;         /* valid until the next call; of TEXT checked to be UTF-8 */
    uint16_t close_code;          /* of CLOSE: what it says, 1005 = nothing */
};
/* Takes frames off the front of `in` (which is unmasked in place). 1: *out is a message or a control frame;
 * 0: more bytes are needed; otherwise the close code with which the connection must be failed: 1002, 1007
 * or 1009. */
int websocket_read(struct websocket_reader *r, struct buffer *in, struct websocket_message *out);
void websocket_reader_free(struct websocket_reader *r);

/* Appends one whole frame, masked as a client must: `mask` is random. */
void websocket_put_masked(struct buffer *out, enum websocket_opcode opcode, struct slice payload,
                          const unsigned char mask[4]);
/* Appends one whole frame, unmasked. */
void websocket_put(struct buffer *out, enum websocket_opcode opcode, struct slice payload);
void websocket_put_close(struct buffer *out, uint16_t code, const char *reason);
