/* The preview proxy: a request for a forwarded port of a sandbox goes to the application there, and its
 * answer comes back, both as they flow. Whether it may is in router/preview_admit.c; this file joins the
 * client's stream (router/request.h), the way into the sandbox (backend/access.h) and the connection
 * (router/upstream.h); what of the heads passes is decided in router/preview_headers.c. (http-api.md 2.11;
 * lessons I18 to I27)
 *
 * An upgrade (WebSocket) that the application grants (router/preview_upgrade.h) turns both connections into
 * a tunnel (router/tunnel.h). One that it does not grant is answered like any other request. */
#include "router/activity.h"
#include "router/auth.h"
#include "router/bearer.h"
#include "router/handlers.h"
#include "router/preview_admit.h"
#include "router/preview_early.h"
#include "router/preview_failure.h"
#include "router/preview_headers.h"
#include "router/preview_upgrade.h"
#include "router/router.h"
#include "router/tunnel.h"
#include "router/upstream.h"

#define CONNECT_TIMEOUT_MS 10000
/* How long the client's body and the answer may both stand still, each waiting for the other. */
#define STALL_TIMEOUT_MS 10000

struct preview {
    struct request *r; /* NULL: the client's exchange is over */
    struct upstream *upstream;
    struct access_stream *dial;
    uv_timer_t timer;
    bool timer_open;
    char prefix[PREVIEW_PREFIX_MAX];
    struct buffer base_url;
    enum http1_framing framing; /* of the request's body */
    bool body_done;             /* the client's body was taken in full */
    bool body_waits;            /* on_body took less */
    uint64_t body_bytes;        /* taken so far */
    uint64_t body_bytes_seen;   /* at the last look of the stall timer */
    bool retried;
    bool dropping; /* answered: the rest of the body is of no use */
    struct early_answer early;
    struct preview_upgrade upgrade; /* what is asked for, if anything */
    struct tunnel *tunnel;
    bool tunnelled;  /* counted among the pool's tunnels */
    int upgraded_fd; /* the application's side while the 101 goes out, else -1 */
};

/* Not those of a request: a connection lives for hours, silence on it is bounded (lesson I19). */
#define TUNNEL_IDLE_MS     (3600 * 1000)
#define TUNNEL_LIFETIME_MS (24 * 3600 * 1000)
#define TUNNEL_HALF_MS     (30 * 1000)

static void forward(struct preview *p);

/* ---- Failures ---- */

/* Ends what was started; the answer, if it has begun, is cut so that it cannot pass for complete. */
static void give_up(struct preview *p, const struct error *err) {
    access_close(steal_ptr(p->dial));
    upstream_close(steal_ptr(p->upstream));
    p->early.waits = false;
    p->dropping = true;
    struct request *r = p->r;
    if (reply_started(r)) {
        reply_stream_abort(r);
        return;
    }
    preview_reply_failure(r, err);
    if (p->body_waits) request_body_resume(r);
}

/* ---- The timer: of the dial, then of an answer that waits for the body ---- */

static void on_timer(uv_timer_t *timer);

static void start_timer(struct preview *p, uint64_t timeout_ms, uint64_t repeat_ms) {
    if (!p->timer_open) {
        uv_timer_init(p->r->uv, &p->timer);
        p->timer.data = p;
        p->timer_open = true;
    }
    uv_timer_start(&p->timer, on_timer, timeout_ms, repeat_ms);
}

static void stop_timer(struct preview *p) {
    if (p->timer_open) uv_timer_stop(&p->timer);
}

static void on_timer(uv_timer_t *timer) {
    struct preview *p = timer->data;
    cleanup_error struct error err = {0};
    if (p->dial) {
        error_set(&err, 504, "upstream_timeout", "the port could not be reached within %d seconds",
                  CONNECT_TIMEOUT_MS / 1000);
        err.retry_after = 1;
        give_up(p, &err);
    } else if (!p->early.waits) {
        stop_timer(p);
    } else if (p->body_waits && p->early.full && p->body_bytes == p->body_bytes_seen) {
        error_set(&err, 502, "upstream_bad_answer",
                  "the application waits for its answer to be read before it reads the rest of the request, "
                  "which cannot be done here: have it read the whole body first");
        give_up(p, &err);
    } else {
        p->body_bytes_seen = p->body_bytes;
    }
}

/* ---- The answer ---- */

static void emit_header(void *ctx, const char *name, const char *value) {
    reply_header(ctx, name, value);
}

