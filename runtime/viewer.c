/* Those who follow a command: what each of them gets, and what the client of an exec stream
 * sends. Sockets are non-blocking; nothing here waits. */
#include "runtime/reply.h"
#include "runtime/supervisor.h"

#include "common/log.h"
#include "common/text.h"
#include "common/units.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define EVENT_MAX        4096 /* bytes of output in one log event */
#define WINDOW_STEP      65536
#define CHUNK_HEADER_MAX 16

struct viewer *viewer_add(struct supervisor *s, int fd, enum viewer_kind kind) {
    if (s->viewer_count == VIEWERS_MAX) return NULL;
    struct viewer *v = &s->viewers[s->viewer_count++];
    int64_t now = monotonic_ms();
    *v = (struct viewer){.kind = kind,
                         .fd = fd,
                         .stdin_granted = FRAME_INITIAL_CREDIT,
                         .last_sent = now,
                         .next_alive = now + ALIVE_MS};
    return v;
}

void viewer_free(struct viewer *v) {
    close(v->fd);
    buffer_free(&v->out);
    buffer_free(&v->in);
}

/* --- what the client sends ------------------------------------------------------------ */

static void put_frame(struct viewer *v, char type, const void *payload, uint32_t len) {
    char header[FRAME_HEADER_LEN];
    frame_put_header(header, type, len);
    buffer_append(&v->out, header, sizeof header);
    if (len) buffer_append(&v->out, payload, len);
}

