/* The life of one command (docs/runtime-protocol.md): start, output, stdin, timeout, kill,
 * outcome. One poll loop; the only waits are there. */
#include "runtime/supervisor.h"

#include "runtime/spawn.h"
#include "runtime/tree.h"

#include "common/log.h"
#include "common/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* --- the tree ----------------------------------------------------------------------------- */

/* The command has ended, or its whole tree: what is in the pipes now is still its output. */
static void begin_drain(struct supervisor *s) {
    s->drain_since = monotonic_ms();
    for (int i = 0; i < 2; i++) {
        int waiting = 0;
        if (s->streams[i].fd >= 0 && ioctl(s->streams[i].fd, FIONREAD, &waiting) == 0)
            s->streams[i].must_take = s->streams[i].taken + (uint64_t)waiting;
    }
}

static void tree_is_gone(struct supervisor *s) {
    s->phase = PHASE_GONE;
    begin_drain(s);
}

/* TERM to every process of the tree, KILL after the grace. */
static void end_tree(struct supervisor *s) {
    if (s->phase != PHASE_RUNNING) return;
    if (s->childless) {
        tree_is_gone(s);
        return;
    }
    s->phase = PHASE_TERMINATING;
    tree_terminate();
    s->phase_end = monotonic_ms() + KILL_GRACE_MS;
}

static void end_by_request(struct supervisor *s) {
    if (!s->ended && s->phase == PHASE_RUNNING) s->killed = true;
    end_tree(s);
}

void supervisor_signal(struct supervisor *s, int sig) {
    if (!s->childless) tree_signal(sig);
}

static void reap(struct supervisor *s) {
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR) continue;
        if (pid < 0) { /* a subreaper without children has no descendants */
            s->childless = true;
            if (s->phase == PHASE_TERMINATING || s->phase == PHASE_KILLING) tree_is_gone(s);
        }
        if (pid <= 0) return;
        if (pid != s->pid) continue;
        s->pid = -1;
        s->status = status;
        s->ended = true;
        s->ended_at = monotonic_ms();
        begin_drain(s);
    }
}

/* --- the command's streams ---------------------------------------------------------------- */

static void close_stream(struct stream *stream) {
    if (stream->fd >= 0) close(stream->fd);
    stream->fd = -1;
}

static void read_stream(struct supervisor *s, struct stream *stream) {
    ssize_t n = read(stream->fd, s->scratch, OUTPUT_WINDOW);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        close_stream(stream);
        return;
    }
    uint64_t before = stream->taken;
    stream->taken += (uint64_t)n;
    bool wanted = s->request->key.keep || s->viewer_count > 0;
    if (s->finished || !wanted) return; /* read only so that its writer is not held up */
    uint64_t limit = s->request->output_limit;
    size_t kept = before >= limit ? 0 : (size_t)(limit - before < (uint64_t)n ? limit - before : (uint64_t)n);
    if (kept < (size_t)n) stream->truncated = true;
    if (kept > 0) buffer_append(&stream->data, s->scratch, kept);
}

/* Whether the command may be read from now: not while a live viewer has to catch up, but
 * what is collected or kept is bounded by its limit anyway. */
static bool may_read(const struct supervisor *s) {
    if (s->finished || s->request->key.keep) return true;
    for (size_t i = 0; i < s->viewer_count; i++) {
        enum viewer_kind kind = s->viewers[i].kind;
        if ((kind == VIEWER_FRAMES || kind == VIEWER_EVENTS) && viewer_lags(s, &s->viewers[i])) return false;
    }
    return true;
}

/* Output that every live viewer has is forgotten, unless it is kept or collected. */
static void forget_sent(struct supervisor *s) {
    if (s->request->key.keep || s->viewer_count != 1) return;
    struct viewer *v = &s->viewers[0];
    if (v->kind != VIEWER_FRAMES && v->kind != VIEWER_EVENTS) return;
    for (int i = 0; i < 2; i++) {
        buffer_consume(&s->streams[i].data, v->sent[i]);
        v->sent[i] = 0;
    }
}

static void close_stdin(struct supervisor *s) {
    if (s->stdin_fd >= 0) close(s->stdin_fd);
    s->stdin_fd = -1;
    buffer_free(&s->stdin_data);
}

