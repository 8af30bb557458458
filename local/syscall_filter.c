/* The seccomp filter of every sandbox. A list of what is refused, answered with EPERM: programs
 * then take their fallback. Two things libseccomp's rules cannot say stand in front of its
 * program as plain BPF: numbers of system calls younger than this list (ENOSYS, so that a new way to
 * mount cannot pass unseen), and a set of allowed values (personality). */
#include "local/syscall_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CLONE_NEWTIME_FLAG 0x80
#define LAST_FAMILY        45 /* AF_MCTP; newer ones are refused by number */

/* The last system call that was looked at for this list (file_setattr is 469; open_tree_attr
 * 467 is the first one after it that can mount). Numbers from 424 on are the same on every
 * architecture but alpha. */
#define LAST_KNOWN_SYSCALL 466

static const char *const refused[] = {
    /* mounts and roots */
    "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "open_by_handle_at",
    /* namespaces: unshare and clone by their flags, below */
    "setns",
    /* keys, tracing of the kernel, asynchronous doors around this filter */
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "lookup_dcookie", "fanotify_init",
    /* the machine */
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module",
    "get_kernel_syms", "query_module", "reboot", "swapon", "swapoff", "quotactl", "quotactl_fd", "acct",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "syslog", "vhangup", "iopl",
    "ioperm", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl", "vm86", "vm86old", "vserver",
    "afs_syscall"};

static bool refuse(scmp_filter_ctx ctx, int errnum, const char *name, unsigned count,
                   const struct scmp_arg_cmp *args) {
    int nr = seccomp_syscall_resolve_name(name);
    if (nr < 0) return true; /* not on this architecture */
    int rc = seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO((uint16_t)errnum), nr, count, args);
    return rc == 0 || rc == -EDOM || rc == -EEXIST;
}

static bool refuse_namespaces(scmp_filter_ctx ctx) {
    static const unsigned long flags[] = {CLONE_NEWNS,  CLONE_NEWUSER, CLONE_NEWPID,   CLONE_NEWNET,
                                          CLONE_NEWIPC, CLONE_NEWUTS,  CLONE_NEWCGROUP};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        struct scmp_arg_cmp has = SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]);
        if (!refuse(ctx, EPERM, "clone", 1, &has) || !refuse(ctx, EPERM, "unshare", 1, &has)) return false;
    }
    /* In clone's flags that bit is part of the exit signal. */
    struct scmp_arg_cmp time = SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWTIME_FLAG, CLONE_NEWTIME_FLAG);
    /* clone3 has its flags in memory, where no filter can see them; with ENOSYS the C library uses clone. */
    return refuse(ctx, EPERM, "unshare", 1, &time) && refuse(ctx, ENOSYS, "clone3", 0, NULL);
}

static bool refuse_sockets(scmp_filter_ctx ctx) {
    /* The kernel takes an int: compare its 32 bits only, or set high bits would slip past. */
    const scmp_datum_t low = 0xffffffff;
    for (unsigned long family = 0; family <= LAST_FAMILY; family++) {
        if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
        struct scmp_arg_cmp is = SCMP_A0(SCMP_CMP_MASKED_EQ, low, family);
        if (!refuse(ctx, EPERM, "socket", 1, &is) || !refuse(ctx, EPERM, "socketpair", 1, &is)) return false;
    }
    struct scmp_arg_cmp newer = SCMP_A0(SCMP_CMP_GT, LAST_FAMILY, 0);
    /* getifaddrs() needs routing netlink; the other protocols are doors into the kernel. */
    struct scmp_arg_cmp netlink[] = {SCMP_A0(SCMP_CMP_MASKED_EQ, low, AF_NETLINK),
                                     SCMP_A2(SCMP_CMP_NE, 0, 0)};
    return refuse(ctx, EPERM, "socket", 1, &newer) && refuse(ctx, EPERM, "socket", 2, netlink);
}

static bool refuse_terminal_injection(scmp_filter_ctx ctx) {
    const scmp_datum_t low = 0xffffffff;
    struct scmp_arg_cmp sti = SCMP_A1(SCMP_CMP_MASKED_EQ, low, TIOCSTI);
    struct scmp_arg_cmp console = SCMP_A1(SCMP_CMP_MASKED_EQ, low, TIOCLINUX);
    return refuse(ctx, EPERM, "ioctl", 1, &sti) && refuse(ctx, EPERM, "ioctl", 1, &console);
}

#define JUMP(op, value, yes, no) ((struct sock_filter)BPF_JUMP(BPF_JMP | (op) | BPF_K, value, yes, no))
#define LOAD(member)                                                                                         \
    ((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member)))
#define RETURN(value) ((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, value))

static bool append_prefix(struct buffer *out) {
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the low half of an argument is read at offset 0: little endian only"
#endif
    /* PER_LINUX, PER_LINUX32, UNAME26 with both, ADDR_NO_RANDOMIZE (debuggers), and the query. */
    static const uint32_t personalities[] = {0, 0x8, 0x20000, 0x20008, 0x40000, 0xffffffff};
    const unsigned char values = sizeof personalities / sizeof *personalities;
    struct sock_filter code[8 + sizeof personalities / sizeof *personalities];
    size_t n = 0;
    code[n++] = LOAD(nr);
    code[n++] = JUMP(BPF_JGT, LAST_KNOWN_SYSCALL, 0, 1);
    code[n++] = RETURN(SECCOMP_RET_ERRNO | ENOSYS);
    code[n++] = JUMP(BPF_JEQ, SYS_personality, 0, (unsigned char)(values + 2));
    code[n++] = LOAD(args[0]);
    for (unsigned char i = 0; i < values; i++)
        code[n++] = JUMP(BPF_JEQ, personalities[i], (unsigned char)(values - i), 0);
    code[n++] = RETURN(SECCOMP_RET_ERRNO | EPERM);
    return buffer_append(out, code, n * sizeof *code);
}

static bool export_to(scmp_filter_ctx ctx, struct buffer *out) {
    cleanup_close int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0 || seccomp_export_bpf(ctx, fd) != 0 || lseek(fd, 0, SEEK_SET) != 0) return false;
    char part[4096];
    ssize_t n;
    while ((n = read(fd, part, sizeof part)) > 0)
        if (!buffer_append(out, part, (size_t)n)) return false;
    return n == 0;
}

bool syscall_filter_build(struct buffer *out, struct error *err) {
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    bool ok = ctx && seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0;
    for (size_t i = 0; ok && i < sizeof refused / sizeof *refused; i++)
        ok = refuse(ctx, EPERM, refused[i], 0, NULL);
    ok = ok && refuse_namespaces(ctx) && refuse_sockets(ctx) && refuse_terminal_injection(ctx) &&
         append_prefix(out) && export_to(ctx, out);
    if (ctx) seccomp_release(ctx);
    if (!ok) error_set(err, 500, ERR_INTERNAL, "the seccomp filter of sandboxes cannot be built");
    return ok;
}
