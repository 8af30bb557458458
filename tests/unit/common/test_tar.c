/* The tar codec: what the writer writes the reader reads, cut anywhere; what is hostile is
 * refused. */
#include "common/tar.h"
#include "common/tar_format.h"

#include "tests/unit/common/suite.h"

#include <stdio.h>

/* Everything the reader says, as text: "file a/b 644 12 5\n" and contents in brackets. */
struct trace {
    struct buffer text;
    bool open;
    int refuse_at; /* the n-th event fails; 0 = none */
    int events;
};

static bool next_event(struct trace *t, struct error *err) {
    if (++t->events != t->refuse_at) return true;
    error_set(err, 507, "disk_full", "no room");
    return false;
}

static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    static const char *const names[] = {"file", "dir", "symlink", "hardlink", "other"};
    struct trace *t = ctx;
    ck_assert(!t->open);
    t->open = true;
    buffer_printf(&t->text, "%s %.*s %o %lld %llu", names[e->type], (int)e->path.len, e->path.ptr, e->mode,
                  (long long)e->mtime, (unsigned long long)e->size);
    if (e->link.len) buffer_printf(&t->text, " -> %.*s", (int)e->link.len, e->link.ptr);
    buffer_append_str(&t->text, " [");
    return next_event(t, err);
}

static bool on_data(void *ctx, struct slice data, struct error *err) {
    struct trace *t = ctx;
    ck_assert(t->open);
    ck_assert_uint_gt(data.len, 0);
    buffer_append(&t->text, data.ptr, data.len);
    return next_event(t, err);
}

static bool on_entry_end(void *ctx, struct error *err) {
    struct trace *t = ctx;
    ck_assert(t->open);
    t->open = false;
    buffer_append_str(&t->text, "]\n");
    return next_event(t, err);
}

static const struct tar_events events = {on_entry, on_data, on_entry_end};

/* Reads all of it in pieces of `step` bytes. */
static bool read_archive(struct slice archive, size_t step, struct trace *t, struct error *err) {
    struct tar_reader r;
    tar_reader_init(&r, &events, t);
    bool ok = true;
    for (size_t at = 0; ok && at < archive.len; at += step) {
        size_t n = archive.len - at < step ? archive.len - at : step;
        ok = tar_reader_feed(&r, slice_make(archive.ptr + at, n), err);
    }
    ok = ok && tar_reader_finish(&r, err);
    tar_reader_free(&r);
    return ok;
}

static void expect_trace(struct slice archive, const char *wanted) {
    static const size_t steps[] = {1, 2, 7, 511, 512, 513, 1000, 1 << 20};
    for (size_t i = 0; i < COUNT(steps); i++) {
        cleanup_error struct error err = {0};
        struct trace t = {0};
        ck_assert_msg(read_archive(archive, steps[i], &t, &err), "%s", err.message);
        ck_assert_str_eq(buffer_cstr(&t.text), wanted);
        buffer_free(&t.text);
    }
}

static void expect_refused(struct slice archive, const char *why) {
    static const size_t steps[] = {1, 512, 1 << 20};
    for (size_t i = 0; i < COUNT(steps); i++) {
        cleanup_error struct error err = {0};
        struct trace t = {0};
        ck_assert_msg(!read_archive(archive, steps[i], &t, &err), "accepted, wanted: %s", why);
        ck_assert_int_eq(err.status, 400);
        ck_assert_str_eq(err.code, "bad_archive");
        ck_assert_msg(strstr(err.message, why), "'%s' is not in '%s'", why, err.message);
        buffer_free(&t.text);
    }
}

static void add(struct buffer *out, enum tar_type type, const char *path, const char *link,
                const char *content, int64_t mtime) {
    struct tar_entry e = {.type = type,
                          .path = slice_of(path),
                          .link = slice_of(link),
                          .mode = type == TAR_DIR ? 0755 : 0644,
                          .mtime = mtime,
                          .size = strlen(content)};
    cleanup_error struct error err = {0};
    ck_assert_msg(tar_write_entry(out, &e, &err), "%s", err.message);
    ck_assert(buffer_append_str(out, content));
    ck_assert(tar_write_padding(out, e.size));
    ck_assert_uint_eq(out->len % TAR_BLOCK, 0);
}

