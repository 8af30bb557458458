/* A zip or tar.gz in a file, as a tar stream for the sandbox, a piece at a time. Names, links
 * and types are passed on as they are: what may be created is decided where it is created
 * (docs/runtime-protocol.md, PUT /archive). Here is what keeps the Router safe: sizes, numbers
 * and checksums (lesson S13). May run on any thread, one at a time. */
#pragma once

#include "router/archive_pack.h"

#define ARCHIVE_MAX_ENTRIES  100000
#define ARCHIVE_MAX_UNPACKED (5ull << 30)

/* Bytes and entries of a tar that is passed on as it is; 400 bad_archive, 413 archive_too_large. */
struct tar_guard;
struct tar_guard *tar_guard_new(void);
void tar_guard_free(struct tar_guard *); /* NULL is fine */
bool tar_guard_feed(struct tar_guard *, struct slice bytes, struct error *err);
bool tar_guard_finish(struct tar_guard *, struct error *err);

struct archive_unpack;
/* Reads `fd` (borrowed, seekable) from its start. ARCHIVE_ZIP or ARCHIVE_TAR_GZ. */
struct archive_unpack *archive_unpack_new(enum archive_format format, int fd, struct error *err);
void archive_unpack_free(struct archive_unpack *); /* NULL is fine */
/* Appends the next piece of the tar, about 128 KiB. 1: there is more, 0: that was the last,
 * -1: 400 bad_archive or 413 archive_too_large. */
int archive_unpack_more(struct archive_unpack *, struct buffer *out, struct error *err);

/* What the first bytes of a body say; anything unknown is tar. */
enum archive_format archive_sniff(struct slice start);
