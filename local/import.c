/* Imports root file systems. An archive is hostile input: every entry is checked as text and created below
 * the new directory with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), so that nothing can be written
 * elsewhere, whatever the order of its symlinks. (lessons S12, S13) */
#include "local/rootfs.h"

#include "common/lazy.h"
#include "common/secret.h"
#include "local/bwrap_args.h"
#include "local/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BLOCK          (256 * 1024)
#define ENTRIES_MAX    4000000
#define BYTES_MAX      (256LL << 30)
#define PASSWD_MAX     (1024 * 1024)
#define GENERATION_HEX 6

struct import {
    int top; /* the new directory */
    int64_t entries, bytes;
    bool from_disk;
};

static int open_beneath(int top, const char *path, uint64_t flags, mode_t mode) {
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .mode = mode,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, top, path, &how, sizeof how);
}

/* "./a//b/" -> "a/b". "" for the top itself; false for what leaves the tree. */
static bool clean_path(const char *given, struct buffer *out) {
    if (*given == '/') return false;
    while (*given) {
        size_t n = strcspn(given, "/");
        if (n == 2 && memcmp(given, "..", 2) == 0) return false;
        if (n > 0 && !(n == 1 && *given == '.')) {
            if (out->len) buffer_append_char(out, '/');
            if (!buffer_append(out, given, n)) return false;
        }
        given += n + (given[n] == '/');
    }
    buffer_cstr(out);
    return true;
}

/* The directory that `path` stands in (made when missing) and its last component. */
static int open_parent(int top, const char *path, const char **name) {
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (!slash) return open_beneath(top, ".", O_PATH | O_DIRECTORY, 0);
    cleanup_free char *parent = slice_dup(slice_make(path, (size_t)(slash - path)));
    int fd = open_beneath(top, parent, O_PATH | O_DIRECTORY, 0);
    if (fd >= 0 || errno != ENOENT) return fd;
    const char *own;
    cleanup_close int above = open_parent(top, parent, &own);
    if (above < 0 || (mkdirat(above, own, 0755) != 0 && errno != EEXIST)) return -1;
    return open_beneath(top, parent, O_PATH | O_DIRECTORY, 0);
}

static mode_t safe_mode(mode_t mode) {
    bool executable = (mode & 0111) != 0;
    return (mode & 0777) | 0644 | (executable ? 0111 : 0);
}

static bool copy_data(struct import *im, struct archive *in, int fd) {
    const void *block;
    size_t size;
    la_int64_t offset;
    int rc;
    while ((rc = archive_read_data_block(in, &block, &size, &offset)) == ARCHIVE_OK) {
        if (offset < 0 || offset > BYTES_MAX || (im->bytes += (int64_t)size) > BYTES_MAX) {
            errno = EFBIG;
            return false;
        }
        for (size_t done = 0; done < size;) {
            ssize_t n = pwrite(fd, (const char *)block + done, size - done, offset + (la_int64_t)done);
            if (n <= 0) return false;
            done += (size_t)n;
        }
    }
    if (rc != ARCHIVE_EOF) errno = EIO;
    return rc == ARCHIVE_EOF;
}

static bool put_file(struct import *im, struct archive *in, struct archive_entry *entry, int parent,
                     const char *name) {
    if (unlinkat(parent, name, 0) != 0 && errno != ENOENT) return false;
    cleanup_close int fd = open_beneath(parent, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || !copy_data(im, in, fd)) return false;
    int64_t size = archive_entry_size(entry);
    return (size <= 0 || ftruncate(fd, size) == 0) && fchmod(fd, safe_mode(archive_entry_mode(entry))) == 0;
}

static bool put_hardlink(struct import *im, const char *target, int parent, const char *name) {
    cleanup_buffer struct buffer clean = {0};
    if (!clean_path(target, &clean) || clean.len == 0) {
        errno = EINVAL;
        return false;
    }
    const char *own;
    cleanup_close int from = open_parent(im->top, clean.data, &own);
    if (from < 0 || (unlinkat(parent, name, 0) != 0 && errno != ENOENT)) return false;
    return linkat(from, own, parent, name, 0) == 0;
}

static bool put_directory(int parent, const char *name) {
    /* A directory over a symlink or file of an earlier layer replaces it. */
    if (mkdirat(parent, name, 0755) == 0) return true;
    if (errno != EEXIST) return false;
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) return true;
    return unlinkat(parent, name, 0) == 0 && mkdirat(parent, name, 0755) == 0;
}

