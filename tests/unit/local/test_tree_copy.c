/* Copies of trees that others have written: what is kept, what is left out, what is never followed. */
#include "local/files.h"
#include "local/tree_copy.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static char top[64];
static int from, to, links;

static int directory(const char *name) {
    int at = open(top, O_RDONLY | O_DIRECTORY);
    ck_assert_int_eq(mkdirat(at, name, 0700), 0);
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
    close(at);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static void set_up(void) {
    snprintf(top, sizeof top, "/tmp/tree-copy-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(top));
    from = directory("from");
    to = directory("to");
    links = directory("links");
}

static void tear_down(void) {
    close(from);
    close(to);
    close(links);
    ck_assert(tree_remove("/tmp", top + 5, NULL));
}

static void put(int dir, const char *name, const char *text, mode_t mode) {
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (int)strlen(text));
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
}

static struct stat facts(const char *name) {
    struct stat st;
    ck_assert_msg(fstatat(to, name, &st, AT_SYMLINK_NOFOLLOW) == 0, "%s: %s", name, strerror(errno));
    return st;
}

static bool copy(struct error *err) {
    struct tree_copy c = {0};
    return tree_copy(&c, from, to, links, err);
}

START_TEST(modes_times_and_kinds_are_kept) {
    put(from, "plain", "hello", 0640);
    put(from, "set-user-id", "x", 04755);
    ck_assert_int_eq(symlinkat("/etc/passwd", from, "link"), 0);
    ck_assert_int_eq(mkfifoat(from, "fifo", 0600), 0);
    ck_assert_int_eq(mkdirat(from, "closed", 0755), 0);
    int closed = openat(from, "closed", O_RDONLY | O_DIRECTORY);
    put(closed, "inside", "y", 0444);
    const struct timespec times[2] = {{1, 2}, {981173045, 678000000}};
    ck_assert_int_eq(utimensat(from, "plain", times, 0), 0);
    ck_assert_int_eq(utimensat(from, "link", times, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_int_eq(fchmod(closed, 0555), 0);
    ck_assert_int_eq(futimens(closed, times), 0);
    close(closed);
    ck_assert_int_eq(fchmod(from, 0750), 0);
    cleanup_error struct error err = {0};
    ck_assert_msg(copy(&err), "%s", err.message);
    ck_assert_uint_eq(facts("plain").st_mode, S_IFREG | 0640);
    ck_assert_int_eq(facts("plain").st_mtim.tv_sec, 981173045);
    ck_assert_int_eq(facts("plain").st_mtim.tv_nsec, 678000000);
    ck_assert_uint_eq(facts("set-user-id").st_mode, S_IFREG | 04755);
    ck_assert_uint_eq(facts("closed").st_mode, S_IFDIR | 0555);
    ck_assert_int_eq(facts("closed").st_mtim.tv_sec, 981173045);
    ck_assert_uint_eq(facts("closed/inside").st_mode, S_IFREG | 0444);
    ck_assert_uint_eq(facts("fifo").st_mode, S_IFIFO | 0600);
    ck_assert_uint_eq(facts(".").st_mode, S_IFDIR | 0750);
    ck_assert_int_eq(facts("link").st_mtim.tv_sec, 981173045);
    char target[64];
    ck_assert_int_eq(readlinkat(to, "link", target, sizeof target), 11);
}
END_TEST

START_TEST(hard_links_stay_together) {
    put(from, "a", "shared", 0600);
    ck_assert_int_eq(linkat(from, "a", from, "b", 0), 0);
    int sub = (mkdirat(from, "sub", 0700), openat(from, "sub", O_RDONLY | O_DIRECTORY));
    ck_assert_int_eq(linkat(from, "a", sub, "c", 0), 0);
    close(sub);
    /* One whose other name is outside of the tree. */
    put(links, "outside", "lonely", 0600);
    ck_assert_int_eq(linkat(links, "outside", from, "d", 0), 0);
    ck_assert_int_eq(unlinkat(links, "outside", 0), 0);
    cleanup_error struct error err = {0};
    ck_assert_msg(copy(&err), "%s", err.message);
    ck_assert_uint_eq(facts("a").st_ino, facts("b").st_ino);
    ck_assert_uint_eq(facts("a").st_ino, facts("sub/c").st_ino);
    ck_assert_uint_ne(facts("a").st_ino, facts("d").st_ino);
}
END_TEST

START_TEST(holes_stay_holes) {
    int fd = openat(from, "sparse", O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(ftruncate(fd, 1L << 36), 0);
    ck_assert_int_eq(pwrite(fd, "middle", 6, 1L << 30), 6);
    close(fd);
    struct tree_copy c = {0};
    cleanup_error struct error err = {0};
    ck_assert_msg(tree_copy(&c, from, to, links, &err), "%s", err.message);
    struct stat st = facts("sparse");
    ck_assert_int_eq(st.st_size, 1L << 36);
    ck_assert_int_lt(st.st_blocks, 4096);
    char text[6];
    int copied = openat(to, "sparse", O_RDONLY);
    ck_assert_int_eq(pread(copied, text, 6, 1L << 30), 6);
    ck_assert_int_eq(memcmp(text, "middle", 6), 0);
    close(copied);
}
END_TEST

START_TEST(attributes_of_users_are_kept) {
    put(from, "f", "x", 0600);
    int fd = openat(from, "f", O_RDONLY);
    bool here = fsetxattr(fd, "user.origin", "there", 5, 0) == 0;
    close(fd);
    if (!here) return; /* this file system has none */
    ck_assert(copy(NULL));
    char value[8];
    fd = openat(to, "f", O_RDONLY);
    ck_assert_int_eq(fgetxattr(fd, "user.origin", value, sizeof value), 5);
    close(fd);
}
END_TEST

START_TEST(sockets_are_left_out) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/from/sock", top);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    ck_assert(copy(NULL));
    struct stat st;
    ck_assert_int_ne(fstatat(to, "sock", &st, 0), 0);
}
END_TEST

START_TEST(deep_trees_need_few_descriptors_and_have_a_limit) {
    int at = dup(from);
    for (int i = 0; i < 1200; i++) {
        ck_assert_int_eq(mkdirat(at, "d", 0700), 0);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY);
        close(at);
        at = next;
    }
    put(at, "leaf", "x", 0600);
    cleanup_error struct error err = {0};
    ck_assert_msg(copy(&err), "%s", err.message);
    cleanup_free char *path = xcalloc(1, 2 * 1200 + 8);
    for (int i = 0; i < 1200; i++)
        memcpy(path + (size_t)i * 2, "d/", 2);
    memcpy(path + 2400, "leaf", 4);
    ck_assert_int_eq(facts(path).st_size, 1);
    for (int i = 0; i < 1200; i++) {
        ck_assert_int_eq(mkdirat(at, "d", 0700), 0);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY);
        close(at);
        at = next;
    }
    close(at);
    ck_assert(tree_remove(top, "to", NULL));
    close(to);
    to = directory("to");
    ck_assert(!copy(&err));
    ck_assert_str_eq(err.code, "workspace_too_deep");
}
END_TEST

START_TEST(it_is_cancelled_and_keeps_space_free) {
    put(from, "f", "x", 0600);
    _Atomic bool cancel = true;
    struct tree_copy c = {.cancel = &cancel};
    cleanup_error struct error err = {0};
    ck_assert(!tree_copy(&c, from, to, links, &err));
    ck_assert_str_eq(err.code, ERR_CANCELLED);
    struct tree_copy full = {.keep_free = INT64_MAX};
    ck_assert(!tree_copy(&full, from, to, links, &err));
    ck_assert_int_eq(err.status, 507);
    ck_assert_str_eq(err.code, ERR_INSUFFICIENT_STORAGE);
    DIR *left = fdopendir(dup(to));
    int entries = 0;
    while (readdir(left))
        entries++;
    closedir(left);
    ck_assert_int_eq(entries, 2);
}
END_TEST

/* Later than everything so far, by the clock of files' times. */
static struct timespec next_tick(void) {
    struct timespec before, now;
    clock_gettime(CLOCK_REALTIME_COARSE, &before);
    do {
        usleep(1000);
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    } while (now.tv_sec == before.tv_sec && now.tv_nsec == before.tv_nsec);
    return now;
}

START_TEST(every_change_is_noticed) {
    put(from, "f", "x", 0600);
    ck_assert_int_eq(mkdirat(from, "d", 0700), 0);
    int d = openat(from, "d", O_RDONLY | O_DIRECTORY);
    put(d, "g", "y", 0600);
    struct timespec since = next_tick();
    ck_assert(!tree_changed(from, since, NULL));
    ck_assert(copy(NULL));
    ck_assert(!tree_changed(from, since, NULL));
    put(d, "g", "z", 0600);
    ck_assert(tree_changed(from, since, NULL));
    since = next_tick();
    ck_assert(!tree_changed(from, since, NULL));
    ck_assert_int_eq(unlinkat(d, "g", 0), 0);
    ck_assert(tree_changed(from, since, NULL));
    since = next_tick();
    ck_assert_int_eq(renameat(from, "f", from, "h"), 0);
    ck_assert(tree_changed(from, since, NULL));
    since = next_tick();
    ck_assert_int_eq(fchmod(d, 0750), 0);
    ck_assert(tree_changed(from, since, NULL));
    since = next_tick();
    ck_assert_int_eq(symlinkat("x", d, "l"), 0);
    ck_assert(tree_changed(from, since, NULL));
    close(d);
}
END_TEST

START_TEST(what_is_unreadable_is_copied_where_its_owner_copies_it) {
    put(from, "f", "x", 0000);
    cleanup_error struct error err = {0};
    ck_assert_msg(copy(&err), "%s", err.message);
    ck_assert_uint_eq(facts("f").st_mode, S_IFREG);
    struct stat st;
    ck_assert_int_eq(fstatat(from, "f", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode, S_IFREG);
}
END_TEST

START_TEST(everything_is_given_away) {
    if (geteuid() != 0) return;
    put(from, "f", "x", 0600);
    ck_assert_int_eq(symlinkat("f", from, "l"), 0);
    ck_assert_int_eq(mkdirat(from, "d", 0700), 0);
    struct tree_copy c = {.give = true, .uid = 231000};
    ck_assert(tree_copy(&c, from, to, links, NULL));
    ck_assert_uint_eq(facts("f").st_uid, 231000);
    ck_assert_uint_eq(facts("l").st_gid, 231000);
    ck_assert_uint_eq(facts("d").st_uid, 231000);
    ck_assert_uint_eq(facts(".").st_uid, 231000);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tree_copy");
    TCase *t = tcase_create("tree_copy");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, modes_times_and_kinds_are_kept);
    tcase_add_test(t, hard_links_stay_together);
    tcase_add_test(t, holes_stay_holes);
    tcase_add_test(t, attributes_of_users_are_kept);
    tcase_add_test(t, sockets_are_left_out);
    tcase_add_test(t, deep_trees_need_few_descriptors_and_have_a_limit);
    tcase_add_test(t, it_is_cancelled_and_keeps_space_free);
    tcase_add_test(t, every_change_is_noticed);
    tcase_add_test(t, what_is_unreadable_is_copied_where_its_owner_copies_it);
    tcase_add_test(t, everything_is_given_away);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
