/* Answers: the only place where a status, headers and a body become a libmicrohttpd response,
 * and where an error becomes its JSON (http-api.md 1.5, 1.6). */
#include "router/server.h"

#include "common/json.h"
#include "common/text.h"
#include "router/audit.h"
#include "router/cors.h"
#include "router/metrics.h"
#include "router/packed_headers.h"

#include <fcntl.h>
#include <stdio.h>

void reply_header(struct request *r, const char *name, const char *value) {
    packed_header_add(&r->exchange->headers, name, value);
}

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    /* Values were validated or made by us; libmicrohttpd refuses CR and LF once more. */
    MHD_add_response_header(response, name, value);
}

/* The response is ready: hand it over now, or when libmicrohttpd asks. */
static void ready(struct request *r, int status, struct MHD_Response *response) {
    struct exchange *x = r->exchange;
    if (x->response) { /* a handler answered twice: keep the first */
        MHD_destroy_response(response);
        return;
    }
    x->response = response;
    x->status = status;
    const char *name, *value;
    for (size_t at = 0; packed_header_next(&x->headers, &at, &name, &value);)
        add_header(response, name, value);
    /* A stream may begin its answer while the body still arrives; any other answer ends it. */
    if (x->stage == STAGE_BODY && !x->body_done && !x->streaming) x->stage = STAGE_DISCARD;
    if (x->stage != STAGE_WORKER) exchange_wake(x);
}

static void add_number(struct MHD_Response *response, const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    add_header(response, name, text);
}

static void add_rate_headers(const struct exchange *x) {
    if (x->rate.limit == 0) return;
    add_number(x->response, "RateLimit-Limit", x->rate.limit);
    add_number(x->response, "RateLimit-Remaining", x->rate.remaining);
    add_number(x->response, "RateLimit-Reset", x->rate.reset);
}

/* Answers of the API are data for programs: no browser should frame, sniff, keep or leak them. What a
 * previewed application answers is its own affair. */
static void add_security_headers(const struct exchange *x) {
    const struct route *route = x->request.route;
    add_header(x->response, "X-Content-Type-Options", "nosniff");
    if (route && strcmp(route->method, "*") == 0 && x->request.sandbox) return;
    add_header(x->response, "Referrer-Policy", "no-referrer");
    if (!MHD_get_response_header(x->response, "Content-Security-Policy"))
        add_header(x->response, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
    if (!MHD_get_response_header(x->response, "Cache-Control") &&
        !MHD_get_response_header(x->response, "ETag"))
        add_header(x->response, "Cache-Control", "no-store");
}

enum MHD_Result reply_queue(struct exchange *x) {
    struct request *r = &x->request;
    add_header(x->response, "X-Request-ID", r->request_id);
    add_security_headers(x);
    add_rate_headers(x);
    cors_add_headers(r, x->response);
    if (!x->on_socket && (x->close_after || atomic_load(&r->router->draining)))
        add_header(x->response, "Connection", "close");
    /* Before the client can know of it, so that little is lost if we are killed; what streams ends later. */
    if (!x->streaming) audit_request(r, x->status, false);
    x->stage = STAGE_REPLY;
    return MHD_queue_response(x->connection, (unsigned)x->status, x->response);
}

void reply_text(struct request *r, int status, const char *content_type, char *data, size_t len) {
    struct MHD_Response *response = MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE);
    if (content_type) add_header(response, "Content-Type", content_type);
    r->exchange->bytes_out = len;
    ready(r, status, response);
}

void reply_json(struct request *r, int status, json_t *body) {
    size_t len;
    char *text = json_dump_line(body, &len);
    json_decref(body);
    reply_text(r, status, "application/json", text, len);
}

static void unref_owner(void *owner) {
    object_unref(owner);
}

void reply_view(struct request *r, int status, struct object *owner, const char *data, size_t len) {
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
        len, (void *)(uintptr_t)data, unref_owner, object_ref(owner));
    add_header(response, "Content-Type", "application/json");
    r->exchange->bytes_out = len;
    ready(r, status, response);
}

void reply_empty(struct request *r, int status) {
    ready(r, status, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT));
}

void reply_fd(struct request *r, int status, const char *content_type, int fd, uint64_t offset,
              uint64_t length) {
    struct MHD_Response *response = MHD_create_response_from_fd_at_offset64(length, fd, offset);
    if (content_type) add_header(response, "Content-Type", content_type);
    r->exchange->bytes_out = length;
    ready(r, status, response);
}

/* Errors whose `error` member is the code itself, as published clients expect. */
static bool code_is_error(const char *code) {
    static const char *const codes[] = {
        "missing_authorization", "invalid_authorization_format",
        "invalid_api_key",       "invalid_token",
        "admin_required",        "rate_limited",
        "policy_violation",      "quota_would_exceed",
        "method_not_allowed",
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strcmp(code, codes[i]) == 0) return true;
    return false;
}

json_t *error_body(const struct error *err) {
    bool bare = code_is_error(err->code);
    bool no_route = strcmp(err->code, "no_such_route") == 0;
    json_t *message = json_string_repaired(slice_of(err->message));
    json_t *body = json_object();
    if (bare || no_route) {
        json_object_set_new(body, "error", json_string(no_route ? "not_found" : err->code));
        json_object_set_new(body, "message", message);
    } else {
        json_object_set_new(body, "error", message);
    }
    json_object_set_new(body, "code", json_string(err->code));
    if (err->details) json_object_update(body, err->details);
    if (strcmp(err->code, "rate_limited") == 0)
        json_object_set_new(body, "retryAfter", json_integer(err->retry_after));
    return body;
}