static void write_stdin(struct supervisor *s) {
    while (s->stdin_fd >= 0 && s->stdin_data.len > 0) {
        ssize_t n = write(s->stdin_fd, s->stdin_data.data, s->stdin_data.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            close_stdin(s); /* the command does not want more */
            return;
        }
        buffer_consume(&s->stdin_data, (size_t)n);
    }
    if (s->stdin_ended) close_stdin(s);
}

/* A viewer sends the input from its first byte; what an earlier one already gave is skipped. */
void supervisor_accept_stdin(struct supervisor *s, struct viewer *v, struct slice bytes) {
    uint64_t start = v->stdin_got;
    v->stdin_got += bytes.len;
    if (v->stdin_got <= s->stdin_accepted) return;
    size_t skip = (size_t)(s->stdin_accepted - start);
    s->stdin_accepted = v->stdin_got;
    if (s->stdin_fd < 0 || s->stdin_ended) return;
    buffer_append(&s->stdin_data, bytes.ptr + skip, bytes.len - skip);
    write_stdin(s);
}

void supervisor_end_stdin(struct supervisor *s) {
    s->stdin_ended = true;
    write_stdin(s);
}

/* --- start and end ------------------------------------------------------------------------ */

static bool make_pipe(int *ours, int *theirs, bool we_write) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) return false;
    *ours = fds[we_write ? 1 : 0];
    *theirs = fds[we_write ? 0 : 1];
    return fcntl(*ours, F_SETFL, O_NONBLOCK) == 0;
}

static void start_command(struct supervisor *s) {
    cleanup_close int in = -1, out = -1, err_fd = -1;
    struct error err = {0};
    struct timespec wall;
    bool piped = make_pipe(&s->streams[0].fd, &out, false) && make_pipe(&s->streams[1].fd, &err_fd, false) &&
                 (!s->request->wants_stdin || make_pipe(&s->stdin_fd, &in, true));
    clock_gettime(CLOCK_REALTIME, &wall);
    s->started_wall = (int64_t)wall.tv_sec * 1000 + wall.tv_nsec / 1000000;
    s->started = monotonic_ms();
    if (piped) {
        struct spawn_request request = {.argv = s->request->argv,
                                        .env = s->request->env,
                                        .dir = s->request->dir,
                                        .in = in,
                                        .out = out,
                                        .err = err_fd};
        s->pid = spawn(&request, &err);
    } else {
        error_set_errno(&err, errno, "pipes");
    }
    if (s->pid > 0) return;
    memcpy(s->start_error, err.message, sizeof err.message);
    close_stream(&s->streams[0]);
    close_stream(&s->streams[1]);
    close_stdin(s);
    s->ended = s->childless = true;
    s->ended_at = s->drain_since = s->started;
}

/* Everything that was written before the command ended has been read, and background
 * children that hold a pipe open had their DRAIN_MS. */
static bool drained(const struct supervisor *s, int64_t now) {
    for (int i = 0; i < 2; i++) {
        const struct stream *stream = &s->streams[i];
        if (stream->fd >= 0 && (stream->taken < stream->must_take || now < s->drain_since + DRAIN_MS))
            return false;
    }
    return true;
}

static void check_finished(struct supervisor *s, int64_t now) {
    if (s->finished) return;
    bool over = s->phase == PHASE_RUNNING ? s->ended : s->phase == PHASE_GONE;
    if (!over) return;
    if (!s->ended) s->ended_at = now; /* it could not be ended; there is no exit code */
    if (!drained(s, now)) return;
    s->finished = true;
    s->finished_at = now;
    close_stdin(s);
    if (s->childless) { /* nobody is left who could write */
        close_stream(&s->streams[0]);
        close_stream(&s->streams[1]);
    }
    registry_ended(s->registry);
}

static void advance_phase(struct supervisor *s, int64_t now) {
    int64_t timeout = s->request->timeout_ms;
    if (s->phase == PHASE_RUNNING && !s->ended && timeout > 0 && now >= s->started + timeout) {
        s->timed_out = true;
        end_tree(s);
    }
    if (s->phase == PHASE_TERMINATING && now >= s->phase_end) {
        s->phase = PHASE_KILLING;
        s->phase_end = now + KILL_GIVE_UP_MS;
        s->next_kill = now;
    }
    if (s->phase == PHASE_KILLING && now >= s->next_kill) {
        tree_signal(SIGKILL);
        s->next_kill = now + KILL_REPEAT_MS;
        if (now >= s->phase_end) {
            tree_is_gone(s);
            log_warn("processes of a command cannot be ended", "id", s->request->key.id, NULL);
        }
    }
}

