/* See files.h. A file is never visible half written: the bytes go to a temporary name in the same
 * directory, are counted, and only then take the place of the target. What survives a power
 * failure is up to the file system: nothing is synced here. (lessons I9, S12; W-01, W-67) */
#include "runtime/files.h"

#include "runtime/paths.h"
#include "runtime/remove.h"
#include "runtime/reply.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <time.h>

static void answer_error(struct request *r, struct error *err) {
    if (!r->conn->answered) reply_error(r->conn, err);
    error_clear(err);
}

#define ETAG_MAX 96
/* Changes with the content: device, inode, size and both times. */
static void etag_of(const struct stat *st, char out[ETAG_MAX]) {
    snprintf(out, ETAG_MAX, "\"%llx-%llx-%llx-%llx%08lx\"", (unsigned long long)st->st_dev,
             (unsigned long long)st->st_ino, (unsigned long long)st->st_size,
             (unsigned long long)(st->st_mtim.tv_sec ^ st->st_ctim.tv_sec << 1),
             (unsigned long)(st->st_mtim.tv_nsec ^ st->st_ctim.tv_nsec << 1) & 0xffffffffUL);
}

static int open_regular(const char *path, int flags, struct stat *st, struct error *err) {
    cleanup_close int fd = path_open(path, flags, 0, err);
    if (fd < 0) return -1;
    if (fstat(fd, st) != 0) return path_error(err, errno, path), -1;
    if (!S_ISREG(st->st_mode))
        return error_set(err, 400, "not_a_file", "%.300s is not a regular file", path), -1;
    return steal_fd(fd);
}

struct range {
    uint64_t offset, length;
    bool partial;
};

/* "bytes=a-b", "bytes=a-", "bytes=-n". Anything else is as if it was not sent (RFC 9110 14.2). False: 416. */
static bool parse_range(const struct request *r, uint64_t size, struct range *out) {
    const struct http1_header *h = http1_find(&r->head, "Range");
    *out = (struct range){0, size, false};
    if (!h || !slice_starts_with(h->value, "bytes=")) return true;
    struct slice spec = slice_make(h->value.ptr + 6, h->value.len - 6);
    const char *dash = memchr(spec.ptr, '-', spec.len);
    if (!dash || memchr(spec.ptr, ',', spec.len)) return true;
    struct slice from = slice_make(spec.ptr, (size_t)(dash - spec.ptr));
    struct slice to = slice_make(dash + 1, spec.len - from.len - 1);
    uint64_t first = 0, last = UINT64_MAX;
    if (from.len > 0 && !slice_parse_u64(from, INT64_MAX, &first)) return true;
    if (to.len > 0 && !slice_parse_u64(to, INT64_MAX, &last)) return true;
    if (from.len == 0 && to.len == 0) return true;
    out->partial = true;
    if (from.len == 0) { /* the last n bytes */
        if (last == 0 || size == 0) return false;
        out->length = last < size ? last : size;
        out->offset = size - out->length;
        return true;
    }
    if (first >= size) return false;
    if (last < first) return out->partial = false, true;
    if (last >= size) last = size - 1;
    out->offset = first;
    out->length = last - first + 1;
    return true;
}

static void describe(struct buffer *head, const struct stat *st, const struct range *range) {
    char etag[ETAG_MAX], date[40];
    struct tm tm;
    time_t t = st->st_mtim.tv_sec;
    etag_of(st, etag);
    gmtime_r(&t, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    buffer_printf(
        head,
        "ETag: %s\r\nLast-Modified: %s\r\nX-File-Size: %llu\r\nX-File-Mode: %o\r\nX-File-Mtime: %lld\r\n",
        etag, date, (unsigned long long)st->st_size, st->st_mode & 07777, (long long)t);
    buffer_printf(head, "X-File-Offset: %llu\r\nX-File-Length: %llu\r\n", (unsigned long long)range->offset,
                  (unsigned long long)range->length);
    if (range->partial)
        buffer_printf(head, "Content-Range: bytes %llu-%llu/%llu\r\n", (unsigned long long)range->offset,
                      (unsigned long long)(range->offset + range->length - 1),
                      (unsigned long long)st->st_size);
}

/* The promised bytes; a file that shrank ends the connection early, which the reader notices. */
static void send_content(struct conn *c, int fd, struct range range) {
    off_t at = (off_t)range.offset;
    while (range.length > 0) {
        size_t want = range.length < 1 << 20 ? (size_t)range.length : 1 << 20;
        ssize_t n = sendfile(c->fd, fd, &at, want);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN && conn_wait(c, POLLOUT, STALL_TIMEOUT_MS)) continue;
        if (n <= 0) return;
        range.length -= (uint64_t)n;
    }
}