static void begin_early(struct preview *p) {
    stop_timer(p);
    early_answer_begin(&p->early, p->r);
}

/* Content-Length for the client: the body's, or what the answer to a HEAD claims; -1 = not known. */
static int64_t answer_length(const struct http1_head *head) {
    if (head->framing == HTTP1_BODY_LENGTH) return (int64_t)head->content_length;
    if (head->framing == HTTP1_BODY_NONE && http1_find(head, "content-length"))
        return (int64_t)head->content_length;
    return -1;
}

static struct preview_place place_of(const struct preview *p, int port) {
    return (struct preview_place){.sandbox = p->r->sandbox->name,
                                  .port = port,
                                  .base_url = buffer_slice(&p->base_url),
                                  .prefix = p->prefix};
}

static void on_head(void *ctx, const struct http1_head *head, const struct slice *whole) {
    struct preview *p = ctx;
    struct request *r = p->r;
    struct preview_place place = place_of(p, preview_port(r));
    struct buffer *scratch = upstream_pool_scratch(r->upstreams);
    /* An answer that is complete is passed on at once: the application does not want the rest. */
    bool wait = !whole && !p->body_done;
    preview_answer_headers(&place, head, scratch, wait ? early_answer_header : emit_header,
                           wait ? (void *)&p->early : (void *)r);
    if (wait) {
        p->early.waits = true;
        p->early.status = head->status;
        p->early.length = answer_length(head);
        p->body_bytes_seen = p->body_bytes;
        start_timer(p, STALL_TIMEOUT_MS, STALL_TIMEOUT_MS);
        return;
    }
    /* An upgrade that was not granted: a client that has sent ahead must not have that taken for requests. */
    if (p->upgrade.protocol[0]) reply_header(r, "Connection", "close");
    if (head->status == 204 || head->status == 304) {
        reply_empty(r, head->status);
    } else if (whole && strcmp(r->method, "HEAD") != 0) {
        char *copy = slice_dup(*whole);
        reply_text(r, head->status, NULL, copy, whole->len);
    } else {
        reply_stream_begin(r, head->status, answer_length(head));
    }
}

static size_t on_answer_body(void *ctx, const char *data, size_t len) {
    struct preview *p = ctx;
    struct early_answer *early = &p->early;
    if (!early->waits) return early->body.len ? 0 : reply_stream_write(p->r, data, len);
    return early_answer_take(early, data, len);
}

static void on_answer_end(void *ctx) {
    struct preview *p = ctx;
    upstream_close(steal_ptr(p->upstream));
    p->dropping = true;
    p->early.ended = true;
    struct request *r = p->r;
    bool resume = p->body_waits && !p->body_done;
    if (p->early.waits) begin_early(p);
    if (!p->early.body.len)
        reply_stream_end(r);
    else
        early_answer_flush(&p->early, p->r);
    if (resume) request_body_resume(r);
}

/* ---- An upgrade ---- */

static void on_tunnel_activity(void *ctx) {
    struct preview *p = ctx;
    router_touch(p->r);
}

static void on_tunnel_end(void *ctx) {
    struct preview *p = ctx;
    tunnel_close(steal_ptr(p->tunnel));
    request_upgrade_end(p->r);
}

static const struct tunnel_events tunnel_events = {.on_activity = on_tunnel_activity,
                                                   .on_end = on_tunnel_end};

static void on_client_socket(struct request *r, int fd, struct slice ahead) {
    struct preview *p = r->state;
    int upstream = p->upgraded_fd;
    p->upgraded_fd = -1;
    struct tunnel_limits limits = {.idle_ms = TUNNEL_IDLE_MS,
                                   .lifetime_ms = TUNNEL_LIFETIME_MS,
                                   .half_ms = TUNNEL_HALF_MS,
                                   .tick_ms = router_touch_interval_ms(r)};
    if (limits.tick_ms > TUNNEL_HALF_MS) limits.tick_ms = TUNNEL_HALF_MS;
    p->tunnel =
        tunnel_open(r->uv, fd, upstream, buffer_slice(&p->early.body), ahead, &limits, &tunnel_events, p);
    buffer_free(&p->early.body);
    if (!p->tunnel) request_upgrade_end(r);
}

