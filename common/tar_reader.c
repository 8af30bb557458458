/* Reading tar archives that are not trusted, a state machine over blocks. */
#include "common/tar_format.h"

#include <errno.h>
#include <stdio.h>

enum state {
    HEADER,
    EXTENSION, /* the content of a pax header or a GNU long name */
    EXTENSION_PADDING,
    DATA,
    DATA_PADDING,
    SECOND_ZERO, /* one zero block was seen */
    END,
    FAILED,
};

static bool refuse(struct error *err, const char *why) {
    error_set(err, 400, "bad_archive", "the tar archive is not valid: %s", why);
    return false;
}

void tar_reader_init(struct tar_reader *r, const struct tar_events *events, void *ctx) {
    *r = (struct tar_reader){.events = events, .ctx = ctx, .state = HEADER};
    r->text.limit = TAR_MAX_EXTENSION;
    r->path.limit = TAR_MAX_PATH + 1; /* the slash after a directory does not count */
    r->link.limit = TAR_MAX_PATH;
}

void tar_reader_free(struct tar_reader *r) {
    buffer_free(&r->text);
    buffer_free(&r->path);
    buffer_free(&r->link);
}

/* Base-256: big-endian two's complement below the marker bit. Fails above 63 bits. */
static bool parse_base256(const char *field, size_t width, int64_t *out) {
    bool negative = ((unsigned char)field[0] & 0x40) != 0;
    uint64_t n = negative ? UINT64_MAX : 0;
    for (size_t i = 0; i < width; i++) {
        unsigned char byte = (unsigned char)field[i];
        if (i == 0) byte = negative ? byte | 0x80 : byte & 0x7f;
        /* What is shifted out at the top, and the bit that becomes the sign, must be sign. */
        if (n >> 55 != (negative ? UINT64_MAX >> 55 : 0)) return false;
        n = n << 8 | byte;
    }
    *out = (int64_t)n;
    return true;
}

/* Octal, perhaps after spaces, ended by spaces, NULs or the field's end. All blank is 0. */
static bool parse_octal(const char *field, size_t width, int64_t *out) {
    size_t i = 0;
    uint64_t n = 0;
    while (i < width && field[i] == ' ') {
        i++;
    }
    for (; i < width && field[i] >= '0' && field[i] <= '7'; i++) {
        if (n > (uint64_t)INT64_MAX >> 3) return false;
        n = n << 3 | (uint64_t)(field[i] - '0');
    }
    for (; i < width; i++) {
        if (field[i] != ' ' && field[i] != '\0') return false;
    }
    *out = (int64_t)n;
    return true;
}

static bool parse_number(const char *field, size_t width, int64_t *out) {
    if ((unsigned char)field[0] & 0x80) return parse_base256(field, width, out);
    return parse_octal(field, width, out);
}

/* Old programs summed signed characters. */
static bool checksum_valid(const struct tar_header *h) {
    int64_t wanted;
    if (!parse_octal(h->checksum, sizeof h->checksum, &wanted)) return false;
    int64_t sum = 0;
    int64_t signed_sum = 0;
    size_t from = offsetof(struct tar_header, checksum);
    for (size_t i = 0; i < sizeof *h; i++) {
        bool blank = i >= from && i < from + sizeof h->checksum;
        sum += blank ? ' ' : ((const unsigned char *)h)[i];
        signed_sum += blank ? ' ' : ((const signed char *)h)[i];
    }
    return sum == wanted || signed_sum == wanted;
}

static struct slice field(const char *bytes, size_t width) {
    return slice_make(bytes, strnlen(bytes, width));
}

static bool set_name(struct buffer *name, struct slice value, struct error *err) {
    buffer_clear(name);
    return buffer_append(name, value.ptr, value.len) || refuse(err, "a path is longer than 4096 bytes");
}

