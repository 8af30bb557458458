/* See cors.h. */
#include "router/cors.h"

#include "router/router.h"

#include <microhttpd.h>

/* Byte-exact membership in the comma-separated list; "*" never matches. */
static bool origin_allowed(const char *list, const char *origin) {
    if (strcmp(origin, "*") == 0) return false;
    for (const char *at = list; *at;) {
        const char *comma = strchr(at, ',');
        size_t n = comma ? (size_t)(comma - at) : strlen(at);
        if (slice_equal_str(slice_trim(slice_make(at, n)), origin)) return true;
        at += n + (comma ? 1 : 0);
    }
    return false;
}

static bool from_allowed_origin(struct request *r) {
    const char *origin = request_header(r, "Origin");
    return origin && origin[0] && origin_allowed(r->router->config->cors_allowed_origins, origin);
}

bool cors_allows_origin(struct request *r) {
    return from_allowed_origin(r);
}

static bool is_preview_path(struct slice path) {
    static const char word[] = "/preview/";
    return slice_starts_with(path, "/api/v1/sandboxes/") &&
           memmem(path.ptr, path.len, word, sizeof word - 1) != NULL;
}

bool cors_handle(struct request *r) {
    if (strcmp(r->method, "OPTIONS") != 0) return false;
    const char *origin = request_header(r, "Origin");
    bool allowed = from_allowed_origin(r);
    if (!allowed && is_preview_path(r->path)) return false;
    if (origin && origin[0] && !allowed) {
        cleanup_error struct error err = {0};
        error_set(&err, 403, "origin_not_allowed", "this origin is not among --cors-allowed-origins");
        reply_error(r, &err);
    } else {
        reply_empty(r, 204);
    }
    return true;
}

void cors_add_headers(struct request *r, struct MHD_Response *response) {
    if (!r->router->config->cors_allowed_origins[0]) return;
    MHD_add_response_header(response, "Vary", "Origin");
    if (!from_allowed_origin(r)) return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", request_header(r, "Origin"));
    MHD_add_response_header(response, "Access-Control-Allow-Methods",
                            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    MHD_add_response_header(
        response, "Access-Control-Allow-Headers",
        "Authorization, Content-Type, X-API-Key, X-Request-ID, Idempotency-Key, Range, If-Match, "
        "If-None-Match");
    MHD_add_response_header(
        response, "Access-Control-Expose-Headers",
        "X-Request-ID, Retry-After, Deprecation, Sunset, Link, Content-Disposition, ETag, "
        "Content-Range, Accept-Ranges");
    MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
}
