/* The check at start: bubblewrap is there and may make user namespaces. */
#include "local/selfcheck.h"

#include "common/bytes.h"
#include "common/units.h"
#include "local/host_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define TIMEOUT_MS 10000

static const char *const places[] = {"/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"};

static const char *find_bwrap(void) {
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (access(places[i], X_OK) == 0) return places[i];
    return NULL;
}

static _Noreturn void run_trial(const char *bwrap, int output) {
    static char *const argv[] = {(char *)"bwrap",
                                 (char *)"--unshare-user",
                                 (char *)"--disable-userns",
                                 (char *)"--unshare-pid",
                                 (char *)"--unshare-net",
                                 (char *)"--unshare-ipc",
                                 (char *)"--unshare-uts",
                                 (char *)"--uid",
                                 (char *)"1000",
                                 (char *)"--gid",
                                 (char *)"1000",
                                 (char *)"--ro-bind",
                                 (char *)"/",
                                 (char *)"/",
                                 (char *)"--proc",
                                 (char *)"/proc",
                                 (char *)"--dev",
                                 (char *)"/dev",
                                 (char *)"--as-pid-1",
                                 (char *)"/bin/true",
                                 NULL};
    static char *const no_env[] = {NULL};
    bool ok = dup2(output, 2) == 2;
    if (ok && geteuid() == 0)
        ok = setgroups(0, NULL) == 0 && setresgid(HOST_ID_FIRST, HOST_ID_FIRST, HOST_ID_FIRST) == 0 &&
             setresuid(HOST_ID_FIRST, HOST_ID_FIRST, HOST_ID_FIRST) == 0;
    if (ok && chdir("/") == 0) execve(bwrap, argv, no_env);
    _exit(126);
}

void selfcheck_begin(struct selfcheck *check) {
    int fds[2];
    const char *bwrap = find_bwrap();
    *check = (struct selfcheck){.pid = -1, .output = -1, .installed = bwrap != NULL};
    if (!bwrap || pipe2(fds, O_CLOEXEC) != 0) return;
    check->pid = fork();
    if (check->pid == 0) run_trial(bwrap, fds[1]);
    close(fds[1]);
    check->output = fds[0];
}

/* What the trial said, and whether it succeeded. */
static bool trial_ended_well(struct selfcheck *check, char *said, size_t size) {
    pid_t pid = check->pid;
    size_t have = 0;
    int64_t deadline = monotonic_ms() + TIMEOUT_MS;
    struct pollfd p = {.fd = check->output, .events = POLLIN};
    while (pid > 0 && have < size - 1) {
        int64_t left = deadline - monotonic_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) break;
        ssize_t n = read(check->output, said + have, size - 1 - have);
        if (n <= 0) break;
        have += (size_t)n;
    }
    said[have] = '\0';
    if (check->output >= 0) close(check->output);
    if (pid < 0) return false;
    if (monotonic_ms() >= deadline) kill(pid, SIGKILL);
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    for (char *c = said; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~') *c = ' ';
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool setting_is(const char *path, char value) {
    char text[8] = {0};
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, text, sizeof text - 1) > 0 && text[0] == value;
}

bool selfcheck_end(struct selfcheck *check, struct error *err) {
    char said[256];
    if (!check->installed) {
        error_set(err, 500, ERR_INTERNAL, "bubblewrap is not installed: apt-get install bubblewrap");
        return false;
    }
    if (trial_ended_well(check, said, sizeof said)) return true;
    if (setting_is("/proc/sys/kernel/unprivileged_userns_clone", '0'))
        error_set(err, 500, ERR_INTERNAL,
                  "this kernel does not let ordinary users make user namespaces: "
                  "sysctl -w kernel.unprivileged_userns_clone=1");
    else if (setting_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", '1'))
        error_set(err, 500, ERR_INTERNAL,
                  "AppArmor keeps bubblewrap from making user namespaces: give it a profile that allows "
                  "userns, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    else if (setting_is("/proc/sys/user/max_user_namespaces", '0'))
        error_set(err, 500, ERR_INTERNAL,
                  "user namespaces are switched off: sysctl -w user.max_user_namespaces=10000");
    else
        error_set(
            err, 500, ERR_INTERNAL,
            "bubblewrap cannot make a sandbox here (in a container, it needs leave for user namespaces and "
            "mounts, for example docker run --security-opt seccomp=unconfined --security-opt "
            "apparmor=unconfined "
            "--security-opt systempaths=unconfined): %s",
            *said ? said : "it said nothing");
    return false;
}
