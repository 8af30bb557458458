/* The arguments of bubblewrap for one sandbox: every wall of it is a line here. */
#include "local/bwrap_args.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Sizes of the file systems in memory; they count as the sandbox's memory where cgroups do. */
#define SIZE_TMP     "268435456"
#define SIZE_HOME    "268435456"
#define SIZE_VAR_TMP "67108864"
#define SIZE_SHM     "67108864"
#define SIZE_RUN     "16777216"

static bool add(struct buffer *out, ...) __attribute__((sentinel));

static bool add(struct buffer *out, ...) {
    va_list args;
    va_start(args, out);
    bool ok = true;
    for (const char *arg; ok && (arg = va_arg(args, const char *));)
        ok = buffer_append(out, arg, strlen(arg) + 1);
    va_end(args);
    return ok;
}

static bool add_fd(struct buffer *out, const char *option, int fd) {
    char text[16];
    snprintf(text, sizeof text, "%d", fd);
    return add(out, option, text, NULL);
}

static bool add_namespaces(const struct bwrap_plan *plan, struct buffer *out) {
    return add(out, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net",
               "--unshare-cgroup-try", "--disable-userns", "--uid", "1000", "--gid", "1000", "--as-pid-1",
               "--hostname", plan->hostname, NULL) &&
           add_fd(out, "--info-fd", plan->info_fd) && add_fd(out, "--seccomp", plan->seccomp_fd);
}

static bool add_root(const struct bwrap_plan *plan, struct buffer *out) {
    for (size_t i = 0; i < plan->entries->count; i++) {
        const struct root_entry *e = &plan->entries->items[i];
        cleanup_free char *place = xasprintf("/%s", e->name);
        cleanup_free char *source = xasprintf("%s/%s", plan->root ? plan->root : "", e->name);
        if (!(e->target ? add(out, "--symlink", e->target, place, NULL)
                        : add(out, "--ro-bind", source, place, NULL)))
            return false;
    }
    if (plan->root) return true;
    if (!add(out, "--ro-bind", plan->etc, "/etc", NULL)) return false;
    for (char *const *p = plan->etc_shown; *p; p++) {
        cleanup_free char *path = xasprintf("/etc/%s", *p);
        if (!add(out, "--ro-bind-try", path, path, NULL)) return false;
    }
    return add(out, "--dir", "/var", NULL);
}

static bool add_own(const struct bwrap_plan *plan, struct buffer *out) {
    /* An image brings /var and its /etc/hosts; importing made sure that both places are there. */
    return add(out, "--perms", "0644", NULL) && add_fd(out, "--ro-bind-data", plan->hosts_fd) &&
           add(out, "/etc/hosts", NULL) && add(out, "--proc", "/proc", "--dev", "/dev", NULL) &&
           add(out, "--perms", "1777", "--size", SIZE_SHM, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
               NULL) &&
           add(out, "--perms", "1777", "--size", SIZE_TMP, "--tmpfs", "/tmp", NULL) &&
           add(out, "--perms", "1777", "--size", SIZE_VAR_TMP, "--tmpfs", "/var/tmp", NULL) &&
           add(out, "--perms", "0755", "--size", SIZE_RUN, "--tmpfs", "/run", NULL) &&
           add(out, "--perms", "0700", "--size", SIZE_HOME, "--tmpfs", SANDBOX_HOME, NULL) &&
           add(out, "--bind", plan->workspace, SANDBOX_WORKSPACE, NULL) &&
           (!plan->mount_path || add(out, "--bind", plan->workspace, plan->mount_path, NULL)) &&
           add(out, "--ro-bind", plan->runtime, SANDBOX_RUNTIME, "--remount-ro", "/", NULL);
}

bool bwrap_args(const struct bwrap_plan *plan, struct buffer *out) {
    if (!add_namespaces(plan, out) || !add_root(plan, out) || !add_own(plan, out)) return false;
    if (!add(out, "--clearenv", NULL)) return false;
    for (size_t i = 0; i < plan->env_count; i++) {
        const struct env_entry *e = &plan->env[i];
        if (!*e->name || strchr(e->name, '=')) return false;
        if (!add(out, "--setenv", e->name, e->value, NULL)) return false;
    }
    return add(out, "--chdir", plan->working_dir, NULL);
}

bool mount_path_valid(const char *path) {
    static const char *const taken[] = {"usr", "bin",  "sbin", "lib", "lib32", "lib64", "libx32",
                                        "etc", "proc", "sys",  "dev", "var",   "run",   ".agenttier"};
    if (path[0] != '/' || path[1] == '\0' || strlen(path) > 1024) return false;
    size_t first = strcspn(path + 1, "/");
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (strlen(taken[i]) == first && strncmp(path + 1, taken[i], first) == 0) return false;
    for (const char *p = path; *p;) {
        size_t n = strcspn(p + 1, "/");
        if (n == 0 || (p[1] == '.' && (n == 1 || (n == 2 && p[2] == '.')))) return false;
        p += n + 1;
    }
    return strcmp(path, "/tmp") != 0 && strcmp(path, "/home") != 0;
}
