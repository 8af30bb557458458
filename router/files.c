/* /sandboxes/{id}/files, /stat and /mkdir (http-api.md 2.9; W-01, W-02, W-49, W-51, W-66, W-67).
 * Bytes flow through fixed buffers, or from the file's own descriptor by sendfile where the
 * sandbox is on this machine. */
#include "common/json.h"
#include "router/activity.h"
#include "router/handlers.h"
#include "router/http_range.h"
#include "router/relay.h"
#include "router/sandbox_path.h"

#include <inttypes.h>
#include <stdio.h>

#define DOWNLOAD_MAX (32ull << 20) /* bytes of one call */

struct file_call {
    struct request *r;
    struct access_stream *stream;
    json_t *args;
    char *path;
    struct relay relay; /* downloads */
    bool partial;       /* 206; its range is in args once the file was opened for it */
    bool ranged;        /* opened a second time, for the range */
    char etag[80];
    uint64_t first, length;
};

static void finish_stream(struct file_call *c) {
    c->relay.stream = NULL;
    access_close(steal_ptr(c->stream));
}

static void fail(struct file_call *c, const struct error *err) {
    if (reply_started(c->r))
        reply_stream_abort(c->r);
    else
        reply_error(c->r, err);
    finish_stream(c);
}

static void on_error(void *ctx, const struct error *err) {
    fail(ctx, err);
}

/* What cannot be read is not there for the client (http-api.md 2.9). */
static void on_read_error(void *ctx, const struct error *err) {
    static const char *const absent[] = {"file_not_found", "not_a_file", "not_a_directory",
                                         "permission_denied"};
    struct error told = *err;
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (strcmp(err->code, absent[i]) == 0) told.status = 404;
    fail(ctx, &told);
}

/* ---- The exchange ---- */

static void on_close(struct request *r, bool aborted) {
    (void)aborted;
    struct file_call *c = r->state;
    access_close(c->stream);
    relay_free(&c->relay);
    json_decref(c->args);
    free(c->path);
    free(c);
}

static void on_client_writable(struct request *r) {
    struct file_call *c = r->state;
    relay_writable(&c->relay);
}

static size_t on_body(struct request *r, const char *data, size_t len) {
    struct file_call *c = r->state;
    return c->stream ? access_write(c->stream, data, len) : len;
}

static void on_body_end(struct request *r) {
    struct file_call *c = r->state;
    if (c->stream) access_finish(c->stream);
}

static const struct stream_ops ops = {
    .on_body = on_body, .on_body_end = on_body_end, .on_writable = on_client_writable, .on_close = on_close};

/* A call on a path; NULL: it was answered. */
static struct file_call *call_new(struct request *r, const char *raw) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer path = {0};
    if (!sandbox_path_clean(raw, &path, &err)) {
        reply_error(r, &err);
        return NULL;
    }
    struct file_call *c = xcalloc(1, sizeof *c);
    c->r = r;
    c->relay.r = r;
    c->args = json_pack("{s:s}", "path", path.data);
    c->path = buffer_steal(&path, NULL);
    request_stream(r, &ops, c);
    router_touch(r);
    return c;
}

static void call_open(struct file_call *c, enum access_op op, const struct access_events *events) {
    cleanup_error struct error err = {0};
    c->stream = access_open(c->r->backend->access, c->r->uv, c->r->sandbox, op, c->args, events, c, &err);
    c->relay.stream = c->stream;
    if (!c->stream) fail(c, &err);
}

/* ---- Small operations: the sandbox's result is the answer ---- */

static void on_result(void *ctx, const json_t *result) {
    struct file_call *c = ctx;
    reply_json(c->r, 200, json_copy((json_t *)result));
    finish_stream(c);
}
static const struct access_events list_events = {.on_end = on_result, .on_error = on_read_error};
static const struct access_events stat_events = {.on_end = on_result, .on_error = on_error};

