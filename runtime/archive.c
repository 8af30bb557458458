/* See archive.h. Going out: a sorted walk that follows no symlink. Coming in: every entry is made
 * below the directory through openat2, so that no name, link or order of entries leads outside
 * of it. (lessons S13, O1; W-14, W-52) */
#include "runtime/archive.h"

#include "common/tar.h"
#include "runtime/paths.h"
#include "runtime/reply.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define CHUNK        (128 * 1024)
#define DEPTH_MAX    200
#define ENTRIES_MAX  100000
#define UNPACKED_MAX (5ULL << 30)

/* ---- Out ---- */

struct packer {
    struct conn *conn;
    struct buffer out; /* the next chunk */
    struct error *err; /* the reason to cut the connection */
};

static bool flush(struct packer *p) {
    if (p->out.len == 0) return true;
    char size[24];
    int n = snprintf(size, sizeof size, "%zx\r\n", p->out.len);
    bool ok = conn_send(p->conn, slice_make(size, (size_t)n)) && conn_send(p->conn, buffer_slice(&p->out)) &&
              conn_send(p->conn, slice_of("\r\n"));
    buffer_clear(&p->out);
    return ok;
}

static bool put_header(struct packer *p, const char *path, const struct stat *st, enum tar_type type,
                       const char *link) {
    struct tar_entry e = {.type = type,
                          .path = slice_of(path),
                          .link = slice_of(link),
                          .mode = st->st_mode & 07777,
                          .mtime = st->st_mtim.tv_sec,
                          .size = type == TAR_FILE ? (uint64_t)st->st_size : 0};
    if (p->out.len > CHUNK && !flush(p)) return false;
    return tar_write_entry(&p->out, &e, p->err);
}

/* Exactly st_size bytes: a file that grows is cut there, one that shrank fails the archive. */
static bool put_content(struct packer *p, int fd, uint64_t size) {
    cleanup_free char *block = xrealloc(NULL, CHUNK);
    for (uint64_t left = size; left > 0;) {
        ssize_t n = read(fd, block, left < CHUNK ? (size_t)left : CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        buffer_append(&p->out, block, (size_t)n);
        left -= (uint64_t)n;
        if (p->out.len >= CHUNK && !flush(p)) return false;
    }
    return tar_write_padding(&p->out, size);
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}
static int not_dots(const struct dirent *e) {
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static bool pack_directory(struct packer *p, int fd, const char *prefix, int depth);

static bool pack_entry(struct packer *p, int dir, const char *name, const char *path, int depth) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT; /* deleted meanwhile */
    if (S_ISLNK(st.st_mode)) {
        char target[PATH_BYTES_MAX];
        ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
        if (n < 0) return errno == ENOENT;
        target[n] = '\0';
        return put_header(p, path, &st, TAR_SYMLINK, target);
    }
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) return true;
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0);
    cleanup_close int fd = openat(dir, name, flags);
    if (fd < 0) return errno == ENOENT;
    if (fstat(fd, &st) != 0) return false;
    if (S_ISDIR(st.st_mode))
        return put_header(p, path, &st, TAR_DIR, "") && pack_directory(p, fd, path, depth + 1);
    return put_header(p, path, &st, TAR_FILE, "") && put_content(p, fd, (uint64_t)st.st_size);
}

static bool pack_directory(struct packer *p, int fd, const char *prefix, int depth) {
    struct dirent **names;
    if (depth > DEPTH_MAX) return false;
    int count = scandirat(fd, ".", &names, not_dots, by_bytes);
    if (count < 0) return false;
    bool ok = true;
    for (int i = 0; i < count; i++) {
        if (ok) {
            cleanup_free char *path =
                *prefix ? xasprintf("%s/%s", prefix, names[i]->d_name) : xstrdup(names[i]->d_name);
            ok = pack_entry(p, fd, names[i]->d_name, path, depth);
        }
        free(names[i]);
    }
    free(names);
    return ok;
}

