/* See preview_admit.h. */
#include "router/preview_admit.h"

#include "router/cors.h"
#include "router/handlers.h"
#include "router/ports.h"
#include "router/upstream.h"

int preview_port(const struct request *r) {
    uint64_t port;
    return slice_parse_u64(slice_of(request_param(r, "port")), 65535, &port) ? (int)port : 0;
}

static bool collect_header(void *ctx, struct slice name, struct slice value) {
    struct preview_headers *list = ctx;
    if (list->count == HTTP1_MAX_HEADERS) {
        list->overflow = true;
        return false;
    }
    list->items[list->count++] = (struct http1_header){name, value};
    return true;
}

void preview_collect_headers(struct request *r, struct preview_headers *out) {
    out->count = 0;
    out->overflow = false;
    request_each_header(r, collect_header, out);
}

/* What the request asks to be upgraded to, and whether it may. */
static bool check_upgrade(struct request *r, struct preview_upgrade *upgrade, struct error *err) {
    *upgrade = (struct preview_upgrade){0};
    if (!request_header(r, "Upgrade")) return true;
    struct preview_headers list;
    preview_collect_headers(r, &list);
    if (!preview_upgrade_wanted(list.items, list.count, r->method, r->http_1_0, r->body_length, upgrade, err))
        return false;
    if (!upgrade->protocol[0] || r->identity.auth_method != AUTH_BY_DEV) return true;
    /* Whoever can reach this server is let in: a page elsewhere in the same person's browser must not be. */
    cleanup_buffer struct buffer base = {0};
    request_base_url(r, &base);
    const char *origin = request_header(r, "Origin");
    if (preview_upgrade_origin(origin, buffer_slice(&base)) || cors_allows_origin(r)) return true;
    error_set(err, 403, "origin_not_allowed",
              "a page of this origin may not open connections; --cors-allowed-origins lists those that may");
    return false;
}

static bool check(struct request *r, int port, char prefix[PREVIEW_PREFIX_MAX], struct error *err) {
    if (!preview_prefix(r->sandbox->name, port, prefix)) {
        error_set(err, 404, "sandbox_not_found", "no such sandbox");
        return false;
    }
    if (!port_forward_find(r->backend->store, r->sandbox, port)) {
        error_set(
            err, 404, "port_not_forwarded",
            "port %d of this sandbox is not forwarded: POST /api/v1/sandboxes/%s/ports with {\"port\": %d}",
            port, r->sandbox->name, port);
        return false;
    }
    if (!upstream_pool_admit(r->upstreams)) {
        error_set(err, 503, "proxy_overloaded",
                  "%d previewed requests are under way on this server's thread; retry", UPSTREAM_MAX_ACTIVE);
        err->retry_after = 1;
        return false;
    }
    return true;
}

bool preview_precheck(struct request *r, struct error *err) {
    if (preview_port(r) > 0) return true;
    error_set(err, 400, ERR_BAD_REQUEST, "the port must be a number from 1 to 65535");
    return false;
}

bool preview_admit(struct request *r, int port, char prefix[PREVIEW_PREFIX_MAX],
                   struct preview_upgrade *upgrade, struct error *err) {
    return check_upgrade(r, upgrade, err) && check(r, port, prefix, err);
}