/* --- those who watch ---------------------------------------------------------------------- */

static bool has_live_viewer(const struct supervisor *s) {
    for (size_t i = 0; i < s->viewer_count; i++)
        if (s->viewers[i].kind <= VIEWER_EVENTS) return true;
    return false;
}

static void pump_viewers(struct supervisor *s, int64_t now) {
    for (size_t i = 0; i < s->viewer_count;) {
        struct viewer *v = &s->viewers[i];
        viewer_pump(s, v, now);
        bool unread = s->finished && v->out.len > 0 && now - v->last_sent > UNREAD_MS;
        bool stuck = s->ended && !s->request->key.keep && now - v->last_sent > UNREAD_MS && viewer_lags(s, v);
        if (!v->broken && !unread && !stuck) {
            i++;
            continue;
        }
        /* A client that left a kept command may have sent the end of its stdin just before. */
        if (v->kind == VIEWER_FRAMES && s->request->key.keep && !s->finished) viewer_take_rest(s, v);
        viewer_free(v);
        s->viewers[i] = s->viewers[--s->viewer_count];
    }
    forget_sent(s);
    /* Without anyone to report to, an unfinished command has lost its reason. */
    if (!s->finished && !s->request->key.keep && !has_live_viewer(s)) end_by_request(s);
}

