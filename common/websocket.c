#include "common/websocket.h"

#include "common/sha1.h"
#include "common/text.h"

#define GUID           "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define KEY_LEN        24
#define FIN            0x80
#define RESERVED       0x70
#define MASKED         0x80
#define CONTROL_MAX    125
#define CODE_PROTOCOL  1002
#define CODE_NO_STATUS 1005
#define CODE_NOT_UTF8  1007
#define CODE_TOO_LARGE 1009

bool websocket_accept(struct slice key, char out[WEBSOCKET_ACCEPT_LEN + 1]) {
    cleanup_buffer struct buffer bytes = {0}, text = {0}, accept = {0};
    if (key.len != KEY_LEN || !base64_decode(key, &bytes) || bytes.len != 16) return false;
    unsigned char digest[SHA1_LEN];
    buffer_append(&text, key.ptr, key.len);
    buffer_append_str(&text, GUID);
    sha1(buffer_slice(&text), digest);
    base64_encode(slice_make((const char *)digest, sizeof digest), &accept);
    memcpy(out, buffer_cstr(&accept), WEBSOCKET_ACCEPT_LEN + 1);
    return true;
}

struct frame {
    bool fin;
    enum websocket_opcode opcode;
    size_t header;
    uint64_t len;
    unsigned char mask[4];
};

/* 1: a header is there; 0: not yet; else a close code. */
static int read_header(struct slice in, bool masked, struct frame *f) {
    const unsigned char *p = (const unsigned char *)in.ptr;
    if (in.len < 2) return 0;
    unsigned opcode = p[0] & 15;
    bool control = opcode >= 8;
    unsigned short_len = p[1] & 127;
    if (p[0] & RESERVED || !!(p[1] & MASKED) != masked) return CODE_PROTOCOL;
    if ((opcode > WEBSOCKET_BINARY && opcode < WEBSOCKET_CLOSE) || opcode > WEBSOCKET_PONG)
        return CODE_PROTOCOL;
    if (control && (!(p[0] & FIN) || short_len > CONTROL_MAX)) return CODE_PROTOCOL;
    size_t extra = short_len == 126 ? 2 : short_len == 127 ? 8 : 0;
    size_t header = 2 + extra + (masked ? 4 : 0);
    if (in.len < header) return 0;
    uint64_t len = extra ? 0 : short_len;
    for (size_t i = 0; i < extra; i++)
        len = len << 8 | p[2 + i];
    if ((extra == 2 && len < 126) || (extra == 8 && (len < 65536 || len >> 63))) return CODE_PROTOCOL;
    *f = (struct frame){
        .fin = p[0] & FIN, .opcode = (enum websocket_opcode)opcode, .header = header, .len = len};
    if (masked) memcpy(f->mask, p + 2 + extra, 4);
    return 1;
}

static void apply_mask(char *bytes, size_t len, const unsigned char mask[4]) {
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(bytes[i] ^ (char)mask[i % 4]);
}

static bool close_code_valid(unsigned code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static int take_control(enum websocket_opcode opcode, struct slice payload, struct websocket_message *out) {
    *out = (struct websocket_message){.opcode = opcode, .payload = payload, .close_code = CODE_NO_STATUS};
    if (opcode != WEBSOCKET_CLOSE || payload.len == 0) return 1;
    if (payload.len == 1) return CODE_PROTOCOL;
    unsigned code = (unsigned)(unsigned char)payload.ptr[0] << 8 | (unsigned char)payload.ptr[1];
    out->close_code = (uint16_t)code;
    if (!close_code_valid(code)) return CODE_PROTOCOL;
    return utf8_valid(slice_make(payload.ptr + 2, payload.len - 2)) ? 1 : CODE_NOT_UTF8;
}

int websocket_read(struct websocket_reader *r, struct buffer *in, struct websocket_message *out) {
    if (!r->in_message) buffer_clear(&r->message); /* what was given out last */
    for (;;) {
        struct frame f;
        int got = read_header(buffer_slice(in), !r->of_server, &f);
        if (got != 1) return got;
        bool control = f.opcode >= WEBSOCKET_CLOSE;
        if (!control && (f.opcode == WEBSOCKET_CONTINUATION) != r->in_message) return CODE_PROTOCOL;
        if (!control && f.len > r->limit - r->message.len) return CODE_TOO_LARGE;
        if (in->len - f.header < f.len) return 0;
        char *payload = in->data + f.header;
        size_t len = (size_t)f.len;
        if (!r->of_server) apply_mask(payload, len, f.mask);
        if (control) {
            /* A pause within a message: its few bytes are kept behind what has come of that. */
            size_t before = r->message.len;
            buffer_append(&r->message, payload, len);
            buffer_consume(in, f.header + len);
            got = take_control(f.opcode, slice_make(r->message.data + before, len), out);
            r->message.len = before;
            return got;
        }
        if (f.opcode != WEBSOCKET_CONTINUATION) r->opcode = f.opcode;
        buffer_append(&r->message, payload, len);
        buffer_consume(in, f.header + len);
        r->in_message = !f.fin;
        if (!f.fin) continue;
        if (r->opcode == WEBSOCKET_TEXT && !utf8_valid(buffer_slice(&r->message))) return CODE_NOT_UTF8;
        *out = (struct websocket_message){.opcode = r->opcode, .payload = buffer_slice(&r->message)};
        return 1;
    }
}

void websocket_reader_free(struct websocket_reader *r) {
    buffer_free(&r->message);
}

static void put_header(struct buffer *out, enum websocket_opcode opcode, size_t len, unsigned masked) {
    unsigned char header[10] = {(unsigned char)(FIN | opcode)};
    size_t n = 2;
    if (len < 126) {
        header[1] = (unsigned char)(masked | len);
    } else {
        size_t extra = len < 65536 ? 2 : 8;
        header[1] = (unsigned char)(masked | (extra == 2 ? 126 : 127));
        for (size_t i = 0; i < extra; i++)
            header[n + i] = (unsigned char)((uint64_t)len >> (8 * (extra - 1 - i)));
        n += extra;
    }
    buffer_append(out, header, n);
}

void websocket_put(struct buffer *out, enum websocket_opcode opcode, struct slice payload) {
    put_header(out, opcode, payload.len, 0);
    if (payload.len) buffer_append(out, payload.ptr, payload.len);
}

void websocket_put_masked(struct buffer *out, enum websocket_opcode opcode, struct slice payload,
                          const unsigned char mask[4]) {
    put_header(out, opcode, payload.len, MASKED);
    buffer_append(out, mask, 4);
    if (!payload.len) return;
    buffer_append(out, payload.ptr, payload.len);
    apply_mask(out->data + out->len - payload.len, payload.len, mask);
}

void websocket_put_close(struct buffer *out, uint16_t code, const char *reason) {
    char payload[CONTROL_MAX] = {(char)(code >> 8), (char)(code & 255)};
    size_t n = strlen(reason);
    if (n > sizeof payload - 2) n = sizeof payload - 2;
    memcpy(payload + 2, reason, n);
    websocket_put(out, WEBSOCKET_CLOSE, slice_make(payload, n + 2));
}
