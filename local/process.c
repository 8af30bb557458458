/* Processes of this machine as /proc shows them. Touches nothing but /proc and signals. */
#include "local/process.h"

#include "common/bytes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TREE_MAX_DEPTH 16

static ssize_t read_small(const char *path, char *out, size_t size) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, out, size - 1);
    if (n >= 0) out[n] = '\0';
    return n;
}

bool process_boot_id(char out[BOOT_ID_LEN + 1]) {
    char text[64];
    if (read_small("/proc/sys/kernel/random/boot_id", text, sizeof text) < BOOT_ID_LEN) return false;
    memcpy(out, text, BOOT_ID_LEN);
    out[BOOT_ID_LEN] = '\0';
    return true;
}

bool process_stat_parse(const char *text, uint64_t *start, bool *zombie) {
    const char *p = strrchr(text, ')'); /* the last one: the name may hold others */
    if (!p || p[1] != ' ' || !p[2]) return false;
    p += 2;
    if (zombie) *zombie = *p == 'Z' || *p == 'X';
    /* p is at field 3; the start time is field 22 */
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p) return false;
        p++;
    }
    size_t digits = strspn(p, "0123456789");
    return slice_parse_u64(slice_make(p, digits), UINT64_MAX, start);
}

static bool stat_of(pid_t pid, uint64_t *start, bool *zombie) {
    char path[64], text[1024];
    if (pid <= 0) return false;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof text) <= 0) return false;
    return process_stat_parse(text, start, zombie);
}

bool process_identify(pid_t pid, struct process_id *out) {
    bool zombie;
    uint64_t start;
    if (!stat_of(pid, &start, &zombie) || zombie) return false;
    *out = (struct process_id){.pid = pid, .start = start};
    return true;
}

bool process_alive(struct process_id id) {
    struct process_id now;
    return id.pid > 0 && process_identify(id.pid, &now) && now.start == id.start;
}

int process_open(struct process_id id) {
    if (id.pid <= 0) return -1;
    int fd = (int)syscall(SYS_pidfd_open, id.pid, 0);
    if (fd < 0) return -1;
    /* The pid may have been another's already when the descriptor was made: look after. */
    if (!process_alive(id)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool process_signal(struct process_id id, int signo) {
    cleanup_close int fd = process_open(id);
    return fd >= 0 && syscall(SYS_pidfd_send_signal, fd, signo, NULL, 0) == 0;
}

static void kill_tree(struct process_id id, int depth) {
    process_signal(id, SIGSTOP);
    char path[96], text[4096];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)id.pid, (int)id.pid);
    if (depth < TREE_MAX_DEPTH && read_small(path, text, sizeof text) > 0) {
        char *save = NULL;
        for (char *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
            struct process_id child;
            if (process_identify((pid_t)strtol(word, NULL, 10), &child)) kill_tree(child, depth + 1);
        }
    }
    process_signal(id, SIGKILL);
}

void process_kill_tree(struct process_id id) {
    if (process_alive(id)) kill_tree(id, 0);
}

static bool holds(const char *pid, const struct stat *file) {
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    if (!dir) return false;
    bool found = false;
    struct dirent *e;
    while (!found && (e = readdir(dir))) {
        struct stat st;
        found = e->d_name[0] != '.' && fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
                st.st_dev == file->st_dev && st.st_ino == file->st_ino;
    }
    closedir(dir);
    return found;
}

size_t process_kill_holders(const struct stat *file) {
    DIR *proc = opendir("/proc");
    if (!proc) return 0;
    size_t killed = 0;
    struct dirent *e;
    while ((e = readdir(proc))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9') continue;
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        struct process_id id;
        if (pid == getpid() || !process_identify(pid, &id)) continue;
        if (holds(e->d_name, file) && process_signal(id, SIGKILL)) killed++;
    }
    closedir(proc);
    return killed;
}