void files_list(struct request *r) {
    const char *path = request_query(r, "path");
    struct file_call *c = call_new(r, path && path[0] ? path : WORKSPACE);
    if (c) call_open(c, ACCESS_LIST, &list_events);
}

void files_stat(struct request *r) {
    const char *path = request_query(r, "path");
    if (!path || !path[0]) {
        cleanup_error struct error err = {0};
        error_set(&err, 400, "bad_path", "the query parameter path is missing");
        reply_error(r, &err);
        return;
    }
    struct file_call *c = call_new(r, path);
    if (c) call_open(c, ACCESS_STAT, &stat_events);
}

static void on_made(void *ctx, const json_t *result) {
    struct file_call *c = ctx;
    int status = json_is_true(json_object_get(result, "created")) ? 201 : 200;
    reply_json(c->r, status, json_copy((json_t *)result));
    finish_stream(c);
}
static const struct access_events mkdir_events = {.on_end = on_made, .on_error = on_error};

void files_mkdir(struct request *r) {
    cleanup_error struct error err = {0};
    const char *path = NULL;
    if (!json_get_string(r->body, "path", &path, &err) || !path || !path[0]) {
        if (!err.status) error_set_field(&err, "path", "is missing");
        reply_error(r, &err);
        return;
    }
    struct file_call *c = call_new(r, path);
    if (c) call_open(c, ACCESS_MKDIR, &mkdir_events);
}

static void on_removed(void *ctx, const json_t *result) {
    (void)result;
    struct file_call *c = ctx;
    reply_empty(c->r, 204);
    finish_stream(c);
}
static const struct access_events remove_events = {.on_end = on_removed, .on_error = on_error};

void files_remove(struct request *r) {
    const char *recursive = request_query(r, "recursive");
    bool yes = recursive && (strcmp(recursive, "true") == 0 || strcmp(recursive, "1") == 0);
    if (recursive && !yes && recursive[0] && strcmp(recursive, "false") != 0 && strcmp(recursive, "0") != 0) {
        cleanup_error struct error err = {0};
        error_set_field(&err, "recursive", "must be true or false");
        reply_error(r, &err);
        return;
    }
    struct file_call *c = call_new(r, request_param(r, "path"));
    if (!c) return;
    json_object_set_new(c->args, "recursive", json_boolean(yes));
    call_open(c, ACCESS_REMOVE, &remove_events);
}

/* ---- Upload: acknowledged when the sandbox has verified its size and moved it into place ---- */

static void on_room(void *ctx) {
    struct file_call *c = ctx;
    request_body_resume(c->r);
}

static void on_written(void *ctx, const json_t *result) {
    struct file_call *c = ctx;
    reply_header(c->r, "ETag", json_str_at(result, "etag"));
    reply_json(c->r, 201,
               json_pack("{s:s, s:O}", "path", c->path, "bytes", json_object_get(result, "bytes")));
    finish_stream(c);
}
static const struct access_events write_events = {
    .on_writable = on_room, .on_end = on_written, .on_error = on_error};

void files_write(struct request *r) {
    struct file_call *c = call_new(r, request_param(r, "path"));
    if (!c) return;
    if (r->body_length >= 0) json_object_set_new(c->args, "size", json_integer(r->body_length));
    call_open(c, ACCESS_WRITE, &write_events);
}

/* ---- Download ---- */

static void add_file_headers(struct file_call *c, const struct access_head *head) {
    cleanup_buffer struct buffer disposition = {0};
    buffer_append_str(&disposition, "attachment; filename=\"");
    sandbox_path_safe_name(sandbox_path_base(c->path), "file", &disposition);
    buffer_append_char(&disposition, '"');
    reply_header(c->r, "Content-Disposition", buffer_cstr(&disposition));
    char date[HTTP_DATE_MAX];
    http_date_format(head->modified_at, date);
    reply_header(c->r, "Last-Modified", date);
    reply_header(c->r, "ETag", head->etag);
    reply_header(c->r, "Accept-Ranges", "bytes");
    reply_header(c->r, "Cache-Control", "no-cache");
    if (c->partial) {
        char range[96];
        snprintf(range, sizeof range, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, c->first,
                 c->first + c->length - 1, head->size);
        reply_header(c->r, "Content-Range", range);
    }
}

