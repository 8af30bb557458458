/* What a handler may ask about its request. See request.h. */
#include "router/server.h"

#include "router/forwarded.h"
#include "router/target.h"

const char *request_param(const struct request *r, const char *name) {
    for (size_t i = 0; i < r->params.count; i++)
        if (slice_equal_str(r->params.name[i], name)) return r->params.value[i];
    return "";
}

const char *request_query(struct request *r, const char *name) {
    struct slice raw = target_query_raw(r->query, name);
    if (!raw.ptr) return NULL;
    cleanup_buffer struct buffer decoded = {0};
    /* Escapes were checked with the target, so decoding cannot fail here. */
    target_query_decode(raw, &decoded);
    struct exchange *x = r->exchange;
    x->query_values = xrealloc(x->query_values, (x->query_count + 1) * sizeof *x->query_values);
    x->query_values[x->query_count] = xstrdup(buffer_cstr(&decoded));
    return x->query_values[x->query_count++];
}

const char *request_header(struct request *r, const char *name) {
    return MHD_lookup_connection_value(r->exchange->connection, MHD_HEADER_KIND, name);
}

struct each_header {
    bool (*each)(void *ctx, struct slice name, struct slice value);
    void *ctx;
};

static enum MHD_Result give_header(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_len,
                                   const char *value, size_t value_len) {
    (void)kind;
    struct each_header *e = ctx;
    struct slice v = slice_trim(slice_make(value ? value : "", value_len));
    return e->each(e->ctx, slice_make(key, key_len), v) ? MHD_YES : MHD_NO;
}

void request_each_header(struct request *r, bool (*each)(void *, struct slice, struct slice), void *ctx) {
    struct each_header e = {each, ctx};
    MHD_get_connection_values_n(r->exchange->connection, MHD_HEADER_KIND, give_header, &e);
}

static bool collect_forwarded(void *ctx, struct slice name, struct slice value) {
    struct buffer *list = ctx;
    if (!slice_equal_nocase(name, "X-Forwarded-For")) return true;
    if (list->len > 0) buffer_append_char(list, ',');
    return buffer_append(list, value.ptr, value.len);
}

/* Once: what is wrong here shows itself as limits that meet all of a proxy's clients at once. */
static void warn_of_proxy(struct request *r, const char *peer) {
    struct router *router = r->router;
    if (atomic_load_explicit(&router->warned_of_proxy, memory_order_relaxed)) return;
    if (!request_header(r, "X-Forwarded-For") || atomic_exchange(&router->warned_of_proxy, true)) return;
    log_warn(
        "X-Forwarded-For comes from a peer that is not among --trusted-proxies: for limits, logs and the "
        "history all of its clients have its address",
        "peer", peer, NULL);
}

void request_find_client(struct request *r, const char *peer) {
    size_t n = strnlen(peer, sizeof r->client_ip - 1);
    memcpy(r->client_ip, peer, n);
    r->client_ip[n] = '\0';
    if (!forwarded_trusts(r->router->config, peer)) {
        warn_of_proxy(r, peer);
        return;
    }
    /* A proxy may add a line of its own after what the client sent. */
    cleanup_buffer struct buffer list = {0};
    request_each_header(r, collect_forwarded, &list);
    forwarded_client_ip(r->router->config, peer, buffer_cstr(&list), request_header(r, "X-Real-IP"),
                        r->client_ip);
}

void request_base_url(struct request *r, struct buffer *out) {
    bool trusted = forwarded_trusts(r->router->config, r->exchange->client->client_ip);
    const char *proto = trusted ? request_header(r, "X-Forwarded-Proto") : NULL;
    const char *host = trusted ? request_header(r, "X-Forwarded-Host") : NULL;
    if (!host || !forwarded_host_valid(host)) host = request_header(r, "Host");
    bool https = proto && strcasecmp(proto, "https") == 0;
    buffer_append_str(out, https ? "https://" : "http://");
    buffer_append_str(out, host && forwarded_host_valid(host) ? host : "localhost");
}
