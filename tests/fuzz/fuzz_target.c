/* The request target: what is accepted has a canonical path without dot segments, outside of what belongs to
 * a previewed application; routing and query decoding take whatever it is. */
#include "router/route.h"
#include "router/target.h"
#include "tests/fuzz/fuzz.h"

static void check_segments(const char *path) {
    if (strstr(path, "/preview/")) return; /* the application's part stays as it was sent */
    for (const char *at = path; *at;) {
        size_t n = strcspn(at + 1, "/");
        struct slice part = slice_make(at + 1, n);
        MUST(!slice_equal_str(part, ".") && !slice_equal_str(part, ".."));
        MUST(!slice_equal_nocase(part, "%2e") && !slice_equal_nocase(part, "%2e%2e"));
        MUST(!slice_equal_nocase(part, ".%2e") && !slice_equal_nocase(part, "%2e."));
        at += n + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const methods[] = {"GET", "PUT", "HEAD", "BREW"};
    cleanup_buffer struct buffer path = {0}, allow = {0}, decoded = {0};
    struct slice query = {0}, target = {(const char *)data, size};
    struct error err = {0};
    if (memchr(data, 0, size)) return 0; /* it comes as a C string */
    if (!target_parse(target, &path, &query, &err)) {
        MUST(err.status >= 400 && err.status < 500 && err.message[0]);
        error_clear(&err);
        return 0;
    }
    const char *text = buffer_cstr(&path);
    MUST(text[0] == '/' && path.len <= size + 1 && strlen(text) == path.len);
    check_segments(text);
    for (const char *c = text; *c; c++)
        MUST((unsigned char)*c > ' ' && *c != 0x7f);
    struct route_params params = {0};
    const struct route *route = route_match(methods[size % 4], buffer_slice(&path), &params, &allow);
    for (size_t i = 0; route && i < params.count; i++)
        MUST(params.value[i] && params.name[i].len);
    route_params_free(&params);
    static const char *const names[] = {"path", "namespace", "limit", "token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct slice raw = target_query_raw(query, names[i]);
        buffer_clear(&decoded);
        if (raw.ptr && target_query_decode(raw, &decoded)) MUST(decoded.len <= raw.len);
    }
    return 0;
}
