/* See terminal.h. One poll loop in the connection's own process: the client's messages to the terminal, its
 * output to the client, nothing held beyond fixed buffers. A connection that ends takes with it
 * the shell and all that came of it, but for a tmux server: whoever wants something to stay runs it there. A
 * shell that ends by itself leaves its background jobs alone. (lessons I1, I2, I28, O2) */
#include "runtime/terminal.h"

#include "runtime/registry.h"
#include "runtime/reply.h"
#include "runtime/spawn.h"
#include "runtime/tree.h"

#include "common/log.h"
#include "common/terminal_message.h"
#include "common/text.h"
#include "common/units.h"
#include "common/websocket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#define SHELL_DEFAULT   "/bin/bash"
#define COLS_DEFAULT    120
#define ROWS_DEFAULT    40
#define OUTPUT_MAX      4096    /* bytes of the terminal in one message */
#define MESSAGE_MAX     1048576 /* of a client */
#define WAIT_MAX        65536   /* bytes that wait for the terminal, and for the client */
#define HEARTBEAT_MS    30000
#define SILENCE_MS      70000 /* a client from which nothing came for so long is gone */
#define UNREAD_MS       10000 /* and one that takes nothing */
#define HANGUP_GRACE_MS 500
#define END_STEP_MS     20
#define KILL_MS         2000   /* then what is left is in the kernel */
#define LAST_MAX        262144 /* more than the kernel keeps of what a shell has shown */
#define CLOSE_WAIT_MS   2000

extern char **environ;

/* Arguments: session, shell. An image need not have the shell that its template names (W-70). */
static const char tmux_script[] =
    "[ -x \"$2\" ] || set -- \"$1\" /bin/sh\n"
    "if command -v tmux >/dev/null 2>&1; then\n"
    "printf '%s\\n' 'set -g status off' 'set -g default-terminal \"tmux-256color\"' "
    "'set -ga terminal-overrides \",xterm*:smcup@:rmcup@\"' >/tmp/.agenttier-tmux.conf\n"
    "exec tmux -u -2 -f /tmp/.agenttier-tmux.conf new-session -A -s \"$1\" -- \"$2\" -l\n"
    "fi\n"
    "exec \"$2\" -l\n";

struct terminal {
    struct conn *conn;
    int master;
    pid_t pid;                /* of the shell; -1 = reaped */
    size_t shown_after_shell; /* bytes */
    bool output_ended;
    struct buffer in, out, input; /* from the client, to it, for the shell */
    struct buffer tail;           /* the start of a character */
    struct websocket_reader reader;
    int64_t heard_at, sent_at, heartbeat_at;
    bool closing;     /* a close frame is in `out` */
    bool their_close; /* and theirs has come */
    bool failed;      /* what they send cannot be read any more */
    bool gone;        /* nothing more can be said */
};

/* ---- the request ------------------------------------------------------------------------------- */

struct wish {
    struct buffer shell, cwd, session;
    struct winsize size;
};

/* Unparsable: the default; then clamped to what a terminal can have. */
static unsigned short dimension(const struct request *r, const char *name, int fallback) {
    cleanup_buffer struct buffer text = {0};
    if (request_query(r, name, &text) != 1 || !text.len) return (unsigned short)fallback;
    char *end;
    errno = 0;
    long n = strtol(buffer_cstr(&text), &end, 10);
    if (*end) return (unsigned short)fallback;
    return (unsigned short)(n < 1 ? 1 : n > 65535 ? 65535 : n);
}

static bool read_wish(const struct request *r, struct wish *w, struct error *err) {
    int shell = request_query(r, "shell", &w->shell), cwd = request_query(r, "cwd", &w->cwd);
    if (shell < 0 || cwd < 0 || request_query(r, "session", &w->session) < 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "the query is badly encoded");
        return false;
    }
    if (!w->shell.len) buffer_append_str(&w->shell, SHELL_DEFAULT);
    w->size = (struct winsize){.ws_col = dimension(r, "cols", COLS_DEFAULT),
                               .ws_row = dimension(r, "rows", ROWS_DEFAULT)};
    if (buffer_cstr(&w->shell)[0] == '/') return true;
    error_set(err, 400, ERR_BAD_REQUEST, "shell must be an absolute path, got \"%.200s\"", w->shell.data);
    return false;
}

static void wish_free(struct wish *w) {
    buffer_free(&w->shell);
    buffer_free(&w->cwd);
    buffer_free(&w->session);
}