/* Seconds of a pax time, rounded down: "-1.5" is -2. */
static bool parse_pax_time(struct slice s, int64_t *out) {
    bool negative = s.len > 0 && s.ptr[0] == '-';
    if (negative) s = slice_make(s.ptr + 1, s.len - 1);
    const char *point = s.len ? memchr(s.ptr, '.', s.len) : NULL;
    size_t whole = point ? (size_t)(point - s.ptr) : s.len;
    uint64_t n;
    uint64_t max = (uint64_t)INT64_MAX + (negative ? 1 : 0);
    if (!slice_parse_u64(slice_make(s.ptr, whole), max, &n)) return false;
    bool rest = false;
    for (size_t i = whole + 1; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
        if (s.ptr[i] != '0') rest = true;
    }
    if (negative && rest && n++ == max) return false;
    *out = (int64_t)(negative ? 0 - n : n);
    return true;
}

static bool take_record(struct tar_reader *r, struct slice key, struct slice value, struct error *err) {
    if (slice_starts_with(key, "GNU.sparse.")) return refuse(err, "sparse files are not supported");
    bool path = slice_equal_str(key, "path");
    bool link = slice_equal_str(key, "linkpath");
    bool size = slice_equal_str(key, "size");
    bool mtime = slice_equal_str(key, "mtime");
    if (!path && !link && !size && !mtime) return true;
    if (value.len > 0 && memchr(value.ptr, '\0', value.len)) return refuse(err, "NUL in a pax value");
    bool given = value.len > 0; /* an empty value takes an earlier one back */
    if (path) {
        r->has_path = r->pax_path = given;
        return set_name(&r->path, value, err);
    }
    if (link) {
        r->has_link = r->pax_link = given;
        return set_name(&r->link, value, err);
    }
    if (size) {
        r->has_size = given;
        return !given || slice_parse_u64(value, INT64_MAX, &r->size) ||
               refuse(err, "a pax size is not a number");
    }
    r->has_mtime = given;
    return !given || parse_pax_time(value, &r->mtime) || refuse(err, "a pax mtime is not a number");
}

/* Records "LENGTH KEY=VALUE\n", where LENGTH counts all of it. */
static bool take_pax(struct tar_reader *r, struct slice text, struct error *err) {
    while (text.len > 0) {
        size_t digits = 0;
        while (digits < text.len && digits < 8 && text.ptr[digits] != ' ') {
            digits++;
        }
        uint64_t len;
        if (digits == text.len || text.ptr[digits] != ' ' ||
            !slice_parse_u64(slice_make(text.ptr, digits), text.len, &len) || len < digits + 4 ||
            text.ptr[len - 1] != '\n') {
            return refuse(err, "a pax record has a wrong length");
        }
        struct slice record = slice_make(text.ptr + digits + 1, (size_t)len - digits - 2);
        const char *equals = memchr(record.ptr, '=', record.len);
        if (!equals || equals == record.ptr) return refuse(err, "a pax record has no key");
        struct slice key = slice_make(record.ptr, (size_t)(equals - record.ptr));
        struct slice value = slice_make(equals + 1, record.len - key.len - 1);
        if (!take_record(r, key, value, err)) return false;
        text.ptr += len;
        text.len -= (size_t)len;
    }
    return true;
}

static bool take_extension(struct tar_reader *r, struct error *err) {
    struct slice text = buffer_slice(&r->text);
    struct slice name = slice_make(text.ptr, text.len ? strnlen(text.ptr, text.len) : 0);
    switch (r->extension) {
    case 'x':
    case 'X': return take_pax(r, text, err);
    case 'L':
        if (r->pax_path) return true;
        r->has_path = true;
        return set_name(&r->path, name, err);
    case 'K':
        if (r->pax_link) return true;
        r->has_link = true;
        return set_name(&r->link, name, err);
    default: return true; /* 'g' */
    }
}

static bool posix_format(const struct tar_header *h) {
    return memcmp(h->magic, TAR_POSIX_MAGIC, 6) == 0; /* GNU has times where the prefix would be */
}

