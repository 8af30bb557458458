/* Frames of a WebSocket client: whatever comes in whatever pieces, no message passes the limit, texts are
 * UTF-8, and only the codes that fail a connection come out. The first byte chooses the size of the pieces.
 */
#include "common/text.h"
#include "common/websocket.h"
#include "tests/fuzz/fuzz.h"

#define LIMIT 3000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    size_t piece = 1 + data[0] * 11u;
    struct websocket_reader r = {.limit = LIMIT};
    cleanup_buffer struct buffer in = {0};
    int got = 0;
    for (size_t at = 1; at < size && (got == 0 || got == 1); at += piece) {
        buffer_append(&in, data + at, size - at < piece ? size - at : piece);
        struct websocket_message m;
        while ((got = websocket_read(&r, &in, &m)) == 1) {
            MUST(m.payload.len <= LIMIT);
            MUST(m.opcode != WEBSOCKET_TEXT || utf8_valid(m.payload));
            MUST(m.opcode < WEBSOCKET_CLOSE || m.payload.len <= 125);
            MUST(m.opcode != WEBSOCKET_CLOSE || (m.close_code >= 1000 && m.close_code < 5000));
        }
        MUST(got == 0 || got == 1002 || got == 1007 || got == 1009);
        MUST(r.message.len <= LIMIT + 125 && (got || in.len <= LIMIT + 14));
    }
    websocket_reader_free(&r);
    return 0;
}
