/* See tree_copy.h. Directories are opened anew by their path below the top (openat2, beneath, without links),
 * so that a deep tree needs no more descriptors than a flat one, and a directory that is moved while it is
 * copied is at worst missing. */
#include "local/tree_copy.h"

#include "common/bytes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#define CHUNK         (16L << 20) /* between two looks at `cancel` and at the free space */
#define ENTRY_COST    4096        /* what an entry counts for in that */
#define PIECE         (256 * 1024)
#define PATH_BYTES    4095
#define ENTRIES_MAX   20000000
#define ATTEMPTS      3 /* of a file that changes while it is copied */
#define ATTRIBUTE_MAX 65536

/* Directories still to be done: made and read, or given their final mode when what is in them is there. */
struct pending {
    struct pending *next;
    bool finish;
    struct stat st;
    char path[]; /* below the top; "." */
};

struct work {
    struct tree_copy *c;
    struct pending *stack;
};

static void push(struct work *w, const char *path, bool finish, const struct stat *st) {
    size_t n = strlen(path) + 1;
    struct pending *p = xcalloc(1, sizeof *p + n);
    memcpy(p->path, path, n);
    p->finish = finish;
    p->st = *st;
    p->next = w->stack;
    w->stack = p;
}

static int open_beneath(int top, const char *path, uint64_t flags) {
    struct open_how how = {.flags = flags | O_CLOEXEC | O_NOFOLLOW,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
                                      RESOLVE_NO_XDEV};
    return (int)syscall(SYS_openat2, top, path, &how, sizeof how);
}

static bool failed(struct error *err, int why, const char *path, const char *name) {
    if (why == ENOSPC || why == EDQUOT)
        error_set(err, 507, ERR_INSUFFICIENT_STORAGE, "the disk is full");
    else if (why == EACCES || why == EPERM)
        error_set(err, 409, "workspace_unreadable", "%.300s/%.100s cannot be read: its permissions forbid it",
                  path, name);
    else
        error_set_errno(err, why, "copying %.300s/%.100s", path, name);
    return false;
}

/* After every CHUNK bytes, or as many entries as that. */
static bool go_on(struct tree_copy *c, int64_t bytes, struct error *err) {
    c->since_check += bytes;
    if (c->since_check < CHUNK) return true;
    c->since_check = 0;
    if (c->cancel && atomic_load(c->cancel)) {
        error_set(err, 503, ERR_CANCELLED, "copying was cancelled");
        return false;
    }
    struct statvfs disk;
    if (fstatvfs(c->to, &disk) != 0 || (int64_t)disk.f_bavail * (int64_t)disk.f_frsize >= c->keep_free)
        return true;
    error_set(err, 507, ERR_INSUFFICIENT_STORAGE, "the disk is full: less than %lld MiB would be left free",
              (long long)(c->keep_free >> 20));
    return false;
}

/* What has gone, or turned into something else, since it was listed. */
static bool is_gone(int why) {
    return why == ENOENT || why == ELOOP || why == ENOTDIR || why == ENXIO || why == EXDEV;
}

/* A directory that changes while it is read may list a name twice: it has been copied already. */
static bool was_listed(int why) {
    return why == EEXIST;
}

/* ---- a file's content ------------------------------------------------------------------------------ */

static bool write_all(int fd, const char *data, size_t n, off_t at) {
    while (n > 0) {
        ssize_t done = pwrite(fd, data, n, at);
        if (done < 0) return false;
        data += done;
        n -= (size_t)done;
        at += done;
    }
    return true;
}

/* One piece with read and write: between file systems, and where the kernel cannot copy itself. */
static ssize_t copy_piece(int from, int to, off_t at, size_t n) {
    cleanup_free char *piece = xcalloc(1, PIECE);
    ssize_t got = pread(from, piece, n < PIECE ? n : PIECE, at);
    return got <= 0 || write_all(to, piece, (size_t)got, at) ? got : -1;
}

static bool kernel_cannot(int why) {
    return why == EXDEV || why == EINVAL || why == ENOSYS || why == EOPNOTSUPP || why == EBADF ||
           why == ETXTBSY;
}