static void reply_line(struct request *r, int status, const char *message) {
    struct buffer text = {0};
    size_t len;
    utf8_repair(slice_of(message), &text);
    buffer_append_char(&text, '\n');
    char *data = buffer_steal(&text, &len);
    reply_text(r, status, "text/plain; charset=utf-8", data, len);
}

void reply_error(struct request *r, const struct error *err) {
    struct error unknown = {
        .status = 500, .code = ERR_INTERNAL, .message = "an error was reported without a reason"};
    if (err->status == 0) err = &unknown;
    audit_error(r, err);
    if (err->retry_after > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", err->retry_after);
        reply_header(r, "Retry-After", seconds);
    }
    if (err->status == 401)
        reply_header(r, "WWW-Authenticate",
                     strcmp(err->code, "invalid_token") == 0 ? "Bearer error=\"invalid_token\"" : "Bearer");
    if (r->route && route_is_websocket(r->route))
        reply_line(r, err->status, err->message);
    else
        reply_json(r, err->status, error_body(err));
}

/* ---- Streams ---- */

void request_stream(struct request *r, const struct stream_ops *ops, void *state) {
    r->stream = ops;
    r->state = state;
}

static ssize_t read_ring(void *ctx, uint64_t pos, char *out, size_t max) {
    (void)pos;
    struct exchange *x = ctx;
    struct ring *ring = &x->out;
    if (x->out_aborted) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (ring->len == 0 && x->want_writable && x->request.stream) {
        x->want_writable = false;
        x->request.stream->on_writable(&x->request);
        if (x->out_aborted) return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (ring->len == 0) {
        if (x->out_ended) return MHD_CONTENT_READER_END_OF_STREAM;
        exchange_wait(x);
        return 0;
    }
    size_t n = STREAM_BUFFER_SIZE - ring->start;
    if (n > ring->len) n = ring->len;
    if (n > max) n = max;
    memcpy(out, ring->data + ring->start, n);
    ring->start = (ring->start + n) % STREAM_BUFFER_SIZE;
    ring->len -= n;
    if (ring->len == 0) ring->start = 0;
    x->progress_bytes += n;
    x->bytes_out += n;
    if (x->want_writable && x->request.stream && ring->len <= STREAM_BUFFER_SIZE / 2) {
        x->want_writable = false;
        x->request.stream->on_writable(&x->request);
    }
    return (ssize_t)n;
}

void reply_stream_begin(struct request *r, int status, int64_t content_length) {
    struct exchange *x = r->exchange;
    uint64_t size = content_length < 0 ? MHD_SIZE_UNKNOWN : (uint64_t)content_length;
    x->out.data = xrealloc(x->out.data, STREAM_BUFFER_SIZE);
    x->streaming = true;
    ready(r, status, MHD_create_response_from_callback(size, 32 * 1024, read_ring, x, NULL));
}

size_t reply_stream_write(struct request *r, const char *data, size_t len) {
    struct exchange *x = r->exchange;
    struct ring *ring = &x->out;
    if (x->doomed || x->out_ended || !ring->data) return len; /* nobody reads it any more */
    size_t room = STREAM_BUFFER_SIZE - ring->len, taken = len < room ? len : room;
    for (size_t done = 0; done < taken;) {
        size_t at = (ring->start + ring->len) % STREAM_BUFFER_SIZE;
        size_t n = STREAM_BUFFER_SIZE - at;
        if (n > taken - done) n = taken - done;
        memcpy(ring->data + at, data + done, n);
        ring->len += n;
        done += n;
    }
    if (taken < len) x->want_writable = true;
    if (x->stage == STAGE_REPLY) exchange_wake(x);
    return taken;
}

void reply_stream_end(struct request *r) {
    struct exchange *x = r->exchange;
    x->out_ended = true;
    if (x->stage == STAGE_REPLY) exchange_wake(x);
}

void reply_stream_abort(struct request *r) {
    struct exchange *x = r->exchange;
    x->out_aborted = true;
    if (x->stage == STAGE_REPLY || x->stage == STAGE_WAIT) exchange_wake(x);
}

bool reply_started(const struct request *r) {
    return r->exchange->response != NULL;
}

/* ---- Upgrades ---- */

void reply_upgrade_close(struct exchange *x) {
    struct MHD_UpgradeResponseHandle *handle = x->upgrade;
    if (!handle || x->upgrade_closed) return;
    x->upgrade_closed = true;
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
    x->loop->run_again = true;
}

void request_upgrade_end(struct request *r) {
    reply_upgrade_close(r->exchange);
}

/* The head of the 101 went out. */
static void on_upgraded(void *ctx, struct MHD_Connection *connection, void *state, const char *ahead,
                        size_t ahead_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *handle) {
    (void)connection, (void)state;
    struct exchange *x = ctx;
    struct request *r = &x->request;
    connection_unwatch_hangup(x->client);
    x->upgrade = handle;
    x->stage = STAGE_UPGRADED;
    exchange_set_motion(x, MOTION_OVER);
    metrics_count(r->router->metrics, r->route, x->status, uv_hrtime() - x->started_ns);
    int copy = x->doomed || !r->stream ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        reply_upgrade_close(x);
    else
        x->on_socket(r, copy, slice_make(ahead, ahead_len));
}

void reply_upgrade(struct request *r, void (*on_socket)(struct request *r, int fd, struct slice ahead)) {
    struct exchange *x = r->exchange;
    x->on_socket = on_socket;
    ready(r, 101, MHD_create_response_for_upgrade(on_upgraded, x));
}
