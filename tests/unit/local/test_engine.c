/* The engine with real sandboxes: phases, isolation, adoption, cleanup. Each test runs as root (when
 * started so) and as an ordinary user. */
#include "tests/unit/local/engine_fixture.h"

#include "local/rootfs.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void expect_dead(struct process_id id) {
    ck_assert(!process_alive(id));
}

/* No process has the sandbox's lock, no control group is left. */
static void expect_no_trace(const struct record *r) {
    expect_dead(r->init);
    expect_dead(r->monitor);
    for (size_t i = 0; i < r->cgroup_count; i++)
        ck_assert_int_ne(access(r->cgroups[i], F_OK), 0);
}

START_TEST(lives_through_its_phases) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "life", NULL);
    await_phase(&f, "life", "Running");
    cleanup_free char *pod = status_of(&f, "life", "podName"), *claim = status_of(&f, "life", "pvcName");
    ck_assert_str_eq(pod, "life-pod");
    ck_assert_str_eq(claim, "life-workspace");
    expect_inside(&f, "life", "echo kept > /workspace/a; echo lost > /tmp/b; pwd", "/workspace\n");
    struct record before = record_of(&f, "life");
    ck_assert(process_alive(before.init));

    annotate(&f, "life", "stop");
    await_phase(&f, "life", "Stopped");
    expect_no_trace(&before);
    cleanup_free char *why = status_of(&f, "life", "message"), *no_pod = status_of(&f, "life", "podName");
    ck_assert_str_eq(why, "User requested stop");
    ck_assert_str_eq(no_pod, "");
    struct object *o = get(&f, "life");
    ck_assert_ptr_null(json_at(o->json, "metadata.annotations.agenttier"));
    ck_assert_uint_eq(json_object_size(json_at(o->json, "metadata.annotations")), 0);
    object_unref(o);

    resume(&f, "life");
    await_phase(&f, "life", "Running");
    expect_inside(&f, "life", "cat /workspace/a; ls /tmp", "kept\n");
    struct record after = record_of(&f, "life");
    ck_assert_uint_eq(before.host_uid, after.host_uid);

    cleanup_free char *dir = directory_of(&f, "life");
    delete (&f, "life");
    await_phase(&f, "life", "(gone)");
    expect_no_trace(&after);
    ck_assert_int_ne(access(dir, F_OK), 0);
    record_clear(&before);
    record_clear(&after);
    fixture_close(&f);
}
END_TEST

START_TEST(shows_nothing_of_the_machine) {
    struct fixture f;
    setenv("ROUTER_SECRET", "must not be seen", 1);
    fixture_open(&f, _i);
    create(&f, "cell", json_pack("{s:[{s:s, s:s}]}", "env", "name", "GREETING", "value", "hello world"));
    await_phase(&f, "cell", "Running");
    expect_inside(&f, "cell", "id -u; id -g; id -un; hostname", "1000\n1000\nsandbox\ncell\n");
    expect_inside(&f, "cell", "echo $GREETING $AGENTTIER_SANDBOX $HOME; env | grep -c ROUTER_SECRET",
                  "hello world cell /home/sandbox\n0\n");
    expect_inside(&f, "cell",
                  "for p in /root /sys /opt /srv /mnt /etc/shadow /etc/ssh /var/lib /var/log /work /boot; do "
                  "[ -e $p ] && echo $p; done; ls /home /var; true",
                  "/home:\nsandbox\n\n/var:\ntmp\n");
    expect_inside(
        &f, "cell",
        "ls /tmp /run /workspace | grep -v :; ls /proc | grep -c '^[0-9]' | awk '{print ($1 < 12)}'",
        "\n\n1\n");
    expect_inside(&f, "cell",
                  "for p in / /etc /usr /dev /.agenttier; do touch $p/x 2>/dev/null && echo $p; done; true",
                  "");
    /* uid map, capabilities, no new privileges, seccomp */
    expect_inside(&f, "cell",
                  "awk '{print $1, $3}' /proc/self/uid_map; grep -E '^(CapEff|CapBnd|CapPrm|CapInh)' "
                  "/proc/self/status | sort -u -k2 | wc -l; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' "
                  "/proc/self/status | tr -d '\\t '",
                  "1000 1\n1\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n");
    /* namespaces, mounts, process 1 */
    expect_inside(
        &f, "cell",
        "unshare -U true 2>/dev/null && echo unshared; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; "
        "cat /proc/1/environ 2>/dev/null && echo environ; ls /proc/1/fd 2>/dev/null && echo fds; "
        "head -c1 /.agenttier/runtime 2>/dev/null && echo read; true",
        "");
    /* the network: loopback and nothing else; no socket of the Router */
    expect_inside(&f, "cell",
                  "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; grep -c sock /proc/net/unix",
                  "lo\n0\n");
    fixture_close(&f);
}
END_TEST

