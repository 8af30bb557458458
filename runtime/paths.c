/* See paths.h. */
#include "runtime/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

static void bad_path(struct error *err, const char *why) {
    error_set(err, 400, "bad_path", "the path %s; send an absolute path of at most %d bytes", why,
              PATH_BYTES_MAX);
}

bool path_clean(struct slice raw, struct buffer *out, struct error *err) {
    buffer_clear(out);
    if (raw.len == 0 || raw.ptr[0] != '/') return bad_path(err, "is not absolute"), false;
    if (raw.len > PATH_BYTES_MAX) return bad_path(err, "is too long"), false;
    if (memchr(raw.ptr, '\0', raw.len)) return bad_path(err, "holds NUL"), false;
    for (size_t i = 0; i < raw.len;) {
        while (i < raw.len && raw.ptr[i] == '/')
            i++;
        size_t start = i;
        while (i < raw.len && raw.ptr[i] != '/')
            i++;
        struct slice part = slice_make(raw.ptr + start, i - start);
        if (part.len == 0 || slice_equal_str(part, ".")) continue;
        if (slice_equal_str(part, "..")) {
            while (out->len > 0 && out->data[out->len - 1] != '/')
                out->len--;
            if (out->len > 0) out->len--;
            continue;
        }
        buffer_append_char(out, '/');
        buffer_append(out, part.ptr, part.len);
    }
    if (out->len == 0) buffer_append_char(out, '/');
    out->data[out->len] = '\0'; /* ".." may have shortened it */
    return true;
}

bool path_from_query(const struct request *r, struct buffer *out, struct error *err) {
    cleanup_buffer struct buffer raw = {0};
    if (request_query(r, "path", &raw) != 1) return bad_path(err, "is missing or badly encoded"), false;
    return path_clean(buffer_slice(&raw), out, err);
}

void path_error(struct error *err, int errnum, const char *path) {
    switch (errnum) {
    case ENOENT: error_set(err, 404, "file_not_found", "%.300s: no such file or directory", path); break;
    case ENOTDIR:
        error_set(err, 400, "not_a_directory", "%.300s: a part of the path is not a directory", path);
        break;
    case EISDIR: error_set(err, 400, "not_a_file", "%.300s is a directory", path); break;
    case ELOOP:
        error_set(err, 403, "permission_denied", "%.300s: too many or forbidden symbolic links", path);
        break;
    case EACCES:
    case EPERM: error_set(err, 403, "permission_denied", "%.300s: permission denied", path); break;
    case EROFS: error_set(err, 403, "permission_denied", "%.300s is on a read-only file system", path); break;
    case ENOSPC:
    case EDQUOT:
        error_set(err, 507, "disk_full", "no space left for %.300s; delete files and try again", path);
        break;
    case ENAMETOOLONG: error_set(err, 400, "bad_path", "%.300s: a name in the path is too long", path); break;
    case ENXIO:
    case ENODEV: error_set(err, 400, "not_a_file", "%.300s is not a regular file", path); break;
    case ENOTEMPTY:
    case EEXIST:
        error_set(err, 409, "directory_not_empty", "%.300s is not empty; use recursive=true", path);
        break;
    case EBUSY: error_set(err, 403, "permission_denied", "%.300s is in use by the system", path); break;
    default: error_set_errno(err, errnum, "%.300s", path);
    }
}

/* openat2 where the kernel has it. Without it (Linux before 5.6) symlinks are not followed at all:
 * stricter, never weaker. */
static int open_how(int dir, const char *path, int flags, mode_t mode, uint64_t resolve) {
#ifndef NO_OPENAT2
    struct open_how how = {.flags = (uint64_t)(unsigned)flags,
                           .mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
                           .resolve = resolve};
    int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return fd;
    if (errno == EPERM) {
        /* a seccomp filter of old answers EPERM for calls that it does not know */
        int probe = (int)syscall(SYS_openat2, -1, "", NULL, 0);
        if (probe < 0 && errno != EPERM) {
            errno = EPERM;
            return -1;
        }
    }
#else
    (void)resolve;
#endif
    return openat(dir, path, flags | O_NOFOLLOW, mode);
}

bool path_on_real_fs(int fd, const char *path, struct error *err) {
    static const long kernel_fs[] = {
        PROC_SUPER_MAGIC, SYSFS_MAGIC,   DEVPTS_SUPER_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
        SECURITYFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC,      BPF_FS_MAGIC,       0x19800202 /* mqueue */};
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0) return path_error(err, errno, path), false;
    for (size_t i = 0; i < sizeof kernel_fs / sizeof *kernel_fs; i++) {
        if ((long)fs.f_type != kernel_fs[i]) continue;
        error_set(err, 403, "permission_denied", "%.300s is on a file system of the kernel", path);
        return false;
    }
    return true;
}

/* O_NONBLOCK so that a FIFO never blocks; openat2 refuses it beside O_PATH, which opens nothing. */
static int all_flags(int flags) {
    return flags | O_CLOEXEC | (flags & O_PATH ? 0 : O_NONBLOCK);
}

