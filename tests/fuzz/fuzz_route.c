/* A request target becomes a canonical path, and that a row of the table with its parameters. Whatever comes
 * in, no dot segment and no empty segment reaches a row (but in a preview, which belongs to the application),
 * and no parameter is empty, or holds a slash, that must not. */
#include "common/text.h"
#include "router/route.h"
#include "router/target.h"
#include "tests/fuzz/fuzz.h"

static void must(bool condition) {
    if (!condition) abort();
}

static bool is_preview(const struct route *route) {
    return strstr(route->pattern, "/preview/") != NULL;
}

static void check_path(struct slice path) {
    must(path.len > 0 && path.ptr[0] == '/');
    for (size_t i = 0; i < path.len; i++) {
        must((unsigned char)path.ptr[i] > ' ' && path.ptr[i] != '?');
        if (path.ptr[i] != '/') continue;
        struct slice rest = slice_make(path.ptr + i, path.len - i);
        must(!slice_starts_with(rest, "//") && !slice_starts_with(rest, "/./") &&
             !slice_starts_with(rest, "/../"));
        must(!slice_equal_str(rest, "/.") && !slice_equal_str(rest, "/.."));
    }
}

static void check_params(const struct route *route, const struct route_params *params) {
    must(params->count <= ROUTE_MAX_PARAMS);
    for (size_t i = 0; i < params->count; i++) {
        char variable[64];
        snprintf(variable, sizeof variable, "{%.*s}", (int)params->name[i].len, params->name[i].ptr);
        bool plain = strstr(route->pattern, variable) != NULL;
        snprintf(variable, sizeof variable, "{%.*s...}", (int)params->name[i].len, params->name[i].ptr);
        bool rest = strstr(route->pattern, variable) != NULL;
        must(rest || params->value[i][0]);
        must(!plain || !strchr(params->value[i], '/'));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const methods[] = {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "BREW"};
    cleanup_buffer struct buffer path = {0};
    struct slice query = {0};
    cleanup_error struct error err = {0};
    if (!target_parse(slice_make((const char *)data, size), &path, &query, &err)) {
        must(err.status == 400 || err.status == 414);
        return 0;
    }
    bool preview = false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct route_params params = {0};
        cleanup_buffer struct buffer allow = {0};
        const struct route *route = route_match(methods[i], buffer_slice(&path), &params, &allow);
        if (route) {
            check_params(route, &params);
            preview |= is_preview(route);
        }
        route_params_free(&params);
    }
    if (!preview) check_path(buffer_slice(&path));
    return 0;
}
