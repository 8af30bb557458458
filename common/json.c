/* Strict JSON in, repaired JSON out, readers that name the field, and merge-patch. */
#include "common/json.h"

#include "common/text.h"

#include <stdio.h>

/* jansson's own depth limit is 2048 levels of its recursive parser. Brackets are counted
 * outside of strings, to the end of the first value; what is malformed is left to it. */
static bool depth_allowed(struct slice text) {
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_MAX_DEPTH) return false;
        } else if (c == ']' || c == '}') {
            if (depth <= 1) return true;
            depth--;
        }
    }
    return true;
}

json_t *json_parse(struct slice text, struct error *err) {
    if (!depth_allowed(text)) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "the JSON is nested more than %d levels deep: send a flatter value", JSON_MAX_DEPTH);
        return NULL;
    }
    size_t blank = 0;
    while (blank < text.len && memchr(" \t\r\n", text.ptr[blank], 4)) {
        blank++;
    }
    if (blank == text.len) {
        error_set(err, 400, ERR_BAD_REQUEST, "a JSON value is required and nothing was sent");
        return NULL;
    }
    json_error_t why;
    json_t *value = json_loadb(text.ptr, text.len,
                               JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &why);
    if (!value) {
        /* jansson quotes the input, which may be anything. */
        cleanup_buffer struct buffer reason = {0};
        bool nul = json_error_code(&why) == json_error_null_character;
        utf8_repair(slice_of(nul ? "\\u0000 is not allowed in a string" : why.text), &reason);
        error_set(err, 400, ERR_BAD_REQUEST,
                  "invalid JSON at line %d, column %d: %s: send one valid JSON value", why.line, why.column,
                  buffer_cstr(&reason));
    }
    return value;
}

bool json_values_within(struct slice text, size_t most) {
    size_t count = 1;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == ',' || c == '[' || c == '{') && ++count > most)
            return false;
    }
    return true;
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "a value of another type";
}

json_t *json_parse_object(struct slice text, struct error *err) {
    json_t *value = json_parse(text, err);
    if (value && !json_is_object(value)) {
        error_set(err, 400, ERR_BAD_REQUEST, "a JSON object is required, not %s", type_name(value));
        json_decref(value);
        return NULL;
    }
    return value;
}

json_t *json_string_repaired(struct slice bytes) {
    json_t *value;
    if (utf8_valid(bytes)) {
        value = json_stringn_nocheck(bytes.len ? bytes.ptr : "", bytes.len);
    } else {
        cleanup_buffer struct buffer text = {0};
        utf8_repair(bytes, &text);
        value = json_stringn_nocheck(text.data, text.len);
    }
    if (!value) abort(); /* only memory can be missing */
    return value;
}

static int dump_to_buffer(const char *bytes, size_t len, void *out) {
    return buffer_append(out, bytes, len) ? 0 : -1;
}

char *json_dump_line(const json_t *value, size_t *len) {
    cleanup_buffer struct buffer text = {0};
    if (json_dump_callback(value, dump_to_buffer, &text, JSON_COMPACT | JSON_ENCODE_ANY) != 0) return NULL;
    buffer_append_char(&text, '\n');
    return buffer_steal(&text, len);
}

/* The member unless absent or null. */
static json_t *given(const json_t *object, const char *name) {
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static bool wrong_type(const json_t *value, const char *name, const char *wanted, struct error *err) {
    error_set_field(err, name, "must be %s, not %s", wanted, type_name(value));
    return false;
}

bool json_get_string(const json_t *object, const char *name, const char **out, struct error *err) {
    json_t *value = given(object, name);
    *out = json_string_value(value);
    return !value || *out || wrong_type(value, name, "a string", err);
}

bool json_get_object(const json_t *object, const char *name, json_t **out, struct error *err) {
    json_t *value = given(object, name);
    *out = json_is_object(value) ? value : NULL;
    return !value || *out || wrong_type(value, name, "an object", err);
}

bool json_get_array(const json_t *object, const char *name, json_t **out, struct error *err) {
    json_t *value = given(object, name);
    *out = json_is_array(value) ? value : NULL;
    return !value || *out || wrong_type(value, name, "an array", err);
}

bool json_get_bool(const json_t *object, const char *name, bool *out, struct error *err) {
    json_t *value = given(object, name);
    if (!value) return true;
    if (!json_is_boolean(value)) return wrong_type(value, name, "true or false", err);
    *out = json_is_true(value);
    return true;
}

bool json_get_int(const json_t *object, const char *name, json_int_t min, json_int_t max, json_int_t *out,
                  struct error *err) {
    json_t *value = given(object, name);
    if (!value) return true;
    if (json_is_real(value)) {
        error_set_field(err, name, "must be an integer, without fraction or exponent");
        return false;
    }
    if (!json_is_integer(value)) return wrong_type(value, name, "an integer", err);
    json_int_t n = json_integer_value(value);
    if (n < min || n > max) {
        error_set_field(err, name, "must be from %lld to %lld, not %lld", (long long)min, (long long)max,
                        (long long)n);
        return false;
    }
    *out = n;
    return true;
}

json_t *json_at(const json_t *object, const char *dotted_path) {
    json_t *at = NULL;
    for (const char *name = dotted_path;; name++) {
        size_t len = strcspn(name, ".");
        char key[256];
        if (len >= sizeof key) return NULL; /* no path of ours is that long */
        memcpy(key, name, len);
        key[len] = '\0';
        at = json_object_get(at ? at : object, key);
        name += len;
        if (!at || *name == '\0') return at;
    }
}

const char *json_str_at(const json_t *object, const char *dotted_path) {
    const char *text = json_string_value(json_at(object, dotted_path));
    return text ? text : "";
}

static json_t *must(json_t *value) {
    if (!value) abort(); /* copies of valid values fail only for memory */
    return value;
}

/* Applies `patch` to `target`, which is ours. Recursion is as deep as the patch. */
static void merge_into(json_t *target, const json_t *patch) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)patch, name, value) {
        if (json_is_null(value)) {
            json_object_del(target, name);
            continue;
        }
        if (!json_is_object(value)) {
            json_object_set_new_nocheck(target, name, must(json_deep_copy(value)));
            continue;
        }
        json_t *below = json_object_get(target, name);
        if (!json_is_object(below)) {
            below = must(json_object());
            json_object_set_new_nocheck(target, name, below);
        }
        merge_into(below, value);
    }
}

json_t *json_merge_patch(const json_t *target, const json_t *patch) {
    if (!json_is_object(patch)) return must(json_deep_copy(patch));
    json_t *result = must(json_is_object(target) ? json_deep_copy(target) : json_object());
    merge_into(result, patch);
    return result;
}
