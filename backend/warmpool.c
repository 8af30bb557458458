#include "backend/warmpool.h"

#include "common/bytes.h"
#include "common/json.h"

static const char *template_of(const json_t *pool) {
    return json_str_at(pool, "template");
}

static json_t *count_of(const json_t *pool) {
    return json_object_get(pool, "desiredCount");
}

json_t *warmpool_pools(const json_t *config, struct error *err) {
    json_t *pools = NULL;
    const char *template = NULL;
    json_int_t count = 0;
    if (!json_is_object(config)) {
        error_set(err, 400, ERR_BAD_REQUEST, "it must be a JSON object");
        return NULL;
    }
    if (!json_get_array(config, "pools", &pools, err)) return NULL;
    if (json_array_size(pools) > 0) return json_deep_copy(pools);
    if (!json_get_string(config, "template", &template, err) ||
        !json_get_int(config, "desiredCount", INT32_MIN, INT32_MAX, &count, err))
        return NULL;
    return template && *template && count > 0
               ? json_pack("[{s:s, s:I}]", "template", template, "desiredCount", count)
               : json_array();
}

static bool count_valid(const json_t *count) {
    return json_is_integer(count) && json_integer_value(count) >= 0 &&
           json_integer_value(count) <= WARMPOOL_COUNT_MAX;
}

/* The first of the pools that has this template. */
static size_t first_of(const json_t *pools, const char *template) {
    size_t i = 0;
    while (i < json_array_size(pools) && strcmp(template_of(json_array_get(pools, i)), template) != 0)
        i++;
    return i;
}

bool warmpool_check(const json_t *pools, struct error *err) {
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool) {
        const json_t *count = count_of(pool);
        if (!*template_of(pool)) {
            error_set(err, 400, ERR_INVALID_FIELD, "pools[%zu].template is required", i);
            return false;
        }
        /* As the reference, for which an absent count is 0. */
        if (count && !count_valid(count)) {
            error_set(err, 400, ERR_INVALID_FIELD, "pools[%zu].desiredCount must be 0-%d", i,
                      WARMPOOL_COUNT_MAX);
            return false;
        }
        size_t first = first_of(pools, template_of(pool));
        if (first < i) {
            error_set(err, 400, ERR_INVALID_FIELD, "pools[%zu].template is that of pools[%zu], too", i,
                      first);
            return false;
        }
    }
    return true;
}

/* Of what warmpool_check() takes: only the members that are known, with a count. */
static json_t *plain(const json_t *pool) {
    return json_pack("{s:s, s:I}", "template", template_of(pool), "desiredCount",
                     json_integer_value(count_of(pool)));
}

char *warmpool_text(const json_t *pools) {
    cleanup_json json_t *config = json_pack("{s:[]}", "pools");
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool) {
        json_array_append_new(json_object_get(config, "pools"), plain(pool));
    }
    return json_dumps(config, JSON_COMPACT);
}

json_t *warmpool_read(const struct object *config_map) {
    if (!config_map) return json_array();
    const char *text =
        json_string_value(json_object_get(json_object_get(config_map->json, "data"), WARMPOOL_DATA_KEY));
    if (!text || !*text) return json_array();
    cleanup_json json_t *config = json_parse_object(slice_of(text), NULL);
    cleanup_json json_t *pools = config ? warmpool_pools(config, NULL) : NULL;
    if (!pools) return NULL;
    json_t *valid = json_array();
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool) {
        if (!*template_of(pool) || (count_of(pool) && !count_valid(count_of(pool))) ||
            first_of(valid, template_of(pool)) < json_array_size(valid))
            continue;
        json_array_append_new(valid, plain(pool));
    }
    return valid;
}

int64_t warmpool_desired(const json_t *pools, const char *template) {
    int64_t sum = 0;
    size_t i;
    json_t *pool;
    json_array_foreach(pools, i, pool) {
        if (!template || strcmp(template_of(pool), template) == 0) sum += json_integer_value(count_of(pool));
    }
    return sum;
}

const char *warmpool_of(const struct object *object) {
    const json_t *labels = json_at(object->json, "metadata.labels");
    const char *pooled = json_string_value(json_object_get(labels, LABEL_POOLED));
    if (!pooled || strcmp(pooled, "true") != 0) return NULL;
    return json_string_value(json_object_get(labels, LABEL_POOL_TEMPLATE));
}
