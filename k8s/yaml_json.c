#include "k8s/yaml_json.h"

#include "common/json.h"

#include <yaml.h>

struct level {
    json_t *container; /* owned until it is put into the level below */
    char *key;         /* of the value that comes next, in a mapping */
    char *anchor;      /* of the container itself */
};

struct builder {
    struct level levels[YAML_MAX_DEPTH];
    size_t depth;
    json_t *root;
    json_t *anchors; /* name -> complete value */
    size_t nodes;
    bool typed;
    struct error *err;
};

static bool refuse(struct builder *b, const yaml_mark_t *at, const char *why) {
    error_set(b->err, 400, ERR_BAD_REQUEST, "YAML line %zu: %s", at->line + 1, why);
    return false;
}

static void builder_free(struct builder *b) {
    while (b->depth > 0) {
        struct level *l = &b->levels[--b->depth];
        json_decref(l->container);
        free(l->key);
        free(l->anchor);
    }
    json_decref(b->root);
    json_decref(b->anchors);
}

static bool remember(struct builder *b, const char *anchor, json_t *value, const yaml_mark_t *at) {
    if (anchor == NULL) return true;
    if (json_object_size(b->anchors) >= YAML_MAX_ANCHORS) return refuse(b, at, "too many anchors");
    if (json_object_set(b->anchors, anchor, value) != 0) return refuse(b, at, "an anchor is not UTF-8");
    return true;
}

/* Puts a complete value where it belongs. Takes the reference. */
static bool put(struct builder *b, json_t *value, const yaml_mark_t *at) {
    if (b->depth == 0) {
        b->root = value;
        return true;
    }
    struct level *l = &b->levels[b->depth - 1];
    if (json_is_array(l->container)) return json_array_append_new(l->container, value) == 0;
    if (l->key == NULL) { /* this is the key */
        const char *key = json_string_value(value);
        bool ok = key != NULL;
        if (!ok) refuse(b, at, "a key must be text");
        if (ok && strcmp(key, "<<") == 0) ok = refuse(b, at, "merge keys (<<) are not supported");
        if (ok && json_object_get(l->container, key)) ok = refuse(b, at, "a key is there twice");
        if (ok) l->key = xstrdup(key);
        json_decref(value);
        return ok;
    }
    bool ok = json_object_set_new(l->container, l->key, value) == 0;
    free(l->key);
    l->key = NULL;
    return ok || refuse(b, at, "a key is not UTF-8");
}

/* A plain scalar of the JSON schema: true, false, a number. NULL: text. */
static json_t *typed_scalar(struct slice text) {
    if (slice_equal_str(text, "true") || slice_equal_str(text, "false"))
        return json_boolean(text.ptr[0] == 't');
    char first = text.len > 0 ? text.ptr[0] : 'x';
    if (first != '-' && (first < '0' || first > '9')) return NULL;
    json_t *number = json_loadb(text.ptr, text.len, JSON_DECODE_ANY, NULL);
    if (json_is_number(number)) return number;
    json_decref(number);
    return NULL;
}

static bool scalar(struct builder *b, const yaml_event_t *event) {
    struct slice text = slice_make((const char *)event->data.scalar.value, event->data.scalar.length);
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    bool nothing = plain && (text.len == 0 || slice_equal_str(text, "~") || slice_equal_str(text, "null"));
    if (memchr(text.ptr, '\0', text.len)) return refuse(b, &event->start_mark, "a NUL is not allowed");
    json_t *value = nothing ? json_null() : plain && b->typed ? typed_scalar(text) : NULL;
    if (value == NULL) value = json_stringn(text.ptr, text.len);
    if (value == NULL) return refuse(b, &event->start_mark, "a value is not UTF-8");
    if (!remember(b, (const char *)event->data.scalar.anchor, value, &event->start_mark)) {
        json_decref(value);
        return false;
    }
    return put(b, value, &event->start_mark);
}

static bool open_level(struct builder *b, json_t *container, const yaml_char_t *anchor,
                       const yaml_mark_t *at) {
    bool as_key = b->depth > 0 && json_is_object(b->levels[b->depth - 1].container) &&
                  b->levels[b->depth - 1].key == NULL;
    if (as_key || b->depth == YAML_MAX_DEPTH) {
        json_decref(container);
        return refuse(b, at, as_key ? "a key must be text" : "nested too deep");
    }
    b->levels[b->depth++] = (struct level){container, NULL, anchor ? xstrdup((const char *)anchor) : NULL};
    return true;
}

static bool close_level(struct builder *b, const yaml_mark_t *at) {
    struct level l = b->levels[--b->depth];
    bool ok = remember(b, l.anchor, l.container, at);
    free(l.key);
    free(l.anchor);
    if (ok) return put(b, l.container, at);
    json_decref(l.container);
    return false;
}

static bool take_alias(struct builder *b, const yaml_event_t *event) {
    /* Only complete values are known, so nothing can contain itself. */
    json_t *value = json_object_get(b->anchors, (const char *)event->data.alias.anchor);
    if (value == NULL) return refuse(b, &event->start_mark, "an alias names no earlier anchor");
    return put(b, json_incref(value), &event->start_mark);
}

static bool take(struct builder *b, const yaml_event_t *event) {
    if (++b->nodes > YAML_MAX_NODES) return refuse(b, &event->start_mark, "too many values");
    switch (event->type) {
    case YAML_SCALAR_EVENT: return scalar(b, event);
    case YAML_ALIAS_EVENT: return take_alias(b, event);
    case YAML_SEQUENCE_START_EVENT:
        return open_level(b, json_array(), event->data.sequence_start.anchor, &event->start_mark);
    case YAML_MAPPING_START_EVENT:
        return open_level(b, json_object(), event->data.mapping_start.anchor, &event->start_mark);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: return close_level(b, &event->start_mark);
    default: return true;
    }
}

static bool run(yaml_parser_t *parser, struct builder *b) {
    for (bool done = false; !done;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            return refuse(b, &parser->problem_mark, parser->problem ? parser->problem : "cannot be read");
        }
        done = event.type == YAML_DOCUMENT_END_EVENT || event.type == YAML_STREAM_END_EVENT;
        bool ok = take(b, &event);
        yaml_event_delete(&event);
        if (!ok) return false;
    }
    return true;
}

static json_t *parse(struct slice text, bool typed, struct error *err) {
    if (text.len > YAML_MAX_BYTES) {
        error_set(err, 400, ERR_BAD_REQUEST, "the YAML is above 1 MiB");
        return NULL;
    }
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        error_set(err, 500, ERR_INTERNAL, "out of memory");
        return NULL;
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.ptr, text.len);
    struct builder b = {.anchors = json_object(), .typed = typed, .err = err};
    json_t *root = run(&parser, &b) ? steal_ptr(b.root) : NULL;
    bool empty = root == NULL && b.depth == 0 && (!err || !err->status);
    builder_free(&b);
    yaml_parser_delete(&parser);
    return empty ? json_null() : root;
}

json_t *yaml_parse(struct slice text, struct error *err) {
    return parse(text, false, err);
}

json_t *yaml_parse_typed(struct slice text, struct error *err) {
    return parse(text, true, err);
}
