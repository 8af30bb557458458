#include "runtime/registry.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define ANSWER_TIMEOUT_MS 5000

enum registry_op { OP_START = 1, OP_FIND, OP_ENDED };

struct registry_message {
    enum registry_op op;
    pid_t pid;
    bool kept_only;
    struct exec_key key;
};

/* One message with at most one descriptor; retried when interrupted. */
static bool send_with_fd(int socket, struct iovec *iov, size_t count, int fd, int flags) {
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    if (fd >= 0) {
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof control.space;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    }
    ssize_t n;
    do
        n = sendmsg(socket, &msg, MSG_NOSIGNAL | flags);
    while (n < 0 && errno == EINTR);
    return n >= 0;
}

static ssize_t receive_with_fd(int socket, struct iovec *iov, size_t count, int *fd) {
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = count,
                         .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    ssize_t n;
    *fd = -1;
    do
        n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *cmsg = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
        cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(cmsg), sizeof *fd);
    return n;
}

/* --- in the process of a connection ------------------------------------------------- */

/* Asks and waits; *own is our end of the socket that went along. */
static enum registry_answer ask(int registry, struct registry_message *m, int *own, int *control,
                                struct error *err) {
    int pair[2];
    *own = *control = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        error_set_errno(err, errno, "control socket");
        return 0;
    }
    m->pid = getpid();
    struct iovec iov = {m, sizeof *m};
    bool sent = send_with_fd(registry, &iov, 1, pair[1], 0);
    close(pair[1]);
    struct pollfd wait = {.fd = pair[0], .events = POLLIN};
    enum registry_answer answer = 0;
    iov = (struct iovec){&answer, sizeof answer};
    int n = 0;
    while (sent && (n = poll(&wait, 1, ANSWER_TIMEOUT_MS)) < 0 && errno == EINTR)
        ;
    if (n <= 0 || receive_with_fd(pair[0], &iov, 1, control) != (ssize_t)sizeof answer) {
        close(pair[0]);
        error_set(err, 503, ERR_UNAVAILABLE, "the runtime is overloaded");
        return 0;
    }
    *own = pair[0];
    return answer;
}

enum registry_answer registry_start(int registry, const struct exec_key *key, int *control,
                                    struct error *err) {
    struct registry_message m;
    memset(&m, 0, sizeof m);
    m.op = OP_START;
    m.key = *key;
    int own;
    enum registry_answer answer = ask(registry, &m, &own, control, err);
    if (answer == REGISTRY_STARTED)
        *control = own;
    else if (own >= 0)
        close(own);
    return answer;
}

enum registry_answer registry_find(int registry, enum exec_kind kind, const char *id, bool kept_only,
                                   int *control, struct error *err) {
    struct registry_message m;
    memset(&m, 0, sizeof m);
    m.op = OP_FIND;
    m.kept_only = kept_only;
    m.key.kind = kind;
    if (strlen(id) > EXEC_ID_MAX) return REGISTRY_NONE;
    strcpy(m.key.id, id);
    int own;
    enum registry_answer answer = ask(registry, &m, &own, control, err);
    if (own >= 0) close(own);
    return answer;
}

void registry_ended(int registry) {
    struct registry_message m;
    memset(&m, 0, sizeof m);
    m.op = OP_ENDED;
    m.pid = getpid();
    struct iovec iov = {&m, sizeof m};
    send_with_fd(registry, &iov, 1, -1, 0); /* when process 1 is gone, nobody counts */
}

bool control_send(int control, struct control_message m, int fd, struct slice rest) {
    struct iovec iov[2] = {{&m, sizeof m}, {(void *)(uintptr_t)rest.ptr, rest.len}};
    return rest.len <= CONTROL_REST_MAX && send_with_fd(control, iov, rest.len ? 2 : 1, fd, 0);
}

int control_receive(int control, struct control_message *m, int *fd, struct buffer *rest) {
    cleanup_free char *space = xrealloc(NULL, CONTROL_REST_MAX);
    struct iovec iov[2] = {{m, sizeof *m}, {space, CONTROL_REST_MAX}};
    ssize_t n = receive_with_fd(control, iov, 2, fd);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n < (ssize_t)sizeof *m) return -1;
    size_t rest_len = (size_t)n - sizeof *m;
    if (rest_len) buffer_append(rest, space, rest_len);
    return 1;
}

/* --- in process 1 -------------------------------------------------------------------- */

static void answer(int socket, enum registry_answer what, int control) {
    struct iovec iov = {&what, sizeof what};
    send_with_fd(socket, &iov, 1, control, MSG_DONTWAIT); /* an asker that is gone needs none */
}

static struct registry_entry *find(struct registry *r, enum exec_kind kind, const char *id) {
    for (size_t i = 0; i < r->count; i++)
        if (r->entries[i]->key.kind == kind && strcmp(r->entries[i]->key.id, id) == 0) return r->entries[i];
    return NULL;
}

