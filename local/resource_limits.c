/* What a sandbox may use of the machine. Pure, apart from limits_apply_to_process() and sysconf(). */
#include "local/resource_limits.h"

#include "common/json.h"
#include "common/units.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB            (1024 * 1024)
#define MEMORY_MIN     (16L * MIB)
#define CPU_MIN_MILLIS 10
#define NANO_PER_MILLI 1000000

int64_t machine_cores(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

int64_t machine_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (int64_t)pages * size : 1024L * MIB;
}

/* The quantity of that name from limits, else requests. *found false: neither says. */
static bool read_quantity(const json_t *resources, const char *name, struct quantity *out, bool *found,
                          struct error *err) {
    static const char *const groups[] = {"limits", "requests"};
    *found = false;
    for (size_t i = 0; i < 2 && !*found; i++) {
        const json_t *value = json_object_get(json_object_get(resources, groups[i]), name);
        if (!value || json_is_null(value)) continue;
        char field[64], text[64];
        snprintf(field, sizeof field, "resources.%s.%s", groups[i], name);
        if (json_is_integer(value))
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        else if (json_is_real(value))
            snprintf(text, sizeof text, "%.9f", json_real_value(value));
        else if (json_is_string(value) && json_string_length(value) < sizeof text)
            snprintf(text, sizeof text, "%s", json_string_value(value));
        else
            text[0] = '\0';
        if (!quantity_parse(text, out)) {
            error_set_field(err, field, "is not a quantity");
            return false;
        }
        *found = true;
    }
    return true;
}

bool limits_from_resources(const json_t *resources, int64_t machine_memory, struct limits *out,
                           struct error *err) {
    *out = (struct limits){.memory_bytes = machine_memory / 2, .pids = LIMITS_DEFAULT_PIDS};
    struct quantity q;
    bool found;
    if (!read_quantity(resources, "cpu", &q, &found, err)) return false;
    if (found && q.nano > 0) {
        __int128 millis = (q.nano + NANO_PER_MILLI - 1) / NANO_PER_MILLI;
        out->cpu_millis = millis > INT64_MAX / 1000 ? INT64_MAX / 1000 : (int64_t)millis;
        if (out->cpu_millis < CPU_MIN_MILLIS) out->cpu_millis = CPU_MIN_MILLIS;
    }
    if (!read_quantity(resources, "memory", &q, &found, err)) return false;
    if (found && q.nano > 0) out->memory_bytes = quantity_ceil(q);
    if (out->memory_bytes > machine_memory) out->memory_bytes = machine_memory;
    if (out->memory_bytes < MEMORY_MIN) out->memory_bytes = MEMORY_MIN;
    return true;
}

/* What the process has mapped for data, in bytes; 0 when that cannot be read. */
static int64_t data_of(pid_t pid) {
    char path[32], line[128];
    long long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *in = fopen(path, "re");
    while (in && fgets(line, sizeof line, in) && sscanf(line, "VmData: %lld kB", &kib) != 1) {
    }
    if (in) fclose(in);
    return kib * 1024;
}

/* Errno, 0 = done. A system call or two only: also made after a fork. */
static int lower(pid_t pid, __rlimit_resource_t resource, int64_t to) {
    struct rlimit limit;
    if (prlimit(pid, resource, NULL, &limit) != 0) return errno;
    /* Where the Router itself is held to less, more takes a privilege. */
    if (limit.rlim_max > (rlim_t)to) limit.rlim_max = (rlim_t)to;
    limit.rlim_cur = limit.rlim_max;
    return prlimit(pid, resource, &limit, NULL) == 0 ? 0 : errno;
}

static int lower_all(pid_t pid, const struct limits *limits, bool with_data) {
    int rc = lower(pid, RLIMIT_NPROC, limits->pids);
    /* RLIMIT_DATA and not RLIMIT_AS: several language runtimes reserve address space that they
     * never use. Both count one process, not the sandbox: that takes cgroups. */
    return rc == 0 && with_data ? lower(pid, RLIMIT_DATA, limits->memory_bytes) : rc;
}

/* The same from a short-lived process with the user id of process 1: who is the same user needs no
 * capability. */
static int lower_all_as(uid_t user, pid_t pid, const struct limits *limits, bool with_data) {
    /* The Router's signal handlers must not run in the copy of it. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t helper = fork();
    if (helper == 0) {
        if (setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0) _exit(errno);
        _exit(lower_all(pid, limits, with_data));
    }
    int status = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (helper < 0) return status;
    while (waitpid(helper, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

bool limits_apply_to_process(pid_t pid, uid_t user, const struct limits *limits, struct error *err) {
    /* A program that has more already (built with sanitizers) would only be broken by it. */
    bool with_data = data_of(pid) < limits->memory_bytes / 2;
    int rc = lower_all(pid, limits, with_data);
    /* Root in a container often lacks CAP_SYS_RESOURCE. */
    if (rc == EPERM && user != geteuid()) rc = lower_all_as(user, pid, limits, with_data);
    if (rc != 0) error_set_errno(err, rc, "limiting the processes of a sandbox");
    return rc == 0;
}
