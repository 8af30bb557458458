/* One request from head to answer, as libmicrohttpd drives it: framing, routing,
 * authentication and limits come first, in the order of http-api.md 1.3, then the body, then
 * the handler. */
#include "router/server.h"

#include "common/http1.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/units.h"
#include "router/audit.h"
#include "router/auth.h"
#include "router/cors.h"
#include "router/freshness.h"
#include "router/handlers.h"
#include "router/metrics.h"
#include "router/ratelimit.h"
#include "router/target.h"
#include "router/tcp_bytes.h"
#include "router/verification.h"

#include <ctype.h>
#include <stdio.h>

/* While we wait for a client's bytes, or for it to take ours, this much must move in each window. */
#define MIN_RATE_WINDOW_MS 30000
#define MIN_RATE_BYTES     4096
/* In a drain, which ends after 30 s in any case, anything at all must move in each of these. */
#define DRAIN_WINDOW_MS 10000
/* A stream that can say goodbye to a caller whose access was revoked has so long for it. */
#define REVOKED_GRACE_MS 5000
#define MAX_PENDING_WORK 256

static _Atomic int pending_work;

#define SPARE_MAX   64
#define SPARE_BYTES 1024 /* most that is kept of one buffer */

static void free_memory(struct exchange *x) {
    buffer_free(&x->target);
    buffer_free(&x->path);
    buffer_free(&x->headers);
    free(x);
}

/* An empty one. */
static struct exchange *take_spare(struct loop *loop) {
    struct exchange *x = loop->spare;
    if (!x) return xcalloc(1, sizeof *x);
    loop->spare = x->next;
    loop->spare_count--;
    x->next = NULL;
    return x;
}

static void keep_buffer(struct buffer *b) {
    if (b->cap > SPARE_BYTES) buffer_free(b);
    buffer_clear(b);
}

/* Everything else of it was freed. */
static void keep_spare(struct exchange *x) {
    struct loop *loop = x->loop;
#ifdef __SANITIZE_ADDRESS__
    const unsigned most = 0; /* a use of one that is over must be seen */
#else
    const unsigned most = SPARE_MAX;
#endif
    if (loop->spare_count >= most) {
        free_memory(x);
        return;
    }
    keep_buffer(&x->target);
    keep_buffer(&x->path);
    keep_buffer(&x->headers);
    *x = (struct exchange){.target = x->target, .path = x->path, .headers = x->headers, .next = loop->spare};
    loop->spare = x;
    loop->spare_count++;
}

void exchange_free_spare(struct loop *loop) {
    while (loop->spare)
        free_memory(take_spare(loop));
}

void *exchange_new(struct loop *loop, const char *target, struct MHD_Connection *connection) {
    struct exchange *x = take_spare(loop);
    x->loop = loop;
    x->connection = connection;
    x->client = connection_of(connection);
    buffer_append_str(&x->target, target);
    x->number = ++x->client->requests;
    x->started_ns = uv_hrtime();
    x->progress_at = monotonic_ms();
    x->request.exchange = x;
    x->client->exchange = x;
    x->client->head_since = x->progress_at;
    x->next = loop->exchanges;
    if (x->next) x->next->prev = x;
    loop->exchanges = x;
    x->motion = MOTION_HEAD;
    return x;
}

void exchange_close_stream(struct exchange *x, bool aborted) {
    const struct stream_ops *ops = x->request.stream;
    x->request.stream = NULL;
    if (ops && ops->on_close) ops->on_close(&x->request, aborted);
}

void exchange_doom(struct exchange *x) {
    if (x->doomed) return;
    x->doomed = true;
    x->out_aborted = true;
    if (x->stage != STAGE_WORKER) exchange_close_stream(x, true);
    /* A worker's result is dropped when it comes back (after_work wakes the connection). */
    if (x->stage == STAGE_UPGRADED)
        reply_upgrade_close(x);
    else if (x->stage != STAGE_WORKER)
        exchange_wake(x);
}

