/* Paths, as the runtime takes them: what comes out is absolute and has no empty, "." or ".." part; cleaning
 * it again changes nothing. */
#include "runtime/paths.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cleanup_buffer struct buffer out = {0}, again = {0};
    struct error err = {0};
    if (!path_clean(slice_make((const char *)data, size), &out, &err)) {
        MUST(err.status == 400 && strcmp(err.code, "bad_path") == 0);
        return 0;
    }
    MUST(out.len >= 1 && out.len <= size && out.data[0] == '/' && strlen(out.data) == out.len);
    MUST(out.len == 1 || out.data[out.len - 1] != '/');
    MUST(!strstr(out.data, "//"));
    cleanup_free char *parts = xasprintf("%s/", out.data);
    MUST(!strstr(parts, "/./") && !strstr(parts, "/../"));
    MUST(path_clean(buffer_slice(&out), &again, &err) && strcmp(out.data, again.data) == 0);
    return 0;
}
