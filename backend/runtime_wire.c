/* Requests to agenttier-runtime: one table says how each operation travels. What the answers
 * mean is in runtime_answer.c. */
#include "backend/runtime_wire.h"

#include "common/frames.h"
#include "common/json.h"
#include "common/text.h"

#define MAX_PATH_BYTES 4096
#define MAX_WAIT_MS    600000

static const struct wire_op ops[] = {
    [ACCESS_EXEC] = {"POST", "/exec/stream", WIRE_FRAMES, {101, 0}, 5000, false, false},
    [ACCESS_EXEC_ATTACH] = {"GET", "/exec/", WIRE_JSON, {200, 0}, 5000, false, false},
    [ACCESS_EXEC_KILL] = {"DELETE", "/exec/", WIRE_EMPTY, {204, 0}, 10000, false, false},
    [ACCESS_STAT] = {"GET", "/stat", WIRE_JSON, {200, 0}, 5000, false, false},
    [ACCESS_LIST] = {"GET", "/dir", WIRE_JSON, {200, 0}, 10000, false, false},
    [ACCESS_READ] = {"GET", "/files", WIRE_BYTES, {200, 206}, 5000, false, true},
    [ACCESS_WRITE] = {"PUT", "/files", WIRE_JSON, {201, 0}, 60000, true, false},
    [ACCESS_MKDIR] = {"POST", "/mkdir", WIRE_JSON, {201, 200}, 5000, false, false},
    [ACCESS_REMOVE] = {"DELETE", "/files", WIRE_EMPTY, {204, 0}, 120000, false, false},
    [ACCESS_ARCHIVE_READ] = {"GET", "/archive", WIRE_BYTES, {200, 0}, 10000, false, false},
    [ACCESS_ARCHIVE_WRITE] = {"PUT", "/archive", WIRE_JSON, {200, 0}, 60000, true, false},
    [ACCESS_DIAL] = {"POST", "/dial", WIRE_SOCKET, {101, 200}, 5000, false, true},
};

const struct wire_op *wire_op(enum access_op op) {
    return &ops[op];
}

bool wire_exec_id_valid(const char *id) {
    if (!id) return false;
    size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n >= 1 && n <= WIRE_EXEC_ID_MAX && id[n] == 0;
}

static bool bad_args(struct error *err, const char *what) {
    error_set(err, 400, ERR_BAD_REQUEST, "%s", what);
    return false;
}

static bool integer_arg(const json_t *args, const char *name, json_int_t min, json_int_t max, json_int_t *out,
                        struct error *err) {
    const json_t *v = json_object_get(args, name);
    if (!v || json_is_null(v)) return true;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        error_set_field(err, name, "must be an integer from %lld to %lld", (long long)min, (long long)max);
        return false;
    }
    *out = json_integer_value(v);
    return true;
}

/* ---- The target ---- */

static bool append_path(const json_t *args, struct buffer *out, struct error *err) {
    const char *path = json_string_value(json_object_get(args, "path"));
    if (!path || path[0] != '/' || strlen(path) > MAX_PATH_BYTES) {
        error_set(err, 400, "bad_path", "a path must be absolute and at most %d bytes long", MAX_PATH_BYTES);
        return false;
    }
    buffer_append_str(out, "?path=");
    percent_encode(slice_of(path), "/", out);
    return true;
}

static bool append_target(enum access_op op, const json_t *args, bool pass_fd, struct buffer *out,
                          struct error *err) {
    buffer_append_str(out, ops[op].path);
    json_int_t n = 0;
    switch (op) {
    case ACCESS_EXEC: return true;
    case ACCESS_EXEC_ATTACH:
    case ACCESS_EXEC_KILL: {
        const char *id = json_string_value(json_object_get(args, "id"));
        if (!wire_exec_id_valid(id)) return bad_args(err, "an exec id is 1 to 64 letters, digits, _ or -");
        buffer_append_str(out, id);
        if (op == ACCESS_EXEC_KILL) return true;
        if (!integer_arg(args, "wait", 0, MAX_WAIT_MS, &n, err)) return false;
        return buffer_printf(out, "?waitMs=%lld", (long long)n);
    }
    case ACCESS_DIAL:
        if (!integer_arg(args, "port", 1, 65535, &n, err)) return false;
        if (n == 0) return bad_args(err, "port is missing");
        buffer_printf(out, "?port=%lld", (long long)n);
        break;
    default:
        if (!append_path(args, out, err)) return false;
        if (op == ACCESS_ARCHIVE_READ || op == ACCESS_ARCHIVE_WRITE) {
            const char *within = json_string_value(json_object_get(args, "within"));
            if (within) {
                buffer_append_str(out, "&within=");
                percent_encode(slice_of(within), "/", out);
            }
        }
        if (op == ACCESS_REMOVE && json_is_true(json_object_get(args, "recursive")))
            buffer_append_str(out, "&recursive=true");
        break;
    }
    if (pass_fd) buffer_append_str(out, "&pass=fd");
    return true;
}