static void refuse_connection(int fd) {
    static const char answer[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        "Connection: close\r\n\r\n"
        "{\"code\":503,\"error\":\"too many follow this exec\",\"reason\":\"unavailable\"}\n";
    if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug("a refused client is gone", NULL);
    close(fd);
}

static void take_control(struct supervisor *s, int64_t now) {
    struct control_message m;
    cleanup_buffer struct buffer rest = {0};
    cleanup_close int fd = -1;
    int got = control_receive(s->control, &m, &fd, &rest);
    if (got == 0) return;
    if (got < 0 || m.op == CONTROL_EXPIRE) {
        /* Let go of by process 1: nobody can ask any more. */
        close(steal_fd(s->control));
        return;
    }
    if (fd < 0) return;
    if (m.op == CONTROL_CANCEL) {
        end_by_request(s);
        static const char answer[] = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            log_debug("a canceller is gone", NULL);
        return;
    }
    enum viewer_kind kind = m.op == CONTROL_ATTACH ? VIEWER_FRAMES
                            : m.op == CONTROL_WAIT ? VIEWER_WAIT
                                                   : VIEWER_KILL;
    struct viewer *v = viewer_add(s, fd, kind);
    if (!v) {
        refuse_connection(steal_fd(fd));
        return;
    }
    steal_fd(fd);
    v->deadline = now + m.wait_ms;
    if (kind == VIEWER_KILL) end_by_request(s);
    if (rest.len && kind == VIEWER_FRAMES) {
        buffer_append(&v->in, rest.data, rest.len);
        viewer_parse(s, v);
    }
}

static void take_signals(struct supervisor *s) {
    struct signalfd_siginfo info[8];
    ssize_t n = read(s->signals, info, sizeof info);
    for (ssize_t i = 0; i < n / (ssize_t)sizeof *info; i++) {
        if (info[i].ssi_signo != SIGTERM && info[i].ssi_signo != SIGINT) continue;
        s->stopping = true;
        end_by_request(s);
    }
    reap(s);
}

/* --- the loop ----------------------------------------------------------------------------- */

static void earlier(int64_t *when, int64_t candidate) {
    if (*when < 0 || candidate < *when) *when = candidate;
}

static int next_timeout(const struct supervisor *s, int64_t now) {
    int64_t when = -1;
    if (!s->finished) {
        if (s->phase == PHASE_RUNNING && !s->ended && s->request->timeout_ms > 0)
            earlier(&when, s->started + s->request->timeout_ms);
        bool draining = (s->phase == PHASE_RUNNING && s->ended) || s->phase == PHASE_GONE;
        if (draining && now < s->drain_since + DRAIN_MS) earlier(&when, s->drain_since + DRAIN_MS);
    } else if (s->request->key.keep) {
        earlier(&when, s->finished_at + EXEC_KEEP_MS);
    }
    if (s->phase == PHASE_TERMINATING) earlier(&when, s->phase_end);
    if (s->phase == PHASE_KILLING) earlier(&when, s->next_kill);
    for (size_t i = 0; i < s->viewer_count; i++) {
        earlier(&when, s->viewers[i].next_alive);
        if (s->viewers[i].kind == VIEWER_WAIT) earlier(&when, s->viewers[i].deadline);
    }
    if (when < 0) return -1;
    int64_t left = when - now;
    return left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

/* Whether this process is still needed: for the command, for those who watch, for what is
 * kept, or to read what background children write into our pipes (they would be ended by
 * SIGPIPE, or held up, if nobody did). */
static bool needed(const struct supervisor *s, int64_t now) {
    if (!s->finished || s->viewer_count > 0) return true;
    if (s->stopping) return false;
    if (s->phase == PHASE_TERMINATING || s->phase == PHASE_KILLING) return true;
    if (s->request->key.keep && s->control >= 0 && now < s->finished_at + EXEC_KEEP_MS) return true;
    return s->streams[0].fd >= 0 || s->streams[1].fd >= 0;
}

static void poll_once(struct supervisor *s, int64_t now) {
    struct pollfd fds[5 + VIEWERS_MAX] = {{.fd = s->signals, .events = POLLIN},
                                          {.fd = s->control, .events = POLLIN},
                                          {.fd = -1},
                                          {.fd = -1},
                                          {.fd = -1}};
    if (may_read(s))
        for (int i = 0; i < 2; i++)
            fds[2 + i] = (struct pollfd){.fd = s->streams[i].fd, .events = POLLIN};
    if (s->stdin_data.len > 0) fds[4] = (struct pollfd){.fd = s->stdin_fd, .events = POLLOUT};
    size_t viewers = s->viewer_count;
    for (size_t i = 0; i < viewers; i++)
        fds[5 + i] = (struct pollfd){.fd = s->viewers[i].fd,
                                     .events = (short)(POLLIN | (s->viewers[i].out.len ? POLLOUT : 0))};
    int n = poll(fds, 5 + viewers, next_timeout(s, now));
    if (n < 0 && errno != EINTR) {
        log_error("poll failed", "why", strerror(errno), NULL);
        _exit(1);
    }
    if (n <= 0) return;
    for (int i = 0; i < 2; i++)
        if (fds[2 + i].revents) read_stream(s, &s->streams[i]);
    if (fds[4].revents) write_stdin(s);
    for (size_t i = 0; i < viewers; i++)
        if (fds[5 + i].revents & ~POLLOUT) viewer_read(s, &s->viewers[i]);
    if (fds[0].revents) take_signals(s);
    if (fds[1].revents) take_control(s, now);
}

static void give_stdin_text(struct supervisor *s) {
    const char *text = s->request->stdin_text;
    if (!text) return;
    s->stdin_ended = true;
    if (s->stdin_fd < 0) return;
    buffer_append_str(&s->stdin_data, text);
    write_stdin(s);
}

void supervisor_run(struct conn *c, int registry, int control, const struct exec_request *request,
                    enum viewer_kind kind) {
    struct supervisor *s = xcalloc(1, sizeof *s);
    s->request = request;
    s->registry = registry;
    s->signals = c->signals;
    s->control = control;
    s->pid = s->stdin_fd = s->streams[0].fd = s->streams[1].fd = -1;
    s->scratch = xrealloc(NULL, OUTPUT_WINDOW);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    start_command(s);
    give_stdin_text(s);
    struct viewer *v = viewer_add(s, steal_fd(c->fd), kind);
    if (kind == VIEWER_FRAMES && c->in.len > c->used) {
        buffer_append(&v->in, c->in.data + c->used, c->in.len - c->used);
        viewer_parse(s, v);
    }
    int64_t now = monotonic_ms();
    while (check_finished(s, now), pump_viewers(s, now), needed(s, now)) {
        poll_once(s, now);
        now = monotonic_ms();
        advance_phase(s, now);
    }
}
