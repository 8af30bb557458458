/* Control groups of sandboxes. Touches only the cgroup file systems. */
#include "local/cgroup.h"

#include "common/log.h"
#include "local/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROC_FILE_MAX (1024 * 1024)
#define CPU_PERIOD_US 100000

static bool read_file(const char *path, struct buffer *out) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    out->limit = PROC_FILE_MAX;
    char part[4096];
    ssize_t n;
    while ((n = read(fd, part, sizeof part)) > 0)
        if (!buffer_append(out, part, (size_t)n)) return false;
    buffer_cstr(out); /* also an empty file is a string */
    return n == 0;
}

static bool write_file(const char *dir, const char *name, const char *text) {
    cleanup_free char *path = xasprintf("%s/%s", dir, name);
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* ---- where --------------------------------------------------------------------------------- */

static bool in_list(struct slice list, const char *word) {
    while (list.len > 0) {
        const char *comma = memchr(list.ptr, ',', list.len);
        size_t n = comma ? (size_t)(comma - list.ptr) : list.len;
        if (slice_equal_str(slice_make(list.ptr, n), word)) return true;
        if (!comma) break;
        list = slice_make(comma + 1, list.len - n - 1);
    }
    return false;
}

bool cgroup_parse_self(const char *text, const char *controller, struct buffer *path) {
    /* ID:controllers:path */
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        size_t len = strcspn(line, "\n");
        const char *first = memchr(line, ':', len);
        if (!first) continue;
        const char *second = memchr(first + 1, ':', len - (size_t)(first + 1 - line));
        if (!second) continue;
        struct slice names = slice_make(first + 1, (size_t)(second - first - 1));
        bool match = *controller ? in_list(names, controller) : names.len == 0;
        if (!match) continue;
        return buffer_append(path, second + 1, len - (size_t)(second + 1 - line));
    }
    return false;
}

/* Octal escapes of mountinfo: space, tab, newline, backslash. */
static bool append_unescaped(struct buffer *out, struct slice s) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '\\' && i + 3 < s.len + 0 && s.ptr[i + 1] >= '0' && s.ptr[i + 1] <= '3') {
            c = (char)((s.ptr[i + 1] - '0') * 64 + (s.ptr[i + 2] - '0') * 8 + (s.ptr[i + 3] - '0'));
            i += 3;
        }
        if (!buffer_append_char(out, c)) return false;
    }
    return true;
}

bool cgroup_parse_mount(const char *text, const char *controller, struct buffer *mount_point,
                        struct buffer *root) {
    /* ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPEROPTIONS */
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        struct slice words[40];
        size_t count = 0, dash = 0;
        const char *p = line, *end = line + strcspn(line, "\n");
        while (p < end && count < sizeof words / sizeof *words) {
            const char *space = memchr(p, ' ', (size_t)(end - p));
            const char *stop = space ? space : end;
            words[count] = slice_make(p, (size_t)(stop - p));
            if (!dash && count > 5 && slice_equal_str(words[count], "-")) dash = count;
            count++;
            p = stop + 1;
        }
        if (!dash || dash + 3 >= count) continue;
        bool match = *controller
                         ? slice_equal_str(words[dash + 1], "cgroup") && in_list(words[dash + 3], controller)
                         : slice_equal_str(words[dash + 1], "cgroup2");
        if (match) return append_unescaped(root, words[3]) && append_unescaped(mount_point, words[4]);
    }
    return false;
}

/* "/mnt/ROOT..." : the directory of group `path` when `root` is what the mount shows. */
static char *group_dir(const char *mount_point, const char *root, const char *path) {
    size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, n) != 0 || (path[n] != '\0' && path[n] != '/')) return NULL;
    const char *rest = path + n;
    return xasprintf("%s%s", mount_point, strcmp(rest, "/") == 0 ? "" : rest);
}

static bool can_make_group(const char *dir, const char *probe_file) {
    cleanup_free char *group = xasprintf("%s/agenttier-probe-%d", dir, (int)getpid());
    if (mkdir(group, 0755) != 0) return false;
    cleanup_free char *probe = xasprintf("%s/%s", group, probe_file);
    cleanup_close int fd = open(probe, O_WRONLY | O_CLOEXEC);
    rmdir(group);
    return fd >= 0;
}

