/* See directory.h. */
#include "runtime/directory.h"

#include "runtime/paths.h"
#include "runtime/reply.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#define ENTRIES_MAX    100000
#define LIST_BYTES_MAX (8 * 1024 * 1024)

static char type_letter(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    default: return '-';
    }
}

/* "drwxr-xr-x", as ls prints it. */
static void mode_text(mode_t mode, char out[11]) {
    static const char bits[] = "rwxrwxrwx";
    out[0] = type_letter(mode);
    for (int i = 0; i < 9; i++)
        out[i + 1] = mode & (0400u >> i) ? bits[i] : '-';
    if (mode & S_ISUID) out[3] = mode & 0100 ? 's' : 'S';
    if (mode & S_ISGID) out[6] = mode & 0010 ? 's' : 'S';
    if (mode & S_ISVTX) out[9] = mode & 0001 ? 't' : 'T';
    out[10] = '\0';
}

static const char *type_name(mode_t mode) {
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "dir" : S_ISLNK(mode) ? "symlink" : "other";
}

/* The members of an entry without the braces. `dir` and `name` lead to it, for a link's target. */
static void put_entry(struct buffer *out, int dir, const char *name, struct slice shown,
                      const struct stat *st) {
    char mode[11];
    mode_text(st->st_mode, mode);
    buffer_append_str(out, "\"name\":");
    json_text_string(out, shown);
    buffer_printf(out, ",\"size\":%lld,\"isDir\":%s,\"mode\":\"%s\",\"modifiedAt\":%lld",
                  (long long)st->st_size, S_ISDIR(st->st_mode) ? "true" : "false", mode,
                  (long long)st->st_mtim.tv_sec);
    if (!S_ISLNK(st->st_mode)) return;
    char target[PATH_BYTES_MAX];
    ssize_t n = readlinkat(dir, name, target, sizeof target);
    if (n < 0) return;
    buffer_append_str(out, ",\"linkTarget\":");
    json_text_string(out, slice_make(target, (size_t)n));
}

static void answer_error(struct request *r, struct error *err) {
    reply_error(r->conn, err);
    error_clear(err);
}

static bool stat_path(struct request *r, struct buffer *out, struct error *err) {
    cleanup_buffer struct buffer path = {0};
    if (!path_from_query(r, &path, err)) return false;
    cleanup_close int fd = path_open(path.data, O_PATH | O_NOFOLLOW, 0, err);
    struct stat st;
    if (fd < 0) return false;
    if (fstat(fd, &st) != 0) return path_error(err, errno, path.data), false;
    const char *slash = strrchr(path.data, '/');
    struct slice name = slice_of(slash[1] ? slash + 1 : "/");
    buffer_append_char(out, '{');
    /* An empty name reads the link that an O_PATH descriptor is. */
    put_entry(out, fd, "", name, &st);
    buffer_append_str(out, ",\"path\":");
    json_text_string(out, buffer_slice(&path));
    buffer_printf(out, ",\"type\":\"%s\"}", type_name(st.st_mode));
    return true;
}

void directory_stat(struct request *r) {
    struct error err = {0};
    cleanup_buffer struct buffer out = {0};
    if (stat_path(r, &out, &err))
        reply_json(r->conn, 200, &out);
    else
        answer_error(r, &err);
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct names {
    char **items;
    size_t count, cap;
};

static void names_free(struct names *n) {
    for (size_t i = 0; i < n->count; i++)
        free(n->items[i]);
    free(n->items);
}

static bool read_names(DIR *dir, struct names *n, const char *path, struct error *err) {
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e && errno) return path_error(err, errno, path), false;
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (n->count == ENTRIES_MAX) {
            error_set(err, 413, "directory_too_large", "%.300s has more than %d entries", path, ENTRIES_MAX);
            return false;
        }
        if (n->count == n->cap) {
            n->cap = n->cap ? n->cap * 2 : 64;
            n->items = xrealloc(n->items, n->cap * sizeof *n->items);
        }
        n->items[n->count++] = xstrdup(e->d_name);
    }
    qsort(n->items, n->count, sizeof *n->items, by_bytes);
    return true;
}

static bool list_path(struct request *r, struct buffer *out, struct error *err) {
    cleanup_buffer struct buffer path = {0};
    __attribute__((cleanup(names_free))) struct names names = {0};
    if (!path_from_query(r, &path, err)) return false;
    int fd = path_open(path.data, O_RDONLY | O_DIRECTORY, 0, err);
    if (fd < 0) return false;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        path_error(err, errno, path.data);
        close(fd);
        return false;
    }
    bool ok = read_names(dir, &names, path.data, err);
    out->limit = LIST_BYTES_MAX;
    buffer_append_str(out, "{\"path\":");
    json_text_string(out, buffer_slice(&path));
    buffer_append_str(out, ",\"entries\":[");
    bool first = true;
    for (size_t i = 0; ok && i < names.count; i++) {
        struct stat st;
        /* one that went away meanwhile is not there */
        if (fstatat(fd, names.items[i], &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        buffer_append_str(out, first ? "{" : ",{");
        put_entry(out, fd, names.items[i], slice_of(names.items[i]), &st);
        first = false;
        ok = buffer_append_char(out, '}');
        if (!ok) error_set(err, 413, "directory_too_large", "the listing of %.300s is too large", path.data);
    }
    closedir(dir);
    if (ok && !buffer_append_str(out, "]}")) {
        error_set(err, 413, "directory_too_large", "the listing of %.300s is too large", path.data);
        ok = false;
    }
    return ok;
}

void directory_list(struct request *r) {
    struct error err = {0};
    cleanup_buffer struct buffer out = {0};
    if (list_path(r, &out, &err))
        reply_json(r->conn, 200, &out);
    else
        answer_error(r, &err);
}

void directory_make(struct request *r) {
    struct error err = {0};
    bool created = false;
    cleanup_buffer struct buffer path = {0}, out = {0};
    if (!path_from_query(r, &path, &err) || !path_make_directories(path.data, &created, &err)) {
        answer_error(r, &err);
        return;
    }
    buffer_append_str(&out, "{\"path\":");
    json_text_string(&out, buffer_slice(&path));
    buffer_printf(&out, ",\"created\":%s}", created ? "true" : "false");
    reply_json(r->conn, created ? 201 : 200, &out);
}