void exchange_check_access(struct exchange *x, int64_t now) {
    struct request *r = &x->request;
    if (!r->stream || x->doomed || x->stage == STAGE_WORKER ||
        auth_still_permits(r, x->stage == STAGE_UPGRADED))
        return;
    if (x->revoked_at == 0) {
        x->revoked_at = now;
        log_info("stream ended: access was revoked", "operation", r->route->operation_id, "sandbox",
                 r->sandbox ? r->sandbox->name : "", "user", r->identity.sub, "request_id", r->request_id,
                 NULL);
        if (r->stream->on_revoked) {
            r->stream->on_revoked(r);
            return;
        }
    }
    if (!r->stream->on_revoked || now - x->revoked_at > REVOKED_GRACE_MS) exchange_doom(x);
}

void exchange_begin_drain(struct exchange *x, int64_t now) {
    x->progress_at = now;
    x->progress_bytes = 0;
    x->delivered = tcp_bytes_delivered(x->client->fd);
}

bool exchange_too_slow(struct exchange *x, int64_t now) {
    bool draining = x->loop->draining;
    bool moves = x->motion == MOTION_MOVES;
    bool waits_for_body = (x->stage == STAGE_BODY || x->stage == STAGE_DISCARD) && moves;
    bool waits_for_reader = x->stage == STAGE_REPLY && moves;
    if (!waits_for_body && !waits_for_reader) {
        x->progress_at = now;
        x->progress_bytes = 0;
        return false;
    }
    if (now - x->progress_at < (draining ? DRAIN_WINDOW_MS : MIN_RATE_WINDOW_MS)) return false;
    if (waits_for_reader) { /* what the client has; what we gave away may lie in the kernel, or come from a
                               file */
        uint64_t delivered = tcp_bytes_delivered(x->client->fd);
        x->progress_bytes = delivered - x->delivered;
        x->delivered = delivered;
    }
    bool slow = x->progress_bytes < (draining ? 1 : MIN_RATE_BYTES);
    x->progress_at = now;
    x->progress_bytes = 0;
    return slow;
}

/* ---- The head ---- */

static void set_request_id(struct exchange *x) {
    const char *given = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "X-Request-ID");
    size_t n = given ? strlen(given) : 0;
    bool good = n >= 1 && n <= 128;
    for (size_t i = 0; good && i < n; i++)
        good = isalnum((unsigned char)given[i]) || strchr("._-", given[i]);
    if (good && !audit_holds_credential(slice_make(given, n))) {
        memcpy(x->request.request_id, given, n + 1);
    } else {
        loop_request_id(x->loop, x->request.request_id);
    }
}

static bool unrouted(struct exchange *x, const char *allow, struct error *err) {
    if (allow[0]) {
        reply_header(&x->request, "Allow", allow);
        error_set(err, 405, "method_not_allowed", "%s is not offered here; this path takes %s",
                  x->request.method, allow);
    } else {
        error_set(err, 404, "no_such_route", "no route has this path; /api/v1/openapi.json lists them all");
    }
    return false;
}

static bool method_valid(const char *method, struct error *err) {
    if (http1_token_valid(slice_of(method))) return true;
    error_set(err, 400, ERR_BAD_REQUEST, "the method holds a character that a method cannot hold");
    return false;
}

static bool find_route(struct exchange *x, struct error *err) {
    cleanup_buffer struct buffer allow = {0};
    x->request.route = route_match(x->request.method, x->request.path, &x->request.params, &allow);
    if (x->client->probes && !(x->request.route && health_route(x->request.route))) {
        error_set(err, 404, "no_such_route",
                  "this address serves /healthz, /readyz, /health and /metrics only");
        x->request.route = NULL;
        return false;
    }
    return x->request.route ? freshness_check(&x->request, err) : unrouted(x, buffer_cstr(&allow), err);
}

/* Of several limits, the one that the client will meet first. */
static void note_limit(struct exchange *x, const struct rate_state *state) {
    if (state->limit == 0) return;
    double left = (double)state->remaining / state->limit;
    if (x->rate.limit == 0 || left < (double)x->rate.remaining / x->rate.limit) x->rate = *state;
}

/* Before anybody is asked who they are; also where there is no route (W-58). Not for probes, and not for
 * /ws/ (http-api.md 1.11). */
static bool limit_address(struct exchange *x, struct error *err) {
    struct request *r = &x->request;
    if (r->route && !slice_starts_with(r->path, "/api/")) return true;
    struct rate_state state;
    bool ok = ratelimit_ip(r->router->rate_limiter, r->client_ip, &state, err);
    note_limit(x, &state);
    return ok;
}

