/* The body of a request: kept within limits for a handler that needs all of it, or handed on as it comes. */
#include "router/server.h"

/* JSON bodies above the small size share a budget, so that one caller with many connections cannot take all
 * memory; and a body may not become much larger as values than it is as text. */
#define SMALL_BODY      ((size_t)64 << 10)
#define BODY_BUDGET     (256ll << 20)
#define BODY_VALUES_MAX 150000

void exchange_release_body(struct exchange *x) {
    buffer_free(&x->body);
    if (x->body_held) atomic_fetch_sub(&x->request.router->body_bytes, (int64_t)x->body_held);
    x->body_held = 0;
}

/* Whether `n` more bytes of the body may be kept. */
static bool hold_body(struct exchange *x, size_t n, struct error *err) {
    size_t more = x->body_held ? n : x->body.len + n;
    if (x->body.len + n <= SMALL_BODY) return true;
    _Atomic int64_t *all = &x->request.router->body_bytes;
    x->body_held += more;
    if (atomic_fetch_add(all, (int64_t)more) + (int64_t)more <= BODY_BUDGET) return true;
    error_set(err, 503, "busy", "too many large requests are under way; retry in a moment");
    err->retry_after = 2;
    return false;
}

enum MHD_Result exchange_take_body(struct exchange *x, const char *data, size_t *size) {
    size_t n = *size;
    cleanup_error struct error err = {0};
    if (x->stage == STAGE_BODY && x->body_limit && x->body_seen + n > x->body_limit) {
        error_set(&err, 413, "body_too_large", "the body is larger than the %zu bytes that one call takes",
                  x->body_limit);
        exchange_close_stream(x, true);
        exchange_refuse(x, &err);
    }
    if (x->stage == STAGE_BODY && x->response && !x->streaming) x->stage = STAGE_DISCARD;
    if (x->stage != STAGE_BODY || x->request.route->body == BODY_NONE) {
        x->body_seen += n;
        x->progress_bytes += n;
        *size = 0;
        return x->body_seen > EXCHANGE_DISCARD_MAX ? MHD_NO : MHD_YES;
    }
    if (x->request.route->body == BODY_STREAM) {
        x->body_paused = false;
        x->in_callback = true;
        size_t taken = x->request.stream ? x->request.stream->on_body(&x->request, data, n) : n;
        x->in_callback = false;
        x->body_seen += taken;
        x->progress_bytes += taken;
        *size = n - taken;
        if (x->doomed) return MHD_NO;
        if (taken < n && !x->body_paused && x->stage == STAGE_BODY) exchange_suspend(x);
        return MHD_YES;
    }
    if (hold_body(x, n, &err)) {
        buffer_append(&x->body, data, n);
    } else {
        exchange_release_body(x);
        exchange_refuse(x, &err);
    }
    x->body_seen += n;
    x->progress_bytes += n;
    *size = 0;
    return MHD_YES;
}

void request_body_resume(struct request *r) {
    struct exchange *x = r->exchange;
    if (x->in_callback) {
        x->body_paused = true; /* resumed before it was suspended: offer again at once */
    } else if (!x->body_done) {
        exchange_wake(x);
    }
}

bool exchange_parse_body(struct exchange *x, struct error *err) {
    struct request *r = &x->request;
    if (r->route->body == BODY_NONE || r->route->body == BODY_STREAM) return true;
    if (x->body.len == 0) {
        if (r->route->body == BODY_JSON_OPTIONAL) return (r->body = json_object()) != NULL;
        error_set(err, 400, ERR_BAD_REQUEST, "this call needs a JSON object as its body");
        return false;
    }
    if (!json_values_within(buffer_slice(&x->body), BODY_VALUES_MAX)) {
        error_set(err, 413, "body_too_large", "the body has more than the %d values that one call takes",
                  BODY_VALUES_MAX);
        return false;
    }
    bool or_null = r->route->body == BODY_JSON_OR_NULL;
    r->body =
        or_null ? json_parse(buffer_slice(&x->body), err) : json_parse_object(buffer_slice(&x->body), err);
    buffer_free(&x->body);
    if (r->body && or_null && !json_is_object(r->body) && !json_is_null(r->body)) {
        error_set(err, 400, ERR_BAD_REQUEST, "this call needs a JSON object or null as its body");
        return false;
    }
    return r->body != NULL;
}
