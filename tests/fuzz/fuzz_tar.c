/* An archive from a stranger: the same events at once and in pieces; entries within their
 * limits; and what was read, written again, reads the same. */
#include "common/tar.h"
#include "tests/fuzz/fuzz.h"

/* A digest of all events, and the archive made of them. */
struct reading {
    uint64_t digest;
    uint64_t left;
    uint64_t size;
    bool open, writable;
    struct buffer again;
};

static void mix(struct reading *r, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        r->digest = (r->digest ^ ((const unsigned char *)bytes)[i]) * UINT64_C(1099511628211);
    }
}

static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    struct reading *r = ctx;
    MUST(!r->open && e->path.len > 0 && e->path.len <= TAR_MAX_PATH &&
         !memchr(e->path.ptr, '\0', e->path.len));
    MUST(e->link.len <= TAR_MAX_PATH && e->mode <= 07777 && e->size <= INT64_MAX);
    bool links = e->type == TAR_SYMLINK || e->type == TAR_HARDLINK;
    MUST(links == (e->link.len > 0) && (e->size == 0 || e->type == TAR_FILE || e->type == TAR_OTHER));
    r->open = true;
    r->left = r->size = e->size;
    mix(r, e->path.ptr, e->path.len);
    mix(r, e->link.len ? e->link.ptr : "", e->link.len);
    mix(r, &e->type, sizeof e->type);
    mix(r, &e->mode, sizeof e->mode);
    mix(r, &e->mtime, sizeof e->mtime);
    mix(r, &e->size, sizeof e->size);
    r->writable = e->type != TAR_OTHER;
    if (r->writable) MUST(tar_write_entry(&r->again, e, err));
    return true;
}

static bool on_data(void *ctx, struct slice data, struct error *err) {
    struct reading *r = ctx;
    MUST(r->open && data.len > 0 && data.len <= r->left);
    r->left -= data.len;
    mix(r, data.ptr, data.len);
    if (r->writable) buffer_append(&r->again, data.ptr, data.len);
    return true;
}

static bool on_entry_end(void *ctx, struct error *err) {
    struct reading *r = ctx;
    MUST(r->open && r->left == 0);
    r->open = false;
    if (r->writable) tar_write_padding(&r->again, r->size);
    return true;
}

static const struct tar_events events = {on_entry, on_data, on_entry_end};

static bool read_all(struct slice archive, size_t step, struct reading *r) {
    struct tar_reader reader;
    cleanup_error struct error err = {0};
    tar_reader_init(&reader, &events, r);
    bool ok = true;
    for (size_t at = 0; ok && at < archive.len; at += step) {
        size_t n = archive.len - at < step ? archive.len - at : step;
        ok = tar_reader_feed(&reader, slice_make(archive.ptr + at, n), &err);
    }
    bool ended = tar_reader_ended(&reader);
    ok = ok && tar_reader_finish(&reader, &err);
    MUST(!ended || ok);
    MUST(ok || (err.status == 400 && err.message[0]));
    tar_reader_free(&reader);
    return ok;
}

static void check(struct slice archive) {
    struct reading whole = {0};
    struct reading pieces = {0};
    struct reading again = {0};
    size_t step = archive.len > 0 ? (unsigned char)archive.ptr[archive.len - 1] + 1U : 1;
    bool ok = read_all(archive, SIZE_MAX / 2, &whole);
    MUST(read_all(archive, step, &pieces) == ok && pieces.digest == whole.digest);
    if (ok) {
        size_t len = whole.again.len;
        tar_write_end(&whole.again);
        MUST(read_all(buffer_slice(&whole.again), 4096, &again));
        MUST(slice_equal(slice_make(whole.again.data, len), buffer_slice(&again.again)));
    }
    buffer_free(&whole.again);
    buffer_free(&pieces.again);
    buffer_free(&again.again);
}

/* Gives every block that could be a header its checksum, which no mutation would find. */
static void repair_checksums(char *bytes, size_t size) {
    for (char *block = bytes; size >= TAR_BLOCK; block += TAR_BLOCK, size -= TAR_BLOCK) {
        char *checksum = block + 148;
        if (checksum[0] != '0') continue;
        unsigned sum = 0;
        memset(checksum, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK; i++) {
            sum += (unsigned char)block[i];
        }
        char text[8];
        snprintf(text, sizeof text, "%06o", sum);
        memcpy(checksum, text, 7);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice archive = slice_make((const char *)data, size);
    check(archive);
    cleanup_buffer struct buffer repaired = {0};
    buffer_append(&repaired, data, size);
    repair_checksums(repaired.data, repaired.len);
    check(buffer_slice(&repaired));
    return 0;
}
