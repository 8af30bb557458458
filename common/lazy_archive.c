/* libarchive (common/lazy.h). */
#include <archive.h>
#include <archive_entry.h>

#include "common/lazy_forward.h"

#include <stdarg.h>
#include <stdio.h>

struct lazy_library lazy_archive = {.soname = "libarchive.so.13"};

LAZY(lazy_archive, const char *, archive_error_string, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_filter_code, (struct archive * a, int number), (a, number));

LAZY(lazy_archive, struct archive *, archive_read_new, (void), ());
LAZY(lazy_archive, int, archive_read_support_filter_all, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_support_filter_gzip, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_support_format_raw, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_support_format_tar, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_support_format_zip_seekable, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_open_fd, (struct archive * a, int fd, size_t block), (a, fd, block));
LAZY(lazy_archive, int, archive_read_open_filename, (struct archive * a, const char *path, size_t block),
     (a, path, block));
LAZY(lazy_archive, int, archive_read_next_header, (struct archive * a, struct archive_entry **entry),
     (a, entry));
LAZY(lazy_archive, la_ssize_t, archive_read_data, (struct archive * a, void *out, size_t size),
     (a, out, size));
LAZY(lazy_archive, int, archive_read_data_block,
     (struct archive * a, const void **block, size_t *size, la_int64_t *offset), (a, block, size, offset));
LAZY(lazy_archive, int, archive_read_free, (struct archive * a), (a));

LAZY(lazy_archive, struct archive *, archive_read_disk_new, (void), ());
LAZY(lazy_archive, int, archive_read_disk_set_symlink_physical, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_read_disk_set_behavior, (struct archive * a, int flags), (a, flags));
LAZY(lazy_archive, int, archive_read_disk_open, (struct archive * a, const char *path), (a, path));
LAZY(lazy_archive, int, archive_read_disk_descend, (struct archive * a), (a));

LAZY(lazy_archive, struct archive *, archive_write_new, (void), ());
LAZY(lazy_archive, int, archive_write_set_bytes_per_block, (struct archive * a, int bytes), (a, bytes));
LAZY(lazy_archive, int, archive_write_set_format_raw, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_write_set_format_zip, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_write_add_filter_gzip, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_write_set_options, (struct archive * a, const char *options), (a, options));
LAZY(lazy_archive, int, archive_write_open,
     (struct archive * a, void *ctx, archive_open_callback *on_open, archive_write_callback *on_write,
      archive_close_callback *on_close),
     (a, ctx, on_open, on_write, on_close));
LAZY(lazy_archive, int, archive_write_header, (struct archive * a, struct archive_entry *entry), (a, entry));
LAZY(lazy_archive, la_ssize_t, archive_write_data, (struct archive * a, const void *data, size_t size),
     (a, data, size));
LAZY(lazy_archive, int, archive_write_finish_entry, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_write_close, (struct archive * a), (a));
LAZY(lazy_archive, int, archive_write_free, (struct archive * a), (a));

LAZY(lazy_archive, struct archive_entry *, archive_entry_new, (void), ());
LAZY_VOID(lazy_archive, archive_entry_free, (struct archive_entry * e), (e));
LAZY(lazy_archive, __LA_MODE_T, archive_entry_filetype, (struct archive_entry * e), (e));
LAZY(lazy_archive, const char *, archive_entry_hardlink, (struct archive_entry * e), (e));
LAZY(lazy_archive, int, archive_entry_is_encrypted, (struct archive_entry * e), (e));
LAZY(lazy_archive, __LA_MODE_T, archive_entry_mode, (struct archive_entry * e), (e));
LAZY(lazy_archive, time_t, archive_entry_mtime, (struct archive_entry * e), (e));
LAZY(lazy_archive, int, archive_entry_mtime_is_set, (struct archive_entry * e), (e));
LAZY(lazy_archive, const char *, archive_entry_pathname, (struct archive_entry * e), (e));
LAZY(lazy_archive, __LA_MODE_T, archive_entry_perm, (struct archive_entry * e), (e));
LAZY(lazy_archive, la_int64_t, archive_entry_size, (struct archive_entry * e), (e));
LAZY(lazy_archive, int, archive_entry_size_is_set, (struct archive_entry * e), (e));
LAZY(lazy_archive, const char *, archive_entry_symlink, (struct archive_entry * e), (e));
LAZY_VOID(lazy_archive, archive_entry_set_filetype, (struct archive_entry * e, unsigned int type), (e, type));
LAZY_VOID(lazy_archive, archive_entry_set_mtime, (struct archive_entry * e, time_t seconds, long nanoseconds),
          (e, seconds, nanoseconds));
LAZY_VOID(lazy_archive, archive_entry_set_pathname, (struct archive_entry * e, const char *path), (e, path));
LAZY_VOID(lazy_archive, archive_entry_set_perm, (struct archive_entry * e, __LA_MODE_T mode), (e, mode));
LAZY_VOID(lazy_archive, archive_entry_set_size, (struct archive_entry * e, la_int64_t size), (e, size));
LAZY_VOID(lazy_archive, archive_entry_set_symlink, (struct archive_entry * e, const char *target),
          (e, target));

/* The text is made here. */
__attribute__((visibility("hidden"))) void archive_set_error(struct archive *a, int number,
                                                             const char *format, ...) {
    static void *_Atomic found;
    void *at = atomic_load_explicit(&found, memory_order_acquire);
    if (!at) at = lazy_find(&lazy_archive, &found, "archive_set_error");
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ((void (*)(struct archive *, int, const char *, ...))(uintptr_t)at)(a, number, "%s", text);
}
