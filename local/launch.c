/* Starts the processes of a sandbox. Between fork and exec only system calls are made: the Router has
 * threads. */
#include "local/launch.h"

#include "common/units.h"
#include "local/files.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define BACKLOG       512
#define FILES_MAX     65536
#define LOG_TAIL      300
#define INFO_MAX      4096
#define STAGE         "/tmp" /* bubblewrap needs this directory too */
#define STAGE_WORK    STAGE "/workspace"
#define STAGE_RUNTIME STAGE "/runtime"
#define STAGE_ROOT    STAGE "/root"
#define FD_PATH       32

/* Descriptors of bubblewrap, in this order from 0 on. */
enum {
    FD_NULL_IN,
    FD_NULL_OUT,
    FD_LOG,
    FD_LISTEN,
    FD_LOCK,
    FD_ARGS,
    FD_SECCOMP,
    FD_HOSTS,
    FD_INFO,
    FD_COUNT
};
#define FD_SPARE 64 /* all are moved above this before they are put into place */

/* What the new process needs, prepared before the fork. */
struct child {
    const struct launch_plan *plan;
    int fds[FD_COUNT];
    int record_fd; /* DIR/launch */
    int failed_fd; /* struct failure, when it does not come to exec; closed by exec */
    bool entered;  /* the control groups, by cgroup_fork() */
    sigset_t no_signals;
};

struct failure {
    int step, errnum;
};
static const char *const steps[] = {"starting a process",
                                    "recording the process",
                                    "entering control groups",
                                    "making a private mount namespace",
                                    "staging the directories",
                                    "setting resource limits",
                                    "arranging descriptors",
                                    "changing to the sandbox's user",
                                    "executing bwrap (is bubblewrap installed?)"};
enum {
    STEP_FORK,
    STEP_RECORD,
    STEP_CGROUP,
    STEP_NAMESPACE,
    STEP_STAGE,
    STEP_LIMITS,
    STEP_FDS,
    STEP_USER,
    STEP_EXEC
};

/* ---- after the fork: system calls only ------------------------------------------------------- */

static _Noreturn void give_up(const struct child *c, int step) {
    struct failure f = {.step = step, .errnum = errno};
    ssize_t ignored = write(c->failed_fd, &f, sizeof f);
    (void)ignored;
    _exit(127);
}

/* The text of our own /proc/PID/stat: pid and start time stay what they are over exec. */
static bool record_self(int fd) {
    char text[1024];
    int self = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (self < 0) return false;
    ssize_t n = read(self, text, sizeof text);
    close(self);
    return n > 0 && write(fd, text, (size_t)n) == n;
}

