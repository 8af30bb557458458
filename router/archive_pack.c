#include "router/archive_pack.h"

#include "common/lazy.h"
#include "common/tar.h"
#include "common/text.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <sys/stat.h>

struct archive_pack {
    enum archive_format format;
    struct archive *writer;
    struct buffer *out; /* of the call under way */
    struct buffer head; /* what the writer gave when it was opened */
    locale_t utf8;      /* libarchive asks the locale what names are written in */
    struct tar_reader reader;
    uint64_t entries;
    bool file_open; /* the entry's content is wanted */
};

static bool writer_failed(struct archive_pack *p, struct error *err) {
    const char *why = archive_error_string(p->writer);
    error_set(err, 500, ERR_INTERNAL, "the archive could not be written: %s", why ? why : "unknown reason");
    return false;
}

/* libarchive's write callback. */
static la_ssize_t take_output(struct archive *a, void *ctx, const void *data, size_t len) {
    struct archive_pack *p = ctx;
    if (!p->out) return (la_ssize_t)len;
    return buffer_append(p->out, data, len) ? (la_ssize_t)len
                                            : (archive_set_error(a, EFBIG, "too large"), -1);
}

static unsigned file_type(enum tar_type type) {
    return type == TAR_DIR ? AE_IFDIR : type == TAR_SYMLINK ? AE_IFLNK : AE_IFREG;
}

static bool begin_entry(void *ctx, const struct tar_entry *entry, struct error *err) {
    struct archive_pack *p = ctx;
    p->file_open = false;
    if (++p->entries > ARCHIVE_MAX_PACKED_ENTRIES) {
        error_set(err, 413, "archive_too_large", "the directory holds more than %d entries",
                  ARCHIVE_MAX_PACKED_ENTRIES);
        return false;
    }
    if (p->format != ARCHIVE_ZIP) return true;                                /* only looked at */
    if (entry->type == TAR_HARDLINK || entry->type == TAR_OTHER) return true; /* left out */
    cleanup_buffer struct buffer path = {0}, link = {0};
    utf8_repair(entry->path, &path);
    utf8_repair(entry->link, &link);
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, buffer_cstr(&path));
    archive_entry_set_filetype(e, file_type(entry->type));
    archive_entry_set_perm(e, (mode_t)(entry->mode & 07777));
    archive_entry_set_mtime(e, (time_t)entry->mtime, 0);
    archive_entry_set_size(e, entry->type == TAR_FILE ? (la_int64_t)entry->size : 0);
    if (entry->type == TAR_SYMLINK) archive_entry_set_symlink(e, buffer_cstr(&link));
    int rc = archive_write_header(p->writer, e);
    archive_entry_free(e);
    if (rc < ARCHIVE_WARN) return writer_failed(p, err);
    p->file_open = entry->type == TAR_FILE;
    return true;
}

static bool write_all(struct archive_pack *p, struct slice data, struct error *err) {
    while (data.len) {
        la_ssize_t n = archive_write_data(p->writer, data.ptr, data.len);
        if (n <= 0) return writer_failed(p, err);
        data = slice_make(data.ptr + n, data.len - (size_t)n);
    }
    return true;
}

static bool entry_data(void *ctx, struct slice data, struct error *err) {
    struct archive_pack *p = ctx;
    return !p->file_open || write_all(p, data, err);
}

static bool end_entry(void *ctx, struct error *err) {
    struct archive_pack *p = ctx;
    if (p->file_open && archive_write_finish_entry(p->writer) < ARCHIVE_WARN) return writer_failed(p, err);
    p->file_open = false;
    return true;
}

static const struct tar_events events = {begin_entry, entry_data, end_entry};

static bool open_writer(struct archive_pack *p) {
    struct archive *w = p->writer;
    if (archive_write_set_bytes_per_block(w, 0) != ARCHIVE_OK) return false;
    if (p->format == ARCHIVE_ZIP) {
        if (archive_write_set_format_zip(w) != ARCHIVE_OK) return false;
    } else if (archive_write_add_filter_gzip(w) != ARCHIVE_OK ||
               archive_write_set_format_raw(w) != ARCHIVE_OK ||
               /* No time of packing in the gzip header: the same directory gives the same bytes. */
               archive_write_set_options(w, "gzip:!timestamp") != ARCHIVE_OK) {
        return false;
    }
    if (archive_write_open(w, p, NULL, take_output, NULL) != ARCHIVE_OK) return false;
    if (p->format == ARCHIVE_ZIP) return true;
    struct archive_entry *whole = archive_entry_new();
    archive_entry_set_pathname(whole, "tar");
    archive_entry_set_filetype(whole, AE_IFREG);
    int rc = archive_write_header(w, whole);
    archive_entry_free(whole);
    return rc == ARCHIVE_OK;
}

struct archive_pack *archive_pack_new(enum archive_format format, struct error *err) {
    if (!lazy_open(&lazy_archive, err)) return NULL;
    struct archive_pack *p = xcalloc(1, sizeof *p);
    p->format = format;
    p->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    p->writer = archive_write_new();
    tar_reader_init(&p->reader, &events, p);
    p->out = &p->head;
    bool ok = p->writer && p->utf8 && open_writer(p);
    p->out = NULL;
    if (ok) return p;
    error_set(err, 500, ERR_INTERNAL, "cannot make archives: %s",
              p->writer && p->utf8 ? archive_error_string(p->writer) : "no memory or no C.UTF-8 locale");
    archive_pack_free(p);
    return NULL;
}

void archive_pack_free(struct archive_pack *p) {
    if (!p) return;
    /* Closes it first, which frees what its compressor holds; what is written then goes nowhere. */
    if (p->writer) archive_write_free(p->writer);
    buffer_free(&p->head);
    tar_reader_free(&p->reader);
    if (p->utf8) freelocale(p->utf8);
    free(p);
}

static bool feed(struct archive_pack *p, struct slice tar, struct error *err) {
    if (!tar_reader_feed(&p->reader, tar, err)) return false;
    return p->format == ARCHIVE_ZIP || write_all(p, tar, err);
}

static bool finish(struct archive_pack *p, struct error *err) {
    if (!tar_reader_finish(&p->reader, err)) return false;
    return archive_write_close(p->writer) == ARCHIVE_OK || writer_failed(p, err);
}

bool archive_pack_feed(struct archive_pack *p, struct slice tar, struct buffer *out, struct error *err) {
    locale_t before = uselocale(p->utf8);
    p->out = out;
    if (p->head.len) buffer_append(out, p->head.data, p->head.len);
    buffer_free(&p->head);
    bool ok = feed(p, tar, err);
    p->out = NULL;
    uselocale(before);
    return ok;
}

bool archive_pack_finish(struct archive_pack *p, struct buffer *out, struct error *err) {
    locale_t before = uselocale(p->utf8);
    p->out = out;
    if (p->head.len) buffer_append(out, p->head.data, p->head.len);
    buffer_free(&p->head);
    bool ok = finish(p, err);
    p->out = NULL;
    uselocale(before);
    return ok;
}
