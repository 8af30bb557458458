/* What a hostile runtime may answer: a head, a JSON body, frames. Whatever is taken from it keeps
 * the promises of backend/access.h. The first byte chooses the operation. */
#include "backend/runtime_wire.h"
#include "common/frames.h"
#include "common/json.h"
#include "tests/fuzz/fuzz.h"

static void check_error(const struct error *err) {
    MUST(err->status >= 400 && err->status <= 599 && err->code && err->message[0]);
    MUST(err->status != 401);
}

static void check_file(const struct access_head *f) {
    MUST(f->fd == -1 && f->offset <= f->size && f->length <= f->size - f->offset && f->mode <= 07777);
    size_t n = strlen(f->etag);
    MUST(n >= 3 && f->etag[0] == '"' && f->etag[n - 1] == '"');
}

static void check_outcome(const json_t *o) {
    MUST(json_is_integer(json_object_get(o, "exitCode")) && json_is_integer(json_object_get(o, "signal")));
    json_int_t code = json_integer_value(json_object_get(o, "exitCode"));
    MUST(code >= -1 && code <= 255);
    MUST(strcmp(json_string_value(json_object_get(o, "id")), "e1") == 0);
    MUST(json_is_boolean(json_object_get(json_object_get(o, "truncated"), "stdout")));
}

static void try_bodies(enum access_op op, int status, struct slice body) {
    cleanup_json json_t *args = json_pack("{s:s, s:s}", "id", "e1", "path", "/a");
    cleanup_error struct error refused = {0}, bad = {0}, lost = {0};
    wire_error(status, body, &refused);
    check_error(&refused);
    cleanup_json json_t *result = wire_result(op, args, body, &bad);
    if (!result) check_error(&bad);
    if (result && op == ACCESS_EXEC_ATTACH && !json_object_get(result, "running")) check_outcome(result);
    if (result && op == ACCESS_LIST) {
        json_t *entries = json_object_get(result, "entries");
        MUST(json_is_array(entries));
        for (size_t i = 0; i < json_array_size(entries); i++) {
            const char *name = json_string_value(json_object_get(json_array_get(entries, i), "name"));
            MUST(name && name[0] && !strchr(name, '/'));
        }
    }
    cleanup_json json_t *outcome = wire_outcome(body, "e1", &lost);
    if (outcome)
        check_outcome(outcome);
    else
        check_error(&lost);
}

static void try_frames(struct slice in) {
    struct frame_header h;
    while (frame_get_header(in, &h) == 1 && in.len - FRAME_HEADER_LEN >= h.len) {
        MUST(h.len <= FRAME_MAX_PAYLOAD);
        char again[FRAME_HEADER_LEN];
        frame_put_header(again, h.type, h.len);
        MUST(memcmp(again, in.ptr, sizeof again) == 0);
        struct slice payload = {in.ptr + FRAME_HEADER_LEN, h.len};
        if (h.type == FRAME_OUTCOME || h.type == FRAME_ERROR) try_bodies(ACCESS_EXEC_ATTACH, 500, payload);
        in = slice_make(payload.ptr + h.len, in.len - FRAME_HEADER_LEN - h.len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    enum access_op op = (enum access_op)((data[0] & 0x7f) % (ACCESS_DIAL + 1));
    const struct wire_op *row = wire_op(op);
    bool with_fd = row->pass_fd && data[0] & 0x80;
    struct slice in = {(const char *)data + 1, size - 1};
    static struct http1_head head;
    cleanup_error struct error err = {0};
    ssize_t len = http1_parse_response(in, row->method, &head, NULL);
    if (len <= 0) {
        try_frames(in);
        return 0;
    }
    struct wire_answer answer;
    struct slice rest = {in.ptr + len, in.len - (size_t)len};
    if (!wire_answer(op, with_fd, &head, &answer, &err)) {
        check_error(&err);
        MUST(strcmp(err.code, ERR_SANDBOX_BAD_ANSWER) == 0);
        return 0;
    }
    MUST(answer.next == WIRE_ERROR || head.status == row->status[0] || head.status == row->status[1]);
    if (op == ACCESS_READ && answer.next != WIRE_ERROR) check_file(&answer.file);
    try_bodies(op, head.status, rest);
    if (answer.next == WIRE_FRAMES) try_frames(rest);
    return 0;
}
