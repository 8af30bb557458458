/* See remove.h. One level at a time: descriptors are held for the way down only. */
#include "runtime/remove.h"

#include "common/bytes.h"
#include "runtime/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define DEPTH_MAX 200

/* Whether something is mounted on it. Kernels before 5.8 do not say; then another device tells most. */
static bool is_mount_point(int dir, const char *name) {
    struct statx it, above;
    if (statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, 0, &it) != 0) return false;
    if (it.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) return it.stx_attributes & STATX_ATTR_MOUNT_ROOT;
    if (statx(dir, "", AT_EMPTY_PATH, 0, &above) != 0) return false;
    return it.stx_dev_major != above.stx_dev_major || it.stx_dev_minor != above.stx_dev_minor;
}

static bool remove_level(int dir, const char *name, const char *shown, int depth, struct error *err) {
    if (depth > DEPTH_MAX) {
        error_set(err, 400, "bad_path", "%.300s is deeper than %d directories; delete its parts first", shown,
                  DEPTH_MAX);
        return false;
    }
    if (is_mount_point(dir, name)) {
        error_set(err, 403, "permission_denied", "a file system is mounted in %.300s", shown);
        return false;
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return path_error(err, errno, shown), false;
    DIR *entries = fdopendir(fd);
    if (!entries) {
        path_error(err, errno, shown);
        close(fd);
        return false;
    }
    bool ok = true;
    const struct dirent *e;
    while (ok && (e = readdir(entries))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (unlinkat(fd, e->d_name, 0) == 0 || errno == ENOENT) continue;
        if (errno != EISDIR && errno != EPERM) {
            path_error(err, errno, shown);
            ok = false;
        } else {
            ok = remove_level(fd, e->d_name, shown, depth + 1, err);
        }
    }
    closedir(entries);
    if (ok && unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
        path_error(err, errno, shown);
        ok = false;
    }
    return ok;
}

bool remove_tree(int dir, const char *name, const char *shown, struct error *err) {
    return remove_level(dir, name, shown, 0, err);
}