/* The directory that "path" names, inside of "within" when that is given. */
static int open_directory(struct request *r, struct buffer *path, bool create, struct error *err) {
    cleanup_buffer struct buffer raw = {0}, within = {0};
    if (!path_from_query(r, path, err)) return -1;
    int given = request_query(r, "within", &raw);
    if (given < 0) return error_set(err, 400, "bad_path", "\"within\" is badly encoded"), -1;
    if (given > 0)
        return path_clean(buffer_slice(&raw), &within, err)
                   ? path_open_within(within.data, path->data, create, err)
                   : -1;
    bool created;
    if (create && !path_make_directories(path->data, &created, err)) return -1;
    return path_open(path->data, O_RDONLY | O_DIRECTORY | (create ? 0 : O_NOFOLLOW), 0, err);
}

void archive_get(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer path = {0};
    cleanup_close int fd = open_directory(r, &path, false, &err);
    if (fd < 0) {
        reply_error(r->conn, &err);
        return;
    }
    struct packer p = {.conn = r->conn, .err = &err};
    /* A failure from here on leaves the final chunk out: the reader knows that it is cut. */
    if (reply_head(r->conn, 200, "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n") &&
        pack_directory(&p, fd, "", 0) && tar_write_end(&p.out) && flush(&p))
        conn_send(r->conn, slice_of("0\r\n\r\n"));
    buffer_free(&p.out);
}

/* ---- In ---- */

struct unpacker {
    int root, fd; /* fd: the file being written */
    char *path;   /* of the current entry, relative and clean */
    unsigned mode;
    uint64_t entries, bytes;
};

static bool bad_entry(struct error *err, struct slice path, const char *why) {
    error_set(err, 400, "bad_archive", "entry %.*s %s", path.len > 200 ? 200 : (int)path.len, path.ptr, why);
    return false;
}

/* Relative, without "..": "./a//b/" is "a/b"; "" is the directory itself. */
static char *clean_relative(struct slice path, struct error *err) {
    if (path.len > 0 && path.ptr[0] == '/') return bad_entry(err, path, "has an absolute name"), NULL;
    struct buffer out = {0};
    for (size_t i = 0; i < path.len;) {
        while (i < path.len && path.ptr[i] == '/')
            i++;
        size_t start = i;
        while (i < path.len && path.ptr[i] != '/')
            i++;
        struct slice part = slice_make(path.ptr + start, i - start);
        if (part.len == 0 || slice_equal_str(part, ".")) continue;
        if (slice_equal_str(part, "..")) {
            buffer_free(&out);
            return bad_entry(err, path, "has \"..\" in its name"), NULL;
        }
        if (out.len > 0) buffer_append_char(&out, '/');
        buffer_append(&out, part.ptr, part.len);
    }
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

/* The directory that holds `path`, made when missing; *name is the last component. */
static int open_holder(struct unpacker *u, char *path, const char **name, struct error *err) {
    char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (!slash) return path_open_beneath(u->root, ".", O_RDONLY | O_DIRECTORY, 0, err);
    *slash = '\0';
    for (char *at = path;; at++) {
        if (*at != '/' && *at != '\0') continue;
        char end = *at;
        *at = '\0';
        cleanup_error struct error none = {0};
        const char *up = strrchr(path, '/');
        cleanup_free char *parent = up ? slice_dup(slice_make(path, (size_t)(up - path))) : xstrdup(".");
        cleanup_close int dir = path_open_beneath(u->root, parent, O_RDONLY | O_DIRECTORY, 0, &none);
        if (dir >= 0) mkdirat(dir, up ? up + 1 : path, 0777);
        *at = end;
        if (end == '\0') break;
    }
    int fd = path_open_beneath(u->root, path, O_RDONLY | O_DIRECTORY, 0, err);
    *slash = '/';
    return fd;
}

/* Whatever is in the way and not a directory goes. */
static bool make_way(int dir, const char *name, struct slice path, struct error *err) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return true;
    if (errno == EISDIR) return bad_entry(err, path, "would replace a directory");
    path_error(err, errno, name);
    return false;
}

static bool make_directory(struct unpacker *u, int dir, const char *name, const struct tar_entry *e,
                           struct error *err) {
    unsigned mode = (e->mode & 01777) | 0700; /* ours to fill, whatever the archive says */
    if (mkdirat(dir, name, mode) == 0) return true;
    if (errno != EEXIST) return path_error(err, errno, u->path), false;
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) return true;
    return bad_entry(err, e->path, "is there and not a directory");
}