static bool append_range(const json_t *args, struct buffer *out, struct error *err) {
    json_int_t offset = 0, length = 0;
    if (!integer_arg(args, "offset", 0, INT64_MAX, &offset, err) ||
        !integer_arg(args, "length", 1, INT64_MAX, &length, err))
        return false;
    if (length > INT64_MAX - offset) return bad_args(err, "offset and length are out of range");
    if (length)
        return buffer_printf(out, "Range: bytes=%lld-%lld\r\n", (long long)offset,
                             (long long)(offset + length - 1));
    if (offset) return buffer_printf(out, "Range: bytes=%lld-\r\n", (long long)offset);
    return true;
}

/* ---- What describes a command ---- */

static bool strings_only(const json_t *array) {
    if (!json_is_array(array) || json_array_size(array) == 0) return false;
    for (size_t i = 0; i < json_array_size(array); i++)
        if (!json_is_string(json_array_get(array, i))) return false;
    return true;
}

static bool append_spec(const json_t *args, struct buffer *out, struct error *err) {
    static const char *const members[] = {"id",          "command", "env",    "workingDir", "timeoutMs",
                                          "outputLimit", "keep",    "digest", "stdin",      "attach"};
    if (!wire_exec_id_valid(json_string_value(json_object_get(args, "id"))))
        return bad_args(err, "an exec id is 1 to 64 letters, digits, _ or -");
    bool attach = json_is_true(json_object_get(args, "attach"));
    if (!attach && !strings_only(json_object_get(args, "command")))
        return bad_args(err, "command must be a non-empty array of strings");
    cleanup_json json_t *spec = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        json_t *v = json_object_get(args, members[i]);
        if (v && !json_is_null(v)) json_object_set(spec, members[i], v);
    }
    cleanup_free char *text = json_dumps(spec, JSON_COMPACT);
    size_t len = text ? strlen(text) : 0;
    if (len == 0 || len > WIRE_SPEC_MAX) {
        error_set(err, 413, "command_too_large", "the command and its environment exceed %u bytes",
                  WIRE_SPEC_MAX);
        return false;
    }
    for (size_t at = 0; at < len;) {
        size_t n = len - at < FRAME_MAX_PAYLOAD ? len - at : FRAME_MAX_PAYLOAD;
        char header[FRAME_HEADER_LEN];
        frame_put_header(header, at + n == len ? FRAME_START : FRAME_START_PART, (uint32_t)n);
        buffer_append(out, header, sizeof header);
        buffer_append(out, text + at, n);
        at += n;
    }
    return true;
}

void wire_put_host(const struct runtime_address *to, struct buffer *out) {
    if (to->unix_path[0])
        buffer_append_str(out, "Host: sandbox\r\n");
    else
        buffer_printf(out, strchr(to->host, ':') ? "Host: [%s]:%u\r\n" : "Host: %s:%u\r\n", to->host,
                      to->port);
    if (to->token[0]) buffer_printf(out, "Authorization: Bearer %s\r\n", to->token);
}

bool wire_request(enum access_op op, const json_t *args, const struct runtime_address *to, struct buffer *out,
                  struct error *err) {
    bool local = to->unix_path[0] != 0;
    buffer_printf(out, "%s ", ops[op].method);
    if (!append_target(op, args, local && ops[op].pass_fd, out, err)) return false;
    buffer_append_str(out, " HTTP/1.1\r\n");
    wire_put_host(to, out);
    if (op == ACCESS_EXEC)
        buffer_append_str(out, "Connection: Upgrade\r\nUpgrade: agenttier-exec/1\r\n");
    else if (op == ACCESS_DIAL && !local)
        buffer_append_str(out, "Connection: Upgrade\r\nUpgrade: agenttier-dial\r\n");
    else
        buffer_append_str(out, "Connection: close\r\n");
    if (op == ACCESS_READ && !append_range(args, out, err)) return false;
    if (ops[op].body) {
        json_int_t size = -1;
        if (!integer_arg(args, "size", 0, INT64_MAX, &size, err)) return false;
        if (size >= 0)
            buffer_printf(out, "Content-Length: %lld\r\n", (long long)size);
        else
            buffer_append_str(out, "Transfer-Encoding: chunked\r\n");
    } else if (strcmp(ops[op].method, "POST") == 0 && op != ACCESS_EXEC) {
        buffer_append_str(out, "Content-Length: 0\r\n");
    }
    buffer_append_str(out, "\r\n");
    return op != ACCESS_EXEC || append_spec(args, out, err);
}
