/* GET /sandboxes/{id}/archive: a directory as zip, tar or tar.gz (http-api.md 2.9; W-14, W-15, W-52,
 * O1). The sandbox sends a tar; a tar passes as it is, the others are made from it in pieces on
 * the worker pool, so that neither the loop nor the memory notices how large it is. What ends before
 * its end cuts the connection: a client never takes a part for the whole. */
#include "common/log.h"
#include "router/activity.h"
#include "router/archive_args.h"
#include "router/handlers.h"
#include "router/relay.h"
#include "router/sandbox_path.h"

#define INPUT_MAX 262144 /* tar bytes that wait for the worker */

struct archive_call {
    struct request *r;
    struct access_stream *stream;
    char *path;
    enum archive_format format;
    uint64_t sent;
    bool begun, closed;
    struct relay relay; /* tar */
    /* zip, tar.gz; these, `batch` and `out` are the worker's while it works */
    struct archive_pack *pack;
    struct buffer input, batch, out;
    uv_work_t work;
    bool working, input_ended, last_batch, packed, paused;
    bool work_ok;
    struct error work_error;
};

static void begin(struct archive_call *c) {
    if (c->begun) return;
    c->begun = true;
    cleanup_buffer struct buffer disposition = {0};
    buffer_append_str(&disposition, "attachment; filename=\"");
    sandbox_path_safe_name(c->r->sandbox->name, "sandbox", &disposition);
    buffer_append_char(&disposition, '-');
    sandbox_path_safe_name(sandbox_path_base(c->path), "file", &disposition);
    buffer_append_str(&disposition, archive_extension(c->format));
    buffer_append_char(&disposition, '"');
    reply_header(c->r, "Content-Type", archive_content_type(c->format));
    reply_header(c->r, "Content-Disposition", buffer_cstr(&disposition));
    reply_header(c->r, "Cache-Control", "no-store");
    reply_stream_begin(c->r, 200, -1);
}

static void fail(struct archive_call *c, const struct error *err) {
    c->relay.stream = NULL;
    access_close(steal_ptr(c->stream));
    if (!c->begun) {
        reply_error(c->r, err);
        return;
    }
    log_warn("an archive was cut", "sandbox", c->r->sandbox->name, "path", c->path, "error", err->message,
             "request_id", c->r->request_id, NULL);
    reply_stream_abort(c->r);
}

/* False: it was too much, and the call has failed. */
static bool count_sent(struct archive_call *c, size_t len) {
    c->sent += len;
    if (c->sent <= ARCHIVE_MAX_BYTES) return true;
    cleanup_error struct error err = {0};
    error_set(&err, 413, "archive_too_large", "the archive is larger than %llu GiB", ARCHIVE_MAX_BYTES >> 30);
    fail(c, &err);
    return false;
}

static void call_free(struct archive_call *c) {
    archive_pack_free(c->pack);
    buffer_free(&c->input);
    buffer_free(&c->batch);
    buffer_free(&c->out);
    relay_free(&c->relay);
    error_clear(&c->work_error);
    free(c->path);
    free(c);
}

/* ---- Packing ---- */

static void pack_batch(uv_work_t *work) {
    struct archive_call *c = work->data;
    c->work_ok = archive_pack_feed(c->pack, buffer_slice(&c->batch), &c->out, &c->work_error) &&
                 (!c->last_batch || archive_pack_finish(c->pack, &c->out, &c->work_error));
}

static void pump(struct archive_call *c);

static void batch_packed(uv_work_t *work, int status) {
    (void)status;
    struct archive_call *c = work->data;
    c->working = false;
    if (c->closed) {
        call_free(c);
        return;
    }
    if (!c->work_ok) {
        fail(c, &c->work_error);
        return;
    }
    c->packed = c->last_batch;
    if (count_sent(c, c->out.len)) pump(c);
}

