/* Health, readiness, metrics and the OpenAPI document: the routes that ask for no credential. */
#include "router/handlers.h"

#include "router/bearer.h"
#include "router/metrics.h"
#include "router/openapi.h"
#include "router/router.h"

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
        /* An issuer that is away does not end readiness: keys, and tokens of other issuers, go on working. */
        cleanup_buffer struct buffer text = {0};
        buffer_append_str(&text, "ok");
        size_t before = text.len;
        buffer_append_char(&text, '\n');
        bearer_render_state(r->router->bearer, &text);
        reply_plain(r, 200, text.len > before + 1 ? buffer_cstr(&text) : "ok");
    }
}

void health_get(struct request *r) {
    reply_json(
        r, 200,
        json_pack("{ssssss}", "status", "ok", "version", AGENTTIER_VERSION, "backend", r->backend->name));
}

void metrics_get(struct request *r) {
    struct buffer text = {0};
    metrics_render(r->router->metrics, &text);
    bearer_render_metrics(r->router->bearer, &text);
    size_t len;
    char *data = buffer_steal(&text, &len);
    reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", data, len);
}

void openapi_get(struct request *r) {
    const struct slice text = openapi_document();
    reply_text(r, 200, "application/json", slice_dup(text), text.len);
}