static bool limit_user(struct exchange *x, struct error *err) {
    struct request *r = &x->request;
    struct rate_limiter *limiter = r->router->rate_limiter;
    struct rate_state state;
    if (!slice_starts_with(r->path, "/api/")) return true;
    bool ok = ratelimit_user(limiter, r->identity.sub, 1, &state, err);
    note_limit(x, &state);
    if (!ok || !r->route->expensive) return ok;
    ok = ratelimit_expensive(limiter, r->identity.sub, &state, err);
    note_limit(x, &state);
    return ok;
}

/* Once the caller is known, or nobody is asked. */
static bool gate(struct exchange *x, struct error *err) {
    struct request *r = &x->request;
    struct router *router = r->router;
    const struct route *route = r->route;
    bool probe = route->auth == AUTH_PUBLIC;
    if (!probe) {
        if (!limit_user(x, err)) return false;
        if (!auth_permits(r, err)) return false;
    }
    if (atomic_load(&router->draining) && !probe) {
        error_set(err, 503, "shutting_down", "this server is shutting down; retry on another or in a moment");
        err->retry_after = 1;
        return false;
    }
    return !route->precheck || route->precheck(r, err);
}

static bool check_length(struct exchange *x, struct error *err) {
    x->body_limit = x->request.route->body_limit;
    if (x->body_limit == 0 || x->framing.body_length < 0) return true;
    if ((uint64_t)x->framing.body_length <= x->body_limit) return true;
    error_set(err, 413, "body_too_large", "the body has %lld bytes; at most %zu are taken in one call",
              (long long)x->framing.body_length, x->body_limit);
    return false;
}

void exchange_refuse(struct exchange *x, struct error *err) {
    if (!x->response) reply_error(&x->request, err);
    error_clear(err);
    x->stage = STAGE_DISCARD;
}

static void on_looked(struct exchange *x, struct auth_question *question);

/* What is not known here may be known elsewhere: whether the request waits for a second look. When nobody
 * can look now, `err` is 503 for what is unknown: it is not for us to say that it is not there. */
static bool looks_again(struct exchange *x, struct error *err) {
    bool is_stale = err->status == 409,
         is_unknown = err->status == 0 || strcmp(err->code, "sandbox_not_found") == 0 ||
                      strcmp(err->code, "not_owner") == 0 || strcmp(err->code, "not_shared") == 0;
    if (!is_stale && !is_unknown) return false;
    cleanup_error struct error busy = {0};
    struct auth_question *question = auth_question_sandbox(&x->request, &busy);
    if (question) {
        x->stage = STAGE_AUTH;
        if (verification_start(x, question, on_looked, &busy)) return true;
        x->stage = STAGE_BODY;
    }
    if (busy.status && is_unknown) error_move(err, &busy);
    return false;
}

/* Finds the sandbox that the request is about. False: it waits, or is refused. */
static bool find_sandbox(struct exchange *x, bool again, struct error *err) {
    struct request *r = &x->request;
    if (r->route->auth == AUTH_SANDBOX_SHARE && r->route->body != BODY_NONE)
        return true;             /* its handler does it */
    if (r->sandbox) return true; /* it waited for the forward of a preview */
    bool found = auth_find_sandbox(r, err);
    if ((found ? r->sandbox != NULL : !again) && looks_again(x, err)) return false;
    if (!err->status) return true;
    exchange_refuse(x, err);
    return false;
}

/* All is known of the request's head: its body, and its handler, may follow. */
static void proceed(struct exchange *x, struct error *err) {
    struct request *r = &x->request;
    if (!check_length(x, err)) {
        exchange_refuse(x, err);
        return;
    }
    if (r->route->body == BODY_STREAM) {
        r->route->handle(r);
        if ((x->response && !x->streaming) || !r->stream) x->stage = STAGE_DISCARD;
    }
}

static void admit(struct exchange *x, struct error *err) {
    if (!gate(x, err))
        exchange_refuse(x, err);
    else if (find_sandbox(x, false, err))
        proceed(x, err);
}

static void on_looked(struct exchange *x, struct auth_question *question) {
    cleanup_error struct error err = {0};
    if (x->doomed) return;
    x->stage = STAGE_BODY;
    if (!auth_question_learnt(question, &err))
        exchange_refuse(x, &err);
    else if (find_sandbox(x, true, &err))
        proceed(x, &err);
    exchange_wake(x);
}

