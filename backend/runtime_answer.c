/* What the answers of agenttier-runtime mean. The other end runs beside code that nobody
 * trusts, so every number and text is checked before it is passed on (lessons I6, S13, S27). */
#include "backend/runtime_wire.h"

#include "common/json.h"

#include <inttypes.h>

#define MAX_ENTRIES_NAME 4096

static bool bad_answer(struct error *err, const char *what) {
    error_set(err, 502, ERR_SANDBOX_BAD_ANSWER,
              "the sandbox's runtime gave an answer that makes no sense: %s", what);
    return false;
}

/* ---- Heads ---- */

static bool header_u64(const struct http1_head *head, const char *name, uint64_t max, uint64_t *out) {
    const struct http1_header *h = http1_find(head, name);
    return h && slice_parse_u64(h->value, max, out);
}

static bool header_octal(const struct http1_head *head, const char *name, unsigned *out) {
    const struct http1_header *h = http1_find(head, name);
    if (!h || h->value.len == 0 || h->value.len > 7) return false;
    unsigned n = 0;
    for (size_t i = 0; i < h->value.len; i++) {
        if (h->value.ptr[i] < '0' || h->value.ptr[i] > '7') return false;
        n = n << 3 | (unsigned)(h->value.ptr[i] - '0');
    }
    *out = n & 07777;
    return true;
}

static bool header_time(const struct http1_head *head, const char *name, int64_t *out) {
    const struct http1_header *h = http1_find(head, name);
    if (!h || h->value.len == 0) return false;
    bool negative = h->value.ptr[0] == '-';
    struct slice digits = {h->value.ptr + negative, h->value.len - negative};
    uint64_t n;
    if (!slice_parse_u64(digits, INT64_MAX, &n)) return false;
    *out = negative ? -(int64_t)n : (int64_t)n;
    return true;
}

/* A quoted, printable entity tag that fits. */
static bool header_etag(const struct http1_head *head, char out[80]) {
    const struct http1_header *h = http1_find(head, "ETag");
    if (!h || h->value.len < 3 || h->value.len >= 80) return false;
    struct slice v = h->value;
    if (v.ptr[0] != '"' || v.ptr[v.len - 1] != '"') return false;
    for (size_t i = 1; i + 1 < v.len; i++)
        if (v.ptr[i] < 0x21 || v.ptr[i] > 0x7e || v.ptr[i] == '"') return false;
    memcpy(out, v.ptr, v.len);
    out[v.len] = 0;
    return true;
}

/* "bytes FIRST-LAST/SIZE" */
static bool content_range(const struct http1_head *head, uint64_t *first, uint64_t *last, uint64_t *size) {
    const struct http1_header *h = http1_find(head, "Content-Range");
    if (!h || !slice_starts_with(h->value, "bytes ")) return false;
    struct slice v = {h->value.ptr + 6, h->value.len - 6};
    const char *dash = memchr(v.ptr, '-', v.len), *slash = memchr(v.ptr, '/', v.len);
    if (!dash || !slash || slash < dash) return false;
    return slice_parse_u64(slice_make(v.ptr, (size_t)(dash - v.ptr)), INT64_MAX, first) &&
           slice_parse_u64(slice_make(dash + 1, (size_t)(slash - dash - 1)), INT64_MAX, last) &&
           slice_parse_u64(slice_make(slash + 1, (size_t)(v.ptr + v.len - slash - 1)), INT64_MAX, size);
}