/* False with errno, or with `err` filled in. A file that became shorter ends early. */
static bool copy_range(struct tree_copy *c, int from, int to, off_t at, off_t end, struct error *err) {
    bool kernel = true;
    while (at < end) {
        off_t in = at, out = at;
        size_t n = (size_t)(end - at < CHUNK ? end - at : CHUNK);
        ssize_t done = kernel ? copy_file_range(from, &in, to, &out, n, 0) : copy_piece(from, to, at, n);
        if (done < 0 && kernel && kernel_cannot(errno)) {
            kernel = false;
            continue;
        }
        if (done < 0) return false;
        if (done == 0) return true;
        at += done;
        c->bytes += done;
        if (!go_on(c, done, err)) return false;
    }
    return true;
}

static bool copy_content(struct tree_copy *c, int from, int to, off_t size, struct error *err) {
    if (size > 0 && ioctl(to, FICLONE, from) == 0) {
        c->bytes += size;
        return ftruncate(to, size) == 0;
    }
    if (ftruncate(to, 0) != 0) return false;
    for (off_t at = 0; at < size;) {
        off_t data = lseek(from, at, SEEK_DATA), hole = size;
        if (data < 0 && errno == ENXIO) break; /* only a hole is left */
        if (data < 0)
            data = at; /* a file system without holes */
        else if ((hole = lseek(from, data, SEEK_HOLE)) < 0 || hole > size)
            hole = size;
        if (data >= size) break;
        if (!copy_range(c, from, to, data, hole, err)) return false;
        at = hole;
    }
    return ftruncate(to, size) == 0;
}

/* Attributes of the name space "user." only: others say what this machine does with a file. */
static void copy_attributes(int from, int to) {
    char names[ATTRIBUTE_MAX];
    ssize_t n = flistxattr(from, names, sizeof names);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1) {
        if (strncmp(names + i, "user.", 5) != 0) continue;
        cleanup_free char *value = xcalloc(1, ATTRIBUTE_MAX);
        ssize_t size = fgetxattr(from, names + i, value, ATTRIBUTE_MAX);
        if (size >= 0 && fsetxattr(to, names + i, value, (size_t)size, 0) != 0) return; /* none there */
    }
}

static bool same_content(const struct stat *a, const struct stat *b) {
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool finish_open(struct tree_copy *c, int fd, const struct stat *st) {
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    return (!c->give || fchown(fd, c->uid, (gid_t)c->uid) == 0) && fchmod(fd, st->st_mode & 07777) == 0 &&
           futimens(fd, times) == 0;
}

/* ---- one entry --------------------------------------------------------------------------------------- */

/* Where a directory is copied from and to. */
struct place {
    int from, to;
    const char *path;
};

/* A file without permission to read it, of our own: its owner may give it for a moment. */
static int open_unreadable(int parent, const char *name) {
    cleanup_close int handle = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (handle < 0 || fstat(handle, &st) != 0) return -1;
    if (!S_ISREG(st.st_mode)) {
        errno = ELOOP;
        return -1;
    }
    char self[40];
    snprintf(self, sizeof self, "/proc/self/fd/%d", handle);
    if (chmod(self, (st.st_mode & 07777) | S_IRUSR) != 0) return -1;
    int fd = open(self, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int why = errno;
    chmod(self, st.st_mode & 07777);
    errno = why;
    return fd;
}

/* The name under which later links to the same file find its copy. With the time of birth, because the number
 * of a removed file may be given to a new one while we copy. */
static bool link_name(int fd, char out[80]) {
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME | STATX_NLINK, &x) != 0 || x.stx_nlink < 2)
        return false;
    bool born = (x.stx_mask & STATX_BTIME) != 0;
    snprintf(out, 80, "%llx-%llx-%x", (unsigned long long)x.stx_ino,
             born ? (unsigned long long)x.stx_btime.tv_sec : 0ULL, born ? x.stx_btime.tv_nsec : 0U);
    return true;
}