int path_open(const char *path, int flags, mode_t mode, struct error *err) {
    cleanup_close int fd = open_how(AT_FDCWD, path, all_flags(flags), mode, RESOLVE_NO_MAGICLINKS);
    if (fd < 0) return path_error(err, errno, path), -1;
    return path_on_real_fs(fd, path, err) ? steal_fd(fd) : -1;
}

bool path_make_directories(const char *path, bool *created, struct error *err) {
    cleanup_free char *copy = xstrdup(path);
    *created = false;
    for (char *at = copy + 1;; at++) {
        if (*at != '/' && *at != '\0') continue;
        char end = *at;
        *at = '\0';
        if (copy[1] && mkdir(copy, 0777) == 0) {
            *created = true;
        } else if (copy[1] && errno != EEXIST && errno != EISDIR) {
            int saved = errno;
            struct stat st;
            /* A read-only or foreign directory that is there is no obstacle. */
            if (stat(copy, &st) != 0) return path_error(err, saved, copy), false;
            *created = false;
        } else {
            *created = false;
        }
        *at = end;
        if (end == '\0') break;
    }
    cleanup_close int fd = path_open(path, O_PATH | O_DIRECTORY, 0, err);
    if (fd >= 0) return true;
    if (strcmp(err->code, "not_a_directory") == 0) {
        error_clear(err);
        error_set(err, 409, "not_a_directory", "%.300s is there and not a directory", path);
    }
    return false;
}

int path_open_parent(const char *path, bool create, mode_t umask_bits, const char **name, struct error *err) {
    (void)umask_bits;
    const char *slash = strrchr(path, '/');
    cleanup_free char *parent =
        slash == path ? xstrdup("/") : slice_dup(slice_make(path, (size_t)(slash - path)));
    *name = slash + 1;
    if (!**name) return error_set(err, 400, "not_a_file", "%s is a directory", path), -1;
    int fd = path_open(parent, O_RDONLY | O_DIRECTORY, 0, err);
    if (fd >= 0 || !create || strcmp(err->code, "file_not_found") != 0) return fd;
    error_clear(err);
    bool created;
    if (!path_make_directories(parent, &created, err)) return -1;
    return path_open(parent, O_RDONLY | O_DIRECTORY, 0, err);
}

/* Whether `dir` is `root` or below it: up by ".." until one of them, or the top, is met. */
static bool is_below(int dir, int root) {
    struct stat top, at, up;
    if (fstat(root, &top) != 0 || fstat(dir, &at) != 0) return false;
    cleanup_close int fd = -1;
    for (int depth = 0; depth < PATH_BYTES_MAX; depth++) {
        if (at.st_dev == top.st_dev && at.st_ino == top.st_ino) return true;
        int next = openat(fd < 0 ? dir : fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) close(fd);
        fd = next;
        if (fd < 0 || fstat(fd, &up) != 0) return false;
        if (up.st_dev == at.st_dev && up.st_ino == at.st_ino) return false;
        at = up;
    }
    return false;
}

int path_open_within(const char *within, const char *path, bool create, struct error *err) {
    size_t n = strlen(within);
    cleanup_close int root = path_open(within, O_RDONLY | O_DIRECTORY, 0, err);
    if (root < 0) return -1;
    if (strncmp(path, within, n) != 0 || (path[n] && path[n] != '/' && n > 1)) {
        error_set(err, 400, "bad_path", "%.300s is not below %.300s", path, within);
        return -1;
    }
    cleanup_close int dir = fcntl(root, F_DUPFD_CLOEXEC, 0);
    cleanup_free char *rest = xstrdup(path + n);
    char *save = NULL;
    /* A component at a time, and each one looked at before anything is made in it: a link that is put in
     * the way meanwhile is found out like one that was there. */
    for (char *name = strtok_r(rest, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
        if (create && mkdirat(dir, name, 0777) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return path_error(err, errno, path), -1;
        int next = open_how(dir, name, all_flags(O_RDONLY | O_DIRECTORY), 0, RESOLVE_NO_MAGICLINKS);
        int errnum = errno;
        close(dir);
        dir = next;
        if (dir < 0) {
            path_error(err, errnum, path);
            if (create && errnum == ENOTDIR) err->status = 409;
            return -1;
        }
        if (is_below(dir, root)) continue;
        error_set(err, 400, "bad_path", "%.300s leads out of %.300s by a symbolic link", path, within);
        return -1;
    }
    return path_on_real_fs(dir, path, err) ? steal_fd(dir) : -1;
}

int path_open_beneath(int root, const char *relative, int flags, mode_t mode, struct error *err) {
    int fd = open_how(root, relative, all_flags(flags) | O_NOFOLLOW, mode,
                      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
    if (fd >= 0) return fd;
    int errnum = errno;
    struct stat st; /* O_DIRECTORY hides that the last component is a link */
    bool link =
        errnum == ENOTDIR && fstatat(root, relative, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
    if (errnum == EXDEV || errnum == ELOOP || link)
        error_set(err, 400, "bad_archive", "%.300s would leave the directory or pass a symbolic link",
                  relative);
    else
        path_error(err, errnum, relative);
    return -1;
}