static bool bind_at(const char *source, const char *place, bool directory) {
    int fd = directory ? mkdir(place, 0755) : open(place, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return false;
    if (!directory) close(fd);
    return mount(source, place, NULL, MS_BIND, NULL) == 0;
}

/* "/proc/self/fd/N" */
static void path_of_fd(int fd, char out[FD_PATH]) {
    static const char prefix[] = "/proc/self/fd/";
    memcpy(out, prefix, sizeof prefix);
    char *end = out + sizeof prefix - 1;
    for (int unit = 1000000000; unit > 0; unit /= 10)
        if (fd >= unit || unit == 1) *end++ = (char)('0' + fd / unit % 10);
    *end = '\0';
}

/* The host's directories that the sandbox's /etc shows, put into it here: bubblewrap reads all mounts again
 * for each that it is asked for, and makes all in one read-only just as well. They are opened as the
 * sandbox's user would, so that nothing is shown that it could not reach. */
static void stage_shown(const struct child *c) {
    int etc = open("/etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (etc < 0 || chdir(STAGE_ROOT) != 0) give_up(c, STEP_STAGE);
    for (char *const *name = c->plan->etc_shown; *name; name++) {
        char source[FD_PATH];
        setfsgid((gid_t)c->plan->host_uid);
        setfsuid(c->plan->host_uid);
        int fd = openat(etc, *name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int failed = errno;
        setfsuid(0);
        setfsgid(0);
        errno = failed;
        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) continue; /* it went since the Router's start */
        if (fd < 0) give_up(c, STEP_STAGE);
        path_of_fd(fd, source);
        if (mount(source, *name, NULL, MS_BIND | MS_REC, NULL) != 0) give_up(c, STEP_STAGE);
        close(fd);
    }
}

/* The sandbox's user may not walk the state directory, and the directories above it may be closed to
 * all but root. So what it needs is mounted where it can walk, in a mount namespace that only
 * bubblewrap ever sees. */
static void stage(const struct child *c) {
    const struct launch_plan *p = c->plan;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        give_up(c, STEP_NAMESPACE);
    /* Opened before STAGE is covered: the state directory may be below it. */
    const char *root = p->root ? p->root : p->etc;
    const char *sources[] = {p->workspace, p->runtime, root};
    static const char *const places[] = {STAGE_WORK, STAGE_RUNTIME, STAGE_ROOT};
    char paths[3][FD_PATH];
    for (int i = 0; i < 3; i++) {
        int fd = open(sources[i], O_PATH | O_CLOEXEC);
        if (fd < 0) give_up(c, STEP_STAGE);
        path_of_fd(fd, paths[i]);
    }
    if (mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=65536") != 0)
        give_up(c, STEP_STAGE);
    for (int i = 0; i < 3; i++)
        if (!bind_at(paths[i], places[i], i != 1)) give_up(c, STEP_STAGE);
    if (!p->root) stage_shown(c);
}

static void set_limits(const struct child *c) {
    struct rlimit core = {0, 0}, files;
    if (setrlimit(RLIMIT_CORE, &core) != 0 || getrlimit(RLIMIT_NOFILE, &files) != 0) give_up(c, STEP_LIMITS);
    if (files.rlim_max > FILES_MAX) files.rlim_max = FILES_MAX;
    files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024; /* what select() can take */
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) give_up(c, STEP_LIMITS);
}

static void arrange_fds(struct child *c) {
    for (int i = 0; i < FD_COUNT; i++)
        if ((c->fds[i] = fcntl(c->fds[i], F_DUPFD_CLOEXEC, FD_SPARE)) < 0) give_up(c, STEP_FDS);
    if ((c->failed_fd = fcntl(c->failed_fd, F_DUPFD_CLOEXEC, FD_SPARE)) < 0) give_up(c, STEP_FDS);
    for (int i = 0; i < FD_COUNT; i++)
        if (dup2(c->fds[i], i) < 0) give_up(c, STEP_FDS);
    /* Everything else goes with exec; failed_fd until then. */
    if (syscall(SYS_close_range, FD_COUNT, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) == 0) return;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) give_up(c, STEP_FDS);
    for (int fd = FD_COUNT; fd < (int)files.rlim_max && fd < FILES_MAX; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void change_user(const struct child *c) {
    uid_t id = c->plan->host_uid;
    if (setgroups(0, NULL) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)
        give_up(c, STEP_USER);
}

static _Noreturn void run_child(struct child *c) {
    static char *const argv[] = {(char *)"bwrap",         (char *)"--args",        (char *)"5", (char *)"--",
                                 (char *)SANDBOX_RUNTIME, (char *)"--listen-fd=3", NULL};
    static char *const no_env[] = {(char *)"PATH=/usr/bin:/bin:/usr/local/bin", NULL};
    _Static_assert(FD_ARGS == 5 && FD_LISTEN == 3, "argv names them");
    struct sigaction normal = {.sa_handler = SIG_DFL};
    for (int s = 1; s < 65; s++)
        sigaction(s, &normal, NULL);
    sigprocmask(SIG_SETMASK, &c->no_signals, NULL);
    if (!record_self(c->record_fd)) give_up(c, STEP_RECORD);
    for (size_t i = 0; i < c->plan->cgroups->count && !c->entered; i++)
        if (write(c->plan->cgroups->entry_fds[i], "0", 1) != 1) give_up(c, STEP_CGROUP);
    if (c->plan->own_user) stage(c);
    set_limits(c);
    arrange_fds(c);
    if (c->plan->own_user) change_user(c);
    umask(022);
    if (chdir("/") != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up(c, STEP_USER);
    execve("/usr/bin/bwrap", argv, no_env);
    execve("/usr/local/bin/bwrap", argv, no_env);
    execve("/bin/bwrap", argv, no_env);
    give_up(c, STEP_EXEC);
}

/* ---- before and after ------------------------------------------------------------------------- */

static int memory_file(const char *name, struct slice content, struct error *err) {
    cleanup_close int fd = memfd_create(name, MFD_CLOEXEC);
    while (fd >= 0 && content.len > 0) {
        ssize_t n = write(fd, content.ptr, content.len);
        if (n <= 0) break;
        content = slice_make(content.ptr + n, content.len - (size_t)n);
    }
    if (fd < 0 || content.len > 0 || lseek(fd, 0, SEEK_SET) != 0) {
        error_set_errno(err, errno, "preparing %s", name);
        return -1;
    }
    return steal_fd(fd);
}

static int listen_at(const char *path, struct error *err) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        error_set(err, 500, ERR_INTERNAL, "the socket path %s is too long", path);
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || (unlink(path) != 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0) {
        error_set_errno(err, errno, "listening on %s", path);
        return -1;
    }
    return steal_fd(fd);
}

static int open_in(const char *dir, const char *name, int flags, struct error *err) {
    cleanup_free char *path = xasprintf("%s/%s", dir, name);
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) error_set_errno(err, errno, "opening %s", path);
    return fd;
}

/* Reads `want` bytes, or until the end, by the deadline. */
static ssize_t read_until(int fd, char *out, size_t want, int64_t deadline) {
    size_t have = 0;
    while (have < want) {
        int64_t left = deadline - monotonic_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        ssize_t n = read(fd, out + have, want - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

/* Two forks, so that the sandbox is nobody's child here. */
static bool fork_detached(struct child *c, struct error *err) {
    /* The Router's signal handlers must not run in the copy of it. run_child() unblocks. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t middle = fork();
    if (middle == 0) {
        if (setsid() < 0) give_up(c, STEP_FORK);
        pid_t pid = cgroup_fork(c->plan->cgroups, &c->entered);
        if (pid < 0) give_up(c, STEP_FORK);
        if (pid > 0) _exit(0);
        run_child(c);
    }
    int failed = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (middle < 0) {
        error_set_errno(err, failed, "starting a process");
        return false;
    }
    int status;
    while (waitpid(middle, &status, 0) < 0 && errno == EINTR) {
    }
    return true;
}

struct process_id launch_recorded(const char *dir) {
    cleanup_free char *path = xasprintf("%s/launch", dir);
    cleanup_buffer struct buffer text = {0};
    struct process_id id = {0};
    if (!file_read(path, 4096, &text, NULL)) return id;
    const char *stat = buffer_cstr(&text);
    if (process_stat_parse(stat, &id.start, NULL)) id.pid = (pid_t)strtol(stat, NULL, 10);
    return id;
}

/* {"child-pid": N, ...} */
static bool parse_info(const char *text, struct process_id *init) {
    const char *p = strstr(text, "\"child-pid\":");
    return p && process_identify((pid_t)strtol(p + strlen("\"child-pid\":"), NULL, 10), init);
}

static bool await(const struct launch_plan *plan, int failed_fd, int info_fd, struct launched *out,
                  struct error *err) {
    int64_t deadline = monotonic_ms() + plan->timeout_ms;
    struct failure failure;
    ssize_t n = read_until(failed_fd, (char *)&failure, sizeof failure, deadline);
    if (n == (ssize_t)sizeof failure) {
        error_set_errno(err, failure.errnum, "%s", steps[failure.step]);
        return false;
    }
    out->monitor = launch_recorded(plan->dir);
    char info[INFO_MAX], log[LOG_TAIL];
    if (n == 0) n = read_until(info_fd, info, sizeof info - 1, deadline);
    if (n < 0) {
        error_set_errno(err, errno, "waiting for bubblewrap");
        return false;
    }
    info[n] = '\0';
    if (parse_info(info, &out->init)) return true;
    launch_read_log(plan->dir, log, sizeof log);
    error_set(err, 500, ERR_INTERNAL, "bubblewrap could not make the sandbox: %s",
              *log ? log : "it said nothing");
    return false;
}

static bool make_args(const struct launch_plan *p, struct buffer *out, struct error *err) {
    static char *const staged[] = {NULL};
    struct root_entries entries;
    if (!rootfs_entries(p->root ? p->root : "/", !p->root, &entries, err)) return false;
    struct bwrap_plan b = {
        .hostname = p->hostname,
        .workspace = p->own_user ? STAGE_WORK : p->workspace,
        .runtime = p->own_user ? STAGE_RUNTIME : p->runtime,
        .root = p->root && p->own_user ? STAGE_ROOT : p->root,
        .etc = p->own_user ? STAGE_ROOT : p->etc,
        .entries = &entries,
        .etc_shown = p->own_user ? staged : p->etc_shown, /* stage_shown() */
        .mount_path = p->mount_path,
        .working_dir = p->working_dir,
        .env = p->env,
        .env_count = p->env_count,
        .info_fd = FD_INFO,
        .seccomp_fd = FD_SECCOMP,
        .hosts_fd = FD_HOSTS,
    };
    bool ok = bwrap_args(&b, out);
    root_entries_free(&entries);
    if (!ok) error_set(err, 400, ERR_BAD_REQUEST, "the environment of the sandbox has an impossible name");
    return ok;
}

bool launch(const struct launch_plan *plan, struct launched *out, struct error *err) {
    *out = (struct launched){0};
    cleanup_buffer struct buffer args = {0}, hosts = {0};
    if (!make_args(plan, &args, err)) return false;
    buffer_printf(&hosts, "127.0.0.1 localhost %s\n::1 localhost ip6-localhost ip6-loopback\n",
                  plan->hostname);

    cleanup_close int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    cleanup_close int log_fd = open_in(plan->dir, "log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, err);
    cleanup_close int record_fd = open_in(plan->dir, "launch", O_WRONLY | O_CREAT | O_TRUNC, err);
    cleanup_close int args_fd = memory_file("arguments", buffer_slice(&args), err);
    cleanup_close int seccomp_fd = memory_file("seccomp", plan->seccomp, err);
    cleanup_close int hosts_fd = memory_file("hosts", buffer_slice(&hosts), err);
    int failed[2] = {-1, -1}, info[2] = {-1, -1};
    if (log_fd < 0 || record_fd < 0 || args_fd < 0 || seccomp_fd < 0 || hosts_fd < 0) return false;
    if (null_fd < 0 || pipe2(failed, O_CLOEXEC) != 0 || pipe2(info, O_CLOEXEC) != 0) {
        error_set_errno(err, errno, "opening descriptors");
        if (failed[0] >= 0) close(failed[0]), close(failed[1]);
        return false;
    }
    cleanup_close int failed_in = failed[0], info_in = info[0];
    cleanup_close int failed_out = failed[1], info_out = info[1];
    cleanup_close int listen_fd = listen_at(plan->socket_path, err);
    if (listen_fd < 0) return false;

    struct child child = {
        .plan = plan,
        .fds = {null_fd, null_fd, log_fd, listen_fd, plan->lock_fd, args_fd, seccomp_fd, hosts_fd, info_out},
        .record_fd = record_fd,
        .failed_fd = failed_out};
    sigemptyset(&child.no_signals);
    if (!fork_detached(&child, err)) return false;
    close(steal_fd(failed_out));
    close(steal_fd(info_out));
    if (await(plan, failed_in, info_in, out, err)) return true;
    process_kill_tree(out->monitor);
    unlink(plan->socket_path);
    return false;
}

void launch_read_log(const char *dir, char *out, size_t size) {
    out[0] = '\0';
    cleanup_free char *path = xasprintf("%s/log", dir);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) return;
    off_t from = st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0;
    ssize_t n = pread(fd, out, size - 1, from);
    out[n > 0 ? n : 0] = '\0';
    for (char *p = out; *p; p++) /* it goes into a status message */
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~') *p = ' ';
    for (size_t len = strlen(out); len > 0 && out[len - 1] == ' '; len--)
        out[len - 1] = '\0';
}

int launch_lock(const char *dir, struct error *err) {
    cleanup_close int fd = open_in(dir, "lock", O_RDWR | O_CREAT, err);
    if (fd < 0) return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return steal_fd(fd);
    if (errno != EWOULDBLOCK) error_set_errno(err, errno, "locking %s/lock", dir);
    return -1;
}