static bool enabled(const char *dir, const char *controller) {
    cleanup_buffer struct buffer text = {0};
    cleanup_free char *path = xasprintf("%s/cgroup.subtree_control", dir);
    if (!read_file(path, &text)) return false;
    char *save = NULL;
    for (char *w = strtok_r((char *)buffer_cstr(&text), " \n", &save); w; w = strtok_r(NULL, " \n", &save))
        if (strcmp(w, controller) == 0) return true;
    return false;
}

static bool alone_in(const char *dir) {
    cleanup_buffer struct buffer text = {0};
    cleanup_free char *path = xasprintf("%s/cgroup.procs", dir);
    char self[16];
    snprintf(self, sizeof self, "%d\n", (int)getpid());
    return read_file(path, &text) && strcmp(buffer_cstr(&text), self) == 0;
}

static bool use_v2(struct cgroups *out, char *dir) {
    static const char *const controllers[] = {"cpu", "memory", "pids"};
    bool works[3], any = false;
    for (size_t i = 0; i < 3; i++) {
        char word[16];
        snprintf(word, sizeof word, "+%s", controllers[i]);
        if (!write_file(dir, "cgroup.subtree_control", word) && errno == EBUSY && alone_in(dir)) {
            /* A group with processes of its own may not hand out controllers: step aside. */
            cleanup_free char *aside = xasprintf("%s/router", dir);
            if ((mkdir(aside, 0755) == 0 || errno == EEXIST) && write_file(aside, "cgroup.procs", "0"))
                write_file(dir, "cgroup.subtree_control", word);
        }
        works[i] = enabled(dir, controllers[i]);
        any = any || works[i];
    }
    if (!any || !can_make_group(dir, "cgroup.procs")) {
        free(dir);
        return false;
    }
    out->bases[out->count++] =
        (struct cgroup_base){.path = dir, .v2 = true, .cpu = works[0], .memory = works[1], .pids = works[2]};
    return true;
}

static void detect_v2(struct cgroups *out, const char *mounts, const char *self) {
    cleanup_buffer struct buffer at = {0}, root = {0}, own = {0};
    if (!cgroup_parse_mount(mounts, "", &at, &root) || !cgroup_parse_self(self, "", &own)) return;
    char *dir = group_dir(buffer_cstr(&at), buffer_cstr(&root), buffer_cstr(&own));
    if (dir && use_v2(out, dir)) return;
    use_v2(out, xstrdup(buffer_cstr(&at)));
}

static void detect_v1(struct cgroups *out, const char *mounts, const char *self, const char *controller,
                      const char *probe_file, bool *flag_of_base) {
    cleanup_buffer struct buffer at = {0}, root = {0}, own = {0};
    if (out->count == CGROUP_MAX || !cgroup_parse_mount(mounts, controller, &at, &root) ||
        !cgroup_parse_self(self, controller, &own))
        return;
    cleanup_free char *dir = group_dir(buffer_cstr(&at), buffer_cstr(&root), buffer_cstr(&own));
    const char *base = dir && can_make_group(dir, probe_file)         ? dir
                       : can_make_group(buffer_cstr(&at), probe_file) ? buffer_cstr(&at)
                                                                      : NULL;
    if (!base) return;
    *flag_of_base = true;
    out->bases[out->count++].path = xstrdup(base);
}

void cgroup_detect(struct cgroups *out) {
    *out = (struct cgroups){0};
    cleanup_buffer struct buffer mounts = {0}, self = {0};
    if (!read_file("/proc/self/mountinfo", &mounts) || !read_file("/proc/self/cgroup", &self)) return;
    detect_v2(out, buffer_cstr(&mounts), buffer_cstr(&self));
    if (out->count == 0) {
        detect_v1(out, mounts.data, self.data, "cpu", "cpu.cfs_quota_us", &out->bases[out->count].cpu);
        detect_v1(out, mounts.data, self.data, "memory", "memory.limit_in_bytes",
                  &out->bases[out->count].memory);
        detect_v1(out, mounts.data, self.data, "pids", "pids.max", &out->bases[out->count].pids);
    }
    for (size_t i = 0; i < out->count; i++) {
        out->cpu = out->cpu || out->bases[i].cpu;
        out->memory = out->memory || out->bases[i].memory;
        out->pids = out->pids || out->bases[i].pids;
    }
}