static bool read_file_head(const struct http1_head *head, bool with_fd, struct access_head *file,
                           struct error *err) {
    *file = (struct access_head){.fd = -1};
    if (!header_u64(head, "X-File-Size", INT64_MAX, &file->size) ||
        !header_octal(head, "X-File-Mode", &file->mode) ||
        !header_time(head, "X-File-Mtime", &file->modified_at) || !header_etag(head, file->etag))
        return bad_answer(err, "a file without its size, mode, time or tag");
    if (head->framing == HTTP1_BODY_CHUNKED || head->framing == HTTP1_BODY_UNTIL_CLOSE)
        return bad_answer(err, "a file without a length");
    uint64_t body = head->framing == HTTP1_BODY_LENGTH ? head->content_length : 0;
    if (with_fd) {
        if (body != 0 || !header_u64(head, "X-File-Offset", INT64_MAX, &file->offset) ||
            !header_u64(head, "X-File-Length", INT64_MAX, &file->length))
            return bad_answer(err, "a file's descriptor without its offset and length");
    } else {
        file->length = body;
        if (head->status == 206) {
            uint64_t last, size;
            if (!content_range(head, &file->offset, &last, &size) || last < file->offset ||
                last - file->offset + 1 != body || size != file->size)
                return bad_answer(err, "a part of a file whose range does not fit its length");
        } else if (body != file->size) {
            return bad_answer(err, "a file whose size does not fit its length");
        }
    }
    if (file->offset > file->size || file->length > file->size - file->offset)
        return bad_answer(err, "a range outside of its file");
    return true;
}

bool wire_answer(enum access_op op, bool with_fd, const struct http1_head *head, struct wire_answer *out,
                 struct error *err) {
    const struct wire_op *row = wire_op(op);
    *out =
        (struct wire_answer){.next = row->success,
                             .status = head->status,
                             .framing = head->framing,
                             .content_length = head->framing == HTTP1_BODY_LENGTH ? head->content_length : 0,
                             .file = {.fd = -1}};
    if (head->status != row->status[0] && (row->status[1] == 0 || head->status != row->status[1])) {
        out->next = WIRE_ERROR;
        return head->status >= 400 && head->status <= 599
                   ? true
                   : bad_answer(err, "a status that its request cannot have");
    }
    switch (op) {
    case ACCESS_READ:
        if (with_fd) out->next = WIRE_FILE;
        return read_file_head(head, with_fd, &out->file, err);
    case ACCESS_EXEC:
    case ACCESS_DIAL: {
        if (with_fd != (head->status == 200))
            return bad_answer(err, "a stream of another kind than asked for");
        if (with_fd) return true;
        const struct http1_header *upgrade = http1_find(head, "Upgrade");
        const char *wanted = op == ACCESS_EXEC ? "agenttier-exec/1" : "agenttier-dial";
        if (!upgrade || !slice_equal_nocase(upgrade->value, wanted))
            return bad_answer(err, "an upgrade to another protocol than asked for");
        return true;
    }
    case ACCESS_ARCHIVE_READ:
        /* Only these two framings tell a whole archive from one that was cut. */
        if (head->framing != HTTP1_BODY_CHUNKED && head->framing != HTTP1_BODY_LENGTH)
            return bad_answer(err, "an archive whose end cannot be told from a cut");
        return true;
    default: return true;
    }
}

/* ---- Refusals ---- */

struct reason {
    const char *code;
    int status[2];
};
static const struct reason reasons[] = {
    {"file_not_found", {404, 0}},    {"bad_path", {400, 0}},          {"not_a_file", {400, 0}},
    {"not_a_directory", {400, 409}}, {"permission_denied", {403, 0}}, {"directory_not_empty", {409, 0}},
    {"disk_full", {507, 0}},         {"exec_id_reused", {409, 0}},    {"range_not_satisfiable", {416, 0}},
    {"exec_not_found", {404, 0}},    {"too_many_execs", {429, 0}},    {"port_closed", {502, 0}},
    {"bad_archive", {400, 0}},       {"archive_too_large", {413, 0}}, {"bad_request", {400, 0}},
    {"already_exists", {409, 0}},    {"unavailable", {503, 0}},       {"file_changed", {409, 0}},
    {"exec_elsewhere", {409, 0}},
};

/* Text of a stranger for a message: no controls, bounded. */
static void plain_text(const char *in, char *out, size_t cap) {
    size_t n = 0;
    for (; *in && n + 1 < cap; in++)
        out[n++] = (unsigned char)*in < 0x20 || *in == 0x7f ? ' ' : *in;
    while (n && ((unsigned char)out[n - 1] & 0xc0) == 0x80 && *in)
        n--; /* a character that was cut */
    if (n && (unsigned char)out[n - 1] >= 0xc0 && *in) n--;
    out[n] = 0;
}