static void refuse(struct viewer *v, const char *what) {
    struct error err = {0};
    error_set(&err, 400, ERR_BAD_REQUEST, "%s", what);
    cleanup_buffer struct buffer text = {0};
    json_text_error(&text, &err);
    put_frame(v, FRAME_ERROR, text.data, (uint32_t)text.len);
    v->broken = true;
    /* One attempt to say why; the connection ends now. */
    if (send(v->fd, v->out.data, v->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug("a refused client is gone", "why", what, NULL);
}

static void take_stdin(struct supervisor *s, struct viewer *v, struct slice bytes) {
    if (v->stdin_got + bytes.len > v->stdin_granted) {
        refuse(v, "more stdin than the window allows");
        return;
    }
    supervisor_accept_stdin(s, v, bytes);
}

/* One frame whose payload is whole. False: it was refused. */
static bool take_frame(struct supervisor *s, struct viewer *v, char type, struct slice payload) {
    switch (type) {
    case FRAME_STDIN_END:
        /* One who attached later and has not sent all again cannot end what goes on. */
        if (v->stdin_got >= s->stdin_accepted) supervisor_end_stdin(s);
        return true;
    case FRAME_KILL:
        if (payload.len != 1 || payload.ptr[0] < 1 || payload.ptr[0] >= SIGRTMAX) break;
        supervisor_signal(s, payload.ptr[0]);
        return true;
    default: break;
    }
    refuse(v, "unexpected frame");
    return false;
}

void viewer_parse(struct supervisor *s, struct viewer *v) {
    size_t used = 0;
    while (!v->broken) {
        struct slice rest = slice_make(v->in.data + used, v->in.len - used);
        if (v->stdin_left > 0) {
            size_t n = rest.len < v->stdin_left ? rest.len : v->stdin_left;
            if (n == 0) break;
            take_stdin(s, v, slice_make(rest.ptr, n));
            v->stdin_left -= (uint32_t)n;
            used += n;
            continue;
        }
        struct frame_header header;
        int got = frame_get_header(rest, &header);
        if (got < 0) refuse(v, "the frame is too long");
        if (got <= 0) break;
        if (header.type == FRAME_STDIN) {
            v->stdin_left = header.len;
            used += FRAME_HEADER_LEN;
            continue;
        }
        if (header.len > 1) { /* no other frame has a longer payload */
            refuse(v, "unexpected frame");
            break;
        }
        if (rest.len < FRAME_HEADER_LEN + header.len) break;
        if (!take_frame(s, v, header.type, slice_make(rest.ptr + FRAME_HEADER_LEN, header.len))) break;
        used += FRAME_HEADER_LEN + header.len;
    }
    buffer_consume(&v->in, used);
}

void viewer_read(struct supervisor *s, struct viewer *v) {
    ssize_t n = recv(v->fd, s->scratch, OUTPUT_WINDOW, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        v->broken = true;
        return;
    }
    if (v->kind != VIEWER_FRAMES) return; /* nothing more belongs to the request */
    buffer_append(&v->in, s->scratch, (size_t)n);
    viewer_parse(s, v);
}

void viewer_take_rest(struct supervisor *s, struct viewer *v) {
    ssize_t n;
    v->broken = false;
    while (!v->broken && (n = recv(v->fd, s->scratch, OUTPUT_WINDOW, MSG_DONTWAIT)) > 0) {
        buffer_append(&v->in, s->scratch, (size_t)n);
        viewer_parse(s, v);
    }
    v->broken = true;
}

/* --- what it gets --------------------------------------------------------------------- */

/* Sends what waits in `out`. True when all of it went. */
static bool flush(struct viewer *v, int64_t now) {
    while (v->out.len > 0) {
        ssize_t n = send(v->fd, v->out.data, v->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            v->broken = v->broken || errno != EAGAIN;
            return false;
        }
        buffer_consume(&v->out, (size_t)n);
        v->last_sent = now;
    }
    return true;
}

/* The next frame of output straight from the stream's memory; what the socket does not take
 * is copied to `out`. */
static void send_output_frame(struct viewer *v, const struct stream *stream, int channel, int64_t now) {
    size_t left = stream->data.len - v->sent[channel];
    size_t n = left < FRAME_MAX_PAYLOAD ? left : FRAME_MAX_PAYLOAD;
    char header[FRAME_HEADER_LEN];
    frame_put_header(header, channel ? FRAME_STDERR : FRAME_STDOUT, (uint32_t)n);
    char *payload = stream->data.data + v->sent[channel];
    struct iovec iov[2] = {{header, sizeof header}, {payload, n}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t sent = sendmsg(v->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        v->broken = true;
        return;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;
    if (done) v->last_sent = now;
    if (done < sizeof header) {
        buffer_append(&v->out, header + done, sizeof header - done);
        done = sizeof header;
    }
    size_t of_payload = done - sizeof header;
    if (of_payload < n) buffer_append(&v->out, payload + of_payload, n - of_payload);
    v->sent[channel] += n;
}

static void put_event(struct viewer *v, const char *name, const struct buffer *data) {
    size_t len = strlen(name) + data->len + sizeof "event: \ndata: \n\n" - 1;
    buffer_printf(&v->out, "%zx\r\nevent: %s\ndata: ", len, name);
    buffer_append(&v->out, data->data, data->len);
    buffer_append_str(&v->out, "\n\n\r\n");
}

static bool put_log_event(const struct supervisor *s, struct viewer *v, int channel) {
    const struct stream *stream = &s->streams[channel];
    size_t left = stream->data.len - v->sent[channel];
    size_t n = left < EVENT_MAX ? left : EVENT_MAX;
    struct slice piece = slice_make(stream->data.data + v->sent[channel], n);
    if (n == 0) return false;
    bool more_may_come = n < left || !s->finished;
    if (more_may_come) piece.len -= utf8_incomplete_tail(piece);
    if (piece.len == 0) return false;
    cleanup_buffer struct buffer data = {0};
    buffer_append_str(&data, "{\"data\":");
    json_text_string(&data, piece);
    buffer_printf(&data, ",\"stream\":\"%s\"}", channel ? "stderr" : "stdout");
    put_event(v, "log", &data);
    v->sent[channel] += piece.len;
    return true;
}

static void put_start_event(const struct supervisor *s, struct viewer *v) {
    cleanup_buffer struct buffer data = {0};
    buffer_append_str(&data, "{\"invokeId\":");
    json_text_string(&data, slice_of(s->request->key.id));
    buffer_printf(&data, ",\"startedAt\":%lld}", (long long)s->started_wall);
    put_event(v, "start", &data);
}

static void put_exit_event(const struct supervisor *s, struct viewer *v) {
    const char *reason = *s->start_error ? "error"
                         : s->timed_out  ? "timeout"
                         : s->killed     ? "canceled"
                                         : "completed";
    bool completed = strcmp(reason, "completed") == 0;
    cleanup_buffer struct buffer data = {0};
    buffer_printf(&data, "{\"durationMs\":%lld,\"exitCode\":%d,\"invokeId\":", (long long)outcome_duration(s),
                  completed ? outcome_exit_code(s) : -1);
    json_text_string(&data, slice_of(s->request->key.id));
    buffer_printf(&data, ",\"reason\":\"%s\"}", reason);
    put_event(v, "exit", &data);
    buffer_append_str(&v->out, "0\r\n\r\n");
}

#define HEAD_EVENTS                                                                                          \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"                      \
    "X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
#define HEAD_JSON                                                                                            \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: "        \
    "close\r\n\r\n"
#define HEAD_NO_CONTENT "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

/* What goes first: the start is confirmed before anything else is said. */
static void put_beginning(const struct supervisor *s, struct viewer *v) {
    switch (v->kind) {
    case VIEWER_FRAMES:
        if (!*s->start_error) put_frame(v, FRAME_ALIVE, NULL, 0);
        break;
    case VIEWER_JSON: buffer_append_str(&v->out, HEAD_JSON); break;
    case VIEWER_EVENTS:
        buffer_append_str(&v->out, HEAD_EVENTS);
        put_start_event(s, v);
        break;
    case VIEWER_WAIT:
    case VIEWER_KILL: break;
    }
}

static void put_whole_answer(struct viewer *v, const struct buffer *body) {
    buffer_printf(&v->out,
                  "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n\r\n",
                  body->len);
    buffer_append(&v->out, body->data, body->len);
    v->complete = true;
}

static void put_wait_answer(const struct supervisor *s, struct viewer *v, int64_t now) {
    cleanup_buffer struct buffer body = {0};
    if (s->finished) {
        outcome_text(s, &body);
    } else if (now >= v->deadline) {
        buffer_printf(&body, "{\"id\":\"%s\",\"running\":true}\n", s->request->key.id);
    } else {
        return;
    }
    put_whole_answer(v, &body);
}

static void put_window(const struct supervisor *s, struct viewer *v) {
    uint64_t written = s->stdin_accepted - s->stdin_data.len;
    uint64_t done = v->stdin_got < written ? v->stdin_got : written;
    if (s->stdin_fd < 0) done = v->stdin_got; /* nobody reads: dropped */
    uint64_t granted = done + FRAME_INITIAL_CREDIT;
    if (granted < v->stdin_granted + WINDOW_STEP) return;
    char payload[4];
    frame_put_u32(payload, (uint32_t)(granted - v->stdin_granted));
    put_frame(v, FRAME_WINDOW, payload, sizeof payload);
    v->stdin_granted = granted;
}

static void put_alive(const struct supervisor *s, struct viewer *v, int64_t now) {
    if (now < v->next_alive) return;
    bool silent = now - v->last_sent >= ALIVE_MS;
    v->next_alive = (silent ? now : v->last_sent) + ALIVE_MS;
    if (!silent || v->complete || v->out.len > 0) return;
    switch (v->kind) {
    case VIEWER_FRAMES: put_frame(v, FRAME_ALIVE, NULL, 0); break;
    case VIEWER_JSON: /* blanks before JSON are nothing */
        if (v->stage == 0) buffer_append_str(&v->out, "1\r\n \r\n");
        break;
    case VIEWER_EVENTS: buffer_append_str(&v->out, "3\r\n:\n\n\r\n"); break;
    case VIEWER_WAIT:
    case VIEWER_KILL: break;
    }
}

/* Puts or sends the next piece. False: there is none now. */
static bool next_piece(struct supervisor *s, struct viewer *v, int64_t now) {
    switch (v->kind) {
    case VIEWER_FRAMES:
        for (int channel = 0; channel < 2; channel++) {
            if (v->sent[channel] == s->streams[channel].data.len) continue;
            send_output_frame(v, &s->streams[channel], channel, now);
            return true;
        }
        if (s->finished) {
            cleanup_buffer struct buffer text = {0};
            outcome_text(s, &text);
            put_frame(v, FRAME_OUTCOME, text.data, (uint32_t)text.len);
            v->complete = true;
        }
        return s->finished;
    case VIEWER_JSON:
        if (s->finished) outcome_reference_piece(s, v);
        return s->finished;
    case VIEWER_EVENTS:
        if (put_log_event(s, v, 0) || put_log_event(s, v, 1)) return true;
        if (s->finished) {
            put_exit_event(s, v);
            v->complete = true;
        }
        return s->finished;
    case VIEWER_WAIT: put_wait_answer(s, v, now); return v->complete;
    case VIEWER_KILL:
        if (!s->finished || s->phase != PHASE_GONE) return false;
        buffer_append_str(&v->out, HEAD_NO_CONTENT);
        v->complete = true;
        return true;
    }
    return false;
}

bool viewer_lags(const struct supervisor *s, const struct viewer *v) {
    if (v->kind == VIEWER_FRAMES || v->kind == VIEWER_EVENTS)
        for (int channel = 0; channel < 2; channel++)
            if (s->streams[channel].data.len - v->sent[channel] >= 4)
                return true; /* less may be half a character */
    return v->out.len > 0;
}

void viewer_pump(struct supervisor *s, struct viewer *v, int64_t now) {
    if (!v->begun) put_beginning(s, v);
    v->begun = true;
    if (v->kind == VIEWER_FRAMES && !v->complete) put_window(s, v);
    put_alive(s, v, now);
    while (!v->broken && flush(v, now)) {
        if (v->complete) {
            v->broken = true; /* done: everything has been taken */
            shutdown(v->fd, SHUT_WR);
            return;
        }
        if (!next_piece(s, v, now)) return;
    }
}
