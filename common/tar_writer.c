/* Writing tar headers. */
#include "common/tar_format.h"

#include "common/text.h"

#include <stdio.h>

#define OCTAL_11_MAX UINT64_C(077777777777) /* what size and mtime hold */

/* Octal digits that fill the field but for its final NUL. */
static void put_octal(char *field, size_t width, uint64_t n) {
    field[--width] = '\0';
    while (width > 0) {
        field[--width] = (char)('0' + (n & 7));
        n >>= 3;
    }
}

static void put_checksum(struct tar_header *h) {
    memset(h->checksum, ' ', sizeof h->checksum);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof *h; i++) {
        sum += ((const unsigned char *)h)[i];
    }
    put_octal(h->checksum, 7, sum); /* six digits, NUL, and the space that is there */
}

static void start_header(struct tar_header *h, char flag, unsigned mode, uint64_t size, uint64_t mtime) {
    memset(h, 0, sizeof *h);
    put_octal(h->mode, sizeof h->mode, mode & 07777);
    put_octal(h->uid, sizeof h->uid, 0);
    put_octal(h->gid, sizeof h->gid, 0);
    put_octal(h->size, sizeof h->size, size);
    put_octal(h->mtime, sizeof h->mtime, mtime);
    h->flag = flag;
    memcpy(h->magic, TAR_POSIX_MAGIC, sizeof h->magic);
    put_octal(h->dev_major, sizeof h->dev_major, 0);
    put_octal(h->dev_minor, sizeof h->dev_minor, 0);
}

/* Puts the path into name and prefix. False: it does not fit; name then has its start. */
static bool put_path(struct tar_header *h, struct slice path) {
    if (path.len <= sizeof h->name) {
        memcpy(h->name, path.ptr, path.len);
        return true;
    }
    /* The prefix ends at a slash that is in neither part; the name is never empty. */
    size_t first = path.len - sizeof h->name - 1;
    for (size_t i = first; i <= sizeof h->prefix && i < path.len - 1; i++) {
        if (path.ptr[i] != '/' || i == 0) continue;
        memcpy(h->prefix, path.ptr, i);
        memcpy(h->name, path.ptr + i + 1, path.len - i - 1);
        return true;
    }
    memcpy(h->name, path.ptr, sizeof h->name);
    return false;
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void put_record(struct buffer *records, const char *key, struct slice value) {
    size_t rest = strlen(key) + value.len + 3;
    size_t len = rest;
    for (size_t before = 0; len != before;) {
        before = len;
        len = rest + (size_t)snprintf(NULL, 0, "%zu", before);
    }
    buffer_printf(records, "%zu %s=", len, key);
    buffer_append(records, value.ptr, value.len);
    buffer_append_char(records, '\n');
}

static void put_number_record(struct buffer *records, const char *key, long long n) {
    char text[24];
    snprintf(text, sizeof text, "%lld", n);
    put_record(records, key, slice_of(text));
}

static bool name_valid(struct slice s) {
    return s.len > 0 && s.len <= TAR_MAX_PATH && !memchr(s.ptr, '\0', s.len);
}

static bool append_padded(struct buffer *out, const void *bytes, size_t n) {
    return buffer_append(out, bytes, n) && tar_write_padding(out, n);
}

bool tar_write_entry(struct buffer *out, const struct tar_entry *entry, struct error *err) {
    bool links = entry->type == TAR_SYMLINK || entry->type == TAR_HARDLINK;
    if (entry->type == TAR_OTHER || !name_valid(entry->path) || (links && !name_valid(entry->link)) ||
        entry->size > INT64_MAX) {
        error_set(err, 400, "bad_path", "a file cannot be put into a tar archive: its type, path or size");
        return false;
    }
    static const char flags[] = {
        [TAR_FILE] = '0', [TAR_DIR] = '5', [TAR_SYMLINK] = '2', [TAR_HARDLINK] = '1'};
    cleanup_buffer struct buffer path = {0};
    cleanup_buffer struct buffer records = {0};
    buffer_append(&path, entry->path.ptr, entry->path.len);
    if (entry->type == TAR_DIR && path.data[path.len - 1] != '/') buffer_append_char(&path, '/');

    struct tar_header h;
    uint64_t size = entry->type == TAR_FILE ? entry->size : 0;
    bool size_fits = size <= OCTAL_11_MAX;
    bool mtime_fits = entry->mtime >= 0 && (uint64_t)entry->mtime <= OCTAL_11_MAX;
    start_header(&h, flags[entry->type], entry->mode, size_fits ? size : 0,
                 mtime_fits ? (uint64_t)entry->mtime : 0);
    bool path_fits = put_path(&h, buffer_slice(&path));
    bool link_fits = !links || entry->link.len <= sizeof h.link;
    if (links) memcpy(h.link, entry->link.ptr, link_fits ? entry->link.len : sizeof h.link);
    put_checksum(&h);

    /* Values are UTF-8 unless said otherwise, and this must be said first. */
    if ((!path_fits && !utf8_valid(buffer_slice(&path))) || (!link_fits && !utf8_valid(entry->link))) {
        put_record(&records, "hdrcharset", slice_of("BINARY"));
    }
    if (!path_fits) put_record(&records, "path", buffer_slice(&path));
    if (!link_fits) put_record(&records, "linkpath", entry->link);
    if (!size_fits) put_number_record(&records, "size", (long long)size);
    if (!mtime_fits) put_number_record(&records, "mtime", entry->mtime);

    size_t before = out->len;
    bool ok = true;
    if (records.len > 0) {
        struct tar_header pax;
        start_header(&pax, 'x', 0644, records.len, 0);
        memcpy(pax.name, "././@PaxHeader", 14);
        put_checksum(&pax);
        ok = buffer_append(out, &pax, sizeof pax) && append_padded(out, records.data, records.len);
    }
    if (ok && buffer_append(out, &h, sizeof h)) return true;
    out->len = before;
    if (out->data) out->data[before] = '\0';
    error_set(err, 413, "archive_too_large", "the archive is larger than the limit");
    return false;
}

static bool append_zeros(struct buffer *out, size_t n) {
    char *to = buffer_reserve(out, n);
    if (!to) return false;
    memset(to, 0, n);
    buffer_commit(out, n);
    return true;
}

bool tar_write_padding(struct buffer *out, uint64_t size) {
    return append_zeros(out, (size_t)(-size % TAR_BLOCK));
}

bool tar_write_end(struct buffer *out) {
    return append_zeros(out, 2 * TAR_BLOCK);
}
