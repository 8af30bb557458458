#include "k8s/exec_marks.h"

void exec_marks_init(struct exec_marks *m, const char *nonce, bool wants_head) {
    *m = (struct exec_marks){.wants_head = wants_head};
    memcpy(m->nonce, nonce, EXEC_NONCE_LEN);
}

void exec_marks_free(struct exec_marks *m) {
    buffer_free(&m->held);
}

/* A line from the start of the held bytes; 1 = taken, 0 = not whole yet, -1 = too long. */
static int take_line(struct exec_marks *m, size_t skip, char out[EXEC_MARK_MAX]) {
    struct slice in = {m->held.data + skip, m->held.len - skip};
    const char *end = in.len ? memchr(in.ptr, '\n', in.len) : NULL;
    size_t n = end ? (size_t)(end - in.ptr) : in.len;
    if (n >= EXEC_MARK_MAX) return -1;
    if (!end) return 0;
    memcpy(out, in.ptr, n);
    out[n] = 0;
    buffer_consume(&m->held, skip + n + 1);
    return 1;
}

/* How many bytes at the end of `in` may be the beginning of `mark`. */
static size_t partial(struct slice in, const char *mark, size_t len) {
    for (size_t n = in.len < len ? in.len : len - 1; n > 0; n--)
        if (memcmp(in.ptr + in.len - n, mark, n) == 0) return n;
    return 0;
}

bool exec_marks_feed(struct exec_marks *m, struct slice in, struct buffer *out) {
    if (m->ended) return true;
    buffer_append(&m->held, in.ptr, in.len);
    if (m->wants_head) {
        int rc = take_line(m, 0, m->head);
        if (rc <= 0) return rc == 0;
        m->wants_head = false;
    }
    char mark[EXEC_NONCE_LEN + 2];
    memcpy(mark + 1, m->nonce, EXEC_NONCE_LEN);
    mark[0] = 0;
    mark[EXEC_NONCE_LEN + 1] = ' ';
    for (;;) {
        const char *at = m->held.len ? memmem(m->held.data, m->held.len, mark, sizeof mark) : NULL;
        size_t plain = at ? (size_t)(at - m->held.data)
                          : m->held.len - partial(buffer_slice(&m->held), mark, sizeof mark);
        buffer_append(out, m->held.data, plain);
        buffer_consume(&m->held, plain);
        if (!at) return true;
        int rc = take_line(m, sizeof mark, m->tail);
        if (rc == 0) return true;
        if (rc > 0) {
            m->ended = true;
            buffer_clear(&m->held);
            return true;
        }
        /* It only looked like one. */
        buffer_append(out, m->held.data, sizeof mark);
        buffer_consume(&m->held, sizeof mark);
    }
}

void exec_marks_flush(struct exec_marks *m, struct buffer *out) {
    if (!m->ended && !m->wants_head) buffer_append(out, m->held.data, m->held.len);
    buffer_clear(&m->held);
}