static void remove_entry(struct registry *r, size_t i) {
    close(r->entries[i]->control);
    free(r->entries[i]);
    r->entries[i] = r->entries[--r->count];
    r->entries[r->count] = NULL;
}

static size_t count_ended(const struct registry *r, bool ended) {
    size_t n = 0;
    for (size_t i = 0; i < r->count; i++)
        n += r->entries[i]->ended == ended;
    return n;
}

/* A terminal is one for as long as its window is open: it takes no command's place. */
static bool is_full(const struct registry *r, enum exec_kind kind) {
    size_t terminals = 0;
    for (size_t i = 0; i < r->count; i++)
        terminals += r->entries[i]->key.kind == EXEC_TERMINAL;
    return kind == EXEC_TERMINAL ? terminals >= TERMINALS_MAX
                                 : count_ended(r, false) - terminals >= EXEC_RUNNING_MAX;
}

/* Of the kept outcomes the oldest gives way. */
static void expire_oldest(struct registry *r) {
    size_t oldest = r->count;
    for (size_t i = 0; i < r->count; i++)
        if (r->entries[i]->ended &&
            (oldest == r->count || r->entries[i]->serial < r->entries[oldest]->serial))
            oldest = i;
    if (oldest == r->count) return;
    struct control_message m = {.op = CONTROL_EXPIRE};
    struct iovec iov = {&m, sizeof m};
    send_with_fd(r->entries[oldest]->control, &iov, 1, -1, MSG_DONTWAIT);
    remove_entry(r, oldest); /* its closed control socket says the same */
}

static void serve_start(struct registry *r, const struct registry_message *m, int socket) {
    struct registry_entry *e = m->key.kind == EXEC_ANONYMOUS || m->key.kind == EXEC_TERMINAL
                                   ? NULL
                                   : find(r, m->key.kind, m->key.id);
    if (e && e->key.kind == EXEC_INVOKE) {
        /* As the reference: the newer one takes the id. */
        e->key.kind = EXEC_ANONYMOUS;
        e = NULL;
    }
    if (e) {
        bool same =
            e->key.keep && m->key.keep && e->key.digest[0] && strcmp(e->key.digest, m->key.digest) == 0;
        answer(socket, same ? REGISTRY_FOUND : REGISTRY_REUSED, same ? e->control : -1);
        close(socket);
        return;
    }
    if (is_full(r, m->key.kind)) {
        answer(socket, REGISTRY_FULL, -1);
        close(socket);
        return;
    }
    e = xcalloc(1, sizeof *e);
    e->key = m->key;
    e->pid = m->pid;
    e->control = socket;
    e->serial = r->serial++;
    r->entries[r->count++] = e;
    answer(socket, REGISTRY_STARTED, -1);
}

static void serve_find(struct registry *r, const struct registry_message *m, int socket) {
    const struct registry_entry *e = find(r, m->key.kind, m->key.id);
    bool found = e && (e->key.keep || !m->kept_only);
    answer(socket, found ? REGISTRY_FOUND : REGISTRY_NONE, found ? e->control : -1);
    close(socket);
}

static void serve_ended(struct registry *r, pid_t pid) {
    for (size_t i = r->count; i-- > 0;) {
        if (r->entries[i]->pid != pid) continue;
        if (r->entries[i]->key.keep) {
            r->entries[i]->ended = true;
            r->entries[i]->serial = r->serial++;
        } else {
            remove_entry(r, i);
        }
    }
    if (count_ended(r, true) > EXEC_KEPT_MAX) expire_oldest(r);
}

pid_t registry_serve(struct registry *r, int socket, bool *ended) {
    struct registry_message m;
    struct iovec iov = {&m, sizeof m};
    int fd;
    *ended = false;
    ssize_t n = receive_with_fd(socket, &iov, 1, &fd);
    if (n < 0) return 0;
    bool whole = n == (ssize_t)sizeof m;
    if (whole) {
        m.key.id[EXEC_ID_MAX] = '\0';
        m.key.digest[EXEC_DIGEST_MAX] = '\0';
    }
    if (whole && m.op == OP_ENDED) {
        serve_ended(r, m.pid);
    } else if (whole && m.op == OP_START && fd >= 0) {
        serve_start(r, &m, steal_fd(fd));
    } else if (whole && m.op == OP_FIND && fd >= 0) {
        serve_find(r, &m, steal_fd(fd));
    }
    if (fd >= 0) close(fd);
    *ended = whole && m.op == OP_ENDED;
    return whole ? m.pid : 0;
}

bool registry_is_terminal(const struct registry *r, pid_t pid) {
    for (size_t i = 0; i < r->count; i++)
        if (r->entries[i]->pid == pid && r->entries[i]->key.kind == EXEC_TERMINAL) return true;
    return false;
}

void registry_forget(struct registry *r, pid_t pid) {
    for (size_t i = r->count; i-- > 0;)
        if (r->entries[i]->pid == pid) remove_entry(r, i);
}