static const char python_probe[] =
    "import ctypes, errno, os, socket\n"
    "c = ctypes.CDLL(None, use_errno=True)\n"
    "def call(name, nr, *args):\n"
    "    ctypes.set_errno(0)\n"
    "    r = c.syscall(nr, *args)\n"
    "    if r != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS): print(name, r, "
    "ctypes.get_errno())\n"
    "for name, nr in dict(mount=165, umount2=166, pivot_root=155, setns=308, unshare=272, keyctl=250, "
    "bpf=321,\n"
    "                     perf=298, userfaultfd=323, io_uring=425, kexec=246, init_module=175, reboot=169,\n"
    "                     swapon=167, acct=163, settimeofday=164, open_by_handle=304, fsopen=430, "
    "open_tree=428,\n"
    "                     move_mount=429, open_tree_attr=467, clone3=435, chroot=161).items():\n"
    "    call(name, nr, 0x10000000, 0, 0, 0, 0)\n"
    "call('clone', 56, 0x10000000 | 17, 0, 0, 0, 0)\n"
    "call('ptrace', 101, 16, 1, 0, 0)\n"
    "call('tiocsti', 16, 0, 0x5412, 0)\n"
    "call('tiocsti high', 16, 0, ctypes.c_ulong(0x100005412), 0)\n"
    "for family, kind, proto in ((socket.AF_PACKET, socket.SOCK_RAW, 0), (40, socket.SOCK_STREAM, 0),\n"
    "                            (socket.AF_NETLINK, socket.SOCK_RAW, 12), (38, socket.SOCK_SEQPACKET, 0)):\n"
    "    try:\n"
    "        socket.socket(family, kind, proto); print('socket', family)\n"
    "    except OSError: pass\n"
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
    "socket.socketpair()\n"
    "s = socket.socket(); s.bind(('127.0.0.1', 8000)); s.listen()\n"
    "t = socket.create_connection(('127.0.0.1', 8000))\n"
    "assert os.fork() or os._exit(0) is None\n"
    "os.openpty()\n"
    "print('done')\n";

START_TEST(refuses_system_calls) {
#ifndef __x86_64__
    return; /* the numbers are of that architecture */
#endif
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "calls", NULL);
    await_phase(&f, "calls", "Running");
    cleanup_buffer struct buffer text = {0};
    buffer_printf(&text,
                  "command -v python3 >/dev/null || { echo done; exit; }\ncat > /tmp/p.py <<'EOF'\n%sEOF\n"
                  "python3 /tmp/p.py",
                  python_probe);
    expect_inside(&f, "calls", buffer_cstr(&text), "done\n");
    fixture_close(&f);
}
END_TEST

START_TEST(keeps_sandboxes_apart) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "one", NULL);
    create(&f, "two", NULL);
    await_phase(&f, "one", "Running");
    await_phase(&f, "two", "Running");
    expect_inside(&f, "one", "echo private > /workspace/secret; sleep 60 >/dev/null 2>&1 & echo", "\n");
    expect_inside(&f, "two", "ls -A /workspace; grep -l sleep /proc/[0-9]*/comm 2>/dev/null; true", "");
    struct record one = record_of(&f, "one"), two = record_of(&f, "two");
    if (geteuid() == 0) {
        ck_assert_uint_ne(one.host_uid, two.host_uid);
        cleanup_free char *dir = directory_of(&f, "one");
        cleanup_free char *workspace = xasprintf("%s/workspace", dir);
        struct stat st;
        ck_assert_int_eq(stat(workspace, &st), 0);
        ck_assert_uint_eq(st.st_uid, one.host_uid);
        ck_assert_uint_eq(st.st_mode & 0777, 0700);
        /* another sandbox's user, even outside of its walls, gets nowhere */
        pid_t pid = fork();
        if (pid == 0) {
            if (setgroups(0, NULL) || setresgid(two.host_uid, two.host_uid, two.host_uid) ||
                setresuid(two.host_uid, two.host_uid, two.host_uid))
                _exit(2);
            _exit(access(workspace, R_OK) == 0 || access(f.dir, R_OK | X_OK) == 0 ||
                  kill(one.init.pid, 0) == 0);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
    }
    record_clear(&one);
    record_clear(&two);
    fixture_close(&f);
}
END_TEST

