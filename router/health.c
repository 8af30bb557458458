/* Health, readiness, metrics and the OpenAPI document: the routes that ask for no credential. */
#include "router/handlers.h"

#include "backend/history.h"
#include "router/bearer.h"
#include "router/freshness.h"
#include "router/metrics.h"
#include "router/openapi.h"
#include "router/router.h"
#include "router/terminals.h"

static void reply_plain(struct request *r, int status, const char *text) {
    reply_text(r, status, "text/plain; charset=utf-8", xstrdup(text), strlen(text));
}

bool health_route(const struct route *route) {
    return route->handle == health_live || route->handle == health_ready || route->handle == health_get ||
           route->handle == metrics_get;
}

void health_live(struct request *r) {
    reply_plain(r, 200, "ok");
}

void health_ready(struct request *r) {
    cleanup_error struct error err = {0};
    if (atomic_load(&r->router->draining)) {
        reply_plain(r, 503, "not ready: shutting down");
    } else if (!r->backend->store->ops->ready(r->backend->store, &err)) {
        reply_plain(r, 503, "not ready: the store cannot be read");
    } else {
        /* Neither an apiserver nor an issuer that is away ends readiness: reads and keys go on working, and
         * all replicas would be taken out at once. */
        cleanup_buffer struct buffer text = {0};
        int64_t age = store_age_ms(r->backend->store);
        buffer_append_str(&text, "ok");
        if (age >= FRESHNESS_MARK_MS)
            buffer_printf(&text, ", reads are %lld s old: the Kubernetes API does not answer",
                          (long long)age / 1000);
        cleanup_buffer struct buffer state = {0};
        bearer_render_state(r->router->bearer, &state);
        if (state.len > 0) {
            buffer_append_char(&text, '\n');
            buffer_append(&text, state.data, state.len);
        }
        reply_plain(r, 200, buffer_cstr(&text));
    }
}

void health_get(struct request *r) {
    reply_json(
        r, 200,
        json_pack("{ssssss}", "status", "ok", "version", AGENTTIER_VERSION, "backend", r->backend->name));
}

static void render_history(struct history *history, struct buffer *out) {
    struct history_counts counts = {0};
    if (history) counts = history_counts(history);
    buffer_printf(
        out,
        "# HELP agenttier_history_up Whether a history of what is done is kept.\n"
        "# TYPE agenttier_history_up gauge\nagenttier_history_up %d\n"
        "# HELP agenttier_history_entries_total Entries of the history that are on disk.\n"
        "# TYPE agenttier_history_entries_total counter\nagenttier_history_entries_total %llu\n"
        "# HELP agenttier_history_dropped_total Entries lost because the queue was full.\n"
        "# TYPE agenttier_history_dropped_total counter\nagenttier_history_dropped_total %llu\n"
        "# HELP agenttier_history_failures_total Writes of the history that failed and were repeated.\n"
        "# TYPE agenttier_history_failures_total counter\nagenttier_history_failures_total %llu\n"
        "# HELP agenttier_history_waiting Entries not on disk yet.\n"
        "# TYPE agenttier_history_waiting gauge\nagenttier_history_waiting %zu\n",
        history != NULL, (unsigned long long)counts.written, (unsigned long long)counts.dropped,
        (unsigned long long)counts.failures, counts.waiting);
}

void metrics_get(struct request *r) {
    struct buffer text = {0};
    metrics_render(r->router->metrics, &text);
    render_history(r->router->history, &text);
    bearer_render_metrics(r->router->bearer, &text);
    terminals_render(r->router->terminals, &text);
    buffer_printf(&text,
                  "# HELP agenttier_store_age_seconds For how long reads may have been behind; 0: current.\n"
                  "# TYPE agenttier_store_age_seconds gauge\nagenttier_store_age_seconds %.3f\n",
                  (double)store_age_ms(r->backend->store) / 1000);
    if (r->backend->metrics) r->backend->metrics(r->backend, &text);
    size_t len;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", data, len);
}

void openapi_get(struct request *r) {
    const struct slice text = openapi_document();
    reply_text(r, 200, "application/json", slice_dup(text), text.len);
}