void wire_error(int status, struct slice body, struct error *err) {
    cleanup_json json_t *json = json_parse_object(body, NULL);
    const char *reason = json_string_value(json_object_get(json, "reason"));
    const char *text = json_string_value(json_object_get(json, "error"));
    char message[384] = "";
    plain_text(text ? text : "", message, sizeof message);
    for (size_t i = 0; reason && i < sizeof reasons / sizeof *reasons; i++) {
        const struct reason *r = &reasons[i];
        if (strcmp(r->code, reason) != 0) continue;
        int as = status == r->status[1] ? r->status[1] : r->status[0];
        error_set(err, as, r->code, "%s", message[0] ? message : r->code);
        if (as == 429 && err) err->retry_after = 1;
        return;
    }
    if (status == 401 || status == 403)
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE,
                  "the sandbox's runtime does not accept the Router's token");
    else if (status >= 500 && status <= 599 && json)
        error_set(err, 502, "sandbox_error", "the sandbox's runtime failed: %s", message);
    else
        error_set(err, 502, ERR_SANDBOX_BAD_ANSWER,
                  "the sandbox's runtime refused the request with status %d%s%s", status,
                  message[0] ? ": " : "", message);
}

/* ---- Results ---- */

static bool copy_integer(json_t *to, const json_t *from, const char *name, json_int_t min, json_int_t max) {
    json_t *v = json_object_get(from, name);
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) return false;
    json_object_set(to, name, v);
    return true;
}

static bool copy_bool(json_t *to, const json_t *from, const char *name) {
    json_t *v = json_object_get(from, name);
    if (!json_is_boolean(v)) return false;
    json_object_set(to, name, v);
    return true;
}

static bool copy_string(json_t *to, const json_t *from, const char *name, size_t max) {
    json_t *v = json_object_get(from, name);
    if (!json_is_string(v) || json_string_length(v) > max) return false;
    json_object_set(to, name, v);
    return true;
}

/* Ten characters as of ls, possibly one more ("+", "."). */
static bool mode_valid(const char *mode) {
    size_t n = strlen(mode);
    return (n == 10 || n == 11) && strspn(mode, "-dlbcpswrxtSTDM?+.@") == n;
}

static json_t *take_entry(const json_t *from, bool listed) {
    cleanup_json json_t *to = json_object();
    if (!copy_string(to, from, "name", MAX_ENTRIES_NAME) || !copy_integer(to, from, "size", 0, INT64_MAX) ||
        !copy_bool(to, from, "isDir") || !copy_string(to, from, "mode", 16) ||
        !copy_integer(to, from, "modifiedAt", INT64_MIN, INT64_MAX))
        return NULL;
    const char *name = json_string_value(json_object_get(to, "name"));
    if (!mode_valid(json_string_value(json_object_get(to, "mode")))) return NULL;
    if (listed && (name[0] == 0 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0))
        return NULL;
    json_t *target = json_object_get(from, "linkTarget");
    if (target && !json_is_null(target) && !copy_string(to, from, "linkTarget", MAX_ENTRIES_NAME * 3))
        return NULL;
    if (!listed) {
        static const char *const types[] = {"file", "dir", "symlink", "other"};
        const char *type = json_string_value(json_object_get(from, "type"));
        bool known = false;
        for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
            known = known || strcmp(type, types[i]) == 0;
        if (!known || !copy_string(to, from, "type", 16) || !copy_string(to, from, "path", 3 * 4096))
            return NULL;
    }
    return steal_ptr(to);
}

static json_t *take_list(const json_t *from) {
    cleanup_json json_t *to = json_object();
    json_t *entries = json_object_get(from, "entries");
    if (!copy_string(to, from, "path", 3 * 4096) || !json_is_array(entries)) return NULL;
    json_t *out = json_array();
    json_object_set_new(to, "entries", out);
    for (size_t i = 0; i < json_array_size(entries); i++) {
        json_t *entry = take_entry(json_array_get(entries, i), true);
        if (!entry) return NULL;
        json_array_append_new(out, entry);
    }
    return steal_ptr(to);
}

