/* What a user interface remembers about its user: one JSON object for each caller, not interpreted, kept in a
 * ConfigMap (http-api-extended.md 11.2, 2). Writers that race are told so if they ask with If-Match, and
 * PATCH changes single members. */
#include "common/secret.h"
#include "router/freshness.h"
#include "router/handlers.h"
#include "router/http_range.h"
#include "router/router.h"
#include "router/sandbox_lookup.h"

#include <stdio.h>
#include <string.h>

#define PREFERENCES_MAX ((size_t)256 << 10) /* bytes of JSON text */
#define ATTEMPTS_MAX    8
#define DATA_KEY        "preferences"

struct place {
    const char *namespace;
    char name[sizeof "agenttier-prefs-" + 16];
};

static struct place place_of(struct request *r) {
    struct place place = {.namespace = install_namespace(r->router->config)};
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(r->identity.sub), hex);
    snprintf(place.name, sizeof place.name, "agenttier-prefs-%.16s", hex);
    return place;
}

static struct object *get_map(struct request *r) {
    struct place place = place_of(r);
    struct store *store = r->backend->store;
    return store->ops->get(store, KIND_CONFIG_MAP, place.namespace, place.name);
}

/* The stored object or null; {} when there is none, or something else is there. A new reference. */
static json_t *read_map(const struct object *map) {
    const char *text = map ? json_str_at(map->json, "data." DATA_KEY) : "";
    json_t *value = text[0] ? json_parse(slice_of(text), NULL) : NULL;
    if (json_is_object(value) || json_is_null(value)) return value;
    json_decref(value);
    return json_object();
}

/* Text without loss and without noise: 0.1 stays 0.1. A number that 15 digits do not carry gets 17. */
static char *text_of(const json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    cleanup_json json_t *again = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    if (again && json_equal(again, value)) return text;
    free(text);
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
}

static void etag_of(const char *text, char out[32]) {
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(text), hex);
    snprintf(out, 32, "\"%.24s\"", hex);
}

static void answer(struct request *r, const char *text) {
    char etag[32];
    etag_of(text, etag);
    reply_header(r, "ETag", etag);
    char *line = xasprintf("%s\n", text);
    reply_text(r, 200, "application/json", line, strlen(line));
}

void preferences_get(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_object struct object *map = get_map(r);
    /* Not knowing is not the same as there being none. */
    error_set(&err, 404, ERR_NOT_FOUND, "no preferences are stored");
    if (!map) freshness_doubt(r->backend->store, "whether preferences are stored", &err);
    if (err.status != 404) {
        reply_error(r, &err);
        return;
    }
    cleanup_json json_t *value = read_map(map);
    cleanup_free char *text = text_of(value);
    answer(r, text);
}

/* ---- writing ---- */

static bool condition_holds(struct request *r, const json_t *current, struct error *err) {
    const char *match = request_header(r, "If-Match");
    char etag[32];
    if (!match) return true;
    cleanup_free char *text = text_of(current);
    etag_of(text, etag);
    if (etag_listed(match, etag, false)) return true;
    error_set(err, 412, "precondition_failed",
              "the preferences were changed meanwhile; read them again and repeat the change");
    return false;
}

static bool store_text(struct request *r, const struct object *map, const char *text, struct error *err) {
    struct store *store = r->backend->store;
    struct place place = place_of(r);
    cleanup_json json_t *object =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s}}", "apiVersion",
                  resource_kinds[KIND_CONFIG_MAP].api_version, "kind", resource_kinds[KIND_CONFIG_MAP].kind,
                  "metadata", "name", place.name, "namespace", place.namespace, "labels",
                  "agenttier.io/component", "user-preferences", "data", DATA_KEY, text);
    if (!map) return store->ops->create(store, KIND_CONFIG_MAP, object, NULL, err);
    struct store_preconditions same = {.uid = map->uid, .resource_version = map->resource_version};
    return store->ops->patch(store, KIND_CONFIG_MAP, STORE_MAIN, map->namespace, map->name, object, &same,
                             NULL, err);
}

/* One attempt against what is stored now. `*text` is what was stored; the caller frees it. */
static bool write_once(struct request *r, bool merge, char **text, struct error *err) {
    cleanup_object struct object *map = get_map(r);
    cleanup_json json_t *current = read_map(map);
    if (!condition_holds(r, current, err)) return false;
    cleanup_json json_t *next = merge ? json_merge_patch(current, r->body) : json_incref(r->body);
    free(*text);
    *text = text_of(next);
    if (strlen(*text) > PREFERENCES_MAX) {
        error_set(err, 413, "too_large", "the preferences would be larger than 256 KiB");
        return false;
    }
    return store_text(r, map, *text, err);
}

static void write_preferences(struct request *r, bool merge) {
    cleanup_error struct error err = {0};
    cleanup_free char *text = NULL;
    bool done = write_once(r, merge, &text, &err);
    /* Somebody else of the same user was faster, or the first one created it. */
    for (int i = 1; !done && i < ATTEMPTS_MAX && (err.status == 409 || err.status == 404); i++) {
        error_clear(&err);
        done = write_once(r, merge, &text, &err);
    }
    if (done)
        answer(r, text);
    else
        reply_error(r, &err);
}

void preferences_put(struct request *r) {
    write_preferences(r, false);
}

void preferences_patch(struct request *r) {
    write_preferences(r, true);
}