/* A header whose fields the test changes before its checksum is made. */
static struct tar_header header(char flag, const char *name, unsigned size) {
    struct tar_header h = {0};
    snprintf(h.name, sizeof h.name, "%s", name);
    memcpy(h.mode, "0000644", 8);
    snprintf(h.size, sizeof h.size, "%011o", size);
    memcpy(h.mtime, "00000000001", 12);
    h.flag = flag;
    memcpy(h.magic, TAR_POSIX_MAGIC, sizeof h.magic);
    return h;
}

static void append_header(struct buffer *out, struct tar_header h) {
    memset(h.checksum, ' ', sizeof h.checksum);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof h; i++) {
        sum += ((const unsigned char *)&h)[i];
    }
    char text[8];
    snprintf(text, sizeof text, "%06o", sum);
    memcpy(h.checksum, text, 7);
    buffer_append(out, &h, sizeof h);
}

static void append_block(struct buffer *out, char flag, const char *name, struct slice content) {
    append_header(out, header(flag, name, (unsigned)content.len));
    buffer_append(out, content.ptr, content.len);
    tar_write_padding(out, content.len);
}

START_TEST(test_round_trip) {
    cleanup_buffer struct buffer a = {0};
    add(&a, TAR_DIR, "src", "", "", 1700000000);
    add(&a, TAR_FILE, "src/empty", "", "", 0);
    add(&a, TAR_FILE, "src/hello.txt", "", "hello world", 12);
    add(&a, TAR_SYMLINK, "src/link", "../over there", "", 77777777777);
    add(&a, TAR_FILE, "n\xc3\xa4me \xff\n", "", "x", 1);
    ck_assert(tar_write_end(&a));
    ck_assert_uint_eq(a.len, (1 + 1 + 2 + 3 + 2 + 2) * TAR_BLOCK);
    expect_trace(buffer_slice(&a), "dir src 755 1700000000 0 []\n"
                                   "file src/empty 644 0 0 []\n"
                                   "file src/hello.txt 644 12 11 [hello world]\n"
                                   "symlink src/link 644 77777777777 0 -> ../over there []\n"
                                   "file n\xc3\xa4me \xff\n 644 1 1 [x]\n");
}
END_TEST

/* Every length of path, with slashes at several places, keeps its bytes. */
START_TEST(test_round_trip_paths) {
    for (size_t slash = 3; slash < 400; slash = slash * 2 + 1) {
        for (size_t len = 1; len <= 700; len += len < 90 ? 30 : len < 270 ? 1 : 97) {
            char path[701];
            for (size_t i = 0; i < len; i++) {
                path[i] = i % (slash + 1) == slash && i + 1 < len ? '/' : (char)('a' + i % 26);
            }
            path[len] = '\0';
            for (int type = TAR_FILE; type <= TAR_SYMLINK; type++) {
                cleanup_buffer struct buffer a = {0};
                cleanup_buffer struct buffer wanted = {0};
                static const char *const names[] = {"file", "dir", "symlink"};
                bool link = type == TAR_SYMLINK;
                add(&a, (enum tar_type)type, path, link ? path : "", "", 5);
                tar_write_end(&a);
                buffer_printf(&wanted, "%s %s %o 5 0%s%s []\n", names[type], path,
                              type == TAR_DIR ? 0755 : 0644, link ? " -> " : "", link ? path : "");
                struct trace t = {0};
                cleanup_error struct error err = {0};
                ck_assert_msg(read_archive(buffer_slice(&a), 4096, &t, &err), "%s", err.message);
                ck_assert_str_eq(buffer_cstr(&t.text), wanted.data);
                buffer_free(&t.text);
            }
        }
    }
}
END_TEST

