#include "router/exec_render.h"

#include "common/json.h"
#include "common/text.h"

#include <stdio.h>

/* Input bytes of one piece: at most six times that in JSON. A multiple of 3 for base64. */
#define PIECE 9216

/* What stands after a stream's own bytes begins on a line of its own. */
static void add_line(struct buffer *tail, struct slice output, const char *text) {
    bool at_line_start = output.len == 0 || output.ptr[output.len - 1] == '\n';
    if (tail->len == 0 && !at_line_start) buffer_append_char(tail, '\n');
    buffer_append_str(tail, text);
}

static json_t *members_of(const json_t *outcome, const char *status, const struct exec_render *r) {
    json_t *m = json_object();
    json_int_t signal = json_integer_value(json_object_get(outcome, "signal"));
    json_object_set(m, "exitCode", json_object_get(outcome, "exitCode"));
    json_object_set(m, "durationMs", json_object_get(outcome, "durationMs"));
    json_object_set(m, "timedOut", json_object_get(outcome, "timedOut"));
    json_object_set_new(m, "truncated", json_boolean(r->truncated[0] || r->truncated[1]));
    json_object_set(m, "execId", json_object_get(outcome, "id"));
    if (status) json_object_set_new(m, "status", json_string(status));
    if (signal) json_object_set_new(m, "signal", json_integer(signal));
    if (json_is_true(json_object_get(outcome, "killed"))) json_object_set_new(m, "killed", json_true());
    if (r->base64) json_object_set_new(m, "encoding", json_string("base64"));
    return m;
}

void exec_render_init(struct exec_render *r, const json_t *outcome, const char *status,
                      const struct slice output[2], const bool truncated[2], bool base64) {
    static const char *const names[2] = {"stdout", "stderr"};
    *r = (struct exec_render){.output = {output[0], output[1]}, .base64 = base64};
    const json_t *flags = json_object_get(outcome, "truncated");
    for (int i = 0; i < 2; i++) {
        r->truncated[i] = truncated[i] || json_is_true(json_object_get(flags, names[i]));
        /* http-api.md 1.12: a newline, then the mark. */
        if (!r->truncated[i] || base64) continue;
        r->output[i].len -= utf8_incomplete_tail(r->output[i]); /* a character that the cut split */
        buffer_append_str(&r->tail[i], "\n[truncated]");
    }
    const char *reason = json_string_value(json_object_get(outcome, "startError"));
    if (reason) {
        add_line(&r->tail[1], output[1], "[runtime] ");
        buffer_append_str(&r->tail[1], reason);
        buffer_append_char(&r->tail[1], '\n');
    }
    cleanup_json json_t *members = members_of(outcome, status, r);
    size_t len;
    cleanup_free char *text = json_dump_line(members, &len);
    buffer_append_char(&r->members, ',');
    buffer_append(&r->members, text + 1, len - 1);
}

void exec_render_free(struct exec_render *r) {
    buffer_free(&r->tail[0]);
    buffer_free(&r->tail[1]);
    buffer_free(&r->members);
}

/* A piece of a stream. Its end is where a character (or three bytes of base64) ends, so
 * that pieces can be encoded one by one. False: the stream is done. */
static bool stream_piece(struct exec_render *r, struct slice in, struct buffer *out) {
    size_t left = in.len - r->at;
    if (left == 0) return false;
    struct slice piece = {in.ptr + r->at, left < PIECE ? left : PIECE};
    if (piece.len < left && !r->base64) piece.len -= utf8_incomplete_tail(piece);
    r->at += piece.len;
    if (r->base64) {
        base64_encode(piece, out);
    } else {
        json_text_escaped(out, piece);
    }
    return true;
}

/* With base64 the tail must continue the bytes, not the text: a command that did not start has
 * written none, so both are never there together. */
static void stream_tail(const struct exec_render *r, int i, struct buffer *out) {
    struct slice tail = buffer_slice(&r->tail[i]);
    if (tail.len && !r->base64)
        json_text_escaped(out, tail);
    else if (tail.len && r->output[i].len == 0)
        base64_encode(tail, out);
}

bool exec_render_more(struct exec_render *r, struct buffer *out) {
    switch (r->step) {
    case 0: buffer_append_str(out, "{\"stdout\":\""); break;
    case 1:
        if (stream_piece(r, r->output[0], out)) return true;
        stream_tail(r, 0, out);
        buffer_append_str(out, "\",\"stderr\":\"");
        r->at = 0;
        break;
    case 2:
        if (stream_piece(r, r->output[1], out)) return true;
        stream_tail(r, 1, out);
        buffer_append_char(out, '"');
        break;
    case 3: buffer_append(out, r->members.data, r->members.len); break;
    default: return false;
    }
    r->step++;
    return true;
}
