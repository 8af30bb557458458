#include "runtime/server.h"

#include "runtime/registry.h"
#include "runtime/tree.h"

#include "common/log.h"
#include "common/units.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define KILL_PASSES   100
#define KILL_PAUSE_MS 20
#define BUSY_PAUSE_MS 20

struct child {
    pid_t pid;
    bool connected; /* counts against CONNECTIONS_MAX; later it may only keep or drain */
    uint64_t serial;
};

struct server {
    const struct server_options *options;
    struct serve_options serve;
    int signals, registry_socket;
    struct registry registry;
    struct child children[CHILDREN_MAX];
    size_t count, connected;
    uint64_t serial;
};

/* --- children --------------------------------------------------------------------------- */

static struct child *child_find(struct server *s, pid_t pid) {
    for (size_t i = 0; i < s->count; i++)
        if (s->children[i].pid == pid) return &s->children[i];
    return NULL;
}

static void disconnect(struct server *s, struct child *c) {
    if (c->connected) s->connected--;
    c->connected = false;
}

/* False when no process at all is below us. */
static bool reap(struct server *s) {
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR) continue;
        if (pid <= 0) return pid == 0;
        struct child *c = child_find(s, pid);
        if (!c) continue; /* an orphan */
        if (WIFSIGNALED(status))
            log_error("a request's process was killed", "signal", log_int(WTERMSIG(status)), NULL);
        disconnect(s, c);
        *c = s->children[--s->count];
        registry_forget(&s->registry, pid);
    }
}

/* The oldest that only keeps or drains gives way to a connection. */
static void end_oldest_idle(struct server *s) {
    struct child *oldest = NULL;
    for (size_t i = 0; i < s->count; i++)
        if (!s->children[i].connected && (!oldest || s->children[i].serial < oldest->serial))
            oldest = &s->children[i];
    if (oldest) kill(oldest->pid, SIGKILL);
}

/* --- connections ------------------------------------------------------------------------ */

static void refuse(int fd, const char *error) {
    char answer[256], rest[4096];
    int n =
        snprintf(answer, sizeof answer,
                 "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
                 "Connection: close\r\n\r\n{\"code\":503,\"error\":\"%s\",\"reason\":\"unavailable\"}\n",
                 error);
    /* One try each, process 1 never waits. Unread bytes would turn the answer into a reset. */
    ssize_t sent = send(fd, answer, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    ssize_t got = recv(fd, rest, sizeof rest, MSG_DONTWAIT);
    log_warn("connection refused", "why", error, "sent", log_int(sent), "unread", log_int(got), NULL);
    close(fd);
}

static _Noreturn void become_connection(struct server *s, int fd) {
    int one = 1;
    close(s->options->listen_fd);
    close(s->registry_socket);
    if (!s->options->local) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct conn c = {.fd = fd, .signals = s->signals, .local = s->options->local};
    serve_connection(&c, &s->serve);
    _exit(0);
}

static void accept_one(struct server *s) {
    int fd = accept4(s->options->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            poll(NULL, 0, BUSY_PAUSE_MS); /* the connection stays in the queue */
        return;
    }
    if (s->connected >= CONNECTIONS_MAX || s->count >= CHILDREN_MAX) reap(s);
    if (s->count >= CHILDREN_MAX - 1) end_oldest_idle(s);
    if (s->connected >= CONNECTIONS_MAX || s->count >= CHILDREN_MAX) {
        refuse(fd, "too many connections");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) become_connection(s, fd);
    if (pid < 0) {
        refuse(fd, "the sandbox cannot start another process");
        return;
    }
    close(fd);
    s->children[s->count++] = (struct child){pid, true, s->serial++};
    s->connected++;
}

static void serve_registry(struct server *s) {
    bool ended;
    pid_t pid = registry_serve(&s->registry, s->registry_socket, &ended);
    struct child *c = child_find(s, pid);
    if (c && ended) disconnect(s, c);
    if (!c && pid > 0) registry_forget(&s->registry, pid); /* it was reaped before its message came */
}

/* --- the end ---------------------------------------------------------------------------- */

/* Everyone gets TERM once: what a command has started, from the command's supervisor. A second one a moment
 * later would be taken for impatience by programs that clean up at the first. But the processes of terminals
 * get it before all others, so that each knows why its shell ends: a tmux server takes everyone's along. */
static void ask_to_end(const struct server *s) {
    pid_t heads[CHILDREN_MAX];
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (registry_is_terminal(&s->registry, s->children[i].pid))
            kill(s->children[i].pid, SIGTERM); /* again below, which tells it nothing new */
        else
            heads[count++] = s->children[i].pid;
    }
    tree_signal_heads(SIGTERM, getpid() == 1, heads, count);
}