START_TEST(never_shows_files_of_an_earlier_name) {
    struct fixture f;
    fixture_open(&f, _i);
    for (int round = 0; round < 3; round++) {
        create(&f, "again", NULL);
        await_phase(&f, "again", "Running");
        expect_inside(&f, "again", "ls -A /workspace; mkdir -p /workspace/d/e; chmod 0 /workspace/d; echo",
                      "\n");
        delete (&f, "again");
        await_phase(&f, "again", "(gone)");
    }
    /* and in every other moment of its life */
    create(&f, "again", NULL);
    delete (&f, "again");
    await_phase(&f, "again", "(gone)");
    create(&f, "again", NULL);
    await_start(&f, "again");
    delete (&f, "again");
    await_phase(&f, "again", "(gone)");
    fixture_close(&f);
}
END_TEST

START_TEST(stops_and_resumes_in_a_hurry) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "hurry", NULL);
    annotate(&f, "hurry", "stop"); /* while Creating, or before */
    await_phase(&f, "hurry", "Stopped");
    for (int round = 0; round < 3; round++) {
        resume(&f, "hurry");
        await_phase(&f, "hurry", "Running");
        expect_inside(&f, "hurry",
                      round ? "sleep 100 >/dev/null 2>&1 & echo $((1+1))"
                            : "(trap '' TERM; sleep 100) >/dev/null 2>&1 & echo $((1+1))",
                      "2\n");
        annotate(&f, "hurry", "stop");
        await_phase(&f, "hurry", "Stopped");
    }
    fixture_close(&f);
}
END_TEST

START_TEST(stops_after_its_time) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "short", json_pack("{s:s}", "timeout", "1s"));
    create(&f, "idle", json_pack("{s:s}", "idleTimeout", "1s"));
    await_phase(&f, "short", "Stopped");
    await_phase(&f, "idle", "Stopped");
    cleanup_free char *a = status_of(&f, "short", "message"), *b = status_of(&f, "idle", "message");
    ck_assert_str_eq(a, "Max runtime exceeded");
    ck_assert_str_eq(b, "Idle timeout exceeded");
    fixture_close(&f);
}
END_TEST

START_TEST(counts_the_death_of_process_1) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "dies", NULL);
    await_phase(&f, "dies", "Running");
    struct record r = record_of(&f, "dies");
    ck_assert(process_signal(r.monitor, SIGSTOP)); /* bubblewrap outside has to be ended, too */
    ck_assert(process_signal(r.init, SIGKILL));
    await_phase(&f, "dies", "Error");
    cleanup_free char *message = status_of(&f, "dies", "message");
    ck_assert_ptr_nonnull(strstr(message, "waiting 20s before restart attempt 1/5"));
    expect_no_trace(&r);
    resume(&f, "dies");
    await_phase(&f, "dies", "Running");
    record_clear(&r);
    fixture_close(&f);
}
END_TEST

static void expect_error(struct fixture *f, const char *name, const char *part) {
    await_phase(f, name, "Error");
    cleanup_free char *message = status_of(f, name, "message");
    ck_assert_msg(strstr(message, part) != NULL, "%s: %s", name, message);
}

static json_t *template(const char *name, json_t *spec) {
    return json_pack("{s:s, s:s, s:{s:s}, s:o}", "apiVersion", "agenttier.io/v1alpha1", "kind",
                     "ClusterSandboxTemplate", "metadata", "name", name, "spec", spec);
}
static json_t *spec_of(const char *name) {
    return json_pack("{s:{s:s, s:s}}", "templateRef", "name", name, "kind", "ClusterSandboxTemplate");
}

