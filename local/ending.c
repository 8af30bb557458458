/* Ends the processes of a sandbox and notices their end. Process 1 takes its whole pid namespace with
 * it: when its pidfd is readable, nothing that ran inside is left. */
#include "local/engine_inside.h"

#include "common/log.h"
#include "common/units.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRACE_MS    5500 /* the runtime's own is 5 s */
#define MONITOR_MS  50   /* for the end of bubblewrap outside, by itself */
#define KILLED_MS   5000 /* and by SIGKILL */
#define GROUP_WAITS 50
#define WAIT_US     1000

/* bubblewrap outside ends right after process 1; the groups are empty only then. */
static void await_monitor(struct process_id monitor) {
    cleanup_close int pidfd = process_open(monitor);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pidfd >= 0 && poll(&p, 1, MONITOR_MS) <= 0) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        poll(&p, 1, KILLED_MS);
    }
    /* Its parent is whoever adopts orphans: this process where it is process 1 of a container. */
    if (monitor.pid > 0) waitpid(monitor.pid, NULL, WNOHANG);
}

void remove_groups(struct record *r) {
    for (size_t i = 0; i < r->cgroup_count; i++) {
        bool removed = cgroup_remove(r->cgroups[i]);
        for (int k = 0; k < GROUP_WAITS && !removed; k++) {
            cgroup_kill(r->cgroups[i]);
            usleep(WAIT_US);
            removed = cgroup_remove(r->cgroups[i]);
        }
        if (!removed) log_warn("control group not removed", "path", r->cgroups[i], NULL);
        free(r->cgroups[i]);
        r->cgroups[i] = NULL;
    }
    r->cgroup_count = 0;
}

bool processes_gone(struct engine *e, struct entry *s) {
    if (s->pidfd < 0) return true;
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
    if (poll(&p, 1, 0) == 0) return false;
    locations_remove(e->locations, s->uid);
    first_run_end(s);
    close(s->pidfd);
    s->pidfd = -1;
    s->kill_at = 0;
    s->verified = false;
    s->first_run_done = false;
    await_monitor(s->record.monitor);
    remove_groups(&s->record);
    unlink(s->socket_path);
    s->record.init = s->record.monitor = (struct process_id){0};
    cleanup_error struct error err = {0};
    if (!record_save(s->dir, &s->record, &err))
        log_warn("record of an ended sandbox not written", "sandbox", s->name, "why", err.message, NULL);
    return true;
}

bool end_processes(struct engine *e, struct entry *s, bool gently) {
    if (processes_gone(e, s)) return true;
    locations_remove(e->locations, s->uid);
    int64_t now = monotonic_ms();
    bool term = false;
    if (s->kill_at == 0) {
        /* Before its runtime answers there is nobody to understand SIGTERM. */
        term = gently && s->verified;
        s->kill_at = term ? now + GRACE_MS : now;
    }
    if (!gently) s->kill_at = now;
    if (term)
        syscall(SYS_pidfd_send_signal, s->pidfd, SIGTERM, NULL, 0);
    else if (now >= s->kill_at)
        syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
    return processes_gone(e, s);
}