static void on_upgrade(void *ctx, const struct http1_head *head, struct slice rest) {
    struct preview *p = ctx;
    struct request *r = p->r;
    cleanup_error struct error err = {0};
    if (!preview_upgrade_granted(&p->upgrade, head, &err)) {
        give_up(p, &err);
        return;
    }
    if (!upstream_pool_to_tunnel(r->upstreams)) {
        error_set(&err, 503, "proxy_overloaded", "%d upgraded connections are open on this server's thread",
                  UPSTREAM_MAX_TUNNELS);
        err.retry_after = 10;
        give_up(p, &err);
        return;
    }
    p->tunnelled = true;
    struct preview_place place = place_of(p, preview_port(r));
    preview_answer_headers(&place, head, upstream_pool_scratch(r->upstreams), emit_header, r);
    reply_header(r, "Upgrade", p->upgrade.protocol);
    buffer_append(&p->early.body, rest.ptr, rest.len);
    p->upgraded_fd = upstream_detach(steal_ptr(p->upstream));
    reply_upgrade(r, on_client_socket);
}

/* ---- The request ---- */

static void on_upstream_writable(void *ctx) {
    struct preview *p = ctx;
    if (!p->body_waits) return;
    p->body_waits = false;
    request_body_resume(p->r);
}

/* Whether asking twice does no harm (RFC 9110 9.2.2). */
static bool repeatable(const struct request *r) {
    static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (!strcmp(r->method, methods[i])) return true;
    return false;
}

static void start_dial(struct preview *p);

static void on_upstream_error(void *ctx, const struct error *err, bool unused) {
    struct preview *p = ctx;
    upstream_close(steal_ptr(p->upstream));
    if (unused && !p->retried && p->body_bytes == 0 && repeatable(p->r) && !reply_started(p->r)) {
        p->retried = true;
        start_dial(p);
        return;
    }
    struct error shown = *err;
    if (!strcmp(err->code, "upstream_reset")) shown.retry_after = 1;
    give_up(p, &shown);
}

static const struct upstream_events upstream_events = {
    .on_head = on_head,
    .on_body = on_answer_body,
    .on_writable = on_upstream_writable,
    .on_end = on_answer_end,
    .on_error = on_upstream_error,
    .on_upgrade = on_upgrade,
};

/* How the caller was known, to the rules of headers. An API key or the development mode needs no
 * Authorization, so that is the application's, unless it holds a token that would log in here (W-08). */
static enum auth_method method_of(const struct request *r, const struct preview_headers *list) {
    for (size_t i = 0; i < list->count; i++) {
        if (!slice_equal_nocase(list->items[i].name, "authorization")) continue;
        cleanup_free char *value = slice_dup(list->items[i].value);
        struct slice token;
        if (auth_bearer_token(value, &token) && bearer_is_ours(r->router->bearer, token))
            return AUTH_BY_BEARER;
    }
    return r->identity.auth_method;
}

/* Sends the request on p->upstream. */
static void forward(struct preview *p) {
    struct request *r = p->r;
    cleanup_error struct error err = {0};
    struct preview_headers list;
    preview_collect_headers(r, &list);
    struct preview_request request = {.place = place_of(p, preview_port(r)),
                                      .method = r->method,
                                      .path = r->path,
                                      .query = r->query,
                                      .client_ip = r->client_ip,
                                      .request_id = r->request_id,
                                      .auth_method = method_of(r, &list),
                                      .framing = p->framing,
                                      .content_length = r->body_length > 0 ? (uint64_t)r->body_length : 0,
                                      .upgrade = p->upgrade.protocol,
                                      .headers = list.items,
                                      .header_count = list.count};
    struct buffer *head = upstream_pool_scratch(r->upstreams);
    if (list.overflow) {
        error_set(&err, 431, "header_too_large", "the request has more than %d headers", HTTP1_MAX_HEADERS);
        give_up(p, &err);
        return;
    }
    if (!preview_request_head(&request, head, &err)) {
        give_up(p, &err);
        return;
    }
    upstream_send(p->upstream, r->method, buffer_slice(head), p->framing, request.content_length,
                  &upstream_events, p);
    if (p->upgrade.protocol[0]) upstream_allow_upgrade(p->upstream);
    if (p->body_done) upstream_finish(p->upstream);
    if (p->body_waits) {
        p->body_waits = false;
        request_body_resume(r);
    }
}

/* ---- The dial ---- */

static void on_connected(void *ctx, int fd) {
    struct preview *p = ctx;
    cleanup_error struct error err = {0};
    stop_timer(p);
    access_close(steal_ptr(p->dial));
    p->upstream = upstream_adopt(p->r->upstreams, p->r->sandbox->uid, preview_port(p->r), fd, &err);
    if (p->upstream)
        forward(p);
    else
        give_up(p, &err);
}