START_TEST(says_what_is_missing) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "no-template", spec_of("later"));
    create(&f, "no-image", json_pack("{s:{s:s}}", "image", "repository", "example.org/none:1"));
    create(&f, "no-secret",
           json_pack("{s:[{s:s, s:{s:{s:s, s:s}}}]}", "env", "name", "K", "valueFrom", "secretKeyRef", "name",
                     "s", "key", "k"));
    expect_error(&f, "no-template", "Template resolution failed");
    expect_error(&f, "no-image", "rootfs \"example.org/none:1\" is not imported");
    expect_error(&f, "no-secret", "valueFrom");
    put(&f, KIND_CLUSTER_SANDBOX_TEMPLATE, template("later", json_object()));
    resume(&f, "no-template");
    await_phase(&f, "no-template", "Running");
    fixture_close(&f);
}
END_TEST

START_TEST(applies_files_and_scripts_once) {
    struct fixture f;
    fixture_open(&f, _i);
    put(&f, KIND_CLUSTER_SANDBOX_TEMPLATE,
        template("setup",
                 json_pack("{s:[s, s], s:[{s:s, s:s, s:i}, {s:s, s:s}]}", "initScripts", "cat hello >> log",
                           "id -u >> /workspace/log", "files", "path", "/workspace/hello", "content", "hi\n",
                           "mode", 0750, "path", "/tmp/each", "content", "time\n")));
    put(&f, KIND_CLUSTER_SANDBOX_TEMPLATE,
        template("broken", json_pack("{s:[s]}", "initScripts", "echo why >&2; exit 3")));
    create(&f, "setup", spec_of("setup"));
    create(&f, "broken", spec_of("broken"));
    await_phase(&f, "setup", "Running");
    expect_inside(&f, "setup", "cat log; cat /tmp/each; stat -c %a hello; echo mine > hello",
                  "hi\n1000\ntime\n750\n");
    annotate(&f, "setup", "stop");
    await_phase(&f, "setup", "Stopped");
    resume(&f, "setup");
    await_phase(&f, "setup", "Running");
    expect_inside(&f, "setup", "cat log hello /tmp/each", "hi\n1000\nmine\ntime\n");
    expect_error(&f, "broken", "initScripts: it ended with 3: why");
    fixture_close(&f);
}
END_TEST

START_TEST(holds_to_its_limits) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "small",
           json_pack("{s:{s:{s:s, s:s}}}", "resources", "limits", "cpu", "500m", "memory", "64Mi"));
    await_phase(&f, "small", "Running");
    /* twice as much as it may have; the shell that asks survives */
    cleanup_free char *got =
        inside(&f, "small", "head -c 134217728 /dev/zero | tail -c 134217728 | wc -c; echo alive");
    ck_assert_ptr_null(strstr(got, "134217728"));
    ck_assert_ptr_nonnull(strstr(got, "alive"));
    cleanup_free char *full =
        inside(&f, "small", "ulimit -c; dd if=/dev/zero of=/run/x bs=1M count=32 2>&1 | grep -c space");
    ck_assert_str_eq(full, "0\n1\n");
    fixture_close(&f);
}
END_TEST

/* Continues as root in a container of few rights: control groups cannot be written, and the limits of
 * processes of other users cannot be changed. */
static void become_root_of_a_container(void) {
    ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
    ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    ck_assert_int_eq(mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MS_RDONLY, NULL), 0);
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    ck_assert_int_eq(prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0), 0);
    ck_assert_int_eq(syscall(SYS_capget, &head, data), 0);
    data[0].effective &= ~(1U << CAP_SYS_RESOURCE);
    data[0].permitted &= ~(1U << CAP_SYS_RESOURCE);
    ck_assert_int_eq(syscall(SYS_capset, &head, data), 0);
}