/* Answers the handshake. False: it was refused, and said. */
static bool shake_hands(struct request *r) {
    const struct http1_header *key = http1_find(&r->head, "Sec-WebSocket-Key");
    const struct http1_header *version = http1_find(&r->head, "Sec-WebSocket-Version");
    char accept[WEBSOCKET_ACCEPT_LEN + 1];
    if (!request_upgrades_to(r, "websocket") || r->head.framing != HTTP1_BODY_NONE || !version ||
        !slice_equal_str(version->value, "13") || !key || !websocket_accept(key->value, accept)) {
        reply(r->conn, 400, "text/plain; charset=utf-8", "Sec-WebSocket-Version: 13\r\n",
              slice_of("Bad Request\n"));
        return false;
    }
    cleanup_buffer struct buffer head = {0};
    buffer_printf(&head,
                  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Accept: %s\r\n\r\n",
                  accept);
    r->conn->answered = true;
    return conn_send(r->conn, buffer_slice(&head));
}

/* ---- the shell --------------------------------------------------------------------------------- */

/* Our environment with the terminal's kind. The strings are borrowed. */
static char **make_environment(void) {
    size_t n = 0;
    while (environ[n])
        n++;
    char **env = xcalloc(n + 2, sizeof *env);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "TERM=", 5) != 0) env[kept++] = environ[i];
    env[kept] = (char *)(uintptr_t) "TERM=xterm-256color";
    return env;
}

/* As the script will find it. */
static bool has_tmux(void) {
    const char *path = getenv("PATH");
    for (const char *end; path && *path; path = *end ? end + 1 : end) {
        end = strchrnul(path, ':');
        cleanup_free char *program = xasprintf("%.*s/tmux", (int)(end - path), path);
        if (access(program, X_OK) == 0) return true;
    }
    return false;
}

static bool start_shell(struct terminal *t, struct wish *w, struct error *err) {
    cleanup_close int slave = -1;
    if (openpty(&t->master, &slave, NULL, NULL, &w->size) != 0) {
        t->master = -1;
        error_set_errno(err, errno, "no terminal can be had");
        return false;
    }
    fcntl(t->master, F_SETFD, FD_CLOEXEC);
    fcntl(slave, F_SETFD, FD_CLOEXEC);
    fcntl(t->master, F_SETFL, O_RDWR | O_NONBLOCK);
    cleanup_free char **env = make_environment();
    char *shell = (char *)(uintptr_t)buffer_cstr(&w->shell), *login = (char *)(uintptr_t) "-l";
    char *plain[] = {shell, login, NULL};
    char *through_tmux[] = {(char *)(uintptr_t) "/bin/sh",
                            (char *)(uintptr_t) "-c",
                            (char *)(uintptr_t)tmux_script,
                            (char *)(uintptr_t) "sh",
                            (char *)(uintptr_t)buffer_cstr(&w->session),
                            shell,
                            NULL};
    struct spawn_request request = {.argv = w->session.len ? through_tmux : plain,
                                    .env = env,
                                    .dir = w->cwd.len ? buffer_cstr(&w->cwd) : NULL,
                                    .in = slave,
                                    .out = slave,
                                    .err = slave,
                                    .terminal = true};
    /* What leaves the shell's session is ours to end as well; a tmux server, and what runs in it, is not. */
    if (!w->session.len || !has_tmux()) prctl(PR_SET_CHILD_SUBREAPER, 1);
    t->pid = spawn(&request, err);
    return t->pid > 0;
}

static void reap(struct terminal *t) {
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
        if (pid == t->pid) t->pid = -1;
}

/* Signals all that came of the terminal until nobody is left; false: somebody is. */
static bool signal_until_gone(struct terminal *t, int sig, int limit_ms) {
    for (int waited = 0; waited <= limit_ms; waited += END_STEP_MS) {
        reap(t);
        if (tree_signal(sig) == 0) return true;
        poll(NULL, 0, END_STEP_MS);
    }
    return false;
}

static bool ended_by_itself(struct terminal *t) {
    for (int waited = 0; t->output_ended && waited <= HANGUP_GRACE_MS; waited += END_STEP_MS) {
        reap(t);
        if (t->pid < 0) return true;
        poll(NULL, 0, END_STEP_MS);
    }
    return false;
}

/* Hangs up, then kills what does not go. */
static void end_shell(struct terminal *t) {
    if (t->master >= 0) close(t->master); /* the foreground job gets its hangup from this */
    if (t->master < 0 || ended_by_itself(t)) return;
    if (t->pid > 0) kill(-t->pid, SIGHUP);
    tree_signal(SIGHUP);
    tree_signal(SIGCONT); /* also for those that are stopped */
    if (signal_until_gone(t, 0, HANGUP_GRACE_MS)) return;
    if (t->pid > 0) kill(-t->pid, SIGKILL);
    if (!signal_until_gone(t, SIGKILL, KILL_MS))
        log_warn("processes of a terminal that has ended cannot be killed", NULL);
}