/* What the conditions and the range of the request make of this file. False: answered. */
static bool choose_part(struct file_call *c, const struct access_head *head) {
    struct request *r = c->r;
    cleanup_error struct error err = {0};
    const char *match = request_header(r, "If-Match"), *none = request_header(r, "If-None-Match");
    const char *if_range = request_header(r, "If-Range"), *range = request_header(r, "Range");
    if (match && !etag_listed(match, head->etag, false)) {
        error_set(&err, 412, "precondition_failed", "the file has another ETag than If-Match names");
        reply_error(r, &err);
        return false;
    }
    if (none && etag_listed(none, head->etag, true)) {
        reply_header(r, "ETag", head->etag);
        reply_empty(r, 304);
        return false;
    }
    if (if_range && !etag_listed(if_range, head->etag, false)) range = NULL;
    enum range_result part = range_parse(range, head->size, &c->first, &c->length);
    if (part == RANGE_UNSATISFIABLE) {
        char size[64];
        snprintf(size, sizeof size, "bytes */%" PRIu64, head->size);
        reply_header(r, "Content-Range", size);
        error_set(&err, 416, "range_not_satisfiable", "the file has %" PRIu64 " bytes", head->size);
        reply_error(r, &err);
        return false;
    }
    c->partial = part == RANGE_PART;
    if (c->length > DOWNLOAD_MAX) {
        error_set(&err, 413, "file_too_large",
                  "%s %" PRIu64 " bytes; one call gives at most %llu: ask for parts with Range, or for the "
                  "directory with /archive",
                  c->partial ? "the range has" : "the file has", c->length, DOWNLOAD_MAX);
        reply_error(r, &err);
        return false;
    }
    return true;
}

static const struct access_events read_events;

static void on_head(void *ctx, const struct access_head *head) {
    struct file_call *c = ctx;
    if (c->ranged) { /* the second opening, for the range alone */
        if (strcmp(head->etag, c->etag) != 0 || head->offset != c->first || head->length != c->length) {
            cleanup_error struct error err = {0};
            error_set(&err, 409, "file_changed", "the file changed while it was read; try again");
            fail(c, &err);
            return;
        }
    } else if (!choose_part(c, head)) {
        finish_stream(c);
        return;
    }
    if (head->fd < 0 && (head->offset != c->first || head->length != c->length)) {
        finish_stream(c);
        memcpy(c->etag, head->etag, sizeof c->etag);
        c->ranged = true;
        json_object_set_new(c->args, "offset", json_integer((json_int_t)c->first));
        json_object_set_new(c->args, "length", json_integer((json_int_t)c->length));
        call_open(c, ACCESS_READ, &read_events);
        return;
    }
    int status = c->partial ? 206 : 200;
    add_file_headers(c, head);
    if (head->fd >= 0) {
        int fd = access_take_fd(c->stream);
        finish_stream(c);
        reply_fd(c->r, status, "application/octet-stream", fd, c->first, c->length);
        return;
    }
    reply_header(c->r, "Content-Type", "application/octet-stream");
    reply_stream_begin(c->r, status, (int64_t)c->length);
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    (void)channel;
    struct file_call *c = ctx;
    relay_data(&c->relay, data, len);
}

static void on_read_end(void *ctx, const json_t *result) {
    (void)result;
    struct file_call *c = ctx;
    finish_stream(c);
    relay_end(&c->relay);
}

static const struct access_events read_events = {
    .on_head = on_head, .on_data = on_data, .on_end = on_read_end, .on_error = on_read_error};

void files_read(struct request *r) {
    struct file_call *c = call_new(r, request_param(r, "path"));
    if (c) call_open(c, ACCESS_READ, &read_events);
}
