/* What agenttier-runtime sent on a stream: its head, its body, its frames. Only whole pieces
 * are acted on; what is out of order ends the stream with 502. */
#include "backend/runtime_socket.h"
#include "backend/runtime_stream.h"

#include <errno.h>
#include <sys/socket.h>

#define MAX_INTERIM_HEADS 8

static void fail_ended(struct runtime_stream *s) {
    if (s->op == ACCESS_EXEC && s->state == STREAM_BODY)
        stream_fail_with(s, 502, ERR_EXEC_OUTCOME_UNKNOWN,
                         "the connection to the sandbox ended before the command's outcome came; the command "
                         "may have run");
    else
        stream_fail_with(s, 502, ERR_SANDBOX_UNREACHABLE,
                         "the sandbox's runtime ended before its answer was complete");
}

static void take_bytes(struct runtime_stream *s, int channel, size_t len) {
    const char *data = s->in + s->in_start;
    s->in_start += len;
    if (s->events.on_data && len) s->events.on_data(s->ctx, channel, data, len);
}

static void finish_body(struct runtime_stream *s) {
    cleanup_error struct error err = {0};
    if (s->answer.next == WIRE_ERROR) {
        wire_error(s->answer.status, buffer_slice(&s->json), &err);
        stream_fail(s, &err);
    } else if (s->answer.next == WIRE_JSON) {
        json_t *result = wire_result(s->op, s->args, buffer_slice(&s->json), &err);
        if (result)
            stream_succeed(s, result);
        else
            stream_fail(s, &err);
    } else {
        stream_succeed(s, NULL);
    }
}

/* One piece of the body. False: more bytes are needed first, or the stream has ended. */
static bool step_body(struct runtime_stream *s) {
    size_t have = s->in_end - s->in_start, used = 0;
    struct slice piece = {0};
    int ended = 0;
    switch (s->answer.framing) {
    case HTTP1_BODY_NONE: ended = 1; break;
    case HTTP1_BODY_LENGTH:
        used = have < s->body_left ? have : (size_t)s->body_left;
        piece = slice_make(s->in + s->in_start, used);
        s->body_left -= used;
        ended = s->body_left == 0;
        break;
    case HTTP1_BODY_CHUNKED:
        ended = http1_chunked_decode(&s->chunked, slice_make(s->in + s->in_start, have), &used, &piece);
        break;
    case HTTP1_BODY_UNTIL_CLOSE:
        used = have;
        piece = slice_make(s->in + s->in_start, used);
        ended = s->eof;
        break;
    }
    if (ended < 0) {
        stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                         "the sandbox's runtime sent a body that is not well-formed");
        return false;
    }
    s->in_start += used;
    if (s->answer.next == WIRE_BYTES) {
        if (piece.len) {
            stream_rearm(s);
            if (s->events.on_data) s->events.on_data(s->ctx, 1, piece.ptr, piece.len);
        }
    } else if (!buffer_append(&s->json, piece.ptr, piece.len)) {
        stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox's runtime sent a result above %u bytes",
                         (unsigned)s->json.limit);
        return false;
    }
    if (stream_over(s)) return false;
    /* The end is told in the next step when the user paused in this one. */
    if (ended == 1 && !(s->paused && s->answer.next == WIRE_BYTES)) {
        finish_body(s);
        return false;
    }
    if (ended == 1) {
        s->answer.framing = HTTP1_BODY_NONE;
        return false;
    }
    return used > 0;
}

static void end_frame(struct runtime_stream *s, struct slice payload) {
    cleanup_error struct error err = {0};
    if (s->frame.type == FRAME_OUTCOME) {
        json_t *outcome = wire_outcome(payload, json_string_value(json_object_get(s->args, "id")), &err);
        if (outcome)
            stream_succeed(s, outcome);
        else
            stream_fail(s, &err);
    } else if (s->frame.type == FRAME_ERROR) {
        wire_error(500, payload, &err);
        stream_fail(s, &err);
    } else if (s->frame.type == FRAME_WINDOW && payload.len == 4) {
        uint64_t more = frame_get_u32(payload.ptr);
        s->credit = s->credit + more > (1u << 30) ? (1u << 30) : s->credit + more;
        stream_tell_writable(s);
    } else if (s->frame.type != FRAME_ALIVE || payload.len != 0) {
        stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                         "the sandbox's runtime sent a frame that does not exist");
    }
}

/* One frame, or a part of one that carries output. */
static bool step_frame(struct runtime_stream *s) {
    struct slice in = {s->in + s->in_start, s->in_end - s->in_start};
    if (!s->in_frame) {
        int got = frame_get_header(in, &s->frame);
        if (got < 0) {
            stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                             "the sandbox's runtime sent a frame that is too long");
            return false;
        }
        if (got == 0) return false;
        s->in_start += FRAME_HEADER_LEN;
        s->in_frame = true;
        stream_rearm(s);
        if (s->body_moving == false) {
            s->body_moving = true;
            if (s->frame.type != FRAME_ERROR && s->events.on_started) s->events.on_started(s->ctx);
        }
        return !stream_over(s);
    }
    if (s->frame.type == FRAME_STDOUT || s->frame.type == FRAME_STDERR) {
        size_t n = in.len < s->frame.len ? in.len : s->frame.len;
        s->frame.len -= (uint32_t)n;
        s->in_frame = s->frame.len > 0;
        bool moved = n > 0 || !s->in_frame;
        take_bytes(s, s->frame.type == FRAME_STDOUT ? 1 : 2, n);
        return moved && !stream_over(s);
    }
    if (in.len < s->frame.len) return false;
    s->in_frame = false;
    s->in_start += s->frame.len;
    end_frame(s, slice_make(in.ptr, s->frame.len));
    return !stream_over(s);
}