/* Who calls is known now, or known not to be: the request goes on where it waited. */
static void on_verified(struct exchange *x, struct auth_question *question) {
    cleanup_error struct error err = {0};
    if (x->doomed) return;
    x->stage = STAGE_BODY;
    if (auth_question_answer(question, &x->request, &err) == AUTH_KNOWN)
        admit(x, &err);
    else
        exchange_refuse(x, &err);
    exchange_wake(x);
}

static void identify(struct exchange *x) {
    struct request *r = &x->request;
    cleanup_error struct error err = {0};
    enum auth_result result = r->route->auth == AUTH_PUBLIC ? AUTH_KNOWN : auth_identify(r, &err);
    if (result == AUTH_KNOWN) {
        admit(x, &err);
        return;
    }
    if (result == AUTH_LATER) {
        x->stage = STAGE_AUTH;
        if (verification_start(x, auth_question_new(r), on_verified, &err)) return;
    }
    exchange_refuse(x, &err);
}

/* What is malformed on the wire was replaced by a proper end before libmicrohttpd saw it. */
static bool came_in_properly(const struct exchange *x, struct error *err) {
    const struct inbound *in = &x->client->inbound;
    const struct error *why = inbound_refusal(in, x->number);
    if (why) error_set(err, why->status, why->code, "%s", why->message);
    if (x->number > in->requests)
        error_set(err, 400, ERR_BAD_REQUEST,
                  "malformed HTTP request: it was sent behind one that asks for an upgrade");
    return err->status == 0;
}

static void begin(struct exchange *x, const char *method, const char *version) {
    struct request *r = &x->request;
    cleanup_error struct error err = {0};
    r->router = server_router(x->loop->server);
    r->backend = r->router->backend;
    r->uv = &x->loop->uv;
    r->upstreams = x->loop->upstreams;
    request_find_client(r, x->client->client_ip);
    r->method = method;
    set_request_id(x);
    x->stage = STAGE_BODY;
    if (!came_in_properly(x, &err) || !framing_check(x->connection, version, &x->framing, &err)) {
        x->close_after = true;
        if (target_parse(buffer_slice(&x->target), &x->path, &r->query, NULL))
            r->path = buffer_slice(&x->path); /* for the log */
        exchange_refuse(x, &err);
        return;
    }
    r->body_length = x->framing.body_length;
    r->http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    r->target = buffer_slice(&x->target);
    if (!method_valid(method, &err) || !target_parse(r->target, &x->path, &r->query, &err)) {
        x->close_after = true; /* who sends this is not to be trusted with what follows */
        exchange_refuse(x, &err);
        return;
    }
    r->path = buffer_slice(&x->path);
    if (cors_handle(r)) {
        x->stage = STAGE_DISCARD;
        return;
    }
    bool routed = find_route(x, &err);
    if (!limit_address(x, &err) || !routed) {
        exchange_refuse(x, &err);
        return;
    }
    identify(x);
}

/* ---- The handler ---- */

static void run_work(uv_work_t *work) {
    struct exchange *x = work->data;
    x->request.route->handle(&x->request);
}

static void after_work(uv_work_t *work, int status) {
    (void)status;
    struct exchange *x = work->data;
    atomic_fetch_sub(&pending_work, 1);
    x->stage = STAGE_WAIT;
    exchange_wake(x);
}

static void start_work(struct exchange *x) {
    if (atomic_fetch_add(&pending_work, 1) >= MAX_PENDING_WORK) {
        atomic_fetch_sub(&pending_work, 1);
        cleanup_error struct error err = {0};
        error_set(&err, 503, "busy", "too many requests wait to be worked on; retry in a second");
        err.retry_after = 1;
        reply_error(&x->request, &err);
        return;
    }
    x->stage = STAGE_WORKER;
    x->work.data = x;
    uv_queue_work(&x->loop->uv, &x->work, run_work, after_work);
}

static void body_complete(struct exchange *x) {
    struct request *r = &x->request;
    x->body_done = true;
    if (x->stage == STAGE_DISCARD || (x->response && !x->streaming)) return;
    if (r->route->body == BODY_STREAM) {
        x->stage = STAGE_WAIT;
        if (r->stream && r->stream->on_body_end) r->stream->on_body_end(r);
        return;
    }
    cleanup_error struct error err = {0};
    if (!exchange_parse_body(x, &err)) {
        reply_error(r, &err);
    } else if (r->route->kind == ROUTE_UNARY) {
        start_work(x);
    } else {
        x->stage = STAGE_WAIT;
        r->route->handle(r);
    }
}