static void on_dial_error(void *ctx, const struct error *err) {
    struct preview *p = ctx;
    stop_timer(p);
    struct error shown = *err;
    shown.details = NULL; /* stays with its owner */
    if (!strcmp(err->code, "port_closed") || !strcmp(err->code, ERR_SANDBOX_UNREACHABLE))
        shown.retry_after = 1;
    if (!strcmp(err->code, "sandbox_timeout")) shown.code = "upstream_timeout";
    give_up(p, &shown);
}

static void on_dial_end(void *ctx, const json_t *result) {
    (void)result;
    struct error err = {0};
    error_set(&err, 502, ERR_SANDBOX_UNREACHABLE,
              "the sandbox ended the connection before it reached the port");
    on_dial_error(ctx, &err);
}

static const struct access_events dial_events = {
    .on_connected = on_connected, .on_end = on_dial_end, .on_error = on_dial_error};

static void start_dial(struct preview *p) {
    struct request *r = p->r;
    cleanup_error struct error err = {0};
    cleanup_json json_t *args = json_pack("{s:i}", "port", preview_port(r));
    p->dial = access_open(r->backend->access, r->uv, r->sandbox, ACCESS_DIAL, args, &dial_events, p, &err);
    if (p->dial)
        start_timer(p, CONNECT_TIMEOUT_MS, 0);
    else
        give_up(p, &err);
}

/* ---- The client's stream ---- */

static size_t on_body(struct request *r, const char *data, size_t len) {
    struct preview *p = r->state;
    if (p->dropping) return len;
    size_t taken = p->upstream ? upstream_write(p->upstream, data, len) : 0;
    p->body_bytes += taken;
    p->body_waits = taken < len;
    return taken;
}

static void on_body_end(struct request *r) {
    struct preview *p = r->state;
    p->body_done = true;
    if (p->upstream) upstream_finish(p->upstream);
    if (!p->early.waits) return;
    begin_early(p);
    if (early_answer_flush(&p->early, p->r) && p->upstream) upstream_resume(p->upstream);
}

static void on_writable(struct request *r) {
    struct preview *p = r->state;
    if (early_answer_flush(&p->early, p->r) && p->upstream) upstream_resume(p->upstream);
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_close(struct request *r, bool aborted) {
    (void)aborted;
    struct preview *p = r->state;
    r->state = NULL;
    access_close(steal_ptr(p->dial));
    upstream_close(steal_ptr(p->upstream));
    tunnel_close(steal_ptr(p->tunnel));
    if (p->upgraded_fd >= 0) close(p->upgraded_fd);
    if (p->tunnelled)
        upstream_pool_leave_tunnel(r->upstreams);
    else
        upstream_pool_leave(r->upstreams);
    buffer_free(&p->base_url);
    early_answer_free(&p->early);
    if (p->timer_open)
        uv_close((uv_handle_t *)&p->timer, on_timer_closed);
    else
        free(p);
}

static const struct stream_ops preview_ops = {
    .on_body = on_body, .on_body_end = on_body_end, .on_writable = on_writable, .on_close = on_close};

void preview_proxy(struct request *r) {
    cleanup_error struct error err = {0};
    int port = preview_port(r);
    char prefix[PREVIEW_PREFIX_MAX];
    struct preview_upgrade upgrade;
    if (!preview_admit(r, port, prefix, &upgrade, &err)) {
        preview_reply_failure(r, &err);
        return;
    }
    router_touch(r);
    struct preview *p = xcalloc(1, sizeof *p);
    p->r = r;
    p->upgrade = upgrade;
    p->upgraded_fd = -1;
    memcpy(p->prefix, prefix, sizeof p->prefix);
    p->body_done = r->body_length == 0;
    p->framing = r->body_length < 0   ? HTTP1_BODY_CHUNKED
                 : r->body_length > 0 ? HTTP1_BODY_LENGTH
                                      : HTTP1_BODY_NONE;
    request_base_url(r, &p->base_url);
    request_stream(r, &preview_ops, p);
    /* Applications close connections that were idle, often without notice: what must not be sent twice
     * goes only over one that was used a moment ago. */
    if (!upgrade.protocol[0])
        p->upstream = upstream_reuse(r->upstreams, r->sandbox->uid, port,
                                     repeatable(r) ? UPSTREAM_IDLE_MS : UPSTREAM_FRESH_MS,
                                     !repeatable(r) || !p->body_done);
    if (p->upstream)
        forward(p);
    else
        start_dial(p);
}