/* Acts on the head of the answer. */
static void begin_body(struct runtime_stream *s) {
    s->state = STREAM_BODY;
    switch (s->answer.next) {
    case WIRE_ERROR:
    case WIRE_JSON:
        s->json.limit = s->answer.next == WIRE_JSON ? WIRE_MAX_JSON : 65536;
        s->body_left = s->answer.content_length;
        break;
    case WIRE_BYTES:
        s->body_left = s->answer.content_length;
        if (s->op == ACCESS_READ && s->events.on_head) s->events.on_head(s->ctx, &s->answer.file);
        break;
    case WIRE_EMPTY: stream_succeed(s, NULL); return;
    case WIRE_FILE:
        if (!runtime_fd_is_file(s->passed_fd, s->answer.file.offset + s->answer.file.length)) {
            stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                             "the sandbox's runtime passed a descriptor that is not the file");
            return;
        }
        s->answer.file.fd = s->passed_fd;
        if (s->events.on_head) s->events.on_head(s->ctx, &s->answer.file);
        if (!stream_over(s)) stream_succeed(s, NULL);
        return;
    case WIRE_SOCKET: {
        int fd = s->with_fd ? steal_fd(s->passed_fd) : steal_fd(s->fd);
        if (!runtime_fd_is_connection(fd)) {
            close(fd);
            stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                             "the sandbox's runtime passed a descriptor that is not a connection");
            return;
        }
        stream_stop(s);
        s->events.on_connected(s->ctx, fd);
        return;
    }
    case WIRE_FRAMES: break;
    }
    stream_rearm(s);
}

static bool step_head(struct runtime_stream *s) {
    cleanup_error struct error err = {0};
    struct http1_head head;
    struct slice in = {s->in + s->in_start, s->in_end - s->in_start};
    ssize_t len = http1_parse_response(in, s->row->method, &head, &err);
    if (len == 0 && in.len < STREAM_IN_CAP) return false;
    if (len <= 0) {
        stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                         "the sandbox's runtime sent a head that is not well-formed");
        return false;
    }
    bool interim = head.status >= 100 && head.status <= 199 && head.status != 101;
    if (interim && ++s->interim <= MAX_INTERIM_HEADS) {
        s->in_start += (size_t)len;
        return true;
    }
    bool success =
        head.status == s->row->status[0] || (s->row->status[1] && head.status == s->row->status[1]);
    if (s->surplus || (s->passed_fd >= 0 && !(s->with_fd && success)) ||
        (s->passed_fd < 0 && s->with_fd && success)) {
        stream_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER,
                         s->passed_fd < 0
                             ? "the sandbox's runtime did not pass the descriptor it was asked for"
                             : "the sandbox's runtime passed descriptors that nobody asked for");
        return false;
    }
    if (interim || !wire_answer(s->op, s->with_fd, &head, &s->answer, &err)) {
        if (interim)
            error_set(&err, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox's runtime sent too many heads");
        stream_fail(s, &err);
        return false;
    }
    s->in_start += (size_t)len;
    begin_body(s);
    return !stream_over(s);
}

/* Acts on what has been read, as far as it goes. */
void stream_process(struct runtime_stream *s) {
    bool more = true;
    while (more && !stream_over(s) && (s->state == STREAM_HEAD || !s->paused)) {
        if (s->state == STREAM_HEAD)
            more = step_head(s);
        else if (s->answer.next == WIRE_FRAMES)
            more = step_frame(s);
        else
            more = step_body(s);
    }
    if (stream_over(s) || more) return;
    if (s->eof && !(s->state == STREAM_BODY && s->paused)) fail_ended(s);
}

/* The connection itself becomes the stream: nothing behind the head may be taken from it. */
static ssize_t receive_head_only(struct runtime_stream *s, size_t room) {
    char *at = s->in + s->in_end;
    ssize_t n = recv(s->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0) return n;
    struct http1_head head;
    struct slice in = {s->in + s->in_start, s->in_end + (size_t)n - s->in_start};
    ssize_t len = http1_parse_response(in, s->row->method, &head, NULL);
    size_t take = (size_t)n, before = s->in_end - s->in_start;
    if (len > 0 && (size_t)len > before && (size_t)len - before < take) take = (size_t)len - before;
    return recv(s->fd, at, take, MSG_DONTWAIT);
}

/* False: nothing more to read now. */
bool stream_receive(struct runtime_stream *s) {
    if (s->in_start == s->in_end) s->in_start = s->in_end = 0;
    if (s->in_start && s->in_end > STREAM_IN_CAP / 2) {
        memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
        s->in_end -= s->in_start;
        s->in_start = 0;
    }
    size_t room = STREAM_IN_CAP - s->in_end;
    if (room == 0 || s->eof) return false;
    /* No event carries more than 64 KiB. */
    if (room > FRAME_MAX_PAYLOAD) room = FRAME_MAX_PAYLOAD;
    ssize_t n;
    do {
        if (s->op == ACCESS_DIAL && !s->with_fd && s->state == STREAM_HEAD)
            n = receive_head_only(s, room);
        else
            n = runtime_socket_recv(s->fd, s->in + s->in_end, room, &s->passed_fd, &s->surplus);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        s->in_end += (size_t)n;
        return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) s->eof = true;
    return s->eof;
}