static bool put_entry(struct import *im, struct archive *in, struct archive_entry *entry, struct error *err) {
    const char *given = archive_entry_pathname(entry);
    cleanup_buffer struct buffer path = {0};
    if (!given || !clean_path(given, &path)) {
        error_set(err, 400, "bad_archive", "\"%.200s\" leaves the tree", given ? given : "(no name)");
        return false;
    }
    if (path.len == 0) return true;
    if (++im->entries > ENTRIES_MAX) {
        error_set(err, 413, "archive_too_large", "more than %d entries", ENTRIES_MAX);
        return false;
    }
    const char *name, *link = archive_entry_hardlink(entry);
    unsigned type = archive_entry_filetype(entry);
    cleanup_close int parent = open_parent(im->top, path.data, &name);
    bool ok = parent >= 0;
    if (ok && link)
        ok = put_hardlink(im, link, parent, name);
    else if (ok && type == AE_IFREG)
        ok = put_file(im, in, entry, parent, name);
    else if (ok && type == AE_IFDIR)
        ok = put_directory(parent, name);
    else if (ok && type == AE_IFLNK)
        ok = (unlinkat(parent, name, 0) == 0 || errno == ENOENT) &&
             symlinkat(archive_entry_symlink(entry) ? archive_entry_symlink(entry) : "", parent, name) == 0;
    /* devices, FIFOs and sockets have no place in an image */
    if (!ok) error_set_errno(err, errno, "unpacking %.200s", path.data);
    return ok;
}

static bool unpack(struct import *im, struct archive *in, struct error *err) {
    struct archive_entry *entry;
    int rc;
    while ((rc = archive_read_next_header(in, &entry)) == ARCHIVE_OK || rc == ARCHIVE_WARN) {
        if (!put_entry(im, in, entry, err)) return false;
        if (im->from_disk && archive_entry_filetype(entry) == AE_IFDIR) archive_read_disk_descend(in);
    }
    if (rc == ARCHIVE_EOF) return true;
    error_set(err, 400, "bad_archive", "%s",
              archive_error_string(in) ? archive_error_string(in) : "it cannot be read");
    return false;
}

/* A tar, however compressed. */
static bool unpack_tar(struct import *im, const char *path, struct error *err) {
    struct archive *in = archive_read_new();
    if (!in) abort();
    archive_read_support_filter_all(in);
    archive_read_support_format_tar(in);
    bool ok = archive_read_open_filename(in, path, BLOCK) == ARCHIVE_OK;
    if (!ok)
        error_set(err, 400, "bad_archive", "%s", archive_error_string(in));
    else
        ok = unpack(im, in, err);
    archive_read_free(in);
    return ok;
}

/* A directory, read with relative names; file systems mounted in it are left out. */
static bool unpack_directory(struct import *im, const char *path, struct error *err) {
    cleanup_close int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (before < 0 || chdir(path) != 0) {
        error_set_errno(err, errno, "entering %s", path);
        return false;
    }
    struct archive *in = archive_read_disk_new();
    if (!in) abort();
    archive_read_disk_set_symlink_physical(in);
    archive_read_disk_set_behavior(in, ARCHIVE_READDISK_NO_TRAVERSE_MOUNTS | ARCHIVE_READDISK_NO_XATTR |
                                           ARCHIVE_READDISK_NO_ACL | ARCHIVE_READDISK_NO_FFLAGS);
    bool ok = archive_read_disk_open(in, ".") == ARCHIVE_OK;
    if (!ok)
        error_set(err, 400, "bad_archive", "%s", archive_error_string(in));
    else
        ok = unpack(im, in, err);
    archive_read_free(in);
    if (fchdir(before) != 0 && ok) {
        error_set_errno(err, errno, "returning from %s", path);
        ok = false;
    }
    return ok;
}

/* ---- what every sandbox needs of its image ------------------------------------------------------- */