static bool copy_file(struct tree_copy *c, const struct place *at, const char *name, const struct stat *seen,
                      struct error *err) {
    cleanup_close int from = openat(at->from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (from < 0 && errno == EACCES) from = open_unreadable(at->from, name);
    if (from < 0) return is_gone(errno) || failed(err, errno, at->path, name);
    struct stat st, after;
    if (fstat(from, &st) != 0) return failed(err, errno, at->path, name);
    if (!S_ISREG(st.st_mode)) return true; /* it was exchanged since it was listed */
    mode_t mode = st.st_ino == seen->st_ino ? seen->st_mode : st.st_mode; /* before open_unreadable */
    char shared[80];
    bool linked = link_name(from, shared);
    if (linked && linkat(c->links, shared, at->to, name, 0) == 0) return true;
    cleanup_close int to = openat(at->to, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0) return was_listed(errno) || failed(err, errno, at->path, name);
    for (int attempt = 1;; attempt++) {
        if (!copy_content(c, from, to, st.st_size, err))
            return err->status ? false : failed(err, errno, at->path, name);
        if (fstat(from, &after) != 0) return failed(err, errno, at->path, name);
        if (same_content(&st, &after) || attempt == ATTEMPTS) break;
        st = after;
    }
    copy_attributes(from, to);
    st.st_mode = mode;
    if (!finish_open(c, to, &st)) return failed(err, errno, at->path, name);
    /* Without this one the next name gets a copy of its own, as with more links than a file can have. */
    if (linked && linkat(at->to, name, c->links, shared, 0) != 0 && errno != EMLINK && errno != EEXIST)
        return failed(err, errno, at->path, name);
    return true;
}

static bool finish_name(struct tree_copy *c, const struct place *at, const char *name, const struct stat *st,
                        struct error *err) {
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    bool ok = !c->give || fchownat(at->to, name, c->uid, (gid_t)c->uid, AT_SYMLINK_NOFOLLOW) == 0;
    if (ok && S_ISFIFO(st->st_mode)) ok = fchmodat(at->to, name, st->st_mode & 07777, 0) == 0;
    ok = ok && utimensat(at->to, name, times, AT_SYMLINK_NOFOLLOW) == 0;
    return ok || failed(err, errno, at->path, name);
}

static bool copy_symlink(struct tree_copy *c, const struct place *at, const char *name, const struct stat *st,
                         struct error *err) {
    char target[PATH_BYTES + 1];
    ssize_t n = readlinkat(at->from, name, target, sizeof target - 1);
    if (n < 0) return errno == EINVAL || is_gone(errno) || failed(err, errno, at->path, name);
    target[n] = '\0';
    if (symlinkat(target, at->to, name) != 0) return was_listed(errno) || failed(err, errno, at->path, name);
    return finish_name(c, at, name, st, err);
}

static bool copy_entry(struct work *w, const struct place *at, const char *name, struct error *err) {
    struct tree_copy *c = w->c;
    struct stat st;
    if (fstatat(at->from, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return is_gone(errno) || failed(err, errno, at->path, name);
    if (++c->entries > ENTRIES_MAX) {
        error_set(err, 409, "workspace_too_large", "more than %d files", ENTRIES_MAX);
        return false;
    }
    if (!go_on(c, ENTRY_COST, err)) return false;
    if (S_ISREG(st.st_mode)) return copy_file(c, at, name, &st, err);
    if (S_ISLNK(st.st_mode)) return copy_symlink(c, at, name, &st, err);
    if (S_ISFIFO(st.st_mode)) {
        if (mkfifoat(at->to, name, 0600) != 0) return was_listed(errno) || failed(err, errno, at->path, name);
        return finish_name(c, at, name, &st, err);
    }
    if (!S_ISDIR(st.st_mode)) return true;
    size_t n = strlen(at->path) + 1 + strlen(name);
    if (n > PATH_BYTES) {
        error_set(err, 409, "workspace_too_deep", "a path below %.100s... has more than %d bytes", at->path,
                  PATH_BYTES);
        return false;
    }
    cleanup_free char *path = strcmp(at->path, ".") == 0 ? xstrdup(name) : xasprintf("%s/%s", at->path, name);
    push(w, path, false, &st);
    return true;
}

/* ---- directories -------------------------------------------------------------------------------------- */

static bool read_directory(struct work *w, const char *path, struct error *err) {
    struct tree_copy *c = w->c;
    bool top = strcmp(path, ".") == 0;
    int from = open_beneath(c->from, path, O_RDONLY | O_DIRECTORY);
    if (from < 0) return (!top && is_gone(errno)) || failed(err, errno, path, "");
    struct stat st;
    DIR *dir = fstat(from, &st) == 0 ? fdopendir(from) : NULL;
    if (!dir) {
        int why = errno;
        close(from);
        return failed(err, why, path, "");
    }
    if (!top && mkdirat(c->to, path, 0700) != 0) {
        int why = errno;
        closedir(dir);
        return was_listed(why) || failed(err, why, path, "");
    }
    bool ok = true;
    cleanup_close int to = open_beneath(c->to, path, O_RDONLY | O_DIRECTORY);
    if (to < 0) ok = failed(err, errno, path, "");
    if (ok) copy_attributes(from, to);
    push(w, path, true, &st);
    const struct place at = {from, to, path};
    struct dirent *e;
    while (ok && (e = readdir(dir)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            ok = copy_entry(w, &at, e->d_name, err);
    closedir(dir);
    return ok;
}

static bool finish_directory(struct tree_copy *c, const struct pending *p, struct error *err) {
    cleanup_close int fd = open_beneath(c->to, p->path, O_RDONLY | O_DIRECTORY);
    return (fd >= 0 && finish_open(c, fd, &p->st)) || failed(err, errno, p->path, "");
}

/* ---- whether it stood still ------------------------------------------------------------------------------
 */

static bool is_later(const struct stat *st, const struct timespec *since) {
    return st->st_ctim.tv_sec > since->tv_sec ||
           (st->st_ctim.tv_sec == since->tv_sec && st->st_ctim.tv_nsec >= since->tv_nsec);
}

/* A directory's own time tells of what was removed from it. */
static bool directory_changed(struct work *w, const char *path, const struct timespec *since) {
    int fd = open_beneath(w->c->from, path, O_RDONLY | O_DIRECTORY);
    struct stat st;
    DIR *dir = fd >= 0 && fstat(fd, &st) == 0 && !is_later(&st, since) ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0) close(fd);
        return true;
    }
    bool changed = false;
    struct dirent *e;
    while (!changed && (e = readdir(dir))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        changed = fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || is_later(&st, since) ||
                  (w->c->cancel && atomic_load(w->c->cancel));
        if (changed || !S_ISDIR(st.st_mode)) continue;
        cleanup_free char *below =
            strcmp(path, ".") == 0 ? xstrdup(e->d_name) : xasprintf("%s/%s", path, e->d_name);
        push(w, below, false, &st);
    }
    closedir(dir);
    return changed;
}

bool tree_changed(int from, struct timespec since, _Atomic bool *cancel) {
    struct tree_copy c = {.from = from, .cancel = cancel};
    struct work w = {.c = &c};
    bool changed = false;
    push(&w, ".", false, &(struct stat){0});
    while (w.stack) {
        struct pending *p = w.stack;
        w.stack = p->next;
        if (!changed) changed = directory_changed(&w, p->path, &since);
        free(p);
    }
    return changed;
}

/* ---- all of it
 * --------------------------------------------------------------------------------------------- */

bool tree_copy(struct tree_copy *c, int from, int to, int links, struct error *err) {
    struct error own = {0};
    c->from = from;
    c->to = to;
    c->links = links;
    c->since_check = CHUNK; /* look at once */
    struct work w = {.c = c};
    bool ok = go_on(c, 0, &own);
    if (ok) push(&w, ".", false, &(struct stat){0});
    while (w.stack) {
        struct pending *p = w.stack;
        w.stack = p->next;
        if (ok) ok = p->finish ? finish_directory(c, p, &own) : read_directory(&w, p->path, &own);
        free(p);
    }
    c->since_check = CHUNK;
    ok = ok && go_on(c, 0, &own);
    error_move(err, &own);
    return ok;
}
