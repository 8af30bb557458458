#include "k8s/tar_filter.h"

#include <stdio.h>

#define LINKS_MAX 100000 /* names of links that are remembered */

struct tar_filter {
    enum tar_direction direction;
    struct tar_reader reader;
    bool reading; /* `reader` is in the middle of an archive */
    bool any;     /* an archive has ended */
    char block[TAR_BLOCK];
    size_t filled;
    struct buffer *out;
    struct buffer path;
    bool skip;     /* the present entry's content is dropped */
    uint64_t size; /* of the present entry */
    json_t *links; /* names of symbolic links so far */
    json_t *owed;  /* names of hard links whose content is to come */
    uint64_t entries, bytes;
};

static bool bad(struct error *err, struct slice path, const char *why) {
    error_set(err, 400, "bad_archive", "entry %.*s %s", path.len > 200 ? 200 : (int)path.len, path.ptr, why);
    return false;
}

/* "./a//b/" is "a/b"; "" is the directory itself. */
static bool clean(struct slice path, struct buffer *out, struct error *err) {
    buffer_clear(out);
    if (path.len && path.ptr[0] == '/') return bad(err, path, "has an absolute name");
    for (size_t i = 0; i < path.len;) {
        size_t start = i;
        while (i < path.len && path.ptr[i] != '/')
            i++;
        struct slice part = {path.ptr + start, i - start};
        i++;
        if (part.len == 0 || slice_equal_str(part, ".")) continue;
        if (slice_equal_str(part, "..")) return bad(err, path, "has \"..\" in its name");
        if (out->len) buffer_append_char(out, '/');
        buffer_append(out, part.ptr, part.len);
    }
    return true;
}

/* jansson's keys are UTF-8 without NUL; names are any bytes: written in hex. */
static void key_of(struct slice name, struct buffer *out) {
    buffer_clear(out);
    for (size_t i = 0; i < name.len; i++)
        buffer_printf(out, "%02x", (unsigned char)name.ptr[i]);
    buffer_cstr(out);
}

static bool known(const json_t *set, struct slice name) {
    if (json_object_size(set) == 0) return false;
    cleanup_buffer struct buffer key = {0};
    key_of(name, &key);
    return json_object_get(set, buffer_cstr(&key)) != NULL;
}

static bool remember(json_t *set, struct slice name, struct error *err) {
    if (json_object_size(set) >= LINKS_MAX) {
        error_set(err, 413, "archive_too_large", "the archive holds more than %d links", LINKS_MAX);
        return false;
    }
    cleanup_buffer struct buffer key = {0};
    key_of(name, &key);
    json_object_set_new(set, buffer_cstr(&key), json_true());
    return true;
}

static void forget(json_t *set, struct slice name) {
    if (json_object_size(set) == 0) return;
    cleanup_buffer struct buffer key = {0};
    key_of(name, &key);
    json_object_del(set, buffer_cstr(&key));
}

/* Whether a parent of the name is a link of this archive. */
static bool through_link(const struct tar_filter *f, struct slice name) {
    for (size_t i = 0; json_object_size(f->links) && i < name.len; i++)
        if (name.ptr[i] == '/' && known(f->links, slice_make(name.ptr, i))) return true;
    return false;
}

static bool put(struct tar_filter *f, const struct tar_entry *e, struct error *err) {
    struct tar_entry out = *e;
    out.path = buffer_slice(&f->path);
    out.mode &= f->direction == TAR_TO_SANDBOX ? 01777 : 07777;
    return tar_write_entry(f->out, &out, err);
}

static bool put_hard_link(struct tar_filter *f, const struct tar_entry *e, struct error *err) {
    if (f->direction == TAR_FROM_SANDBOX) {
        f->skip = true;
        return remember(f->owed, buffer_slice(&f->path), err);
    }
    cleanup_buffer struct buffer target = {0};
    if (!clean(e->link, &target, err)) return false;
    if (target.len == 0 || through_link(f, buffer_slice(&target)) || known(f->links, buffer_slice(&target)))
        return bad(err, e->path, "is a hard link to something else than a file of the archive");
    struct tar_entry link = *e;
    link.link = buffer_slice(&target);
    return put(f, &link, err);
}

