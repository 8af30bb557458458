/* Archives from and for sandboxes through the filter: what comes out is a well-formed archive of relative
 * names, whatever went in. The first byte chooses the direction and the size of the pieces. (lessons S13) */
#include "k8s/tar_filter.h"
#include "tests/fuzz/fuzz.h"

static bool on_entry(void *ctx, const struct tar_entry *e, struct error *err) {
    MUST(e->path.len > 0 && e->path.ptr[0] != '/' && e->type != TAR_OTHER);
    for (size_t i = 0; i + 1 < e->path.len; i++)
        if (e->path.ptr[i] == '.' && e->path.ptr[i + 1] == '.' && (i == 0 || e->path.ptr[i - 1] == '/'))
            MUST(i + 2 < e->path.len && e->path.ptr[i + 2] != '/');
    if (e->type == TAR_HARDLINK) MUST(e->link.len > 0 && e->link.ptr[0] != '/');
    return true;
}
static bool on_data(void *ctx, struct slice data, struct error *err) {
    return true;
}
static bool on_entry_end(void *ctx, struct error *err) {
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct tar_events events = {on_entry, on_data, on_entry_end};
    if (size == 0) return 0;
    struct slice in = {(const char *)data + 1, size - 1};
    struct tar_filter *f = tar_filter_new(data[0] & 1 ? TAR_TO_SANDBOX : TAR_FROM_SANDBOX);
    size_t piece = 1 + (size_t)(data[0] >> 1) * 9;
    cleanup_buffer struct buffer out = {0};
    cleanup_error struct error err = {0}, none = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < in.len; i += piece)
        ok = tar_filter_feed(f, slice_make(in.ptr + i, in.len - i < piece ? in.len - i : piece), &out, &err);
    ok = ok && tar_filter_finish(f, &out, &err);
    MUST(ok || (err.status >= 400 && err.code));
    if (ok) {
        struct tar_reader r;
        tar_reader_init(&r, &events, NULL);
        MUST(tar_reader_feed(&r, buffer_slice(&out), &none) && tar_reader_finish(&r, &none));
        tar_reader_free(&r);
    }
    tar_filter_free(f);
    return 0;
}
