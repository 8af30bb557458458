#include "router/archive_unpack.h"

#include "common/lazy.h"
#include "common/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <sys/stat.h>

#define PIECE 131072

/* ---- Looking at a tar that passes ---- */

struct tar_guard {
    struct tar_reader reader;
    uint64_t entries, bytes;
};

static bool too_large(struct error *err) {
    error_set(err, 413, "archive_too_large", "the archive holds more than %d entries or %llu GiB unpacked",
              ARCHIVE_MAX_ENTRIES, ARCHIVE_MAX_UNPACKED >> 30);
    return false;
}

static bool guard_entry(void *ctx, const struct tar_entry *entry, struct error *err) {
    struct tar_guard *g = ctx;
    if (++g->entries > ARCHIVE_MAX_ENTRIES || entry->size > ARCHIVE_MAX_UNPACKED - g->bytes)
        return too_large(err);
    g->bytes += entry->size;
    return true;
}
static bool guard_data(void *ctx, struct slice data, struct error *err) {
    (void)ctx, (void)data, (void)err;
    return true;
}
static bool guard_end(void *ctx, struct error *err) {
    (void)ctx, (void)err;
    return true;
}
static const struct tar_events guard_events = {guard_entry, guard_data, guard_end};

struct tar_guard *tar_guard_new(void) {
    struct tar_guard *g = xcalloc(1, sizeof *g);
    tar_reader_init(&g->reader, &guard_events, g);
    return g;
}
void tar_guard_free(struct tar_guard *g) {
    if (!g) return;
    tar_reader_free(&g->reader);
    free(g);
}
bool tar_guard_feed(struct tar_guard *g, struct slice bytes, struct error *err) {
    return tar_reader_feed(&g->reader, bytes, err);
}
bool tar_guard_finish(struct tar_guard *g, struct error *err) {
    return tar_reader_finish(&g->reader, err);
}

/* ---- Zip and gzip ---- */

struct archive_unpack {
    enum archive_format format;
    struct archive *reader;
    locale_t utf8;           /* libarchive asks the locale what names are to be in */
    struct tar_guard *guard; /* of the tar inside a gzip */
    uint64_t entries, bytes;
    uint64_t size, left; /* of the open file */
    bool file_open, empty;
    char piece[65536];
};

static bool bad_archive(struct archive_unpack *u, struct error *err) {
    const char *why = u->reader ? archive_error_string(u->reader) : NULL;
    error_set(err, 400, "bad_archive", "the archive cannot be read: %s", why ? why : "it is damaged");
    return false;
}

/* A zip without entries is its end record alone, which libarchive does not recognise. */
static bool zip_is_empty(int fd) {
    static const char start[12] = {'P', 'K', 5, 6}; /* disks and counts are 0 */
    char end[22];
    struct stat st;
    return fstat(fd, &st) == 0 && pread(fd, end, sizeof end, 0) == (ssize_t)sizeof end &&
           memcmp(end, start, sizeof start) == 0 &&
           st.st_size == (off_t)sizeof end + ((unsigned char)end[20] | (unsigned char)end[21] << 8);
}

struct archive_unpack *archive_unpack_new(enum archive_format format, int fd, struct error *err) {
    if (!lazy_open(&lazy_archive, err)) return NULL;
    struct archive_unpack *u = xcalloc(1, sizeof *u);
    u->format = format;
    u->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    u->reader = archive_read_new();
    if (format == ARCHIVE_TAR_GZ) u->guard = tar_guard_new();
    u->empty = format == ARCHIVE_ZIP && zip_is_empty(fd);
    if (u->empty) return u;
    struct archive_entry *entry;
    bool ok = u->reader && u->utf8 && lseek(fd, 0, SEEK_SET) == 0;
    if (ok && format == ARCHIVE_ZIP)
        ok = archive_read_support_format_zip_seekable(u->reader) == ARCHIVE_OK;
    else if (ok)
        ok = archive_read_support_filter_gzip(u->reader) == ARCHIVE_OK &&
             archive_read_support_format_raw(u->reader) == ARCHIVE_OK;
    ok = ok && archive_read_open_fd(u->reader, fd, sizeof u->piece) == ARCHIVE_OK;
    /* The raw format has one entry, the inflated whole; a body that is not gzip has no filter. */
    if (ok && format == ARCHIVE_TAR_GZ)
        ok = archive_read_next_header(u->reader, &entry) == ARCHIVE_OK &&
             archive_filter_code(u->reader, 0) == ARCHIVE_FILTER_GZIP;
    if (ok) return u;
    bad_archive(u, err);
    archive_unpack_free(u);
    return NULL;
}

void archive_unpack_free(struct archive_unpack *u) {
    if (!u) return;
    if (u->reader) archive_read_free(u->reader);
    if (u->utf8) freelocale(u->utf8);
    tar_guard_free(u->guard);
    free(u);
}

