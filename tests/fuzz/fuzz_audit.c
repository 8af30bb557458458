/* What comes into and out of the history from others: texts of clients, Events of a cluster, cursors, and
 * what another replica answers. */
#include "common/json.h"
#include "common/text.h"
#include "router/audit.h"
#include "router/audit_peers.h"
#include "tests/fuzz/fuzz.h"

static void clean_text(struct slice bytes) {
    cleanup_buffer struct buffer out = {0};
    audit_text(bytes, &out);
    cleanup_free char *line = audit_log_text(bytes);
    MUST(strlen(line) == bytes.len || memchr(bytes.ptr, 0, bytes.len) || audit_holds_credential(bytes) ||
         memchr(bytes.ptr, '%', bytes.len));
    struct slice text = buffer_slice(&out);
    MUST(utf8_valid(text) && text.len <= 4 * 512);
    for (size_t i = 0; i < text.len; i++)
        MUST((unsigned char)text.ptr[i] >= 0x20 && text.ptr[i] != 0x7f);
}

static void event(const json_t *value) {
    struct history_entry e;
    char key[128];
    if (!event_entry(value, &e, key)) return;
    MUST(e.is_event && strlen(e.ts) == 30 && e.sandbox && e.namespace && e.reason && e.message && e.type &&
         e.phase);
    cleanup_json json_t *shown = history_event_json(&e);
    MUST(json_object_size(shown) == 7);
}

/* In order, none twice, no more than asked for. */
static void merge(json_t *events) {
    size_t before = json_array_size(events);
    bool cut = audit_merge(events, 3);
    size_t after = json_array_size(events);
    MUST(after <= 3 && after <= before && (!cut || after == 3));
    for (size_t i = 1; i < after; i++)
        MUST(history_cursor_order(json_str_at(json_array_get(events, i - 1), "cursor"),
                                  json_str_at(json_array_get(events, i), "cursor")) <= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice bytes = slice_make((const char *)data, size);
    clean_text(bytes);
    cleanup_free char *text = slice_dup(bytes);
    MUST(history_cursor_order(text, text) == 0);
    /* The two halves, either way round. */
    cleanup_free char *a = slice_dup(slice_make(bytes.ptr, size / 2));
    cleanup_free char *b = slice_dup(slice_make(bytes.ptr + size / 2, size - size / 2));
    int order = history_cursor_order(a, b), back = history_cursor_order(b, a);
    MUST((order < 0) == (back > 0) && (order == 0) == (back == 0));
    cleanup_json json_t *value = json_parse(bytes, NULL);
    if (!value) return 0;
    event(value);
    if (json_is_array(value)) merge(value);
    json_t *inner = json_object_get(value, "events");
    if (json_is_array(inner)) merge(inner);
    return 0;
}
