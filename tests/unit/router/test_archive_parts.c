/* A tar made into zip and gzip, and back, in pieces of any size. */
#include "common/tar.h"
#include "router/archive_unpack.h"

#include <check.h>
#include <stdio.h>
#include <sys/mman.h>

#define NOISE 300001

static char noise[NOISE];

static void put(struct buffer *tar, enum tar_type type, const char *path, const char *link, unsigned mode,
                struct slice content) {
    struct tar_entry e = {.type = type,
                          .path = slice_of(path),
                          .link = slice_of(link),
                          .mode = mode,
                          .mtime = 1700000000,
                          .size = content.len};
    ck_assert(tar_write_entry(tar, &e, NULL));
    buffer_append(tar, content.ptr ? content.ptr : "", content.len);
    tar_write_padding(tar, content.len);
}

/* In the order that the zip gives back; times are even seconds, as zip has them. */
static void make_tar(struct buffer *tar) {
    unsigned seed = 7;
    for (size_t i = 0; i < NOISE; i++)
        noise[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
    put(tar, TAR_DIR, "empty", NULL, 0755, slice_of(NULL));
    put(tar, TAR_FILE, "a.sh", NULL, 0755, slice_of("#!/bin/sh\n"));
    put(tar, TAR_SYMLINK, "link", "../a.sh", 0777, slice_of(NULL));
    put(tar, TAR_FILE, "d\xc3\xa4/\xf0\x9f\x98\x80 'q", NULL, 0600, slice_make(noise, NOISE));
    put(tar, TAR_FILE, "zero", NULL, 0644, slice_of(""));
    tar_write_end(tar);
}

static void pack(enum archive_format format, struct slice tar, size_t step, struct buffer *out) {
    struct error err = {0};
    struct archive_pack *p = archive_pack_new(format, &err);
    ck_assert_msg(p != NULL, "%s", err.message);
    for (size_t at = 0; at < tar.len; at += step) {
        size_t n = tar.len - at < step ? tar.len - at : step;
        ck_assert_msg(archive_pack_feed(p, slice_make(tar.ptr + at, n), out, &err), "%s", err.message);
    }
    ck_assert_msg(archive_pack_finish(p, out, &err), "%s", err.message);
    archive_pack_free(p);
}

/* Returns the error's status, 0 when it went well. */
static int unpack(enum archive_format format, struct slice packed, struct buffer *out, const char **code) {
    cleanup_close int fd = memfd_create("archive", MFD_CLOEXEC);
    ck_assert_int_eq(write(fd, packed.ptr, packed.len), (ssize_t)packed.len);
    cleanup_error struct error err = {0};
    struct archive_unpack *u = archive_unpack_new(format, fd, &err);
    struct buffer piece = {0};
    int more = u ? 1 : -1;
    while (more == 1) {
        buffer_clear(&piece);
        more = archive_unpack_more(u, &piece, &err);
        ck_assert_uint_le(piece.len, 262144);
        if (more >= 0) buffer_append(out, piece.data ? piece.data : "", piece.len);
    }
    buffer_free(&piece);
    archive_unpack_free(u);
    if (code) *code = err.code;
    ck_assert(more == 0 || err.status >= 400);
    return more == 0 ? 0 : err.status;
}

START_TEST(round_trips) {
    cleanup_buffer struct buffer tar = {0};
    make_tar(&tar);
    static const size_t steps[] = {1000000, 65536, 511, 37};
    for (int f = 0; f < 3; f++) {
        if (f == ARCHIVE_TAR) continue;
        for (size_t i = 0; i < 4; i++) {
            cleanup_buffer struct buffer packed = {0}, back = {0};
            pack((enum archive_format)f, buffer_slice(&tar), steps[i], &packed);
            ck_assert_int_eq(archive_sniff(buffer_slice(&packed)), f);
            ck_assert_int_eq(unpack((enum archive_format)f, buffer_slice(&packed), &back, NULL), 0);
            ck_assert_uint_eq(back.len, tar.len);
            ck_assert_int_eq(memcmp(back.data, tar.data, tar.len), 0);
        }
    }
    ck_assert_int_eq(archive_sniff(buffer_slice(&tar)), ARCHIVE_TAR);
}
END_TEST

START_TEST(empty_archives) {
    cleanup_buffer struct buffer tar = {0};
    tar_write_end(&tar);
    for (int f = 0; f < 3; f++) {
        if (f == ARCHIVE_TAR) continue;
        cleanup_buffer struct buffer packed = {0}, back = {0};
        pack((enum archive_format)f, buffer_slice(&tar), 4096, &packed);
        ck_assert_int_eq(unpack((enum archive_format)f, buffer_slice(&packed), &back, NULL), 0);
        ck_assert_uint_eq(back.len, tar.len);
    }
}
END_TEST

START_TEST(a_cut_tar_is_never_finished) {
    cleanup_buffer struct buffer tar = {0};
    make_tar(&tar);
    static const size_t cuts[] = {0, 1, 512, 700, 100000};
    for (size_t i = 0; i < 5; i++) {
        cleanup_buffer struct buffer out = {0};
        cleanup_error struct error err = {0};
        struct archive_pack *p = archive_pack_new(ARCHIVE_ZIP, NULL);
        ck_assert(archive_pack_feed(p, slice_make(tar.data, cuts[i]), &out, &err));
        ck_assert(!archive_pack_finish(p, &out, &err));
        archive_pack_free(p);
    }
    struct tar_guard *g = tar_guard_new();
    ck_assert(tar_guard_feed(g, slice_make(tar.data, 100000), NULL));
    ck_assert(!tar_guard_finish(g, NULL));
    tar_guard_free(g);
}
END_TEST

/* Whatever is done to an archive, it is refused or comes out as a tar, and never hurts. */
START_TEST(damaged_archives) {
    cleanup_buffer struct buffer tar = {0};
    make_tar(&tar);
    for (int f = 0; f < 3; f++) {
        if (f == ARCHIVE_TAR) continue;
        cleanup_buffer struct buffer packed = {0};
        pack((enum archive_format)f, buffer_slice(&tar), 65536, &packed);
        for (size_t cut = 1; cut < packed.len; cut = cut * 2 + 1) {
            cleanup_buffer struct buffer back = {0};
            const char *code;
            ck_assert_int_eq(
                unpack((enum archive_format)f, slice_make(packed.data, packed.len - cut), &back, &code), 400);
            ck_assert_str_eq(code, "bad_archive");
        }
        for (size_t at = 0; at < packed.len; at += packed.len / 97 + 1) {
            cleanup_buffer struct buffer back = {0};
            packed.data[at] = (char)(packed.data[at] ^ 0x55);
            unpack((enum archive_format)f, buffer_slice(&packed), &back, NULL);
            packed.data[at] = (char)(packed.data[at] ^ 0x55);
        }
    }
}
END_TEST

START_TEST(too_much) {
    struct error err = {0};
    struct tar_guard *g = tar_guard_new();
    cleanup_buffer struct buffer tar = {0};
    struct tar_entry huge = {
        .type = TAR_FILE, .path = slice_of("a"), .mode = 0644, .size = ARCHIVE_MAX_UNPACKED + 1};
    ck_assert(tar_write_entry(&tar, &huge, NULL));
    ck_assert(!tar_guard_feed(g, buffer_slice(&tar), &err));
    ck_assert_int_eq(err.status, 413);
    tar_guard_free(g);
    g = tar_guard_new();
    buffer_clear(&tar);
    put(&tar, TAR_DIR, "d", NULL, 0755, slice_of(NULL));
    int i = 0;
    while (i <= ARCHIVE_MAX_ENTRIES && tar_guard_feed(g, buffer_slice(&tar), &err))
        i++;
    ck_assert_int_eq(i, ARCHIVE_MAX_ENTRIES);
    tar_guard_free(g);
}
END_TEST

int main(void) {
    Suite *s = suite_create("archive_parts");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, round_trips);
    tcase_add_test(t, empty_archives);
    tcase_add_test(t, a_cut_tar_is_never_finished);
    tcase_add_test(t, damaged_archives);
    tcase_add_test(t, too_much);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
