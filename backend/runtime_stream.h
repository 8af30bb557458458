/* Inside runtime_access: a stream's state, shared by runtime_access.c (connection, output,
 * deadlines, the interface) and runtime_input.c (what the runtime sent). */
#pragma once

#include "backend/runtime_access.h"
#include "backend/runtime_wire.h"
#include "common/frames.h"
#include "common/json.h"

#define STREAM_IN_CAP (FRAME_MAX_PAYLOAD + FRAME_HEADER_LEN + 64)

enum stream_state { STREAM_CONNECTING, STREAM_HEAD, STREAM_BODY, STREAM_DONE };

struct runtime_stream {
    struct access_stream base;
    uv_loop_t *loop;
    enum access_op op;
    const struct wire_op *row;
    struct access_events events;
    void *ctx;
    json_t *args; /* shallow copy */
    struct runtime_address address;

    int fd, passed_fd;
    bool with_fd; /* a descriptor was asked for */
    bool surplus; /* more came than one */
    uv_poll_t poll;
    uv_timer_t timer, kick;
    bool polling; /* `poll` is initialised for fd */
    int handles;  /* not closed yet; the last one frees the stream */

    enum stream_state state;
    bool paused, closed, eof, reached;
    bool want_writable, finished, send_off;
    bool body_moving;
    uint64_t hard_until; /* uv_now; 0 = none */
    uint64_t paused_at;  /* uv_now */
    struct error deferred;

    struct buffer request; /* head and description */
    size_t request_sent;
    char *out; /* OUT_DATA + OUT_SPARE, made at the first write */
    size_t out_start, out_end;
    uint64_t credit, declared, written;
    bool has_size;

    struct wire_answer answer;
    struct http1_chunked chunked;
    uint64_t body_left;
    int interim;
    bool in_frame;
    struct frame_header frame;
    struct buffer json;

    size_t in_start, in_end;
    char in[STREAM_IN_CAP];
};

/* No event may follow: asked after every event, which may have closed the stream. */
static inline bool stream_over(const struct runtime_stream *s) {
    return s->closed || s->state == STREAM_DONE;
}

/* runtime_access.c */
void stream_stop(struct runtime_stream *s); /* ends all input and output; then one last event may be given */
void stream_fail(struct runtime_stream *s, const struct error *err);
void stream_fail_with(struct runtime_stream *s, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void stream_succeed(struct runtime_stream *s, json_t *result); /* takes `result`; NULL = {} */
void stream_rearm(struct runtime_stream *s);                   /* starts the state's patience anew */
void stream_tell_writable(struct runtime_stream *s);

/* runtime_input.c */
bool stream_receive(struct runtime_stream *s); /* false: nothing more to read now */
void stream_process(struct runtime_stream *s); /* acts on what has been read, as far as it goes */
