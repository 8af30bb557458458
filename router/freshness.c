#include "router/freshness.h"

#include "router/handlers.h"
#include "router/route.h"
#include "router/router.h"

#include <stdio.h>

bool freshness_check(struct request *r, struct error *err) {
    struct store *store = r->router->backend->store;
    if (r->route->auth == AUTH_PUBLIC) return true;
    if (!store->ops->ready(store, err)) {
        /* Why is for the log and the operator (W-61). */
        error_set(err, 503, ERR_UNAVAILABLE, "this server has not read its resources yet; retry in a moment");
        if (err) err->retry_after = 1;
        return false;
    }
    int64_t age = store_age_ms(store);
    bool reads = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
    if (age >= FRESHNESS_MARK_MS && reads) {
        char seconds[24];
        snprintf(seconds, sizeof seconds, "%lld", (long long)age / 1000);
        reply_header(r, "Age", seconds);
        reply_header(r, "Warning", "110 agenttier-router \"Response is Stale\"");
    }
    return true;
}

void freshness_doubt(struct store *store, const char *what, struct error *err) {
    if (!err || err->status != 404) return;
    int64_t age = store_age_ms(store);
    if (age < FRESHNESS_DOUBT_MS) return;
    error_set(err, 503, ERR_UNAVAILABLE,
              "%s is not known here, and the Kubernetes API has not answered for %lld s; retry in a moment",
              what, (long long)age / 1000);
    err->retry_after = 5;
}
