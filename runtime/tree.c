#include "runtime/tree.h"

#include "common/bytes.h"
#include "common/units.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>

#define FREEZE_LIMIT_MS 250
#define PROCESSES_MAX   65536

enum membership { UNKNOWN, INSIDE, OUTSIDE, VISITING };

struct process {
    pid_t pid, parent;
    enum membership membership;
};

struct snapshot {
    struct process *items;
    size_t count, cap;
};

/* The fourth field of /proc/PID/stat; the second is a name that may hold anything. */
static pid_t parent_of(int proc, const char *pid) {
    char path[32], text[512];
    snprintf(path, sizeof path, "%.16s/stat", pid);
    cleanup_close int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n <= 0) return -1;
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    if (!end || strlen(end) < 5) return -1;
    return (pid_t)strtol(end + 4, NULL, 10); /* ") S 123" */
}

static int compare(const void *a, const void *b) {
    const struct process *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static bool take_snapshot(struct snapshot *s) {
    DIR *dir = opendir("/proc");
    if (!dir) return false;
    const struct dirent *entry;
    while ((entry = readdir(dir)) && s->count < PROCESSES_MAX) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
        pid_t parent = parent_of(dirfd(dir), entry->d_name);
        if (parent < 0) continue;
        if (s->count == s->cap) {
            s->cap = s->cap ? s->cap * 2 : 128;
            s->items = xrealloc(s->items, s->cap * sizeof *s->items);
        }
        s->items[s->count++] = (struct process){(pid_t)strtol(entry->d_name, NULL, 10), parent, UNKNOWN};
    }
    closedir(dir);
    if (s->count) qsort(s->items, s->count, sizeof *s->items, compare);
    return true;
}

static struct process *find(const struct snapshot *s, pid_t pid) {
    struct process key = {.pid = pid};
    return s->count ? bsearch(&key, s->items, s->count, sizeof *s->items, compare) : NULL;
}

/* Walks up from `p` until something known, then writes the verdict on the whole way. A
 * snapshot is not atomic, so its parents may even form a circle: VISITING ends it. */
static bool is_descendant(const struct snapshot *s, struct process *p, pid_t root) {
    enum membership verdict = OUTSIDE;
    struct process *q = p;
    for (; q && q->membership == UNKNOWN; q = find(s, q->parent)) {
        q->membership = VISITING;
        if (q->parent == root) {
            verdict = INSIDE;
            break;
        }
    }
    if (q && q->membership == INSIDE) verdict = INSIDE;
    for (q = p; q && q->membership == VISITING; q = find(s, q->parent))
        q->membership = verdict;
    return p->membership == INSIDE;
}

/* Signals those that `already` (may be NULL) does not have. Returns how many that were. */
static size_t signal_new(const struct snapshot *s, const struct snapshot *already, int sig) {
    pid_t root = getpid();
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct process *p = &s->items[i];
        if (p->pid == root || !is_descendant(s, p, root)) continue;
        const struct process *before = already ? find(already, p->pid) : NULL;
        if (before && before->membership == INSIDE) continue;
        if (kill(p->pid, sig) == 0) count++; /* one that ended meanwhile, or is not ours to end */
    }
    return count;
}

size_t tree_signal(int sig) {
    struct snapshot s = {0};
    size_t count = take_snapshot(&s) ? signal_new(&s, NULL, sig) : 0;
    free(s.items);
    return count;
}

/* The steps are bounded because of the circles that a snapshot may have. */
static bool is_below(const struct snapshot *s, const struct process *p, const pid_t *heads, size_t count) {
    for (size_t steps = 0; p && steps < s->count; steps++, p = find(s, p->parent))
        for (size_t i = 0; i < count; i++)
            if (p->parent == heads[i]) return true;
    return false;
}

void tree_signal_heads(int sig, bool everyone, const pid_t *heads, size_t count) {
    struct snapshot s = {0};
    pid_t root = getpid();
    if (!take_snapshot(&s) && everyone) kill(-1, sig); /* without /proc: rather twice than not at all */
    for (size_t i = 0; i < s.count; i++) {
        struct process *p = &s.items[i];
        bool ours = p->pid != root && (everyone || is_descendant(&s, p, root));
        if (ours && !is_below(&s, p, heads, count)) kill(p->pid, sig);
    }
    free(s.items);
}

void tree_terminate(void) {
    struct snapshot before = {0};
    int64_t limit = monotonic_ms() + FREEZE_LIMIT_MS;
    /* A process that is stopped starts no other: repeat until nobody new is found. */
    for (;;) {
        struct snapshot s = {0};
        if (!take_snapshot(&s)) break;
        size_t found = signal_new(&s, &before, SIGSTOP);
        free(before.items);
        before = s;
        if (found == 0 || monotonic_ms() >= limit) break;
    }
    free(before.items);
    tree_signal(SIGTERM);
    tree_signal(SIGCONT);
}
