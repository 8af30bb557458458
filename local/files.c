/* Small file system operations. The trees that are removed here were written by sandboxes and are
 * hostile: symlinks, directories without permissions, depths beyond any path length. */
#include "local/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_read(const char *path, size_t max, struct buffer *out, struct error *err) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        error_set_errno(err, errno, "opening %s", path);
        return false;
    }
    size_t before = out->len;
    char part[16384];
    ssize_t n;
    while ((n = read(fd, part, sizeof part)) > 0)
        if (out->len - before + (size_t)n > max || !buffer_append(out, part, (size_t)n)) {
            error_set(err, 500, ERR_INTERNAL, "%s is larger than %zu bytes", path, max);
            return false;
        }
    if (n < 0) error_set_errno(err, errno, "reading %s", path);
    return n == 0;
}

bool file_write(const char *path, struct slice content, mode_t mode, struct error *err) {
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0;
    while (ok && content.len > 0) {
        ssize_t n = write(fd, content.ptr, content.len);
        ok = n > 0;
        if (ok) content = slice_make(content.ptr + n, content.len - (size_t)n);
    }
    if (!ok || fchmod(fd, mode) != 0) {
        error_set_errno(err, errno, "writing %s", path);
        return false;
    }
    return true;
}

bool directory_make(const char *path, struct error *err) {
    cleanup_free char *copy = xstrdup(path);
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0') continue;
        char saved = *p;
        *p = '\0';
        if (mkdir(copy, 0755) == 0) {
            if (chmod(copy, 0755) != 0) break;
        } else if (errno != EEXIST) {
            break;
        }
        if (saved == '\0') return true;
        *p = saved;
    }
    error_set_errno(err, errno, "creating %s", path);
    return false;
}

/* Opens a directory, never a symlink, giving its owner every permission on it first. */
static int open_directory(int parent, const char *name) {
    cleanup_close int handle = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0) return -1;
    char self[40];
    snprintf(self, sizeof self, "/proc/self/fd/%d", handle);
    if (chmod(self, 0700) != 0 && errno != EPERM) return -1;
    return openat(handle, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static bool is_dot(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Removes what is not a directory from `name`, moves its directories up into `top` under new names,
 * so that depth never grows. False when something could be neither moved nor removed. */
static bool flatten(int top, const char *name, unsigned *counter) {
    int here = open_directory(top, name);
    DIR *dir = here >= 0 ? fdopendir(here) : NULL;
    if (!dir) {
        if (here >= 0) close(here);
        return false;
    }
    bool ok = true;
    struct dirent *e;
    while ((e = readdir(dir))) {
        if (is_dot(e->d_name) || unlinkat(here, e->d_name, 0) == 0 ||
            unlinkat(here, e->d_name, AT_REMOVEDIR) == 0)
            continue;
        /* Moving a directory writes its "..": its owner needs permission to. */
        cleanup_close int child = open_directory(here, e->d_name);
        char fresh[32];
        snprintf(fresh, sizeof fresh, ".remove-%u", (*counter)++);
        if (child < 0 || renameat(here, e->d_name, top, fresh) != 0) ok = false;
    }
    closedir(dir);
    return ok && (unlinkat(top, name, AT_REMOVEDIR) == 0 || errno == ENOENT);
}

static bool remove_directory(int parent, const char *name) {
    cleanup_close int top = open_directory(parent, name);
    if (top < 0) return false;
    unsigned counter = 0;
    bool progress = true;
    while (progress) {
        int copy = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
        if (!dir) {
            if (copy >= 0) close(copy);
            return false;
        }
        progress = false;
        struct dirent *e;
        while ((e = readdir(dir)))
            if (!is_dot(e->d_name) && (unlinkat(top, e->d_name, 0) == 0 || flatten(top, e->d_name, &counter)))
                progress = true;
        closedir(dir);
    }
    return unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

bool tree_remove(const char *parent, const char *name, struct error *err) {
    cleanup_close int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && (unlinkat(fd, name, 0) == 0 || errno == ENOENT)) return true;
    if (fd >= 0 && remove_directory(fd, name)) return true;
    error_set_errno(err, errno, "removing %s/%s", parent, name);
    return false;
}