static bool wants_descriptor(struct request *r) {
    cleanup_buffer struct buffer pass = {0};
    return r->conn->local && request_query(r, "pass", &pass) == 1 &&
           slice_equal_str(buffer_slice(&pass), "fd");
}

static bool get(struct request *r, struct error *err) {
    cleanup_buffer struct buffer path = {0}, headers = {0};
    struct stat st;
    struct range range;
    if (!path_from_query(r, &path, err)) return false;
    cleanup_close int fd = open_regular(path.data, O_RDONLY, &st, err);
    if (fd < 0) return false;
    if (!parse_range(r, (uint64_t)st.st_size, &range)) {
        error_set(err, 416, "range_not_satisfiable", "%.300s has %lld bytes", path.data,
                  (long long)st.st_size);
        return false;
    }
    describe(&headers, &st, &range);
    int status = range.partial ? 206 : 200;
    if (wants_descriptor(r)) {
        cleanup_buffer struct buffer head = {0};
        buffer_printf(&head, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n", status, reply_reason(status));
        buffer_append(&head, headers.data, headers.len);
        buffer_append_str(&head, "Connection: close\r\n\r\n");
        r->conn->answered = true;
        conn_send_fd(r->conn, buffer_slice(&head), fd);
        return true;
    }
    buffer_printf(&headers, "Content-Type: application/octet-stream\r\nContent-Length: %llu\r\n",
                  (unsigned long long)range.length);
    if (reply_head(r->conn, status, buffer_cstr(&headers))) send_content(r->conn, fd, range);
    return true;
}

void files_get(struct request *r) {
    struct error err = {0};
    if (!get(r, &err)) answer_error(r, &err);
}

/* ---- Writing ---- */

struct upload {
    int dir;
    char temporary[48];
    int fd;
    uint64_t bytes;
};

/* Where the bytes really go: a symlink leaf to a regular file is followed, within openat2's rules. */
static bool resolve_leaf(struct buffer *path, struct stat *old, bool *exists, struct error *err) {
    cleanup_error struct error none = {0};
    cleanup_close int fd = path_open(path->data, O_PATH, 0, &none);
    *exists = fd >= 0;
    if (fd < 0) {
        if (strcmp(none.code, "file_not_found") == 0 || strcmp(none.code, "not_a_directory") == 0) {
            struct stat link;
            if (lstat(path->data, &link) != 0 || !S_ISLNK(link.st_mode)) return true;
            error_set(err, 400, "not_a_file", "%.300s is a symbolic link to nothing", path->data);
            return false;
        }
        error_move(err, &none);
        return false;
    }
    if (fstat(fd, old) != 0) return path_error(err, errno, path->data), false;
    if (!S_ISREG(old->st_mode)) {
        error_set(err, 400, "not_a_file", "%.300s is there and not a regular file", path->data);
        return false;
    }
    char self[40], target[PATH_BYTES_MAX];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(self, target, sizeof target - 1);
    struct stat link;
    if (n > 0 && n < (ssize_t)sizeof target - 1 && lstat(path->data, &link) == 0 && S_ISLNK(link.st_mode))
        return path_clean(slice_make(target, (size_t)n), path, err);
    return true;
}

static bool create_temporary(struct upload *u, const char *path, mode_t mode, struct error *err) {
    for (int i = 0; i < 16; i++) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(u->temporary, sizeof u->temporary, ".agenttier-upload-%x-%lx%x", (unsigned)getpid(),
                 now.tv_nsec, i);
        u->fd = openat(u->dir, u->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        if (u->fd >= 0 || errno != EEXIST) break;
    }
    if (u->fd >= 0) return true;
    u->temporary[0] = '\0';
    path_error(err, errno, path);
    return false;
}

static bool write_all(int fd, struct slice bytes, const char *path, struct error *err) {
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return path_error(err, errno, path), false;
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return true;
}

static bool receive(struct request *r, struct upload *u, const char *path, struct error *err) {
    cleanup_body struct body body = {0};
    if (!body_open(&body, r))
        return error_set(err, 400, ERR_BAD_REQUEST, "the body could not be read"), false;
    for (;;) {
        struct slice chunk;
        int more = body_next(&body, &chunk, err);
        if (more < 0) return false;
        if (more == 0) break;
        if (!write_all(u->fd, chunk, path, err)) return false;
        u->bytes += chunk.len;
    }
    cleanup_buffer struct buffer wanted = {0};
    uint64_t size;
    if (request_query(r, "size", &wanted) == 1 &&
        (!slice_parse_u64(buffer_slice(&wanted), INT64_MAX, &size) || size != u->bytes)) {
        error_set(err, 400, "size_mismatch", "%llu bytes came where %s were announced",
                  (unsigned long long)u->bytes, buffer_cstr(&wanted));
        return false;
    }
    return true;
}

static bool finish(struct upload *u, const char *name, const char *path, const struct stat *old,
                   struct stat *st, struct error *err) {
    if (old && fchmod(u->fd, old->st_mode & 0777) != 0) return path_error(err, errno, path), false;
    if (fstat(u->fd, st) != 0) return path_error(err, errno, path), false;
    if ((uint64_t)st->st_size != u->bytes) {
        error_set(err, 500, ERR_INTERNAL, "%.300s: the file system kept %lld of %llu bytes", path,
                  (long long)st->st_size, (unsigned long long)u->bytes);
        return false;
    }
    if (renameat(u->dir, u->temporary, u->dir, name) != 0) return path_error(err, errno, path), false;
    u->temporary[0] = '\0';
    return fstat(u->fd, st) == 0 || (path_error(err, errno, path), false);
}

static bool put(struct request *r, mode_t mask, struct buffer *out, bool *created, struct error *err) {
    cleanup_buffer struct buffer asked = {0}, path = {0};
    struct stat old = {0}, st;
    bool exists;
    if (!path_from_query(r, &asked, err)) return false;
    buffer_append(&path, asked.data, asked.len);
    buffer_cstr(&path);
    if (!resolve_leaf(&path, &old, &exists, err)) return false;
    struct upload u = {.dir = -1, .fd = -1};
    const char *name;
    u.dir = path_open_parent(path.data, true, mask, &name, err);
    bool ok = u.dir >= 0 && create_temporary(&u, path.data, 0666 & ~mask, err) &&
              receive(r, &u, path.data, err) && finish(&u, name, path.data, exists ? &old : NULL, &st, err);
    if (u.temporary[0]) unlinkat(u.dir, u.temporary, 0);
    if (u.fd >= 0) close(u.fd);
    if (u.dir >= 0) close(u.dir);
    if (!ok) return false;
    char etag[ETAG_MAX];
    etag_of(&st, etag);
    *created = !exists;
    buffer_append_str(out, "{\"path\":");
    json_text_string(out, buffer_slice(&asked));
    buffer_printf(out, ",\"bytes\":%llu,\"etag\":", (unsigned long long)u.bytes);
    json_text_string(out, slice_of(etag));
    buffer_printf(out, ",\"created\":%s}", exists ? "false" : "true");
    return true;
}

void files_put(struct request *r, mode_t mask) {
    struct error err = {0};
    bool created;
    cleanup_buffer struct buffer out = {0};
    if (put(r, mask, &out, &created, &err))
        reply_json(r->conn, 201, &out);
    else
        answer_error(r, &err);
}

/* ---- Deleting ---- */

static bool delete (struct request *r, struct error *err) {
    cleanup_buffer struct buffer path = {0}, flag = {0};
    if (!path_from_query(r, &path, err)) return false;
    bool recursive =
        request_query(r, "recursive", &flag) == 1 && slice_equal_str(buffer_slice(&flag), "true");
    if (strcmp(path.data, "/") == 0 || strcmp(path.data, "/workspace") == 0) {
        error_set(err, 403, "permission_denied", "%s itself cannot be deleted", path.data);
        return false;
    }
    const char *name;
    cleanup_close int dir = path_open_parent(path.data, false, 0, &name, err);
    if (dir < 0) return false;
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return path_error(err, errno, path.data), false;
    if (S_ISDIR(st.st_mode) && recursive) return remove_tree(dir, name, path.data, err);
    if (unlinkat(dir, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0) return true;
    path_error(err, errno, path.data);
    return false;
}

void files_delete(struct request *r) {
    struct error err = {0};
    if (delete (r, &err))
        reply(r->conn, 204, "", "", slice_of(""));
    else
        answer_error(r, &err);
}