START_TEST(test_path_limits) {
    char path[TAR_MAX_PATH + 2];
    memset(path, 'p', sizeof path);
    path[TAR_MAX_PATH] = '\0';
    for (int type = TAR_FILE; type <= TAR_DIR; type++) {
        cleanup_buffer struct buffer a = {0};
        add(&a, (enum tar_type)type, path, "", "", 0);
        tar_write_end(&a);
        struct trace t = {0};
        cleanup_error struct error err = {0};
        ck_assert_msg(read_archive(buffer_slice(&a), 100, &t, &err), "%s", err.message);
        buffer_free(&t.text);
    }
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer a = {0};
    struct tar_entry e = {.type = TAR_FILE, .path = slice_make(path, TAR_MAX_PATH + 1)};
    path[TAR_MAX_PATH] = 'p';
    ck_assert(!tar_write_entry(&a, &e, &err));
    ck_assert_str_eq(err.code, "bad_path");
    e.path = slice_make("", 0);
    ck_assert(!tar_write_entry(&a, &e, &err));
    e.path = slice_make("a\0b", 3);
    ck_assert(!tar_write_entry(&a, &e, &err));
    e.path = slice_of("a");
    e.type = TAR_SYMLINK;
    ck_assert(!tar_write_entry(&a, &e, &err));
    ck_assert_uint_eq(a.len, 0);
    e.type = TAR_FILE;
    a.limit = 511;
    ck_assert(!tar_write_entry(&a, &e, &err));
    ck_assert_str_eq(err.code, "archive_too_large");
    ck_assert_uint_eq(a.len, 0);
}
END_TEST

/* The header alone says the size; 8 GiB of content need not exist. */
START_TEST(test_large_sizes) {
    static const uint64_t sizes[] = {077777777777, 0100000000000, UINT64_C(1) << 40, INT64_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int64_t mtime = -5; mtime <= 5; mtime += 5) {
            cleanup_buffer struct buffer a = {0};
            cleanup_error struct error err = {0};
            struct tar_entry e = {
                .type = TAR_FILE, .path = slice_of("big"), .size = sizes[i], .mtime = mtime};
            ck_assert(tar_write_entry(&a, &e, &err));
            char wanted[100];
            snprintf(wanted, sizeof wanted, "file big 0 %lld %llu [", (long long)mtime,
                     (unsigned long long)sizes[i]);
            struct trace t = {0};
            ck_assert(!read_archive(buffer_slice(&a), 99, &t, &err));
            ck_assert_msg(strstr(err.message, "cut"), "%s", err.message);
            ck_assert_str_eq(buffer_cstr(&t.text), wanted);
            buffer_free(&t.text);
        }
    }
}
END_TEST

START_TEST(test_all_times) {
    static const int64_t times[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 077777777777, 0100000000000, INT64_MAX};
    for (size_t i = 0; i < COUNT(times); i++) {
        cleanup_buffer struct buffer a = {0};
        add(&a, TAR_FILE, "t", "", "", times[i]);
        tar_write_end(&a);
        char wanted[100];
        snprintf(wanted, sizeof wanted, "file t 644 %lld 0 []\n", (long long)times[i]);
        expect_trace(buffer_slice(&a), wanted);
    }
}
END_TEST

START_TEST(test_cut_anywhere) {
    cleanup_buffer struct buffer a = {0};
    char name[200];
    memset(name, 'n', sizeof name);
    name[199] = '\0';
    add(&a, TAR_FILE, name, "", "content", 1);
    add(&a, TAR_FILE, "b", "", "more", 1);
    size_t last = a.len;
    tar_write_end(&a);
    for (size_t n = 0; n < a.len; n++) {
        if (n == last + TAR_BLOCK) continue; /* one zero block is taken as the end */
        expect_refused(slice_make(a.data, n), n % TAR_BLOCK == 0 ? "" : "cut");
    }
    /* What follows the end is ignored, whatever it is. */
    buffer_append_str(&a, "garbage garbage");
    struct trace t = {0};
    cleanup_error struct error err = {0};
    ck_assert(read_archive(buffer_slice(&a), 10, &t, &err));
    buffer_free(&t.text);
}
END_TEST

