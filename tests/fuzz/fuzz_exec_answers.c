/* What a sandbox may answer to the scripts of pods/exec, and to the reference's POST /exec. The first byte
 * chooses. */
#include "common/json.h"
#include "k8s/exec_answers.h"
#include "k8s/exec_marks.h"
#include "k8s/reference_exec.h"
#include "k8s/runtime_probe.h"
#include "tests/fuzz/fuzz.h"

static void check_error(const struct error *err) {
    MUST(err->status >= 400 && err->status <= 599 && err->code && err->message[0]);
}

static void try_entries(struct slice in, bool listed) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *r = exec_entries(in, "/d", listed, &err);
    if (!r) {
        check_error(&err);
        return;
    }
    json_t *entries = json_object_get(r, "entries");
    MUST(!listed || json_is_array(entries));
    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *e = json_array_get(entries, i);
        const char *name = json_str_at(e, "name");
        MUST(name[0] && !strchr(name, '/') && strlen(json_str_at(e, "mode")) == 10);
        MUST(json_is_integer(json_object_get(e, "size")) &&
             json_integer_value(json_object_get(e, "size")) >= 0);
    }
}

static void try_marks(struct slice in, bool head, size_t piece) {
    struct exec_marks m;
    cleanup_buffer struct buffer out = {0};
    exec_marks_init(&m, "0123456789abcdef0123456789abcdef", head);
    bool ok = true;
    for (size_t i = 0; ok && i < in.len; i += piece)
        ok = exec_marks_feed(&m, slice_make(in.ptr + i, in.len - i < piece ? in.len - i : piece), &out);
    MUST(m.held.len <= EXEC_MARK_MAX + 64 + piece);
    exec_marks_flush(&m, &out);
    MUST(out.len <= in.len);
    if (m.ended) {
        struct exec_ended ended;
        if (exec_ended(m.tail, &ended)) MUST(ended.code >= 0 && ended.code <= 255 && ended.ms >= -1);
    } else if (ok && !head) {
        MUST(out.len == in.len && (in.len == 0 || memcmp(out.data, in.ptr, in.len) == 0));
    }
    exec_marks_free(&m);
}

static void try_lines(struct slice in) {
    cleanup_free char *text = slice_dup(in);
    struct access_head head;
    cleanup_error struct error a = {0}, b = {0};
    if (exec_file(text, &head)) MUST(head.fd == -1 && head.mode <= 07777 && head.etag[0] == '"');
    exec_refusal(text, "/p", &a);
    check_error(&a);
    exec_complaint(in, 1, "/p", &b);
    check_error(&b);
    unsigned features;
    runtime_features(in, &features);
}

static void try_reference(struct slice in) {
    cleanup_error struct error err = {0};
    json_t *result = NULL, *texts[2] = {0};
    if (reference_exec_answer(200, in, "e1", &result, texts, &err)) {
        json_int_t code = json_integer_value(json_object_get(result, "exitCode"));
        MUST(code >= -1 && code <= 255 && json_is_string(texts[0]) && json_is_string(texts[1]));
    } else {
        check_error(&err);
    }
    json_decref(result);
    json_decref(texts[0]);
    json_decref(texts[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct slice in = {(const char *)data + 1, size - 1};
    switch (data[0] % 6) {
    case 0: try_entries(in, true); break;
    case 1: try_entries(in, false); break;
    case 2: try_marks(in, true, 1 + data[0] / 6u); break;
    case 3: try_marks(in, false, 1 + data[0] / 6u); break;
    case 4: try_lines(in); break;
    default: try_reference(in); break;
    }
    return 0;
}
