/* The tar format (ustar, pax, GNU long names) as a codec without I/O: a writer that appends to
 * a buffer and a push reader for archives that are not trusted. Both keep names as the
 * bytes they are. What a path may be (relative, without "..") is for those who create files.
 *
 * Writing: tar_write_entry(), the content, tar_write_padding(); at the end tar_write_end().
 * Reading: tar_reader_init(), tar_reader_feed() with bytes cut anywhere, tar_reader_finish()
 * after the last one, tar_reader_free(). */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define TAR_BLOCK         512
#define TAR_MAX_PATH      4096
#define TAR_MAX_EXTENSION (1024 * 1024) /* of one pax header or GNU long name */

enum tar_type { TAR_FILE, TAR_DIR, TAR_SYMLINK, TAR_HARDLINK, TAR_OTHER };

struct tar_entry {
    enum tar_type type;
    struct slice path; /* of a directory: without the final slash */
    struct slice link; /* target of a symlink or hard link */
    unsigned mode;     /* 07777 */
    int64_t mtime;     /* Unix seconds */
    uint64_t size;     /* bytes of content; 0 for all but files (and others, when reading) */
    char flag;         /* reading: the type as it stands in the archive, for TAR_OTHER */
};

/* Appends the header of a file, directory or symlink: ustar when everything fits it, with a
 * pax extended header before it otherwise. False: 400 bad_path (empty, too long, with NUL),
 * or 413 archive_too_large when the buffer's limit would be passed; nothing is appended. */
bool tar_write_entry(struct buffer *out, const struct tar_entry *entry, struct error *err);
/* Zeros after `size` bytes of content, up to the next block. False: above the buffer's limit. */
bool tar_write_padding(struct buffer *out, uint64_t size);
/* The end of the archive: two zero blocks. False: above the buffer's limit. */
bool tar_write_end(struct buffer *out);

/* What the reader found, in order: on_entry, any number of on_data (never empty), then
 * on_entry_end. Everything is borrowed and valid during the call. False stops the reading with
 * the callback's err. */
struct tar_events {
    bool (*on_entry)(void *ctx, const struct tar_entry *entry, struct error *err);
    bool (*on_data)(void *ctx, struct slice data, struct error *err);
    bool (*on_entry_end)(void *ctx, struct error *err);
};

/* Refused with 400 bad_archive: wrong checksums, numbers that are not, negative or above 2^63-1,
 * paths that are empty or above TAR_MAX_PATH, NUL in pax values that matter, sparse files,
 * continued volumes, content after links and directories, one zero block amid entries, an archive
 * that ends without its end marker. Global pax headers and unknown records are skipped. */
struct tar_reader {
    const struct tar_events *events;
    void *ctx;
    int state;
    char block[TAR_BLOCK];
    size_t filled;      /* bytes of block */
    uint64_t left;      /* bytes of content or extension to come */
    size_t padding;     /* bytes to drop after them */
    char extension;     /* type of the extension being read */
    struct buffer text; /* its bytes */
    /* What extensions say of the next entry. */
    struct buffer path, link;
    bool extended, has_path, has_link, has_size, has_mtime;
    bool pax_path, pax_link; /* pax wins over GNU */
    uint64_t size;
    int64_t mtime;
};

/* `events` must outlive the reader. */
void tar_reader_init(struct tar_reader *r, const struct tar_events *events, void *ctx);
void tar_reader_free(struct tar_reader *r);
/* All of `bytes` is taken. What follows the end marker is ignored. After false, only free. */
bool tar_reader_feed(struct tar_reader *r, struct slice bytes, struct error *err);
bool tar_reader_ended(const struct tar_reader *r); /* the end marker was seen */
/* No more bytes follow. False: the archive is cut. */
bool tar_reader_finish(struct tar_reader *r, struct error *err);