START_TEST(test_callback_errors) {
    cleanup_buffer struct buffer a = {0};
    add(&a, TAR_FILE, "a", "", "content", 1);
    tar_write_end(&a);
    for (int n = 1; n <= 3; n++) {
        struct tar_reader r;
        struct trace t = {.refuse_at = n};
        cleanup_error struct error err = {0};
        tar_reader_init(&r, &events, &t);
        ck_assert(!tar_reader_feed(&r, buffer_slice(&a), &err));
        ck_assert_str_eq(err.code, "disk_full");
        ck_assert_int_eq(t.events, n);
        ck_assert(!tar_reader_feed(&r, buffer_slice(&a), &err));
        ck_assert_str_eq(err.code, "bad_archive");
        ck_assert(!tar_reader_finish(&r, &err));
        tar_reader_free(&r);
        buffer_free(&t.text);
    }
}
END_TEST

START_TEST(test_every_bit_of_a_header_counts) {
    cleanup_buffer struct buffer a = {0};
    add(&a, TAR_FILE, "a", "", "", 1);
    tar_write_end(&a);
    size_t at = offsetof(struct tar_header, checksum);
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        if (i >= at && i < at + 8) continue;
        a.data[i] ^= 0x10;
        expect_refused(buffer_slice(&a), "checksum");
        a.data[i] ^= 0x10;
    }
}
END_TEST

START_TEST(test_gnu_long_names) {
    cleanup_buffer struct buffer a = {0};
    append_block(&a, 'L', "././@LongLink", slice_make("a/very/long/name\0ignored", 24));
    append_block(&a, 'K', "././@LongLink", slice_make("target", 7));
    append_header(&a, header('2', "short", 0));
    append_block(&a, '0', "next", slice_of("x")); /* the long name was for one entry */
    tar_write_end(&a);
    expect_trace(buffer_slice(&a), "symlink a/very/long/name 644 1 0 -> target []\nfile next 644 1 1 [x]\n");
}
END_TEST

START_TEST(test_pax) {
    cleanup_buffer struct buffer a = {0};
    append_block(&a, 'g', "global", slice_of("14 path=wrong\n19 comment=ignored\n"));
    append_block(&a, 'x', "p", slice_of("12 path=p/q\n19 mtime=12.999999\n16 SCHILY.x=\1\2\3\n9 size=2\n"));
    append_header(&a, header('0', "short", 0));
    buffer_append_str(&a, "hi");
    tar_write_padding(&a, 2);
    append_block(&a, 'x', "p", slice_of("12 path=p/q\n12 mtime=-1\n"));
    append_block(&a, 'x', "p", slice_of("8 path=\n14 mtime=-1.5\n"));
    append_block(&a, '0', "own", slice_of(""));
    append_block(&a, 'x', "p", slice_of("11 path=d/\n"));
    append_block(&a, '0', "x", slice_of(""));
    append_block(&a, 'x', "p", slice_of("13 path=paxy\n"));
    append_block(&a, 'L', "p", slice_of("gnu"));
    append_block(&a, '0', "x", slice_of(""));
    tar_write_end(&a);
    expect_trace(buffer_slice(&a), "file p/q 644 12 2 [hi]\nfile own 644 -2 0 []\ndir d 644 1 0 []\n"
                                   "file paxy 644 1 0 []\n");
}
END_TEST