/* A regular file at etc/NAME (a symlink there is replaced) that has `line`. */
static bool ensure_line(int top, const char *name, const char *prefix, const char *line, struct error *err) {
    cleanup_buffer struct buffer text = {.limit = PASSWD_MAX};
    const char *own;
    cleanup_close int etc = open_parent(top, name, &own);
    cleanup_close int old = etc < 0 ? -1 : open_beneath(etc, own, O_RDONLY | O_NONBLOCK, 0);
    char part[4096];
    ssize_t n;
    while (old >= 0 && (n = read(old, part, sizeof part)) > 0)
        if (!buffer_append(&text, part, (size_t)n)) break;
    bool there = false;
    for (const char *p = text.len ? text.data : NULL; p && *p;
         p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        there = there || (*prefix && strncmp(p, prefix, strlen(prefix)) == 0);
    if (!there) {
        if (text.len && text.data[text.len - 1] != '\n') buffer_append_char(&text, '\n');
        buffer_append_str(&text, line);
    }
    if (etc >= 0) unlinkat(etc, own, 0);
    cleanup_close int fd = etc < 0 ? -1 : open_beneath(etc, own, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd >= 0 && write(fd, text.data, text.len) == (ssize_t)text.len && fchmod(fd, 0644) == 0) return true;
    error_set_errno(err, errno, "writing %s of the image", name);
    return false;
}

static bool ensure_directory(int top, const char *path, struct error *err) {
    const char *name;
    cleanup_close int parent = open_parent(top, path, &name);
    if (parent >= 0 && put_directory(parent, name)) return true;
    error_set_errno(err, errno, "creating %s of the image", path);
    return false;
}

static bool complete(int top, struct error *err) {
    return ensure_directory(top, "etc", err) && ensure_directory(top, "var", err) &&
           ensure_directory(top, "var/tmp", err) &&
           ensure_line(top, "etc/passwd",
                       "sandbox:", "sandbox:x:1000:1000:sandbox:" SANDBOX_HOME ":/bin/sh\n", err) &&
           ensure_line(top, "etc/group", "sandbox:", "sandbox:x:1000:\n", err) &&
           ensure_line(top, "etc/hosts", "127.0.0.1", "127.0.0.1 localhost\n", err) &&
           ensure_line(top, "etc/resolv.conf", "#", "# no network\n", err);
}

/* ---- into place ----------------------------------------------------------------------------------- */

static bool switch_to(const char *images, const char *directory, const char *generation, struct error *err) {
    cleanup_free char *link = xasprintf("%s/%s", images, directory);
    cleanup_free char *fresh = xasprintf("%s/%s.link", images, generation);
    if (symlink(generation, fresh) == 0 && rename(fresh, link) == 0) return true;
    error_set_errno(err, errno, "putting the image into place as %s", link);
    unlink(fresh);
    return false;
}

bool rootfs_import(const char *state_dir, const char *name, const char *path, struct error *err) {
    if (!image_name_valid(name) || strcmp(name, IMAGE_HOST) == 0) {
        error_set_field(err, "name",
                        "must be 1 to 200 of a-z, 0-9 and ._/:-, begin with a letter or digit, and not be "
                        "\"" IMAGE_HOST "\"");
        return false;
    }
    struct stat st;
    if (stat(path, &st) != 0) {
        error_set_errno(err, errno, "opening %s", path);
        return false;
    }
    char directory[201], hex[2 * GENERATION_HEX + 1];
    image_directory(name, directory);
    random_hex(hex, GENERATION_HEX);
    cleanup_free char *images = xasprintf("%s/images", state_dir);
    cleanup_free char *generation = xasprintf("%s@%s", directory, hex);
    cleanup_free char *unfinished = xasprintf("%s.new", generation);
    cleanup_free char *fresh = xasprintf("%s/%s", images, unfinished);
    cleanup_free char *final = xasprintf("%s/%s", images, generation);
    if (!lazy_open(&lazy_archive, err) || !directory_make(fresh, err)) return false;
    struct import im = {.top = open(fresh, O_PATH | O_DIRECTORY | O_CLOEXEC),
                        .from_disk = S_ISDIR(st.st_mode)};
    bool ok = im.top >= 0 && (im.from_disk ? unpack_directory(&im, path, err) : unpack_tar(&im, path, err)) &&
              complete(im.top, err);
    if (im.top >= 0) close(im.top);
    if (ok && rename(fresh, final) != 0) {
        error_set_errno(err, errno, "putting the image into place as %s", final);
        ok = false;
    }
    ok = ok && switch_to(images, directory, generation, err);
    if (!ok) {
        error_wrap(err, "importing %s", path);
        tree_remove(images, unfinished, NULL);
    }
    return ok;
}
