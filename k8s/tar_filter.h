/* Makes of a tar that is not trusted one that is: written anew, entry by entry, with relative names without
 * ".." and nothing below a link that it made itself. Both ways of archives through pods/exec use it
 * (lessons S13; http-api.md 2.9). Pure. */
#pragma once

#include "common/tar.h"

#define TAR_FILTER_ENTRIES 1000000
#define TAR_FILTER_BYTES   (5ull << 30)

enum tar_direction {
    /* From a sandbox: one or several archives after each other, what is no file, directory or link is
     * left out, and hard links are replaced by the files of their names in the later archives. */
    TAR_FROM_SANDBOX,
    /* To a sandbox: one archive; what it cannot have is 400 bad_archive. */
    TAR_TO_SANDBOX
};

struct tar_filter;
struct tar_filter *tar_filter_new(enum tar_direction direction);
void tar_filter_free(struct tar_filter *f); /* NULL is fine */
/* Appends what `in` makes to `out`. False: 400 bad_archive, 413 archive_too_large. */
bool tar_filter_feed(struct tar_filter *f, struct slice in, struct buffer *out, struct error *err);
/* No more follows: appends the end. */
bool tar_filter_finish(struct tar_filter *f, struct buffer *out, struct error *err);
uint64_t tar_filter_entries(const struct tar_filter *f);
uint64_t tar_filter_bytes(const struct tar_filter *f);