/* Name, perhaps after prefix, from the header itself. */
static bool header_path(struct tar_reader *r, const struct tar_header *h, struct error *err) {
    struct slice prefix = field(h->prefix, sizeof h->prefix);
    if (posix_format(h) && prefix.len > 0) {
        if (!set_name(&r->path, prefix, err)) return false;
        buffer_append_char(&r->path, '/'); /* 256 bytes at most */
    } else {
        buffer_clear(&r->path);
    }
    buffer_append(&r->path, h->name, field(h->name, sizeof h->name).len);
    return true;
}

static enum tar_type entry_type(const struct tar_header *h, struct slice path) {
    switch (h->flag) {
    case '\0':
    case '0':
    case '7': /* contiguous: a file on systems that have no such thing */
        /* Before POSIX a directory was only told by the slash. */
        return path.len > 0 && path.ptr[path.len - 1] == '/' ? TAR_DIR : TAR_FILE;
    case '1': return TAR_HARDLINK;
    case '2': return TAR_SYMLINK;
    case '5': return TAR_DIR;
    default: return TAR_OTHER;
    }
}

static bool start_entry(struct tar_reader *r, const struct tar_header *h, struct tar_entry *entry,
                        struct error *err) {
    int64_t mode, mtime, size;
    if (!parse_number(h->size, sizeof h->size, &size) || size < 0)
        return refuse(err, "a size is not a number");
    if (!parse_number(h->mode, sizeof h->mode, &mode) || mode < 0)
        return refuse(err, "a mode is not a number");
    if (!parse_number(h->mtime, sizeof h->mtime, &mtime)) return refuse(err, "an mtime is not a number");
    if (!r->has_path && !header_path(r, h, err)) return false;
    if (!r->has_link && !set_name(&r->link, field(h->link, sizeof h->link), err)) return false;
    *entry = (struct tar_entry){
        .type = entry_type(h, buffer_slice(&r->path)),
        .path = buffer_slice(&r->path),
        .link = buffer_slice(&r->link),
        .mode = (unsigned)(mode & 07777),
        .mtime = r->has_mtime ? r->mtime : mtime,
        .size = r->has_size ? r->size : (uint64_t)size,
        .flag = h->flag,
    };
    bool links = entry->type == TAR_SYMLINK || entry->type == TAR_HARDLINK;
    if (links && entry->link.len == 0) return refuse(err, "a link has no target");
    if (!links) entry->link.len = 0;
    while (entry->type == TAR_DIR && entry->path.len > 1 && entry->path.ptr[entry->path.len - 1] == '/') {
        entry->path.len--;
    }
    if (entry->path.len == 0) return refuse(err, "an entry has no path");
    if (entry->path.len > TAR_MAX_PATH) return refuse(err, "a path is longer than 4096 bytes");
    /* Programs disagree on whether content follows; none of them writes such a thing. */
    bool device = h->flag == '3' || h->flag == '4' || h->flag == '6';
    if (entry->size > 0 && (links || device || entry->type == TAR_DIR)) {
        return refuse(err, "a link, directory or device has content");
    }
    return true;
}

static void expect(struct tar_reader *r, enum state state, uint64_t size) {
    r->state = (int)state;
    r->left = size;
    r->padding = (size_t)(-size % TAR_BLOCK);
}

static bool all_zero(const char *block) {
    return block[0] == '\0' && memcmp(block, block + 1, TAR_BLOCK - 1) == 0;
}

static bool end_entry(struct tar_reader *r, struct error *err) {
    r->extended = r->has_path = r->has_link = r->has_size = r->has_mtime = r->pax_path = r->pax_link = false;
    r->state = DATA_PADDING;
    return r->events->on_entry_end(r->ctx, err);
}