START_TEST(test_pax_refused) {
    static const struct {
        struct slice records;
        const char *why;
    } rows[] = {
#define ROW(text, why) {{text, sizeof(text) - 1}, why}
        ROW("12 path=p/q", "wrong length"),
        ROW("99 path=p/q\n", "wrong length"),
        ROW("11 path=p/q\n", "wrong length"),
        ROW("13 path=p/q\n", "wrong length"),
        ROW("0 path=p/q\n", "wrong length"),
        ROW("-1 path=p/q\n", "wrong length"),
        ROW(" 12 path=p/q\n", "wrong length"),
        ROW("18446744073709551646 path=p/q\n", "wrong length"),
        ROW("path=p/q\n", "wrong length"),
        ROW("3 \n", "wrong length"),
        ROW("6 =ab\n", "no key"),
        ROW("6 abc\n", "no key"),
        ROW("12 path=p\0q\n", "NUL"),
        ROW("14 linkpath=\0\n", "NUL"),
        ROW("11 size=-1\n", "size"),
        ROW("12 size=0x1\n", "size"),
        ROW("28 size=9223372036854775808\n", "size"),
        ROW("12 mtime=1e\n", "mtime"),
        ROW("11 mtime=-\n", "mtime"),
        ROW("29 mtime=9223372036854775808\n", "mtime"),
        ROW("30 mtime=-9223372036854775809\n", "mtime"),
        ROW("32 mtime=-9223372036854775808.5\n", "mtime"),
        ROW("22 GNU.sparse.major=1\n", "sparse"),
#undef ROW
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        cleanup_buffer struct buffer a = {0};
        append_block(&a, 'x', "p", rows[i].records);
        append_block(&a, '0', "x", slice_of(""));
        tar_write_end(&a);
        expect_refused(buffer_slice(&a), rows[i].why);
    }
    cleanup_buffer struct buffer a = {0};
    append_block(&a, 'x', "p", slice_of("12 path=p/q\n"));
    tar_write_end(&a);
    expect_refused(buffer_slice(&a), "not followed by its entry");
    buffer_clear(&a);
    append_header(&a, header('x', "p", TAR_MAX_EXTENSION + 1));
    expect_refused(buffer_slice(&a), "1 MiB");
    buffer_clear(&a);
    char longest[TAR_MAX_PATH + 2];
    memset(longest, 'x', sizeof longest);
    append_block(&a, 'L', "p", slice_make(longest, sizeof longest));
    expect_refused(buffer_slice(&a), "4096");
}
END_TEST

static void set_size(struct buffer *a, struct tar_header h, const char *bytes) {
    memcpy(h.size, bytes, sizeof h.size);
    buffer_clear(a);
    append_header(a, h);
    buffer_append_str(a, "12345678");
    tar_write_padding(a, 8);
    tar_write_end(a);
}

START_TEST(test_numbers) {
    struct tar_header h = header('0', "f", 0);
    cleanup_buffer struct buffer a = {0};
    static const char *const good[] = {"00000000010\0", "         10 ", "10 \0 \0 \0 \0 \0", "000000000010",
                                       "\x80\0\0\0\0\0\0\0\0\0\0\x08"};
    for (size_t i = 0; i < COUNT(good); i++) {
        set_size(&a, h, good[i]);
        expect_trace(buffer_slice(&a), "file f 644 1 8 [12345678]\n");
    }
    static const char *const bad[] = {"0000000001x\0",
                                      "00000000018\0",
                                      "-0000000010\0",
                                      "1 2         ",
                                      "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                                      "\xff\0\0\0\0\0\0\0\0\0\0\0",
                                      "\x80\0\0\1\0\0\0\0\0\0\0\0",
                                      "\x80\0\0\0\x80\0\0\0\0\0\0\0",
                                      "\x81\0\0\0\0\0\0\0\0\0\0\x08"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        set_size(&a, h, bad[i]);
        expect_refused(buffer_slice(&a), "size is not a number");
    }
    memset(h.size, 0, sizeof h.size);
    memset(h.mtime, 0xff, sizeof h.mtime);
    h.mtime[11] = (char)0xfe;
    memcpy(h.mode, "0104755", 8);
    buffer_clear(&a);
    append_header(&a, h);
    tar_write_end(&a);
    expect_trace(buffer_slice(&a), "file f 4755 -2 0 []\n");
}
END_TEST