void cgroup_free(struct cgroups *groups) {
    for (size_t i = 0; i < groups->count; i++)
        free(groups->bases[i].path);
    *groups = (struct cgroups){0};
}

/* ---- the groups of a sandbox --------------------------------------------------------------- */

static bool set_limits(const struct cgroup_base *base, const char *dir, const struct limits *l) {
    char text[64];
    bool ok = true;
    if (base->cpu) {
        long long quota = l->cpu_millis ? (long long)l->cpu_millis * CPU_PERIOD_US / 1000 : -1;
        if (base->v2) {
            if (quota < 0)
                snprintf(text, sizeof text, "max %d", CPU_PERIOD_US);
            else
                snprintf(text, sizeof text, "%lld %d", quota, CPU_PERIOD_US);
            ok = write_file(dir, "cpu.max", text);
        } else {
            snprintf(text, sizeof text, "%lld", quota);
            ok = write_file(dir, "cpu.cfs_quota_us", text);
        }
    }
    if (ok && base->memory) {
        snprintf(text, sizeof text, "%lld", (long long)l->memory_bytes);
        ok = write_file(dir, base->v2 ? "memory.max" : "memory.limit_in_bytes", text);
        /* Where swap is counted, it must not be a way around; where it is not, there is no such file. */
        if (base->v2)
            write_file(dir, "memory.swap.max", "0");
        else
            write_file(dir, "memory.memsw.limit_in_bytes", text);
    }
    if (ok && base->pids) {
        snprintf(text, sizeof text, "%lld", (long long)l->pids);
        ok = write_file(dir, "pids.max", text);
    }
    return ok;
}

bool cgroup_create(const struct cgroups *groups, const char *name, const struct limits *limits,
                   struct cgroup_set *out, struct error *err) {
    *out = CGROUP_SET_NONE;
    for (size_t i = 0; i < groups->count; i++) {
        const struct cgroup_base *base = &groups->bases[i];
        char *dir = out->paths[out->count] = xasprintf("%s/agenttier-%s", base->path, name);
        /* Moving a whole process takes a lock that all forks and exits hold, so the kernel waits some 7 ms
         * for an RCU grace period first. Moving the one thread that writes does not, and the process that
         * enters has no other. In version 2 only processes can be moved: cgroup_fork() is the way around. */
        cleanup_free char *entry = xasprintf("%s/%s", dir, base->v2 ? "cgroup.procs" : "tasks");
        int *fd = &out->entry_fds[out->count++];
        if ((mkdir(dir, 0755) != 0 && errno != EEXIST) || !set_limits(base, dir, limits) ||
            (*fd = open(entry, O_WRONLY | O_CLOEXEC)) < 0) {
            error_set_errno(err, errno, "control group %s", dir);
            for (size_t k = 0; k < out->count; k++)
                cgroup_remove(out->paths[k]);
            cgroup_set_close(out);
            return false;
        }
        if (base->v2) out->v2_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    return true;
}

pid_t cgroup_fork(const struct cgroup_set *set, bool *entered) {
    *entered = false;
    if (set->v2_fd >= 0 && set->count == 1) {
        struct clone_args how = {
            .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)set->v2_fd};
        pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        *entered = pid >= 0;
        if (pid >= 0) return pid;
    }
    return fork();
}

void cgroup_set_close(struct cgroup_set *set) {
    for (size_t i = 0; i < set->count; i++) {
        if (set->entry_fds[i] >= 0) close(set->entry_fds[i]);
        free(set->paths[i]);
    }
    if (set->v2_fd >= 0) close(set->v2_fd);
    *set = CGROUP_SET_NONE;
}

size_t cgroup_kill(const char *path) {
    cleanup_buffer struct buffer text = {0};
    cleanup_free char *procs = xasprintf("%s/cgroup.procs", path);
    if (!read_file(procs, &text)) return 0;
    size_t seen = 0;
    char *save = NULL;
    for (char *w = strtok_r((char *)buffer_cstr(&text), "\n", &save); w; w = strtok_r(NULL, "\n", &save)) {
        struct process_id id;
        if (!process_identify((pid_t)strtol(w, NULL, 10), &id)) continue;
        seen++;
        process_signal(id, SIGKILL);
    }
    return seen;
}

bool cgroup_remove(const char *path) {
    return rmdir(path) == 0 || errno == ENOENT;
}