static bool make_hard_link(struct unpacker *u, int dir, const char *name, const struct tar_entry *e,
                           struct error *err) {
    cleanup_free char *target = clean_relative(e->link, err);
    if (!target) return false;
    const char *target_name;
    cleanup_close int target_dir = open_holder(u, target, &target_name, err);
    if (target_dir < 0) return false;
    struct stat st;
    if (fstatat(target_dir, target_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return bad_entry(err, e->path, "is a hard link to nothing in the archive");
    if (linkat(target_dir, target_name, dir, name, 0) == 0) return true;
    path_error(err, errno, u->path);
    return false;
}

static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    struct unpacker *u = ctx;
    if (++u->entries > ENTRIES_MAX)
        return error_set(err, 413, "archive_too_large", "more than %d entries", ENTRIES_MAX), false;
    free(u->path);
    u->path = clean_relative(e->path, err);
    if (!u->path) return false;
    if (e->type == TAR_OTHER) return bad_entry(err, e->path, "is a device or of an unknown type");
    if (!u->path[0]) return e->type == TAR_DIR || bad_entry(err, e->path, "has no name");
    const char *name;
    cleanup_close int dir = open_holder(u, u->path, &name, err);
    if (dir < 0) return false;
    if (e->type == TAR_DIR) return make_directory(u, dir, name, e, err);
    if (!make_way(dir, name, e->path, err)) return false;
    if (e->type == TAR_HARDLINK) return make_hard_link(u, dir, name, e, err);
    if (e->type == TAR_SYMLINK) {
        cleanup_free char *target = slice_dup(e->link);
        if (symlinkat(target, dir, name) == 0) return true;
        path_error(err, errno, u->path);
        return false;
    }
    u->mode = e->mode & 0777;
    u->fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (u->fd >= 0) return true;
    path_error(err, errno, u->path);
    return false;
}

static bool on_data(void *ctx, struct slice data, struct error *err) {
    struct unpacker *u = ctx;
    u->bytes += data.len;
    if (u->bytes > UNPACKED_MAX)
        return error_set(err, 413, "archive_too_large", "more than 5 GiB unpacked"), false;
    while (u->fd >= 0 && data.len > 0) {
        ssize_t n = write(u->fd, data.ptr, data.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return path_error(err, errno, u->path), false;
        data.ptr += n;
        data.len -= (size_t)n;
    }
    return true;
}

static bool on_entry_end(void *ctx, struct error *err) {
    struct unpacker *u = ctx;
    if (u->fd < 0) return true;
    cleanup_close int fd = steal_fd(u->fd);
    if (fchmod(fd, u->mode) == 0) return true;
    path_error(err, errno, u->path);
    return false;
}

static bool unpack(struct request *r, struct unpacker *u, struct error *err) {
    static const struct tar_events events = {on_entry, on_data, on_entry_end};
    struct tar_reader reader;
    cleanup_body struct body body = {0};
    if (!body_open(&body, r))
        return error_set(err, 400, ERR_BAD_REQUEST, "the body could not be read"), false;
    tar_reader_init(&reader, &events, u);
    struct slice chunk;
    int more;
    while ((more = body_next(&body, &chunk, err)) > 0)
        if (!tar_reader_feed(&reader, chunk, err)) break;
    bool ok = more == 0 && tar_reader_finish(&reader, err);
    tar_reader_free(&reader);
    return ok;
}

void archive_put(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer path = {0}, out = {0};
    struct unpacker u = {.root = -1, .fd = -1};
    u.root = open_directory(r, &path, true, &err);
    bool ok = u.root >= 0 && unpack(r, &u, &err);
    if (u.fd >= 0) close(u.fd);
    if (u.root >= 0) close(u.root);
    free(u.path);
    if (!ok) {
        reply_error(r->conn, &err);
        return;
    }
    buffer_append_str(&out, "{\"path\":");
    json_text_string(&out, buffer_slice(&path));
    buffer_printf(&out, ",\"entries\":%llu,\"bytes\":%llu}", (unsigned long long)u.entries,
                  (unsigned long long)u.bytes);
    reply_json(r->conn, 200, &out);
}
