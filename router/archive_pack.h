/* A sandbox's tar stream as zip or gzip, a piece at a time (http-api.md 2.9 archive; W-14, W-52).
 * No I/O: the caller feeds tar bytes and takes what comes out. May run on any thread, one at
 * a time. The tar comes from a sandbox and is hostile input (lesson S13). */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

enum archive_format { ARCHIVE_ZIP, ARCHIVE_TAR, ARCHIVE_TAR_GZ };

#define ARCHIVE_MAX_PACKED_ENTRIES 1000000

struct archive_pack;
/* For ARCHIVE_ZIP and ARCHIVE_TAR_GZ. */
struct archive_pack *archive_pack_new(enum archive_format format, struct error *err);
void archive_pack_free(struct archive_pack *); /* NULL is fine */
/* Takes all of `tar`; appends to `out`. False: 502 sandbox_bad_answer; after it only free. */
bool archive_pack_feed(struct archive_pack *, struct slice tar, struct buffer *out, struct error *err);
/* The tar has ended; appends the rest. False: it was not whole. */
bool archive_pack_finish(struct archive_pack *, struct buffer *out, struct error *err);
