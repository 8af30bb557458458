/* JSON from strangers: what is accepted can be printed, read back as the same value, and
 * used as a merge-patch; what is refused has an error that can be shown. */
#include "common/json.h"
#include "common/text.h"
#include "tests/fuzz/fuzz.h"

static size_t depth(const json_t *value) {
    size_t deepest = 0;
    size_t i;
    const char *name;
    json_t *below;
    if (json_is_array(value)) {
        json_array_foreach(value, i, below) {
            size_t n = depth(below);
            if (n > deepest) deepest = n;
        }
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, name, below) {
            size_t n = depth(below);
            if (n > deepest) deepest = n;
        }
    } else {
        return 0;
    }
    return deepest + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice text = slice_make((const char *)data, size);
    cleanup_error struct error err = {0};
    cleanup_json json_t *value = json_parse(text, &err);
    cleanup_json json_t *any = json_string_repaired(text);
    MUST(utf8_valid(slice_make(json_string_value(any), json_string_length(any))));
    if (!value) {
        MUST(err.status == 400 && err.message[0] && utf8_valid(slice_of(err.message)));
        return 0;
    }
    MUST(depth(value) <= JSON_MAX_DEPTH);
    size_t len;
    cleanup_free char *line = json_dump_line(value, &len);
    MUST(line && len > 0 && line[len - 1] == '\n' && strlen(line) == len &&
         utf8_valid(slice_make(line, len)));
    cleanup_json json_t *again = json_parse(slice_make(line, len), &err);
    MUST(again && json_equal(value, again));
    cleanup_json json_t *merged = json_merge_patch(value, value);
    cleanup_json json_t *twice = json_merge_patch(merged, value);
    MUST(merged && twice && json_equal(value, again));
    /* Patching with the same patch again changes nothing. */
    MUST(json_equal(merged, twice));
    json_str_at(value, "a.b");
    return 0;
}