/* The body turned out to be malformed. False: the answer to it has begun, and is cut. */
static bool end_malformed(struct exchange *x) {
    cleanup_error struct error err = {0};
    x->close_after = true;
    if (x->stage != STAGE_BODY) return true;
    came_in_properly(x, &err);
    exchange_close_stream(x, true);
    if (x->streaming) return false;
    exchange_refuse(x, &err);
    return true;
}

enum MHD_Result exchange_handle(struct loop *loop, struct MHD_Connection *connection, const char *method,
                                const char *version, const char *data, size_t *size, void **state) {
    (void)loop, (void)connection;
    struct exchange *x = *state;
    if (!x || x->doomed) return MHD_NO;
    if (x->stage == STAGE_HEAD) {
        x->client->head_since = 0;
        exchange_set_motion(x, MOTION_MOVES);
        begin(x, method, version);
        /* libmicrohttpd answers before the body only from this first call, and closes then. */
        bool at_once = x->framing.expect_continue || x->close_after ||
                       x->framing.body_length > (int64_t)EXCHANGE_DISCARD_MAX;
        if (x->response && at_once) return reply_queue(x);
        return MHD_YES;
    }
    if (x->stage == STAGE_AUTH) {
        exchange_suspend(x); /* nothing is taken until the caller is known */
        return MHD_YES;
    }
    if (inbound_refusal(&x->client->inbound, x->number) && !end_malformed(x)) return MHD_NO;
    if (*size > 0) return exchange_take_body(x, data, size);
    if (!x->body_done) body_complete(x);
    if (x->doomed) return MHD_NO;
    /* While a worker has it, nothing but the stage may be looked at. */
    if (x->stage != STAGE_WORKER && x->stage != STAGE_REPLY && x->response) return reply_queue(x);
    if (x->stage == STAGE_WAIT)
        exchange_wait(x);
    else if (x->stage != STAGE_REPLY)
        exchange_suspend(x);
    return MHD_YES;
}

static void log_access(struct exchange *x) {
    if (!log_enabled(LOG_LEVEL_INFO) || x->status == 0) return;
    struct request *r = &x->request;
    bool probe = r->route && r->route->auth == AUTH_PUBLIC && r->route->kind == ROUTE_INLINE;
    if (probe && x->status < 400 && !log_enabled(LOG_LEVEL_DEBUG)) return;
    const char *agent = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "User-Agent");
    /* A key given for its id, as in DELETE /user/api-keys/KEY, must not be kept by the log (lessons S28). */
    cleanup_free char *path = audit_log_text(r->path);
    cleanup_free char *shown_agent = audit_log_text(slice_of(agent ? agent : ""));
    log_info("request", "method", r->method, "path", path, "status", log_int(x->status), "duration_ms",
             log_milliseconds(uv_hrtime() - x->started_ns), "request_id", r->request_id, "remote_addr",
             r->client_ip, "user_agent", shown_agent, NULL);
}

void exchange_completed(struct exchange *x, bool ok) {
    struct request *r = &x->request;
    verification_abandon(x);
    exchange_set_motion(x, MOTION_OVER);
    exchange_close_stream(x, !ok || x->out_aborted);
    if (r->router && x->status && !x->upgrade)
        metrics_count(r->router->metrics, r->route, x->status, uv_hrtime() - x->started_ns);
    if (r->router) log_access(x);
    audit_request(r, x->status, !ok || x->out_aborted);
    audit_note_free(&r->audit);
    if (x->response) MHD_destroy_response(x->response);
    if (x->prev)
        x->prev->next = x->next;
    else
        x->loop->exchanges = x->next;
    if (x->next) x->next->prev = x->prev;
    x->client->exchange = NULL;
    object_unref(r->sandbox);
    identity_free(&r->identity);
    route_params_free(&r->params);
    json_decref(r->body);
    for (size_t i = 0; i < x->query_count; i++)
        free(x->query_values[i]);
    free(x->query_values);
    free(x->out.data);
    exchange_release_body(x);
    keep_spare(x);
}