static bool take_header(struct tar_reader *r, struct error *err) {
    struct tar_header h;
    memcpy(&h, r->block, sizeof h);
    if (all_zero(r->block)) {
        if (r->extended) return refuse(err, "an extended header is not followed by its entry");
        r->state = r->state == SECOND_ZERO ? END : SECOND_ZERO;
        return true;
    }
    if (r->state == SECOND_ZERO) return refuse(err, "it goes on after a zero block");
    if (!checksum_valid(&h)) return refuse(err, "a header has a wrong checksum");
    switch (h.flag) {
    case 'S': return refuse(err, "sparse files are not supported");
    case 'M': return refuse(err, "it is a part of several volumes");
    case 'x':
    case 'X':
    case 'g':
    case 'L':
    case 'K': {
        int64_t size;
        if (!parse_number(h.size, sizeof h.size, &size) || size < 0)
            return refuse(err, "a size is not a number");
        if (size > TAR_MAX_EXTENSION) return refuse(err, "an extended header is larger than 1 MiB");
        r->extension = h.flag;
        if (h.flag != 'g') r->extended = true;
        buffer_clear(&r->text);
        expect(r, EXTENSION, (uint64_t)size);
        return true;
    }
    default: break;
    }
    struct tar_entry entry;
    if (!start_entry(r, &h, &entry, err)) return false;
    expect(r, DATA, entry.size);
    return r->events->on_entry(r->ctx, &entry, err);
}

/* Gathers a block; false when there is not enough of it yet. */
static bool gather(struct tar_reader *r, struct slice *bytes) {
    size_t n = TAR_BLOCK - r->filled < bytes->len ? TAR_BLOCK - r->filled : bytes->len;
    memcpy(r->block + r->filled, bytes->ptr, n);
    r->filled += n;
    bytes->ptr += n;
    bytes->len -= n;
    if (r->filled < TAR_BLOCK) return false;
    r->filled = 0;
    return true;
}

static struct slice take(struct slice *bytes, uint64_t most) {
    size_t n = bytes->len < most ? bytes->len : (size_t)most;
    struct slice part = slice_make(bytes->ptr, n);
    bytes->ptr += n;
    bytes->len -= n;
    return part;
}

/* One step; takes something of `bytes` or changes the state. */
static bool step(struct tar_reader *r, struct slice *bytes, struct error *err) {
    struct slice part;
    switch ((enum state)r->state) {
    case HEADER:
    case SECOND_ZERO: return !gather(r, bytes) || take_header(r, err);
    case EXTENSION:
        part = take(bytes, r->left);
        r->left -= part.len;
        buffer_append(&r->text, part.ptr, part.len); /* fits: the size was checked */
        if (r->left > 0) return true;
        r->state = EXTENSION_PADDING;
        return take_extension(r, err);
    case DATA:
        part = take(bytes, r->left);
        r->left -= part.len;
        if (part.len > 0 && !r->events->on_data(r->ctx, part, err)) return false;
        return r->left > 0 || end_entry(r, err);
    case EXTENSION_PADDING:
    case DATA_PADDING:
        r->padding -= take(bytes, r->padding).len;
        if (r->padding == 0) r->state = HEADER;
        return true;
    case END: take(bytes, bytes->len); return true;
    case FAILED: return refuse(err, "it was refused before");
    }
    return false;
}

bool tar_reader_feed(struct tar_reader *r, struct slice bytes, struct error *err) {
    /* An empty file is complete without a further byte, so states without need of one run on. */
    while (bytes.len > 0 || (r->state == DATA && r->left == 0) || (r->state == EXTENSION && r->left == 0)) {
        if (!step(r, &bytes, err)) {
            r->state = FAILED;
            return false;
        }
    }
    return true;
}

bool tar_reader_ended(const struct tar_reader *r) {
    return r->state == END;
}

bool tar_reader_finish(struct tar_reader *r, struct error *err) {
    /* A second zero block is often missing and nothing is lost with it. */
    if (r->state == END || (r->state == SECOND_ZERO && r->filled == 0)) return true;
    if (r->state == FAILED) return refuse(err, "it was refused before");
    if (r->state == HEADER && r->filled == 0)
        return refuse(err, "it ends without its end marker, so it may be cut");
    return refuse(err, "it is cut");
}
