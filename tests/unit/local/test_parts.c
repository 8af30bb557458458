/* The pure parts of the engine: what is read from /proc and the cgroup files, names, limits, arguments; and
 * the two that meet hostile trees: removal and import. */
#include "local/bwrap_args.h"
#include "local/cgroup.h"
#include "local/files.h"
#include "local/host_ids.h"
#include "local/process.h"
#include "local/resource_limits.h"
#include "local/rootfs.h"
#include "local/sandbox_env.h"
#include "local/state_dir.h"
#include "local/storage_watch.h"
#include "local/syscall_filter.h"

#include <archive.h>
#include <archive_entry.h>
#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

START_TEST(reads_start_times) {
    uint64_t start = 0;
    bool zombie = true;
    ck_assert(process_stat_parse("12 (sh) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3", &start,
                                 &zombie));
    ck_assert_uint_eq(start, 4711);
    ck_assert(!zombie);
    ck_assert(
        process_stat_parse("12 (a) R 1 (b) Z 1 12 12 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 99 2", &start, &zombie));
    ck_assert_uint_eq(start, 99);
    ck_assert(zombie);
    static const char *const bad[] = {
        "", "12", "12 (sh", "12 (sh)", "12 (sh) S 1 2 3", "1 (x) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!process_stat_parse(bad[i], &start, NULL), "%s", bad[i]);
    struct process_id self;
    ck_assert(process_identify(getpid(), &self) && process_alive(self));
    self.start++;
    ck_assert(!process_alive(self));
}
END_TEST

START_TEST(finds_control_groups) {
    static const char self[] =
        "9:name=systemd:/\n8:cpu,cpuacct:/a/b\n4:memory:/process/x\n0::/user.slice/s.scope\n";
    static const char mounts[] =
        "24 1 0:22 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
        "25 1 0:23 /a /sys/fs/with\\040space rw - cgroup cgroup rw,cpuacct,cpu\n"
        "bad line\n"
        "26 1 0:24 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n";
    struct {
        const char *controller, *path, *mount, *root;
    } cases[] = {{"memory", "/process/x", "/sys/fs/cgroup/memory", "/"},
                 {"cpu", "/a/b", "/sys/fs/with space", "/a"},
                 {"", "/user.slice/s.scope", "/sys/fs/cgroup/unified", "/"},
                 {"pids", NULL, NULL, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cleanup_buffer struct buffer path = {0}, mount = {0}, root = {0};
        ck_assert_int_eq(cgroup_parse_self(self, cases[i].controller, &path), cases[i].path != NULL);
        ck_assert_int_eq(cgroup_parse_mount(mounts, cases[i].controller, &mount, &root),
                         cases[i].mount != NULL);
        if (!cases[i].path) continue;
        ck_assert_str_eq(buffer_cstr(&path), cases[i].path);
        ck_assert_str_eq(buffer_cstr(&mount), cases[i].mount);
        ck_assert_str_eq(buffer_cstr(&root), cases[i].root);
    }
}
END_TEST

START_TEST(derives_limits) {
    struct limits l;
    struct error err = {0};
    const int64_t machine = 8LL << 30;
    ck_assert(limits_from_resources(NULL, machine, &l, &err));
    ck_assert_int_eq(l.cpu_millis, 0);
    ck_assert_int_eq(l.memory_bytes, 4LL << 30);
    ck_assert_int_eq(l.pids, 512);
    json_t *r = json_pack("{s:{s:s, s:s}, s:{s:s}}", "limits", "cpu", "1500m", "memory", "1Gi", "requests",
                          "cpu", "4");
    ck_assert(limits_from_resources(r, machine, &l, &err));
    ck_assert_int_eq(l.cpu_millis, 1500);
    ck_assert_int_eq(l.memory_bytes, 1LL << 30);
    json_decref(r);
    r = json_pack("{s:{s:i, s:s}}", "requests", "cpu", 2, "memory", "1Ti");
    ck_assert(limits_from_resources(r, machine, &l, &err));
    ck_assert_int_eq(l.cpu_millis, 2000);
    ck_assert_int_eq(l.memory_bytes, machine);
    json_decref(r);
    r = json_pack("{s:{s:s}}", "limits", "memory", "lots");
    ck_assert(!limits_from_resources(r, machine, &l, &err));
    ck_assert_int_eq(err.status, 400);
    error_clear(&err);
    json_decref(r);
}
END_TEST

START_TEST(knows_good_names) {
    static const char *const good[] = {"a", "debian", "ghcr.io/x/y:1.2", "0-9_x"};
    static const char *const bad[] = {"", "A", "-a", "../x", "a b", "a@b", ".a", "/a", "a\n"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(image_name_valid(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!image_name_valid(bad[i]), "%s", bad[i]);
    char name[201];
    image_directory("a/../b:1", name);
    ck_assert_str_eq(name, "a+..+b=1");
    static const char *const mounts[] = {"/workspace", "/data/x", "/home/me", "/opt"};
    static const char *const refused[] = {
        "",      "/",       "data", "/usr/local",          "/etc", "/proc/1",  "/tmp",
        "/a//b", "/a/../b", "/a/.", "/.agenttier/runtime", "/a/",  "/dev/shm", "/home"};
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++)
        ck_assert_msg(mount_path_valid(mounts[i]), "%s", mounts[i]);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        ck_assert_msg(!mount_path_valid(refused[i]), "%s", refused[i]);
    ck_assert(state_dir_uid_valid("0f8b-x") && !state_dir_uid_valid("../x") && !state_dir_uid_valid("") &&
              !state_dir_uid_valid("-x") && !state_dir_uid_valid("a/b"));
}
END_TEST

/* The index of an argument after `from`, or -1. */
static int find_arg(struct slice args, const char *wanted, int from) {
    int at = 0;
    for (size_t i = 0; i < args.len; i += strlen(args.ptr + i) + 1, at++)
        if (at > from && strcmp(args.ptr + i, wanted) == 0) return at;
    return -1;
}

START_TEST(builds_every_wall) {
    struct root_entry items[] = {{(char *)"usr", NULL}, {(char *)"bin", (char *)"usr/bin"}};
    struct root_entries entries = {items, 2};
    char *shown[] = {(char *)"ssl/certs", NULL};
    struct env_entry env[] = {{(char *)"A", (char *)"--bind"}};
    struct bwrap_plan plan = {.hostname = "h",
                              .workspace = "/w",
                              .runtime = "/r",
                              .etc = "/e",
                              .entries = &entries,
                              .etc_shown = shown,
                              .working_dir = "/workspace",
                              .env = env,
                              .env_count = 1,
                              .info_fd = 8,
                              .seccomp_fd = 6,
                              .hosts_fd = 7};
    cleanup_buffer struct buffer out = {0};
    ck_assert(bwrap_args(&plan, &out));
    struct slice args = buffer_slice(&out);
    static const char *const walls[] = {"--unshare-user", "--unshare-pid", "--unshare-ipc",
                                        "--unshare-uts",  "--unshare-net", "--disable-userns",
                                        "--as-pid-1",     "--seccomp",     "--clearenv",
                                        "--proc",         "--dev"};
    for (size_t i = 0; i < sizeof walls / sizeof *walls; i++)
        ck_assert_msg(find_arg(args, walls[i], -1) >= 0, "%s", walls[i]);
    /* the environment is emptied before it is filled, and the root is closed after the last mount */
    ck_assert_int_lt(find_arg(args, "--clearenv", -1), find_arg(args, "--setenv", -1));
    int last = find_arg(args, "--remount-ro", find_arg(args, "--remount-ro", -1));
    ck_assert_int_lt(find_arg(args, "/.agenttier/runtime", -1), last);
    ck_assert_int_eq(find_arg(args, "--bind", -1) + 1, find_arg(args, "/w", -1));
    ck_assert_int_eq(find_arg(args, "--share-net", -1), -1);
    env[0].name = (char *)"A=B";
    ck_assert(!bwrap_args(&plan, &out));
}
END_TEST

START_TEST(builds_the_filter_and_the_environment) {
    cleanup_buffer struct buffer filter = {0};
    struct error err = {0};
    ck_assert(syscall_filter_build(&filter, &err));
    ck_assert(filter.len % 8 == 0 && filter.len > 100 * 8 && filter.len < 4096 * 8);
    struct sandbox_env env;
    json_t *list = json_pack("[{s:s, s:s}, {s:s}, {s:s, s:s}, {s:s, s:{s:{s:s}}}]", "name", "HOME", "value",
                             "/x", "name", "EMPTY", "name", "AGENTTIER_RUNTIME_TOKEN", "value", "t", "name",
                             "ME", "valueFrom", "fieldRef", "fieldPath", "metadata.name");
    ck_assert(sandbox_env_make(list, "box", "ns", "uid", "/bin/sh", &env, &err));
    const char *home = NULL, *me = NULL, *token = NULL;
    for (size_t i = 0; i < env.count; i++) {
        if (strcmp(env.items[i].name, "HOME") == 0) home = env.items[i].value;
        if (strcmp(env.items[i].name, "ME") == 0) me = env.items[i].value;
        if (strcmp(env.items[i].name, "AGENTTIER_RUNTIME_TOKEN") == 0) token = "there";
    }
    ck_assert_str_eq(home, "/x");
    ck_assert_str_eq(me, "box");
    ck_assert_ptr_null(token);
    sandbox_env_free(&env);
    json_decref(list);
}
END_TEST

/* ---- trees --------------------------------------------------------------------------------------- */

static char scratch[64];
static void make_scratch(void) {
    snprintf(scratch, sizeof scratch, "/tmp/agenttier-parts-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
}
static void remove_scratch(void) {
    ck_assert(tree_remove("/tmp", scratch + strlen("/tmp/"), NULL));
}

START_TEST(removes_hostile_trees) {
    cleanup_free char *make =
        xasprintf("cd %s && mkdir keep && echo k > keep/f && chmod 755 keep && mkdir -p t/a/b && ln -s "
                  "../../keep t/a/link && ln -s "
                  "/ t/root && mkfifo t/fifo && ln -s . t/self && chmod 0 t/a/b && chmod 500 t/a",
                  scratch);
    ck_assert_int_eq(system(make), 0);
    /* far deeper than a path can be */
    cleanup_free char *top = xasprintf("%s/t", scratch);
    int at = open(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 3000; i++) {
        ck_assert_int_eq(mkdirat(at, "deeper-and-deeper", 0700), 0);
        int next = openat(at, "deeper-and-deeper", O_RDONLY | O_DIRECTORY);
        close(at);
        at = next;
    }
    close(at);
    ck_assert(tree_remove(scratch, "t", NULL));
    ck_assert(tree_remove(scratch, "t", NULL)); /* gone is fine */
    cleanup_free char *kept = xasprintf("%s/keep/f", scratch);
    ck_assert_int_eq(access(kept, R_OK), 0);
}
END_TEST

static void add_to(struct archive *tar, const char *path, unsigned type, const char *link, bool hard) {
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, type);
    archive_entry_set_perm(e, 04700);
    if (link && hard)
        archive_entry_set_hardlink(e, link);
    else if (link)
        archive_entry_set_symlink(e, link);
    bool content = type == AE_IFREG && !link;
    archive_entry_set_size(e, content ? 4 : 0);
    ck_assert_int_eq(archive_write_header(tar, e), ARCHIVE_OK);
    if (content) ck_assert_int_eq(archive_write_data(tar, "pwn\n", 4), 4);
    archive_entry_free(e);
}

struct member {
    const char *path;
    unsigned type;
    const char *link;
    bool hard;
};

static bool import_members(const struct member *members, size_t count, struct error *err) {
    cleanup_free char *path = xasprintf("%s/x.tar", scratch);
    struct archive *tar = archive_write_new();
    archive_write_set_format_pax(tar);
    ck_assert_int_eq(archive_write_open_filename(tar, path), ARCHIVE_OK);
    for (size_t i = 0; i < count; i++)
        add_to(tar, members[i].path, members[i].type, members[i].link, members[i].hard);
    archive_write_close(tar);
    archive_write_free(tar);
    return rootfs_import(scratch, "img", path, err);
}

START_TEST(imports_nothing_outside) {
    static const struct member hostile[][2] = {
        {{"../evil", AE_IFREG, NULL, false}, {0}},
        {{"a/../../evil", AE_IFREG, NULL, false}, {0}},
        {{"/tmp/evil", AE_IFREG, NULL, false}, {0}},
        {{"out", AE_IFLNK, "..", false}, {"out/evil", AE_IFREG, NULL, false}},
        {{"out", AE_IFLNK, "/tmp", false}, {"out/evil", AE_IFREG, NULL, false}},
        {{"h", AE_IFREG, "../../outside", true}, {0}},
        {{"h", AE_IFREG, "/etc/hostname", true}, {0}},
    };
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct error err = {0};
        bool ok = import_members(hostile[i], hostile[i][1].path ? 2 : 1, &err);
        ck_assert_msg(!ok, "case %zu", i);
        error_clear(&err);
    }
    cleanup_free char *evil = xasprintf("%s/images/evil", scratch), *outside = xasprintf("%s/evil", scratch);
    ck_assert(access(evil, F_OK) != 0 && access(outside, F_OK) != 0 && access("/tmp/evil", F_OK) != 0);
    cleanup_free char *images = xasprintf("ls -A %s/images | wc -l | grep -qx 0", scratch);
    ck_assert_int_eq(system(images), 0); /* a failed import leaves nothing */
}
END_TEST

START_TEST(imports_what_is_sound) {
    static const struct member sound[] = {
        {"./", AE_IFDIR, NULL, false},
        {"./bin/tool", AE_IFREG, NULL, false},
        {"bin/same", AE_IFREG, "bin/tool", true},
        {"etc/hosts", AE_IFLNK, "/run/hosts", false},
        {"dev/null", AE_IFCHR, NULL, false},
        {"pipe", AE_IFIFO, NULL, false},
        {"link", AE_IFLNK, "../../etc", false},
        {"link", AE_IFREG, NULL, false},
    };
    struct error err = {0};
    ck_assert_msg(import_members(sound, sizeof sound / sizeof *sound, &err), "%s", err.message);
    ck_assert(import_members(sound, 2, &err)); /* replaces it */
    cleanup_free char *found = rootfs_find(scratch, "img", &err);
    ck_assert_ptr_nonnull(found);
    cleanup_free char *tool = xasprintf("%s/bin/tool", found), *pipe = xasprintf("%s/pipe", found);
    cleanup_free char *hosts = xasprintf("%s/etc/hosts", found),
                      *passwd = xasprintf("grep -q ^sandbox: %s/etc/passwd", found);
    struct stat st;
    ck_assert_int_eq(stat(tool, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0755); /* readable, not set-user-id */
    ck_assert_int_ne(access(pipe, F_OK), 0);
    ck_assert(lstat(hosts, &st) == 0 && S_ISREG(st.st_mode));
    ck_assert_int_eq(system(passwd), 0);
    ck_assert_ptr_null(rootfs_find(scratch, "other", &err));
    ck_assert_int_eq(err.status, 404);
    error_clear(&err);
}
END_TEST

START_TEST(measures_hostile_trees) {
    static const char make[] =
        "cd %s && mkdir w && cd w && head -c 3000000 /dev/urandom > a && ln a b && ln a c && "
        "ln -s /usr d && ln -s . e && mkfifo f && truncate -s 1G g && mkdir h && "
        "head -c 1000000 /dev/urandom > h/i && python3 -c 'import os\n"
        "for n in range(200):\n os.mkdir(\"k\"); os.chdir(\"k\")'";
    cleanup_free char *command = xasprintf(make, scratch), *path = xasprintf("%s/w", scratch);
    cleanup_free char *missing = xasprintf("%s/none", scratch), *link = xasprintf("%s/w/d", scratch);
    _Atomic bool cancel = false;
    ck_assert_int_eq(system(command), 0);
    int64_t bytes = storage_measure(path, &cancel);
    ck_assert_int_ge(bytes, 4000000);
    ck_assert_int_le(bytes, 5500000); /* with directories; nothing counts twice, nothing of /usr, no holes */
    ck_assert_int_eq(storage_measure(missing, &cancel), -1);
    ck_assert_int_eq(storage_measure(link, &cancel), -1);
    cancel = true;
    ck_assert_int_eq(storage_measure(path, &cancel), -1);
}
END_TEST

START_TEST(gives_each_its_user) {
    struct state_dir state = {.path = scratch};
    struct host_ids *ids = host_ids_new(&state);
    uid_t a = host_ids_take(ids), b = host_ids_take(ids);
    ck_assert(a != b && a >= HOST_ID_FIRST && b < HOST_ID_FIRST + HOST_ID_COUNT);
    for (int i = 2; i < HOST_ID_COUNT; i++)
        ck_assert_uint_ne(host_ids_take(ids), 0);
    ck_assert_uint_eq(host_ids_take(ids), 0);
    host_ids_release(ids, b);
    ck_assert_uint_eq(host_ids_take(ids), b);
    host_ids_free(ids);
}
END_TEST

/* Whether a child of cgroup_fork() is in the group, having entered by itself when it was not born there. */
static bool child_is_in(const struct cgroup_set *set, bool *entered) {
    pid_t pid = cgroup_fork(set, entered);
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        char text[4096];
        if (!*entered && write(set->entry_fds[0], "0", 1) != 1) _exit(2);
        int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
        text[n > 0 ? n : 0] = '\0';
        _exit(strstr(text, strrchr(set->paths[0], '/')) ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

START_TEST(forks_into_a_group_of_version_2) {
    cleanup_buffer struct buffer mounts = {0}, at = {0}, root = {0};
    ck_assert(file_read("/proc/self/mountinfo", 1 << 20, &mounts, NULL));
    if (!cgroup_parse_mount(buffer_cstr(&mounts), "", &at, &root)) {
        puts("not tried: no control groups of version 2 are mounted here");
        return;
    }
    struct cgroups groups = {.bases = {{.path = (char *)buffer_cstr(&at), .v2 = true}}, .count = 1};
    struct limits limits = {.memory_bytes = 1 << 30, .pids = 100};
    struct cgroup_set set;
    char name[40];
    snprintf(name, sizeof name, "test-%d", (int)getpid());
    cleanup_error struct error err = {0};
    if (!cgroup_create(&groups, name, &limits, &set, &err)) {
        printf("not tried: %s\n", err.message);
        return;
    }
    ck_assert_int_ge(set.v2_fd, 0);
    bool entered = false;
    ck_assert(child_is_in(&set, &entered));
    printf("born in its group: %s\n", entered ? "yes" : "no, this kernel cannot");
    /* without the kernel's help */
    close(set.v2_fd);
    set.v2_fd = -1;
    ck_assert(child_is_in(&set, &entered));
    ck_assert(!entered);
    ck_assert(cgroup_remove(set.paths[0]));
    cgroup_set_close(&set);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("local-parts");
    TCase *pure = tcase_create("pure");
    tcase_add_test(pure, reads_start_times);
    tcase_add_test(pure, finds_control_groups);
    tcase_add_test(pure, derives_limits);
    tcase_add_test(pure, knows_good_names);
    tcase_add_test(pure, builds_every_wall);
    tcase_add_test(pure, builds_the_filter_and_the_environment);
    suite_add_tcase(suite, pure);
    TCase *groups = tcase_create("groups");
    tcase_add_test(groups, forks_into_a_group_of_version_2);
    suite_add_tcase(suite, groups);
    TCase *trees = tcase_create("trees");
    tcase_add_checked_fixture(trees, make_scratch, remove_scratch);
    tcase_add_test(trees, removes_hostile_trees);
    tcase_add_test(trees, imports_nothing_outside);
    tcase_add_test(trees, imports_what_is_sound);
    tcase_add_test(trees, measures_hostile_trees);
    tcase_add_test(trees, gives_each_its_user);
    tcase_set_timeout(trees, 30);
    suite_add_tcase(suite, trees);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
