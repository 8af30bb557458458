/* What a client sends on an exec stream, as the runtime reads it: whatever comes in whatever pieces, no more
 * stdin is accepted than was granted, only signals that exist are sent, and nothing piles up. The first byte
 * chooses the size of the pieces. */
#include "common/frames.h"
#include "runtime/supervisor.h"
#include "tests/fuzz/fuzz.h"

#include <signal.h>

static uint64_t stdin_bytes;
static bool stdin_over;

/* In place of supervisor.c. */
void supervisor_signal(struct supervisor *s, int sig) {
    (void)s;
    MUST(sig >= 1 && sig < SIGRTMAX);
}
void supervisor_accept_stdin(struct supervisor *s, struct viewer *v, struct slice bytes) {
    v->stdin_got += bytes.len;
    stdin_bytes += bytes.len;
    s->stdin_accepted = v->stdin_got;
    MUST(v->stdin_got <= v->stdin_granted);
}
void supervisor_end_stdin(struct supervisor *s) {
    (void)s;
    stdin_over = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    static struct supervisor s;
    static const struct exec_request request = {.key = {.id = "e1"}};
    s = (struct supervisor){.request = &request, .stdin_fd = -1};
    stdin_bytes = 0;
    stdin_over = false;
    struct viewer *v = viewer_add(&s, -1, VIEWER_FRAMES);
    size_t piece = 1 + data[0] * 37u;
    const char *p = (const char *)data + 1, *end = (const char *)data + size;
    while (p < end && !v->broken) {
        size_t n = (size_t)(end - p) < piece ? (size_t)(end - p) : piece;
        buffer_append(&v->in, p, n);
        p += n;
        viewer_parse(&s, v);
        /* An unfinished header, or a frame of one byte without it: nothing longer waits. */
        if (!v->broken) MUST(v->in.len <= FRAME_HEADER_LEN);
    }
    MUST(stdin_bytes <= size);
    if (v->broken) MUST(v->out.len > FRAME_HEADER_LEN && v->out.data[0] == FRAME_ERROR);
    buffer_free(&v->in);
    buffer_free(&v->out);
    return 0;
}