/* ---- to the client ------------------------------------------------------------------------------ */

static void say(struct terminal *t, const struct buffer *json) {
    websocket_put(&t->out, WEBSOCKET_TEXT, buffer_slice(json));
}

static void say_output(struct terminal *t, struct slice bytes) {
    cleanup_buffer struct buffer json = {0};
    terminal_message_put_output(&json, bytes);
    say(t, &json);
}

static void say_close(struct terminal *t, uint16_t code, const char *reason) {
    if (t->closing) return;
    websocket_put_close(&t->out, code, reason);
    t->closing = true;
}

static void say_heartbeat(struct terminal *t, int64_t now) {
    cleanup_buffer struct buffer json = {0};
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    terminal_message_put_heartbeat(&json, (int64_t)wall.tv_sec * 1000 + wall.tv_nsec / 1000000);
    say(t, &json);
    websocket_put(&t->out, WEBSOCKET_PING, slice_of(""));
    t->heartbeat_at = now + HEARTBEAT_MS;
}

static void flush(struct terminal *t, int64_t now) {
    while (t->out.len > 0) {
        ssize_t n = send(t->conn->fd, t->out.data, t->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            t->gone = t->gone || (errno != EAGAIN && errno != EWOULDBLOCK);
            return;
        }
        buffer_consume(&t->out, (size_t)n);
        t->sent_at = now;
    }
    t->sent_at = now; /* nothing waits */
}

/* ---- from the client ---------------------------------------------------------------------------- */

static void take_message(struct terminal *t, struct slice text) {
    struct terminal_message m;
    cleanup_buffer struct buffer pong = {0};
    struct winsize size = {0};
    terminal_message_parse(text, &m);
    switch (m.type) {
    case TERMINAL_INPUT: buffer_append(&t->input, m.text.ptr, m.text.len); break;
    case TERMINAL_RESIZE:
        size.ws_col = (unsigned short)m.cols;
        size.ws_row = (unsigned short)m.rows;
        ioctl(t->master, TIOCSWINSZ, &size);
        break;
    case TERMINAL_PING:
        terminal_message_put_pong(&pong);
        say(t, &pong);
        break;
    case TERMINAL_OUTPUT:
    case TERMINAL_ERROR:
    case TERMINAL_UNKNOWN: break; /* malformed and unknown ones are ignored */
    }
    terminal_message_free(&m);
}

static void take_frames(struct terminal *t) {
    struct websocket_message m;
    int got;
    while (t->input.len < WAIT_MAX && (got = websocket_read(&t->reader, &t->in, &m)) != 0) {
        if (got != 1) {
            say_close(t, (uint16_t)got, "");
            buffer_clear(&t->in);
            t->failed = true;
            return;
        }
        if (m.opcode == WEBSOCKET_CLOSE) {
            say_close(t, m.close_code == 1005 ? 1000 : m.close_code, "");
            t->their_close = t->failed = true;
            return;
        }
        if (t->closing) continue; /* only their close is of interest */
        if (m.opcode == WEBSOCKET_TEXT || m.opcode == WEBSOCKET_BINARY) take_message(t, m.payload);
        if (m.opcode == WEBSOCKET_PING) websocket_put(&t->out, WEBSOCKET_PONG, m.payload);
    }
}

static void read_client(struct terminal *t, int64_t now) {
    char bytes[16384];
    ssize_t n = recv(t->conn->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        t->gone = true;
        return;
    }
    t->heard_at = now;
    if (t->failed) return; /* only its end is of interest */
    buffer_append(&t->in, bytes, (size_t)n);
    take_frames(t);
}

/* ---- the terminal ------------------------------------------------------------------------------- */