static void pump(struct archive_call *c) {
    if (c->working || c->closed) return;
    if (c->out.len) {
        buffer_consume(&c->out, reply_stream_write(c->r, c->out.data, c->out.len));
        if (c->out.len) return;
    }
    if (c->packed) {
        reply_stream_end(c->r);
        return;
    }
    if (c->input.len || c->input_ended) {
        struct buffer empty = c->batch;
        buffer_clear(&empty);
        c->batch = c->input;
        c->input = empty;
        c->last_batch = c->input_ended;
        c->working = true;
        c->work.data = c;
        uv_queue_work(c->r->uv, &c->work, pack_batch, batch_packed);
    }
    if (c->paused && c->stream) {
        c->paused = false;
        access_resume(c->stream);
    }
}

/* ---- Events of the sandbox ---- */

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    (void)channel;
    struct archive_call *c = ctx;
    begin(c);
    if (c->format == ARCHIVE_TAR) {
        if (count_sent(c, len)) relay_data(&c->relay, data, len);
        return;
    }
    buffer_append(&c->input, data, len);
    if (c->input.len >= INPUT_MAX - 65536) {
        c->paused = true;
        access_pause(c->stream);
    }
    pump(c);
}

static void on_end(void *ctx, const json_t *result) {
    (void)result;
    struct archive_call *c = ctx;
    access_close(steal_ptr(c->stream));
    begin(c);
    c->input_ended = true;
    if (c->format == ARCHIVE_TAR)
        relay_end(&c->relay);
    else
        pump(c);
}

static void on_error(void *ctx, const struct error *err) {
    static const char *const absent[] = {"file_not_found", "not_a_directory", "permission_denied"};
    struct error told = *err;
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (strcmp(err->code, absent[i]) == 0) told.status = 404;
    fail(ctx, &told);
}

static const struct access_events events = {.on_data = on_data, .on_end = on_end, .on_error = on_error};

/* ---- The exchange ---- */

static void open_sandbox(struct archive_call *c) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *args = json_pack("{s:s, s:s}", "path", c->path, "within", WORKSPACE);
    struct request *r = c->r;
    c->stream =
        access_open(r->backend->access, r->uv, r->sandbox, ACCESS_ARCHIVE_READ, args, &events, c, &err);
    c->relay.stream = c->stream;
    if (!c->stream) fail(c, &err);
}

/* The first of all opens libarchive and the libraries that it brings, from the disk: never on the loop. */
static void make_pack(uv_work_t *work) {
    struct archive_call *c = work->data;
    c->pack = archive_pack_new(c->format, &c->work_error);
}

static void pack_made(uv_work_t *work, int status) {
    (void)status;
    struct archive_call *c = work->data;
    c->working = false;
    if (c->closed)
        call_free(c);
    else if (!c->pack)
        fail(c, &c->work_error);
    else
        open_sandbox(c);
}

static void on_client_writable(struct request *r) {
    struct archive_call *c = r->state;
    if (c->format == ARCHIVE_TAR)
        relay_writable(&c->relay);
    else
        pump(c);
}

static void on_close(struct request *r, bool aborted) {
    (void)aborted;
    struct archive_call *c = r->state;
    access_close(steal_ptr(c->stream));
    c->closed = true;
    if (!c->working) call_free(c);
}

static const struct stream_ops ops = {.on_writable = on_client_writable, .on_close = on_close};

void archive_read(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer path = {0};
    enum archive_format format = ARCHIVE_ZIP;
    bool given;
    if (!archive_path(r, &path, &err) || !archive_format_query(r, &format, &given, &err)) {
        reply_error(r, &err);
        return;
    }
    router_touch(r);
    struct archive_call *c = xcalloc(1, sizeof *c);
    c->r = c->relay.r = r;
    c->format = format;
    c->path = buffer_steal(&path, NULL);
    request_stream(r, &ops, c);
    if (format == ARCHIVE_TAR) {
        open_sandbox(c);
        return;
    }
    c->working = true;
    c->work.data = c;
    uv_queue_work(r->uv, &c->work, make_pack, pack_made);
}
