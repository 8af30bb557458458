#include "common/terminal_message.h"

#include "common/json.h"
#include "common/text.h"

/* A message has at most seven members; more values than this are none of ours, and would take much memory. */
#define VALUES_MAX 64
#define WINDOW_MAX 65535

/* ---- Reading ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The code unit of "\uXXXX" at `p`, or -1. */
static int code_unit(const char *p, size_t len) {
    int unit = 0;
    if (len < 6 || p[0] != '\\' || p[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(p[i]);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static bool is_high(int unit) {
    return unit >= 0xd800 && unit <= 0xdbff;
}
static bool is_low(int unit) {
    return unit >= 0xdc00 && unit <= 0xdfff;
}

/* The text with every half of a surrogate pair as U+FFFD. */
static void repair_surrogates(struct slice text, struct buffer *out) {
    size_t start = 0;
    for (size_t i = 0; i < text.len;) {
        if (text.ptr[i] != '\\') {
            i++;
            continue;
        }
        int unit = code_unit(text.ptr + i, text.len - i);
        if (is_high(unit) && is_low(code_unit(text.ptr + i + 6, text.len - i - 6))) {
            i += 12;
        } else if (is_high(unit) || is_low(unit)) {
            buffer_append(out, text.ptr + start, i - start);
            buffer_append_str(out, "\\ufffd");
            start = i += 6;
        } else {
            i += 2; /* an escape: what it escapes begins none */
        }
    }
    if (start < text.len) buffer_append(out, text.ptr + start, text.len - start);
}

static json_t *load(struct slice text) {
    return json_loadb(text.ptr, text.len, JSON_ALLOW_NUL, NULL);
}

static json_t *parse(struct slice bytes) {
    cleanup_buffer struct buffer valid = {0}, whole = {0};
    if (bytes.len == 0 || !json_values_within(bytes, VALUES_MAX)) return NULL;
    if (!utf8_valid(bytes)) {
        utf8_repair(bytes, &valid);
        bytes = buffer_slice(&valid);
    }
    json_t *json = load(bytes);
    if (json || !memchr(bytes.ptr, '\\', bytes.len)) return json;
    repair_surrogates(bytes, &whole);
    return load(buffer_slice(&whole));
}

static bool text_of(const json_t *json, const char *member, struct slice *out) {
    const json_t *value = json_object_get(json, member);
    if (!json_is_string(value)) return false;
    *out = slice_make(json_string_value(value), json_string_length(value));
    return true;
}

/* False: there is something else than an integer. */
static bool dimension(const json_t *json, const char *member, unsigned *out) {
    const json_t *value = json_object_get(json, member);
    json_int_t n = json_integer_value(value);
    *out = n < 1 ? 1 : n > WINDOW_MAX ? WINDOW_MAX : (unsigned)n;
    return !value || json_is_null(value) || json_is_integer(value);
}

static enum terminal_message_type understand(struct terminal_message *m) {
    const char *type = json_string_value(json_object_get(m->json, "type"));
    if (!type) return TERMINAL_UNKNOWN;
    if (strcmp(type, "input") == 0)
        return text_of(m->json, "data", &m->text) ? TERMINAL_INPUT : TERMINAL_UNKNOWN;
    if (strcmp(type, "output") == 0)
        return text_of(m->json, "data", &m->text) ? TERMINAL_OUTPUT : TERMINAL_UNKNOWN;
    if (strcmp(type, "resize") == 0)
        return dimension(m->json, "cols", &m->cols) && dimension(m->json, "rows", &m->rows)
                   ? TERMINAL_RESIZE
                   : TERMINAL_UNKNOWN;
    if (strcmp(type, "ping") == 0) return TERMINAL_PING;
    if (strcmp(type, "error") == 0) {
        if (!text_of(m->json, "message", &m->text)) m->text = slice_of("");
        return TERMINAL_ERROR;
    }
    return TERMINAL_UNKNOWN;
}

void terminal_message_parse(struct slice bytes, struct terminal_message *out) {
    *out = (struct terminal_message){.json = parse(bytes)};
    out->type = understand(out);
}

void terminal_message_free(struct terminal_message *m) {
    json_decref(m->json);
    m->json = NULL;
}

/* ---- Writing ---- */

void terminal_message_put_input(struct buffer *out, struct slice text) {
    buffer_append_str(out, "{\"type\":\"input\",\"data\":");
    json_text_string(out, text);
    buffer_append_char(out, '}');
}

void terminal_message_put_resize(struct buffer *out, unsigned cols, unsigned rows) {
    buffer_printf(out, "{\"type\":\"resize\",\"cols\":%u,\"rows\":%u}", cols, rows);
}

void terminal_message_put_output(struct buffer *out, struct slice text) {
    buffer_append_str(out, "{\"type\":\"output\",\"data\":");
    json_text_string(out, text);
    buffer_append_str(out, ",\"stream\":\"stdout\"}");
}

void terminal_message_put_error(struct buffer *out, const char *message) {
    buffer_append_str(out, "{\"type\":\"error\",\"message\":");
    json_text_string(out, slice_of(message));
    buffer_append_char(out, '}');
}

void terminal_message_put_heartbeat(struct buffer *out, int64_t unix_ms) {
    buffer_printf(out, "{\"type\":\"heartbeat\",\"ts\":%lld}", (long long)unix_ms);
}

void terminal_message_put_pong(struct buffer *out) {
    buffer_append_str(out, "{\"type\":\"pong\"}");
}

void terminal_message_put_close(struct buffer *out, const char *reason, int code) {
    buffer_printf(out, "{\"type\":\"close\",\"reason\":\"%s\",\"code\":%d}", reason, code);
}
