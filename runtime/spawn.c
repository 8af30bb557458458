#include "runtime/spawn.h"

#include "common/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum step { STEP_DIRECTORY, STEP_EXEC, STEP_SETUP };

struct failure {
    volatile int errnum;
    volatile enum step step;
};

static const char *path_of(char *const *env) {
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0) return *env + 5;
    return DEFAULT_PATH;
}

/* As execvp, but with the command's own PATH and without running a shell on what the kernel
 * does not understand. Returns the errno that tells most. */
static int exec_by_path(const struct spawn_request *r) {
    const char *name = r->argv[0];
    if (strchr(name, '/')) {
        execve(name, r->argv, r->env);
        return errno;
    }
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > NAME_MAX) return name_len ? ENAMETOOLONG : ENOENT;
    int denied = 0;
    char candidate[PATH_MAX];
    for (const char *p = path_of(r->env);;) {
        size_t n = strcspn(p, ":");
        if (n + 1 + name_len < sizeof candidate) {
            memcpy(candidate, p, n);
            candidate[n] = '/';
            memcpy(candidate + n + (n > 0), name, name_len + 1);
            execve(candidate, r->argv, r->env);
            if (errno == EACCES)
                denied = errno;
            else if (errno != ENOENT && errno != ENOTDIR)
                return errno;
        }
        if (p[n] == '\0') return denied ? denied : ENOENT;
        p += n + 1;
    }
}

static bool place(int from, int to) {
    return from < 0 || dup2(from, to) == to;
}

/* In the child, which shares our memory until it executes: only system calls here. */
static __attribute__((noinline, noreturn)) void become(const struct spawn_request *r, struct failure *f) {
    f->step = STEP_SETUP;
    sigset_t none;
    sigemptyset(&none);
    if (setsid() < 0 || !place(r->in, 0) || !place(r->out, 1) || !place(r->err, 2) ||
        (r->terminal && ioctl(0, TIOCSCTTY, 0) < 0)) {
        f->errnum = errno;
        _exit(127);
    }
    if (r->dir && chdir(r->dir) < 0) {
        f->errnum = errno;
        f->step = STEP_DIRECTORY;
        _exit(127);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
    f->step = STEP_EXEC;
    f->errnum = exec_by_path(r);
    _exit(127);
}

static void explain(const struct spawn_request *r, const struct failure *f, struct error *err) {
    const char *why = strerror(f->errnum);
    switch (f->step) {
    case STEP_DIRECTORY:
        error_set(err, 400, ERR_BAD_REQUEST, "working directory \"%.200s\": %s", r->dir, why);
        break;
    case STEP_EXEC:
        if (f->errnum == ENOENT && !strchr(r->argv[0], '/')) why = "not found in PATH";
        if (f->errnum == E2BIG) why = "the arguments and the environment are too long";
        error_set(err, 400, ERR_BAD_REQUEST, "cannot start \"%.200s\": %s", r->argv[0], why);
        break;
    case STEP_SETUP: error_set(err, 500, ERR_INTERNAL, "cannot start \"%.200s\": %s", r->argv[0], why); break;
    }
}

pid_t spawn(const struct spawn_request *r, struct error *err) {
    struct failure f = {0, STEP_SETUP};
    pid_t pid = vfork();
    if (pid == 0) become(r, &f);
    if (pid < 0) f.errnum = errno;
    if (pid > 0 && f.errnum == 0) return pid;
    if (pid > 0) /* it has ended; reaped here, so that nobody takes it for the command */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    explain(r, &f, err);
    return -1;
}