static void kill_all(void) {
    /* Process 1 of a PID namespace reaches all of it at once; anyone else must look. */
    if (getpid() == 1)
        kill(-1, SIGKILL);
    else
        tree_signal(SIGKILL);
}

static void wait_for_children(struct server *s, int64_t ms) {
    struct pollfd fds[2] = {{.fd = s->signals, .events = POLLIN},
                            {.fd = s->registry_socket, .events = POLLIN}};
    if (poll(fds, 2, ms > INT32_MAX ? INT32_MAX : (int)ms) <= 0) return;
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info)
        ;
    if (fds[1].revents) serve_registry(s);
}

static int end_everything(struct server *s) {
    close(s->options->listen_fd);
    int64_t deadline = monotonic_ms() + (int64_t)s->options->grace_seconds * 1000;
    log_info("stopping", "grace", log_int(s->options->grace_seconds), NULL);
    ask_to_end(s);
    bool left = reap(s);
    for (int64_t ms; left && (ms = deadline - monotonic_ms()) > 0; left = reap(s))
        wait_for_children(s, ms);
    for (int pass = 0; left && pass < KILL_PASSES; pass++) {
        kill_all();
        wait_for_children(s, KILL_PAUSE_MS);
        left = reap(s);
    }
    if (left) log_error("processes are left that cannot be ended", NULL);
    return 0;
}

/* --- setup ------------------------------------------------------------------------------ */

static int open_signals(void) {
    sigset_t all, ours;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    for (int sig = 1; sig < SIGRTMAX; sig++) /* commands start with what is left here */
        signal(sig, SIG_DFL);
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGCHLD);
    return signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* As process 1 only those outside of the sandbox may stop it: the kernel gives their pid as 0.
 * A signal that is blocked for a signalfd is not held off by the kernel's protection of process 1. */
static bool from_outside(const struct signalfd_siginfo *info) {
    return getpid() != 1 || info->ssi_pid == 0;
}

static bool asked_to_stop(struct server *s) {
    struct signalfd_siginfo info;
    bool stop = false;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info)
        stop = stop || ((info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) && from_outside(&info));
    reap(s);
    return stop;
}

static int loop(struct server *s) {
    for (;;) {
        struct pollfd fds[3] = {{.fd = s->registry_socket, .events = POLLIN},
                                {.fd = s->signals, .events = POLLIN},
                                {.fd = s->options->listen_fd, .events = POLLIN}};
        if (poll(fds, 3, -1) < 0 && errno != EINTR) {
            log_error("poll failed", "why", strerror(errno), NULL);
            return 1;
        }
        if (fds[0].revents) serve_registry(s);
        if (fds[1].revents && asked_to_stop(s)) return end_everything(s);
        if (fds[2].revents) accept_one(s);
    }
}

int server_run(const struct server_options *options) {
    struct server *s = xcalloc(1, sizeof *s);
    int pair[2];
    s->options = options;
    s->serve = options->serve;
    s->signals = open_signals();
    if (s->signals < 0 || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0) {
        log_error("cannot start", "why", strerror(errno), NULL);
        free(s);
        return 1;
    }
    s->registry_socket = pair[0];
    s->serve.registry = pair[1];
    if (getpid() != 1) prctl(PR_SET_CHILD_SUBREAPER, 1);
    int status = loop(s);
    free(s);
    return status;
}