START_TEST(limits_processes_where_control_groups_cannot) {
    struct fixture f;
    if (geteuid() == 0) become_root_of_a_container();
    /* The Router's own hard limit, which it may not raise. */
    const struct rlimit few = {300, 300};
    ck_assert_int_eq(setrlimit(RLIMIT_NPROC, &few), 0);
    fixture_open(&f, _i);
    create(&f, "held", json_pack("{s:{s:{s:s}}}", "resources", "limits", "memory", "128Mi"));
    await_phase(&f, "held", "Running");
    struct record r = record_of(&f, "held");
    ck_assert_uint_eq(r.cgroup_count, 0);
    ck_assert_int_eq(r.own_user, geteuid() == 0);
    expect_inside(&f, "held",
                  "for who in 1 self; do awk '/^Max (processes|data size)/ {print $(NF-2), $(NF-1)}' "
                  "/proc/$who/limits; done",
                  "134217728 134217728\n300 300\n134217728 134217728\n300 300\n");
    cleanup_free char *got =
        inside(&f, "held", "head -c 268435456 /dev/zero | tail -c 268435456 | wc -c; echo alive");
    ck_assert_ptr_null(strstr(got, "268435456"));
    ck_assert_ptr_nonnull(strstr(got, "alive"));
    record_clear(&r);
    fixture_close(&f);
}
END_TEST

START_TEST(runs_from_an_imported_image) {
    struct fixture f;
    fixture_open(&f, _i);
    /* A tiny system: the host's shell with its libraries. */
    cleanup_free char *make = xasprintf("set -e; cd %s; mkdir -p rootfs/bin rootfs/etc rootfs/data; cp -L "
                                        "/bin/sh /bin/cat /bin/id rootfs/bin/; "
                                        "for l in $(ldd /bin/sh /bin/id /bin/cat | grep -o '/[^ ]*\\.so[^ "
                                        "]*' | sort -u); do mkdir -p rootfs$(dirname $l); "
                                        "cp -Ln $l rootfs$l; done; echo marker > rootfs/data/m; chmod 600 "
                                        "rootfs/data/m; ln -s data rootfs/link; "
                                        "tar czf r.tgz -C rootfs .",
                                        f.dir);
    ck_assert_int_eq(system(make), 0);
    cleanup_free char *tar = xasprintf("%s/r.tgz", f.dir), *tree = xasprintf("%s/rootfs", f.dir);
    struct error err = {0};
    ck_assert_msg(rootfs_import(f.dir, "tiny/sys:1", tar, &err), "%s", err.message);
    ck_assert_msg(rootfs_import(f.dir, "tiny/dir", tree, &err), "%s", err.message);
    create(&f, "t1", json_pack("{s:{s:s}}", "image", "repository", "tiny/sys:1"));
    create(&f, "t2", json_pack("{s:{s:s}}", "image", "repository", "tiny/dir"));
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "t2" : "t1";
        await_phase(&f, name, "Running");
        expect_inside(
            &f, name, "cat /data/m /link/m; id -un; echo x > /data/y; [ -e /usr/bin/python3 ] || echo none",
            "marker\nmarker\nsandbox\nnone\n/bin/sh: 1: cannot create /data/y: Read-only file system\n");
    }
    fixture_close(&f);
}
END_TEST

/* ---- across Routers ---------------------------------------------------------------------------- */

START_TEST(is_adopted_by_the_next_router) {
    struct fixture f;
    fixture_open(&f, _i);
    f.backend->close(f.backend);
    pid_t router = fork();
    if (router == 0) {
        open_backend(&f);
        create(&f, "lives", NULL);
        await_phase(&f, "lives", "Running");
        expect_inside(&f, "lives", "(while :; do echo x >> /workspace/n; sleep 0.02; done) >/dev/null 2>&1 &",
                      "");
        kill(getpid(), SIGKILL);
    }
    int status;
    ck_assert_int_eq(waitpid(router, &status, 0), router);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    open_backend(&f);
    struct record r = record_of(&f, "lives");
    ck_assert(process_alive(r.init));
    cleanup_free char *phase = status_of(&f, "lives", "phase");
    ck_assert_str_eq(phase, "Running");
    /* at once: nobody who asks meanwhile is turned away */
    struct object *o = get(&f, "lives");
    expect_inside(&f, "lives",
                  "until [ -s n ]; do sleep 0.02; done; a=$(wc -l < n); "
                  "until [ $(wc -l < n) -gt $a ]; do sleep 0.02; done; echo grows",
                  "grows\n");
    object_unref(o);
    struct record same = record_of(&f, "lives");
    ck_assert_int_eq(r.init.pid, same.init.pid);
    delete (&f, "lives");
    await_phase(&f, "lives", "(gone)");
    expect_no_trace(&r);
    record_clear(&r);
    record_clear(&same);
    fixture_close(&f);
}
END_TEST

