/* The outcome of a command as JSON: of the exec stream, and of the reference's /exec. */
#include "runtime/reply.h"
#include "runtime/supervisor.h"

#include "common/text.h"

#include <sys/wait.h>

#define PIECE (32 * 1024)

static int outcome_signal(const struct supervisor *s) {
    return s->ended && !*s->start_error && WIFSIGNALED(s->status) ? WTERMSIG(s->status) : 0;
}

int outcome_exit_code(const struct supervisor *s) {
    bool exited = s->ended && !*s->start_error && WIFEXITED(s->status);
    return exited && !s->timed_out ? WEXITSTATUS(s->status) : -1;
}

int64_t outcome_duration(const struct supervisor *s) {
    return s->ended_at - s->started;
}

static const char *boolean(bool b) {
    return b ? "true" : "false";
}

void outcome_text(const struct supervisor *s, struct buffer *out) {
    buffer_printf(out,
                  "{\"id\":\"%s\",\"exitCode\":%d,\"signal\":%d,\"timedOut\":%s,\"killed\":%s,"
                  "\"truncated\":{\"stdout\":%s,\"stderr\":%s},\"durationMs\":%lld",
                  s->request->key.id, outcome_exit_code(s), outcome_signal(s), boolean(s->timed_out),
                  boolean(s->killed), boolean(s->streams[0].truncated), boolean(s->streams[1].truncated),
                  (long long)outcome_duration(s));
    if (*s->start_error) {
        buffer_append_str(out, ",\"startError\":");
        json_text_string(out, slice_of(s->start_error));
    }
    buffer_append_str(out, "}\n");
}

/* The next piece of a stream's text, at character boundaries. False: that was all of it. */
static bool text_piece(const struct supervisor *s, struct viewer *v, int channel, struct buffer *out) {
    const struct stream *stream = &s->streams[channel];
    size_t left = stream->data.len - v->sent[channel];
    size_t n = left < PIECE ? left : PIECE;
    struct slice piece = slice_make(stream->data.data + v->sent[channel], n);
    if (n == 0) return false;
    size_t tail = utf8_incomplete_tail(piece);
    v->sent[channel] += n;
    if (n < left) {
        v->sent[channel] -= tail; /* with the next piece */
        piece.len -= tail;
    } else if (stream->truncated) {
        piece.len -= tail; /* we cut that character */
    }
    json_text_escaped(out, piece);
    return true;
}

void outcome_reference_piece(const struct supervisor *s, struct viewer *v) {
    cleanup_buffer struct buffer text = {0};
    switch (v->stage) {
    case 0:
        buffer_printf(&text, "{\"exitCode\":%d,\"stdout\":\"", outcome_exit_code(s));
        v->stage = 1;
        break;
    case 1:
        if (text_piece(s, v, 0, &text)) break;
        buffer_printf(&text, "%s\",\"stderr\":\"", s->streams[0].truncated ? "\\n[truncated]" : "");
        v->stage = 2;
        break;
    case 2:
        if (text_piece(s, v, 1, &text)) break;
        if (s->streams[1].truncated) buffer_append_str(&text, "\\n[truncated]");
        if (*s->start_error) {
            buffer_append_str(&text, "\\n[runtime] ");
            json_text_escaped(&text, slice_of(s->start_error));
        }
        buffer_printf(&text, "\",\"durationMs\":%lld,\"timedOut\":%s", (long long)outcome_duration(s),
                      boolean(s->timed_out));
        if (s->streams[0].truncated || s->streams[1].truncated)
            buffer_append_str(&text, ",\"truncated\":true");
        buffer_append_str(&text, "}\n");
        v->complete = true;
        break;
    }
    if (text.len > 0) {
        buffer_printf(&v->out, "%zx\r\n", text.len);
        buffer_append(&v->out, text.data, text.len);
        buffer_append_str(&v->out, "\r\n");
    }
    if (v->complete) buffer_append_str(&v->out, "0\r\n\r\n");
}
