/* See activity.h. When it was last written is read from the object itself; kept is only what is being
 * written, so that a slow apiserver takes few workers and gets one write for a sandbox at a time. What is
 * left out is made up for by the next request. */
#include "router/activity.h"

#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "router/freshness.h"
#include "router/router.h"

struct touch {
    uv_work_t work;
    struct store *store;
    _Atomic uint64_t *slot;
    struct object *sandbox;
};

static void write_timestamp(uv_work_t *work) {
    struct touch *t = work->data;
    char now[RFC3339_MAX];
    rfc3339_format(time(NULL), now);
    cleanup_error struct error err = {0};
    cleanup_json json_t *patch = json_pack("{s{ss}}", "status", "lastActivityTimestamp", now);
    struct store_preconditions same = {.uid = t->sandbox->uid};
    if (!t->store->ops->patch(t->store, KIND_SANDBOX, STORE_STATUS, t->sandbox->namespace, t->sandbox->name,
                              patch, &same, NULL, &err) &&
        err.status != 404)
        log_warn("activity of a sandbox was not recorded", "sandbox", t->sandbox->name, "error", err.message,
                 NULL);
}

static void written(uv_work_t *work, int status) {
    (void)status;
    struct touch *t = work->data;
    atomic_store(t->slot, 0);
    object_unref(t->sandbox);
    free(t);
}

/* A place to write from, or NULL: the sandbox is being written, or as many as may be. */
static _Atomic uint64_t *take_slot(struct router *router, const char *uid) {
    uint64_t mark = text_hash(slice_of(uid)) | 1;
    for (size_t i = 0; i < ROUTER_TOUCHES; i++)
        if (atomic_load(&router->touches[i]) == mark) return NULL;
    for (size_t i = 0; i < ROUTER_TOUCHES; i++) {
        uint64_t none = 0;
        if (atomic_compare_exchange_strong(&router->touches[i], &none, mark)) return &router->touches[i];
    }
    return NULL;
}

static int64_t interval_seconds(const json_t *sandbox) {
    int64_t idle = 0;
    if (!duration_parse(json_str_at(sandbox, "spec.idleTimeout"), &idle) || idle <= 0) return 60;
    int64_t quarter = idle / 4 / 1000000000;
    return quarter > 60 ? 60 : quarter;
}

uint64_t router_touch_interval_ms(const struct request *r) {
    int64_t seconds = interval_seconds(r->sandbox->json);
    return seconds > 0 ? (uint64_t)seconds * 1000 : 500;
}

void router_touch(struct request *r) {
    time_t last = 0;
    const json_t *sandbox = r->sandbox->json;
    if (rfc3339_parse(json_str_at(sandbox, "status.lastActivityTimestamp"), &last) &&
        time(NULL) - last < interval_seconds(sandbox))
        return;
    if (store_age_ms(r->backend->store) >= FRESHNESS_DOUBT_MS) return; /* it could not be written */
    _Atomic uint64_t *slot = take_slot(r->router, r->sandbox->uid);
    if (!slot) return;
    struct touch *t = xcalloc(1, sizeof *t);
    t->slot = slot;
    t->store = r->backend->store;
    t->sandbox = object_ref(r->sandbox);
    t->work.data = t;
    uv_queue_work(r->uv, &t->work, write_timestamp, written);
}