static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    struct tar_filter *f = ctx;
    f->skip = false;
    f->size = e->size;
    if (++f->entries > TAR_FILTER_ENTRIES) {
        error_set(err, 413, "archive_too_large", "the archive holds more than %d entries",
                  TAR_FILTER_ENTRIES);
        return false;
    }
    if (!clean(e->path, &f->path, err)) return false;
    struct slice name = buffer_slice(&f->path);
    if (name.len == 0 || e->type == TAR_OTHER) {
        f->skip = true;
        f->entries -= f->direction == TAR_FROM_SANDBOX;
        if (f->direction == TAR_FROM_SANDBOX) return true;
        if (e->type == TAR_OTHER) return bad(err, e->path, "is a device or of an unknown type");
        return e->type == TAR_DIR || bad(err, e->path, "has no name");
    }
    if (f->any) { /* a later archive of a sandbox: what the hard links of the first one left out */
        f->skip = e->type != TAR_FILE || !known(f->owed, name);
        forget(f->owed, name);
        return f->skip || put(f, e, err);
    }
    if (through_link(f, name)) return bad(err, e->path, "is below a symbolic link");
    if (e->type == TAR_HARDLINK) return put_hard_link(f, e, err);
    if (e->type == TAR_SYMLINK) {
        if (!remember(f->links, name, err)) return false;
    } else {
        forget(f->links, name); /* replaced by what it is now */
    }
    return put(f, e, err);
}

static bool on_data(void *ctx, struct slice data, struct error *err) {
    struct tar_filter *f = ctx;
    if (f->skip) return true;
    f->bytes += data.len;
    if (f->bytes > TAR_FILTER_BYTES) {
        error_set(err, 413, "archive_too_large", "the archive holds more than 5 GiB");
        return false;
    }
    return buffer_append(f->out, data.ptr, data.len);
}

static bool on_entry_end(void *ctx, struct error *err) {
    (void)err;
    struct tar_filter *f = ctx;
    return f->skip || tar_write_padding(f->out, f->size);
}

struct tar_filter *tar_filter_new(enum tar_direction direction) {
    struct tar_filter *f = xcalloc(1, sizeof *f);
    f->direction = direction;
    f->links = json_object();
    f->owed = json_object();
    return f;
}

void tar_filter_free(struct tar_filter *f) {
    if (!f) return;
    if (f->reading) tar_reader_free(&f->reader);
    buffer_free(&f->path);
    json_decref(f->links);
    json_decref(f->owed);
    free(f);
}

static bool feed_block(struct tar_filter *f, struct error *err) {
    static const struct tar_events events = {on_entry, on_data, on_entry_end};
    static const char zeros[TAR_BLOCK];
    struct slice block = {f->block, TAR_BLOCK};
    if (!f->reading) {
        /* What follows the end of one: padding, or another archive. */
        if (f->any && (f->direction == TAR_TO_SANDBOX || memcmp(f->block, zeros, TAR_BLOCK) == 0))
            return true;
        tar_reader_init(&f->reader, &events, f);
        f->reading = true;
    }
    if (!tar_reader_feed(&f->reader, block, err)) return false;
    if (tar_reader_ended(&f->reader)) {
        tar_reader_free(&f->reader);
        f->reading = false;
        f->any = true;
    }
    return true;
}

bool tar_filter_feed(struct tar_filter *f, struct slice in, struct buffer *out, struct error *err) {
    f->out = out;
    while (in.len) {
        size_t n = TAR_BLOCK - f->filled < in.len ? TAR_BLOCK - f->filled : in.len;
        memcpy(f->block + f->filled, in.ptr, n);
        f->filled += n;
        in = slice_make(in.ptr + n, in.len - n);
        if (f->filled < TAR_BLOCK) return true;
        f->filled = 0;
        if (!feed_block(f, err)) return false;
    }
    return true;
}

bool tar_filter_finish(struct tar_filter *f, struct buffer *out, struct error *err) {
    if (f->reading || !f->any || (f->filled && f->direction == TAR_FROM_SANDBOX)) {
        error_set(err, 400, "bad_archive", "the archive is cut");
        return false;
    }
    if (json_object_size(f->owed)) {
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox left out the content of hard links");
        return false;
    }
    return tar_write_end(out);
}

uint64_t tar_filter_entries(const struct tar_filter *f) {
    return f->entries;
}
uint64_t tar_filter_bytes(const struct tar_filter *f) {
    return f->bytes;
}