static void take_signals(struct terminal *t) {
    struct signalfd_siginfo info;
    while (read(t->conn->signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) say_close(t, 1001, "the sandbox stops");
    reap(t);
}

static void end_output(struct terminal *t) {
    if (t->tail.len) say_output(t, buffer_slice(&t->tail));
    buffer_clear(&t->tail);
    t->output_ended = true;
    take_signals(t); /* a stop of the sandbox ends shells, too: it was signalled before, and is the reason */
    say_close(t, 1000, "the shell has ended");
}

/* A shell that has ended, while what it left in the background still holds the terminal: what was shown
 * until then is passed on, and no more is waited for (W-20). */
static void end_after_shell(struct terminal *t) {
    if (t->pid > 0 || t->output_ended || t->closing) return;
    struct pollfd master = {.fd = t->master, .events = POLLIN};
    bool more = poll(&master, 1, 0) > 0 && master.revents & POLLIN;
    if (!more || t->shown_after_shell > LAST_MAX) end_output(t);
}

static void read_output(struct terminal *t) {
    char bytes[OUTPUT_MAX];
    size_t kept = t->tail.len;
    memcpy(bytes, t->tail.data ? t->tail.data : "", kept);
    ssize_t n = read(t->master, bytes + kept, sizeof bytes - kept);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { /* EIO: the last process has closed it */
        end_output(t);
        return;
    }
    buffer_clear(&t->tail);
    if (t->pid < 0) t->shown_after_shell += (size_t)n;
    struct slice text = slice_make(bytes, kept + (size_t)n);
    size_t incomplete = utf8_incomplete_tail(text);
    text.len -= incomplete;
    if (incomplete) buffer_append(&t->tail, bytes + text.len, incomplete);
    if (text.len) say_output(t, text);
}

static void write_input(struct terminal *t) {
    while (t->input.len > 0) {
        ssize_t n = write(t->master, t->input.data, t->input.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (errno != EAGAIN) buffer_clear(&t->input);
            return;
        }
        buffer_consume(&t->input, (size_t)n);
    }
}

static void run(struct terminal *t) {
    int64_t closing_since = 0;
    t->heard_at = t->sent_at = monotonic_ms();
    t->heartbeat_at = t->heard_at + HEARTBEAT_MS;
    for (;;) {
        int64_t now = monotonic_ms();
        if (now >= t->heartbeat_at && !t->closing) say_heartbeat(t, now);
        flush(t, now);
        if (t->closing && !closing_since) closing_since = now;
        bool said = t->closing && t->out.len == 0 && (t->their_close || now - closing_since > CLOSE_WAIT_MS);
        if (t->gone || said || now - t->heard_at > SILENCE_MS || now - t->sent_at > UNREAD_MS) return;
        bool more_output = !t->output_ended && !t->closing && t->out.len < WAIT_MAX;
        bool more_input = t->input.len < WAIT_MAX;
        struct pollfd fds[3] = {
            {.fd = t->conn->fd, .events = (short)((more_input ? POLLIN : 0) | (t->out.len ? POLLOUT : 0))},
            {.fd = t->conn->signals, .events = POLLIN},
            {.fd = t->output_ended ? -1 : t->master,
             .events = (short)((more_output ? POLLIN : 0) | (t->input.len ? POLLOUT : 0))}};
        if (fds[2].events == 0) fds[2].fd = -1; /* or a hangup would wake us for nothing */
        if (poll(fds, 3, t->closing || t->out.len ? 200 : 1000) < 0 && errno != EINTR) return;
        now = monotonic_ms();
        if (fds[2].revents & POLLOUT) write_input(t);
        if (fds[2].revents & ~POLLOUT && more_output) read_output(t);
        if (fds[1].revents) take_signals(t);
        end_after_shell(t);
        if (fds[0].revents & ~POLLOUT) read_client(t, now);
        if (t->in.len && t->input.len < WAIT_MAX && !t->failed) take_frames(t);
    }
}

static void say_failure(struct terminal *t, const struct error *err) {
    cleanup_buffer struct buffer json = {0};
    terminal_message_put_error(&json, err->message);
    say(t, &json);
    say_close(t, 1011, "the shell could not be started");
    conn_send(t->conn, buffer_slice(&t->out));
}

void terminal_serve(struct request *r, int registry) {
    struct error err = {0};
    struct wish wish = {0};
    struct exec_key key = {.kind = EXEC_TERMINAL};
    int control = -1;
    if (!request_method_is(r, "GET"))
        error_set(&err, 405, ERR_BAD_REQUEST, "GET required for WebSocket upgrade");
    else if (read_wish(r, &wish, &err) &&
             registry_start(registry, &key, &control, &err) != REGISTRY_STARTED && !err.status)
        error_set(&err, 429, "too_many_execs", "%d terminals are open", TERMINALS_MAX);
    if (err.status) {
        reply_error(r->conn, &err);
    } else if (shake_hands(r)) {
        struct terminal t = {.conn = r->conn, .master = -1, .pid = -1, .reader = {.limit = MESSAGE_MAX}};
        buffer_append(&t.in, r->conn->in.data + r->conn->used, r->conn->in.len - r->conn->used);
        if (start_shell(&t, &wish, &err))
            run(&t);
        else
            say_failure(&t, &err);
        end_shell(&t);
        websocket_reader_free(&t.reader);
        buffer_free(&t.in);
        buffer_free(&t.out);
        buffer_free(&t.input);
        buffer_free(&t.tail);
    }
    if (control >= 0) close(control);
    wish_free(&wish);
    error_clear(&err);
}
