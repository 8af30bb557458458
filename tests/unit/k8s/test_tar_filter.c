/* Archives through pods/exec: what is kept, renamed, left out and refused (lessons S13, W52). */
#include "k8s/tar_filter.h"

#include <check.h>

static struct buffer in, out;

static void add(enum tar_type type, const char *path, const char *link, const char *content) {
    struct tar_entry e = {
        .type = type, .path = slice_of(path), .link = slice_of(link), .mode = 06755, .mtime = 5};
    e.size = content ? strlen(content) : 0;
    ck_assert(tar_write_entry(&in, &e, NULL));
    if (content) buffer_append_str(&in, content);
    tar_write_padding(&in, e.size);
}

static struct buffer seen;
static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    buffer_printf(&seen, "%c%.*s:%o", "fdlho"[e->type], (int)e -> path.len, e->path.ptr, e->mode);
    if (e->link.len) buffer_printf(&seen, ">%.*s", (int)e->link.len, e->link.ptr);
    return true;
}
static bool on_data(void *ctx, struct slice data, struct error *err) {
    buffer_append_char(&seen, '=');
    return buffer_append(&seen, data.ptr, data.len);
}
static bool on_entry_end(void *ctx, struct error *err) {
    return buffer_append_char(&seen, '|');
}

/* Feeds `in` in pieces; "" and *seen, or the code of the error. */
static const char *filter(enum tar_direction direction, size_t piece) {
    static struct error err;
    struct tar_filter *f = tar_filter_new(direction);
    bool ok = true;
    err = (struct error){0};
    buffer_clear(&out);
    buffer_clear(&seen);
    for (size_t i = 0; ok && i < in.len; i += piece)
        ok = tar_filter_feed(f, slice_make(in.data + i, in.len - i < piece ? in.len - i : piece), &out, &err);
    ok = ok && tar_filter_finish(f, &out, &err);
    tar_filter_free(f);
    if (!ok) return err.code;
    static const struct tar_events events = {on_entry, on_data, on_entry_end};
    struct tar_reader r;
    tar_reader_init(&r, &events, NULL);
    ck_assert(tar_reader_feed(&r, buffer_slice(&out), NULL) && tar_reader_finish(&r, NULL));
    tar_reader_free(&r);
    return "";
}

static void setup(void) {
    in = out = seen = (struct buffer){0};
}
static void teardown(void) {
    buffer_free(&in);
    buffer_free(&out);
    buffer_free(&seen);
}

START_TEST(names_are_made_relative_and_other_types_left_out) {
    add(TAR_DIR, "./", "", NULL);
    add(TAR_DIR, "./a", "", NULL);
    add(TAR_FILE, "./a//b", "", "bytes");
    add(TAR_SYMLINK, "./l", "../../etc", NULL);
    tar_write_end(&in);
    buffer_append(&in, (char[8192]){0}, 8192); /* tar's padding (O1) */
    for (size_t piece = 1; piece < 2000; piece += 331) {
        ck_assert_str_eq(filter(TAR_FROM_SANDBOX, piece), "");
        ck_assert_str_eq(buffer_cstr(&seen), "da:6755|fa/b:6755=bytes|ll:6755>../../etc|");
    }
    ck_assert_str_eq(filter(TAR_TO_SANDBOX, 512), "");
    ck_assert_str_eq(buffer_cstr(&seen), "da:755|fa/b:755=bytes|ll:755>../../etc|");
}
END_TEST

START_TEST(W52_hard_links_come_as_content) {
    add(TAR_FILE, "./a", "", "one");
    add(TAR_HARDLINK, "./b", "./a", NULL);
    tar_write_end(&in);
    ck_assert_str_eq(filter(TAR_FROM_SANDBOX, 700), "sandbox_unreachable"); /* the content did not come */
    add(TAR_FILE, "./a", "", "one");
    tar_write_end(&in);
    add(TAR_FILE, "./b", "", "one");
    tar_write_end(&in);
    ck_assert_str_eq(filter(TAR_FROM_SANDBOX, 700), "");
    ck_assert_str_eq(buffer_cstr(&seen), "fa:6755=one|fb:6755=one|");
}
END_TEST

START_TEST(S13_what_is_refused) {
    static const struct {
        enum tar_type type;
        const char *path, *link;
    } bad[] = {{TAR_FILE, "../x", ""},   {TAR_FILE, "/x", ""},       {TAR_FILE, "a/../../x", ""},
               {TAR_FILE, "l/x", ""},    {TAR_FILE, "l/d/x", ""},    {TAR_HARDLINK, "h", "../x"},
               {TAR_HARDLINK, "h", "l"}, {TAR_HARDLINK, "h", "l/x"}, {TAR_HARDLINK, "h", "/etc/passwd"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        teardown();
        setup();
        add(TAR_SYMLINK, "l", "/tmp", NULL);
        add(bad[i].type, bad[i].path, bad[i].link, NULL);
        tar_write_end(&in);
        ck_assert_msg(strcmp(filter(TAR_TO_SANDBOX, 512), "bad_archive") == 0, "%zu", i);
        if (bad[i].type == TAR_FILE)
            ck_assert_msg(strcmp(filter(TAR_FROM_SANDBOX, 512), "bad_archive") == 0, "%zu", i);
    }
    /* A link that was replaced by a directory is none. */
    teardown();
    setup();
    add(TAR_SYMLINK, "l", "/tmp", NULL);
    add(TAR_DIR, "l", "", NULL);
    add(TAR_FILE, "l/x", "", "1");
    tar_write_end(&in);
    ck_assert_str_eq(filter(TAR_TO_SANDBOX, 512), "");
}
END_TEST

START_TEST(what_is_cut_is_refused) {
    add(TAR_FILE, "a", "", "content");
    ck_assert_str_eq(filter(TAR_TO_SANDBOX, 512), "bad_archive");
    ck_assert_str_eq(filter(TAR_FROM_SANDBOX, 512), "bad_archive");
    buffer_clear(&in);
    ck_assert_str_eq(filter(TAR_TO_SANDBOX, 512), "bad_archive");
    buffer_append_str(&in, "not a tar");
    ck_assert_str_eq(filter(TAR_TO_SANDBOX, 512), "bad_archive");
}
END_TEST

int main(void) {
    Suite *s = suite_create("tar_filter");
    TCase *t = tcase_create("filter");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, names_are_made_relative_and_other_types_left_out);
    tcase_add_test(t, W52_hard_links_come_as_content);
    tcase_add_test(t, S13_what_is_refused);
    tcase_add_test(t, what_is_cut_is_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
