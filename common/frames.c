#include "common/frames.h"

void frame_put_u32(char out[4], uint32_t n) {
    for (int i = 0; i < 4; i++)
        out[i] = (char)(unsigned char)(n >> (24 - 8 * i));
}

uint32_t frame_get_u32(const char in[4]) {
    uint32_t n = 0;
    for (int i = 0; i < 4; i++)
        n = n << 8 | (unsigned char)in[i];
    return n;
}

void frame_put_header(char out[FRAME_HEADER_LEN], char type, uint32_t len) {
    out[0] = type;
    frame_put_u32(out + 1, len);
}

int frame_get_header(struct slice in, struct frame_header *out) {
    if (in.len < FRAME_HEADER_LEN) return 0;
    out->type = in.ptr[0];
    out->len = frame_get_u32(in.ptr + 1);
    return out->len > FRAME_MAX_PAYLOAD ? -1 : 1;
}