static size_t processes_with_lock(const char *dir) {
    cleanup_free char *lock = xasprintf("%s/lock", dir);
    struct stat st;
    return stat(lock, &st) == 0 ? process_kill_holders(&st) : 0;
}

/* A Router that dies in any moment of a start leaves nothing that its successor does not find. */
START_TEST(leaves_no_strays) {
    struct fixture f;
    fixture_open(&f, _i);
    create(&f, "stray", NULL);
    await_phase(&f, "stray", "Running");
    annotate(&f, "stray", "stop");
    await_phase(&f, "stray", "Stopped");
    f.backend->close(f.backend);
    for (int round = 0; round < 12; round++) {
        pid_t router = fork();
        if (router == 0) {
            open_backend(&f);
            cleanup_free char *phase = status_of(&f, "stray", "phase");
            if (strcmp(phase, "Running") == 0) {
                annotate(&f, "stray", "stop");
                await_phase(&f, "stray", "Stopped");
            }
            resume(&f, "stray");
            usleep((useconds_t)round * 1500);
            kill(getpid(), SIGKILL);
        }
        int status;
        ck_assert_int_eq(waitpid(router, &status, 0), router);
        ck_assert(WIFSIGNALED(status));
    }
    open_backend(&f);
    await_phase(&f, "stray", "Running");
    struct record r = record_of(&f, "stray");
    cleanup_free char *dir = directory_of(&f, "stray");
    annotate(&f, "stray", "stop");
    await_phase(&f, "stray", "Stopped");
    expect_no_trace(&r);
    ck_assert_uint_eq(processes_with_lock(dir), 0);
    record_clear(&r);
    fixture_close(&f);
}
END_TEST

START_TEST(is_one_router_per_directory) {
    struct fixture f;
    fixture_open(&f, _i);
    struct error err = {0};
    const struct local_options options = {.state_dir = f.dir, .runtime_path = runtime_program()};
    ck_assert_ptr_null(local_backend_open(&options, &err));
    char pid[32];
    snprintf(pid, sizeof pid, "process id %d", (int)getpid());
    ck_assert_ptr_nonnull(strstr(err.message, pid));
    fixture_close(&f);
}
END_TEST

int main(void) {
    const char *reason = why_not();
    if (reason) {
        fprintf(stderr, "skipped: %s\n", reason);
        return 77;
    }
    Suite *suite = suite_create("engine");
    TCase *tests = tcase_create("engine");
    tcase_set_timeout(tests, 60);
    int users = geteuid() == 0 ? 2 : 1; /* as root, then as an ordinary user */
    tcase_add_loop_test(tests, lives_through_its_phases, 0, users);
    tcase_add_loop_test(tests, shows_nothing_of_the_machine, 0, users);
    tcase_add_loop_test(tests, refuses_system_calls, 0, users);
    tcase_add_loop_test(tests, keeps_sandboxes_apart, 0, users);
    tcase_add_loop_test(tests, never_shows_files_of_an_earlier_name, 0, users);
    tcase_add_loop_test(tests, stops_and_resumes_in_a_hurry, 0, users);
    tcase_add_loop_test(tests, stops_after_its_time, 0, users);
    tcase_add_loop_test(tests, counts_the_death_of_process_1, 0, users);
    tcase_add_loop_test(tests, says_what_is_missing, 0, users);
    tcase_add_loop_test(tests, applies_files_and_scripts_once, 0, users);
    if (!SANITIZED) tcase_add_loop_test(tests, holds_to_its_limits, 0, users);
    if (!SANITIZED) tcase_add_loop_test(tests, limits_processes_where_control_groups_cannot, 0, users);
    if (!SANITIZED) tcase_add_loop_test(tests, runs_from_an_imported_image, 0, users);
    tcase_add_loop_test(tests, is_adopted_by_the_next_router, 0, users);
    tcase_add_loop_test(tests, leaves_no_strays, 0, users);
    tcase_add_loop_test(tests, is_one_router_per_directory, 0, users);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