START_TEST(test_types) {
    static const struct {
        char flag;
        const char *name;
        const char *link;
        const char *wanted;
    } good[] = {
        {'\0', "old", "", "file old 644 1 0 []\n"},
        {'\0', "old/", "", "dir old 644 1 0 []\n"},
        {'0', "d///", "", "dir d 644 1 0 []\n"},
        {'5', "./", "", "dir . 644 1 0 []\n"},
        {'5', "/", "", "dir / 644 1 0 []\n"},
        {'7', "c", "", "file c 644 1 0 []\n"},
        {'1', "h", "to", "hardlink h 644 1 0 -> to []\n"},
        {'2', "s/", "to", "symlink s/ 644 1 0 -> to []\n"},
        {'3', "null", "", "other null 644 1 0 []\n"},
        {'6', "fifo", "ignored", "other fifo 644 1 0 []\n"},
        {'V', "label", "", "other label 644 1 0 []\n"},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        cleanup_buffer struct buffer a = {0};
        struct tar_header h = header(good[i].flag, good[i].name, 0);
        snprintf(h.link, sizeof h.link, "%s", good[i].link);
        append_header(&a, h);
        tar_write_end(&a);
        expect_trace(buffer_slice(&a), good[i].wanted);
    }
    static const struct {
        char flag;
        const char *name;
        unsigned size;
        const char *why;
    } bad[] = {
        {'S', "sparse", 0, "sparse"},   {'M', "part", 0, "volumes"},  {'1', "h", 0, "no target"},
        {'2', "s", 0, "no target"},     {'5', "d", 5, "has content"}, {'0', "d/", 5, "has content"},
        {'3', "dev", 5, "has content"}, {'0', "", 0, "no path"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        cleanup_buffer struct buffer a = {0};
        append_header(&a, header(bad[i].flag, bad[i].name, bad[i].size));
        tar_write_end(&a);
        expect_refused(buffer_slice(&a), bad[i].why);
    }
    /* Unknown types with content are skipped as a whole. */
    cleanup_buffer struct buffer a = {0};
    append_block(&a, 'Z', "vendor", slice_of("abc"));
    append_block(&a, '0', "f", slice_of("x"));
    tar_write_end(&a);
    expect_trace(buffer_slice(&a), "other vendor 644 1 3 [abc]\nfile f 644 1 1 [x]\n");
}
END_TEST

START_TEST(test_prefix) {
    struct tar_header h = header('0', "name", 0);
    memcpy(h.prefix, "dir/below", 9);
    cleanup_buffer struct buffer a = {0};
    append_header(&a, h);
    memset(h.prefix, 'p', sizeof h.prefix);
    memset(h.name, 'n', sizeof h.name);
    append_header(&a, h);
    memcpy(h.magic, "ustar  ", 8); /* GNU: no prefix there */
    append_header(&a, h);
    tar_write_end(&a);
    cleanup_buffer struct buffer wanted = {0};
    buffer_append_str(&wanted, "file dir/below/name 644 1 0 []\n");
    for (int posix = 1; posix >= 0; posix--) {
        buffer_append_str(&wanted, "file ");
        for (int i = 0; posix && i < 155; i++) {
            buffer_append_char(&wanted, 'p');
        }
        if (posix) buffer_append_char(&wanted, '/');
        for (int i = 0; i < 100; i++) {
            buffer_append_char(&wanted, 'n');
        }
        buffer_append_str(&wanted, " 644 1 0 []\n");
    }
    expect_trace(buffer_slice(&a), wanted.data);
}
END_TEST

START_TEST(test_zero_blocks) {
    cleanup_buffer struct buffer a = {0};
    tar_write_end(&a);
    expect_trace(buffer_slice(&a), ""); /* an empty archive */
    expect_refused(slice_of(""), "end marker");
    expect_refused(slice_make(a.data, 700), "cut");
    a.len = TAR_BLOCK;
    add(&a, TAR_FILE, "a", "", "", 1);
    expect_refused(buffer_slice(&a), "goes on");
}
END_TEST

RUN_SUITE("tar", test_round_trip, test_round_trip_paths, test_path_limits, test_large_sizes, test_all_times,
          test_cut_anywhere, test_callback_errors, test_every_bit_of_a_header_counts, test_gnu_long_names,
          test_pax, test_pax_refused, test_numbers, test_types, test_prefix, test_zero_blocks)
