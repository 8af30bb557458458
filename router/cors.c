/* See cors.h. */
#include "router/cors.h"

#include "router/router.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <string.h>
#include <strings.h>

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

/* The host of "scheme://host:port" or "host:port", without port. */
static struct slice host_of(const char *text) {
    const char *scheme = strstr(text, "://");
    struct slice host = slice_of(scheme ? scheme + 3 : text);
    const char *bracket = memchr(host.ptr, ']', host.len);
    size_t skip = bracket ? (size_t)(bracket - host.ptr) : 0;
    const char *colon = memchr(host.ptr + skip, ':', host.len - skip);
    if (colon) host.len = (size_t)(colon - host.ptr);
    return host;
}

static bool is_this_machine(struct slice host) {
    return slice_equal_nocase(host, "localhost") || slice_equal_str(host, "127.0.0.1") ||
           slice_equal_str(host, "[::1]");
}

/* A name that nobody else can make lead here: this machine's own, or an address. */
static bool is_own_or_address(struct slice host) {
    static const char below[] = ".localhost";
    const size_t n = sizeof below - 1;
    char text[INET6_ADDRSTRLEN];
    unsigned char address[sizeof(struct in6_addr)];
    if (is_this_machine(host)) return true;
    if (host.len > n && slice_equal_nocase(slice_make(host.ptr + host.len - n, n), below)) return true;
    bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    if (bracketed) host = slice_make(host.ptr + 1, host.len - 2);
    if (host.len >= sizeof text) return false;
    memcpy(text, host.ptr, host.len);
    text[host.len] = '\0';
    return inet_pton(bracketed ? AF_INET6 : AF_INET, text, address) == 1;
}

bool cors_foreign_host(struct request *r) {
    const char *host = request_header(r, "Host");
    if (!host || !host[0]) return false; /* no browser */
    struct slice name = host_of(host);
    if (is_own_or_address(name)) return false;
    for (const char *at = r->router->config->cors_allowed_origins; *at;) {
        size_t n = strcspn(at, ",");
        cleanup_free char *origin = slice_dup(slice_trim(slice_make(at, n)));
        struct slice allowed = host_of(origin);
        if (allowed.len == name.len && strncasecmp(allowed.ptr, name.ptr, name.len) == 0) return false;
        at += n + (at[n] == ',');
    }
    return true;
}

bool cors_foreign_page(struct request *r) {
    const char *origin = request_header(r, "Origin"), *site = request_header(r, "Sec-Fetch-Site");
    const char *mode = request_header(r, "Sec-Fetch-Mode"), *host = request_header(r, "Host");
    if (from_allowed_origin(r)) return false;
    if (!origin || !origin[0]) {
        /* No Origin: a link that was followed, or an image. Following a link to a preview is fine. */
        return site && strcmp(site, "cross-site") == 0 && !(mode && strcmp(mode, "navigate") == 0);
    }
    struct slice page = host_of(origin), here = host_of(host ? host : "");
    if (strncmp(origin, "http", 4) != 0) return true; /* "null", files, extensions */
    return !is_this_machine(page) && !(page.len > 0 && slice_equal(page, here));
}

/* /api/v1/sandboxes/{id}/preview/... */
static bool is_preview_path(struct slice path) {
    static const char before[] = "/api/v1/sandboxes/", word[] = "/preview/";
    if (!slice_starts_with(path, before)) return false;
    struct slice rest = slice_make(path.ptr + sizeof before - 1, path.len - (sizeof before - 1));
    const char *slash = memchr(rest.ptr, '/', rest.len);
    return slash && slice_starts_with(slice_make(slash, rest.len - (size_t)(slash - rest.ptr)), word);
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
        "X-Request-ID, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Deprecation, "
        "Sunset, Link, Content-Disposition, ETag, Content-Range, Accept-Ranges");
    MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
}
