/* The warm pool's routes: what is configured and how far it is (http-api-extended.md 9). The controller does
 * the rest; where none is, on one machine, there is no pool. */
#include "backend/warmpool.h"

#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#define ATTEMPTS 4

static bool is_ready(const struct object *pod) {
    size_t i;
    json_t *condition;
    json_array_foreach(json_at(pod->json, "status.conditions"), i, condition) {
        if (strcmp(json_str_at(condition, "type"), "Ready") == 0)
            return strcmp(json_str_at(condition, "status"), "True") == 0 &&
                   strcmp(json_str_at(pod->json, "status.phase"), "Running") == 0;
    }
    return false;
}

/* Adds the counts of its pods to an entry. Those that end are nobody's any more. */
static void add_counts(json_t *entry, const struct object_list *pods) {
    json_int_t ready = 0, pending = 0;
    for (size_t i = 0; i < pods->count; i++) {
        const struct object *pod = pods->items[i];
        const char *its = warmpool_of(pod);
        if (!its || strcmp(its, json_str_at(entry, "template")) != 0 ||
            *json_str_at(pod->json, "metadata.deletionTimestamp"))
            continue;
        is_ready(pod) ? ready++ : pending++;
    }
    json_object_set_new(entry, "readyCount", json_integer(ready));
    json_object_set_new(entry, "pendingCount", json_integer(pending));
}

/* With one pool its members stand beside it too, but for those that say nothing. */
static void add_flat(json_t *out, const json_t *entry) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)entry, key, value) {
        if (!json_is_integer(value) || json_integer_value(value) != 0) json_object_set(out, key, value);
    }
}

void warmpool_status(struct request *r) {
    struct store *store = r->backend->store;
    cleanup_object struct object *map =
        store->ops->get(store, KIND_CONFIG_MAP, install_namespace(r->router->config), WARMPOOL_CONFIG_MAP);
    json_t *pools = warmpool_read(map), *out = json_object();
    if (json_array_size(pools) > 0) {
        cleanup_object_list struct object_list pods =
            store->ops->list(store, KIND_POD, sandbox_namespace(r->router->config));
        size_t i;
        json_t *entry;
        json_array_foreach(pools, i, entry) add_counts(entry, &pods);
        json_object_set(out, "pools", pools);
        if (json_array_size(pools) == 1) add_flat(out, json_array_get(pools, 0));
    }
    json_decref(pools);
    reply_json(r, 200, out);
}

/* ---- configuring ---- */

static bool store_text(struct request *r, const char *text, struct error *err) {
    struct store *store = r->backend->store;
    const char *namespace = install_namespace(r->router->config);
    cleanup_json json_t *patch = json_pack("{s:{s:s}}", "data", WARMPOOL_DATA_KEY, text);
    cleanup_json json_t *fresh =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind", "ConfigMap",
                  "metadata", "name", WARMPOOL_CONFIG_MAP, "namespace", namespace, "labels",
                  "agenttier.io/component", "warm-pool", "data", WARMPOOL_DATA_KEY, text);
    for (int attempt = 1;; attempt++) {
        cleanup_error struct error failed = {0};
        if (store->ops->patch(store, KIND_CONFIG_MAP, STORE_MAIN, namespace, WARMPOOL_CONFIG_MAP, patch, NULL,
                              NULL, &failed))
            return true;
        if (failed.status == 404) {
            error_clear(&failed);
            if (store->ops->create(store, KIND_CONFIG_MAP, fresh, NULL, &failed)) return true;
        }
        /* Another Router made or removed it meanwhile. */
        if (failed.status != 409 || attempt == ATTEMPTS) {
            error_move(err, &failed);
            return false;
        }
    }
}

/* The pools that were asked for, checked; a new reference, or NULL. */
static json_t *asked_for(struct request *r, struct error *err) {
    json_t *pools = warmpool_pools(r->body, err);
    if (!pools) {
        error_wrap(err, "invalid request body");
        return NULL;
    }
    if (warmpool_check(pools, err)) {
        if (r->backend->warm_pool || warmpool_desired(pools, NULL) == 0) return pools;
        error_set(err, 501, "not_implemented",
                  "there is no warm pool with --backend=%s: its sandboxes start in milliseconds without one",
                  r->backend->name);
    }
    json_decref(pools);
    return NULL;
}

void warmpool_configure(struct request *r) {
    cleanup_error struct error err = {0};
    audit_name(r, NULL, "warm pool");
    cleanup_json json_t *pools = asked_for(r, &err);
    if (!pools) {
        reply_error(r, &err);
        return;
    }
    cleanup_free char *text = warmpool_text(pools);
    if (r->backend->warm_pool && !store_text(r, text, &err)) {
        error_wrap(&err, "failed to save config");
        reply_error(r, &err);
        return;
    }
    cleanup_json json_t *stored = json_loads(text, 0, NULL);
    json_t *shown = json_object_get(stored, "pools");
    audit_detail(r, "pools", json_deep_copy(shown));
    log_info("warm pool configured", "config", text, "user", r->identity.sub, "request_id", r->request_id,
             NULL);
    reply_json(r, 200,
               json_pack("{s:s, s:o}", "status", "updated", "pools",
                         json_array_size(shown) > 0 ? json_incref(shown) : json_null()));
}
