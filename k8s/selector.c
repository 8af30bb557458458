#include "k8s/selector.h"

#include "common/bytes.h"
#include "common/json.h"

struct term {
    struct slice key, value;
    bool negated, exists; /* exists: no value is given */
};

/* The term at the start of `*rest`, which moves behind it. */
static bool next_term(const char **rest, struct term *out) {
    size_t len = strcspn(*rest, ",");
    struct slice text = slice_trim(slice_make(*rest, len));
    *rest += len + ((*rest)[len] == ',');
    const char *equals = memchr(text.ptr, '=', text.len);
    *out = (struct term){.key = text, .exists = equals == NULL};
    if (equals) {
        const char *value = equals + (equals + 1 < text.ptr + text.len && equals[1] == '=' ? 2 : 1);
        out->negated = equals > text.ptr && equals[-1] == '!';
        out->key = slice_trim(slice_make(text.ptr, (size_t)(equals - text.ptr) - out->negated));
        out->value = slice_trim(slice_make(value, (size_t)(text.ptr + text.len - value)));
    }
    for (size_t i = 0; i < out->key.len; i++)
        if (strchr("!()<> ", out->key.ptr[i])) return false;
    return out->key.len > 0;
}

bool selector_supported(const char *selector) {
    struct term term;
    for (const char *rest = selector ? selector : ""; *rest;)
        if (!next_term(&rest, &term)) return false;
    return true;
}

static bool holds(const struct term *term, const char *value) {
    if (term->exists) return value != NULL;
    bool same = value && slice_equal_str(term->value, value);
    return same != term->negated;
}

bool selector_labels(const char *selector, const json_t *object) {
    const json_t *labels = json_at(object, "metadata.labels");
    struct term term;
    for (const char *rest = selector ? selector : ""; *rest;) {
        if (!next_term(&rest, &term)) return false;
        cleanup_free char *key = slice_dup(term.key);
        if (!holds(&term, json_string_value(json_object_get(labels, key)))) return false;
    }
    return true;
}

bool selector_fields(const char *selector, const json_t *object) {
    struct term term;
    for (const char *rest = selector ? selector : ""; *rest;) {
        if (!next_term(&rest, &term)) return false;
        cleanup_free char *path = slice_dup(term.key);
        if (!holds(&term, json_str_at(object, path))) return false;
    }
    return true;
}