static int inflate_more(struct archive_unpack *u, struct buffer *out, struct error *err) {
    la_ssize_t n = archive_read_data(u->reader, u->piece, sizeof u->piece);
    if (n < 0) return bad_archive(u, err), -1;
    if (n == 0) return tar_guard_finish(u->guard, err) ? 0 : -1;
    struct slice got = {u->piece, (size_t)n};
    if (!tar_guard_feed(u->guard, got, err)) return -1;
    u->bytes += (uint64_t)n;
    if (u->bytes > ARCHIVE_MAX_UNPACKED + (ARCHIVE_MAX_ENTRIES * 4096ull)) return too_large(err), -1;
    return buffer_append(out, u->piece, (size_t)n) ? 1 : -1;
}

static bool put_entry(struct archive_unpack *u, struct archive_entry *e, struct buffer *out,
                      struct error *err) {
    mode_t type = archive_entry_filetype(e);
    const char *path = archive_entry_pathname(e), *link = archive_entry_symlink(e);
    if (!path) return bad_archive(u, err);
    if (archive_entry_is_encrypted(e)) {
        error_set(err, 400, "bad_archive", "the archive is encrypted");
        return false;
    }
    struct tar_entry t = {.path = slice_of(path),
                          .mode = (unsigned)archive_entry_perm(e) & 07777,
                          .mtime = archive_entry_mtime_is_set(e) ? archive_entry_mtime(e) : 0};
    if (t.mtime < 0) t.mtime = 0;
    if (type == AE_IFDIR) {
        t.type = TAR_DIR;
        while (t.path.len > 1 && t.path.ptr[t.path.len - 1] == '/')
            t.path.len--;
        if ((t.mode & 0777) == 0) t.mode = 0755; /* made where there are no Unix modes */
    } else if (type == AE_IFLNK) {
        if (!link || !link[0]) return bad_archive(u, err);
        t.type = TAR_SYMLINK;
        t.link = slice_of(link);
    } else if (type == AE_IFREG || type == 0) {
        if (!archive_entry_size_is_set(e) || archive_entry_size(e) < 0) return bad_archive(u, err);
        t.type = TAR_FILE;
        t.size = (uint64_t)archive_entry_size(e);
        if ((t.mode & 0777) == 0) t.mode = 0644;
        if (t.size > ARCHIVE_MAX_UNPACKED - u->bytes) return too_large(err);
        u->bytes += t.size;
        u->size = u->left = t.size;
        u->file_open = true;
    } else {
        error_set(err, 400, "bad_archive",
                  "the archive holds something that is no file, directory or symlink");
        return false;
    }
    if (tar_write_entry(out, &t, err)) return true;
    if (err) { /* whatever is wrong with the name is wrong with the archive */
        err->status = 400;
        err->code = "bad_archive";
    }
    return false;
}

/* The entry's size stands in the tar already, so exactly that much must come. */
static bool put_data(struct archive_unpack *u, struct buffer *out, struct error *err) {
    la_ssize_t n = archive_read_data(u->reader, u->piece, sizeof u->piece);
    if (n < 0 || (uint64_t)n > u->left || (n == 0 && u->left)) return bad_archive(u, err);
    if (n == 0) {
        u->file_open = false;
        return tar_write_padding(out, u->size);
    }
    u->left -= (uint64_t)n;
    return buffer_append(out, u->piece, (size_t)n);
}

static int unzip_more(struct archive_unpack *u, struct buffer *out, struct error *err) {
    if (u->file_open) return put_data(u, out, err) ? 1 : -1;
    struct archive_entry *entry;
    int rc = archive_read_next_header(u->reader, &entry);
    if (rc == ARCHIVE_EOF) return tar_write_end(out) ? 0 : -1;
    if (rc < ARCHIVE_WARN) return bad_archive(u, err), -1;
    if (++u->entries > ARCHIVE_MAX_ENTRIES) return too_large(err), -1;
    return put_entry(u, entry, out, err) ? 1 : -1;
}

int archive_unpack_more(struct archive_unpack *u, struct buffer *out, struct error *err) {
    if (u->empty) return tar_write_end(out) ? 0 : -1;
    locale_t before = uselocale(u->utf8);
    int rc = 1;
    while (rc == 1 && out->len < PIECE)
        rc = u->format == ARCHIVE_ZIP ? unzip_more(u, out, err) : inflate_more(u, out, err);
    uselocale(before);
    return rc;
}

enum archive_format archive_sniff(struct slice start) {
    if (start.len >= 4 && memcmp(start.ptr, "PK", 2) == 0 &&
        ((start.ptr[2] == 3 && start.ptr[3] == 4) || (start.ptr[2] == 5 && start.ptr[3] == 6)))
        return ARCHIVE_ZIP;
    if (start.len >= 2 && memcmp(start.ptr, "\x1f\x8b", 2) == 0) return ARCHIVE_TAR_GZ;
    return ARCHIVE_TAR;
}