static json_t *take_outcome(const json_t *from, const char *id) {
    cleanup_json json_t *to = json_object();
    const char *got = json_string_value(json_object_get(from, "id"));
    if (!got || strcmp(got, id) != 0) return NULL;
    if (!copy_string(to, from, "id", WIRE_EXEC_ID_MAX) || !copy_integer(to, from, "exitCode", -1, 255) ||
        !copy_bool(to, from, "timedOut") || !copy_bool(to, from, "killed") ||
        !copy_integer(to, from, "durationMs", 0, INT64_MAX))
        return NULL;
    json_t *signal = json_object_get(from, "signal");
    if (!signal || json_is_null(signal))
        json_object_set_new(to, "signal", json_integer(0));
    else if (!copy_integer(to, from, "signal", 0, 128))
        return NULL;
    json_t *truncated = json_object(), *flags = json_object_get(from, "truncated");
    json_object_set_new(to, "truncated", truncated);
    if (!copy_bool(truncated, flags, "stdout") || !copy_bool(truncated, flags, "stderr")) return NULL;
    json_t *start_error = json_object_get(from, "startError");
    if (start_error && !json_is_null(start_error) && !copy_string(to, from, "startError", 4096)) return NULL;
    return steal_ptr(to);
}

static json_t *take_written(const json_t *from, const json_t *args) {
    cleanup_json json_t *to = json_object();
    if (!copy_string(to, from, "path", 3 * 4096) || !copy_integer(to, from, "bytes", 0, INT64_MAX) ||
        !copy_string(to, from, "etag", 79) || !copy_bool(to, from, "created"))
        return NULL;
    json_t *size = json_object_get(args, "size");
    if (json_is_integer(size) && json_integer_value(size) != json_integer_value(json_object_get(to, "bytes")))
        return NULL;
    return steal_ptr(to);
}

static json_t *take_made(const json_t *from) {
    cleanup_json json_t *to = json_object();
    if (!copy_string(to, from, "path", 3 * 4096) || !copy_bool(to, from, "created")) return NULL;
    return steal_ptr(to);
}

static json_t *take_unpacked(const json_t *from) {
    cleanup_json json_t *to = json_object();
    if (!copy_string(to, from, "path", 3 * 4096) || !copy_integer(to, from, "bytes", 0, INT64_MAX) ||
        !copy_integer(to, from, "entries", 0, INT64_MAX))
        return NULL;
    return steal_ptr(to);
}

static json_t *take_attached(const json_t *from, const json_t *args) {
    const char *id = json_string_value(json_object_get(args, "id"));
    const char *got = json_string_value(json_object_get(from, "id"));
    if (!json_is_true(json_object_get(from, "running"))) return take_outcome(from, id);
    return got && strcmp(got, id) == 0 ? json_pack("{s:s, s:b}", "id", id, "running", 1) : NULL;
}

json_t *wire_result(enum access_op op, const json_t *args, struct slice body, struct error *err) {
    cleanup_json json_t *from = json_parse_object(body, NULL);
    json_t *to = NULL;
    switch (from ? (int)op : -1) {
    case ACCESS_EXEC_ATTACH: to = take_attached(from, args); break;
    case ACCESS_STAT: to = take_entry(from, false); break;
    case ACCESS_LIST: to = take_list(from); break;
    case ACCESS_WRITE: to = take_written(from, args); break;
    case ACCESS_MKDIR: to = take_made(from); break;
    case ACCESS_ARCHIVE_WRITE: to = take_unpacked(from); break;
    default: break;
    }
    if (!to) bad_answer(err, "a result of another shape than its operation has");
    return to;
}

json_t *wire_outcome(struct slice payload, const char *id, struct error *err) {
    cleanup_json json_t *from = json_parse_object(payload, NULL);
    json_t *to = from ? take_outcome(from, id) : NULL;
    if (!to) bad_answer(err, "an outcome of another shape than a command has");
    return to;
}
