/* PUT /sandboxes/{id}/archive: unpacks a tar, tar.gz or zip into a directory. A tar passes to the
 * sandbox as it comes. What is compressed is first kept in an unnamed file: only the end
 * of a zip says what it holds (modes, symlinks), and a reader that can seek never has to wait for
 * the client. It is then turned into tar in pieces on the worker pool (lesson S13). */
#include "router/activity.h"
#include "router/archive_args.h"
#include "router/archive_unpack.h"
#include "router/handlers.h"
#include "router/sandbox_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define SPOOL_MAX     (2ull << 30) /* bytes of a compressed archive */
#define SPOOL_CHUNK   65536
#define MAX_DIRECTORY (2 * ARCHIVE_MAX_ENTRIES) /* marks of zip directory entries: see count_marks */

struct upload {
    struct request *r;
    struct access_stream *stream;
    json_t *args;
    enum archive_format format;
    bool decided, body_ended, closed, busy; /* busy: a write or a piece is under way elsewhere */
    struct tar_guard *guard;                /* tar */
    int spool;
    uint64_t spooled, marks;
    char last[3]; /* bytes before the next piece, for count_marks */
    char *chunk;
    size_t chunk_len;
    uv_fs_t write;
    uv_work_t work;
    struct archive_unpack *unpack;
    struct buffer out; /* the worker's while busy */
    size_t out_sent;
    int more; /* result of the last piece */
    struct error work_error;
};

static void upload_free(struct upload *u) {
    archive_unpack_free(u->unpack);
    tar_guard_free(u->guard);
    if (u->spool >= 0) close(u->spool);
    buffer_free(&u->out);
    error_clear(&u->work_error);
    json_decref(u->args);
    free(u->chunk);
    free(u);
}

static void fail(struct upload *u, const struct error *err) {
    reply_error(u->r, err);
    access_close(steal_ptr(u->stream));
}

/* ---- The sandbox's side ---- */

static void feed_sandbox(struct upload *u);

static void on_room(void *ctx) {
    struct upload *u = ctx;
    if (u->format == ARCHIVE_TAR)
        request_body_resume(u->r);
    else
        feed_sandbox(u);
}

static void on_unpacked(void *ctx, const json_t *result) {
    struct upload *u = ctx;
    reply_json(u->r, 200, json_copy((json_t *)result));
    access_close(steal_ptr(u->stream));
}

static void on_error(void *ctx, const struct error *err) {
    fail(ctx, err);
}

static const struct access_events events = {
    .on_writable = on_room, .on_end = on_unpacked, .on_error = on_error};

static bool open_sandbox(struct upload *u) {
    cleanup_error struct error err = {0};
    struct request *r = u->r;
    u->stream =
        access_open(r->backend->access, r->uv, r->sandbox, ACCESS_ARCHIVE_WRITE, u->args, &events, u, &err);
    if (!u->stream) fail(u, &err);
    return u->stream != NULL;
}

/* ---- From the file to the sandbox ---- */

static void make_piece(uv_work_t *work) {
    struct upload *u = work->data;
    if (!u->unpack) u->unpack = archive_unpack_new(u->format, u->spool, &u->work_error);
    u->more = u->unpack ? archive_unpack_more(u->unpack, &u->out, &u->work_error) : -1;
}

static void piece_made(uv_work_t *work, int status) {
    (void)status;
    struct upload *u = work->data;
    u->busy = false;
    if (u->closed) {
        upload_free(u);
    } else if (u->more < 0) {
        fail(u, &u->work_error);
    } else if (u->stream || open_sandbox(u)) {
        feed_sandbox(u);
    }
}

static void next_piece(struct upload *u) {
    buffer_clear(&u->out);
    u->out_sent = 0;
    u->busy = true;
    u->work.data = u;
    uv_queue_work(u->r->uv, &u->work, make_piece, piece_made);
}

static void feed_sandbox(struct upload *u) {
    if (u->busy || !u->stream) return;
    u->out_sent += access_write(u->stream, u->out.data + u->out_sent, u->out.len - u->out_sent);
    if (u->out_sent < u->out.len) return; /* on_room follows */
    if (u->more)
        next_piece(u);
    else
        access_finish(u->stream);
}

/* ---- From the client to the file ---- */

static int open_spool(void) {
    const char *dir = getenv("TMPDIR");
    int fd = open(dir && dir[0] ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    char name[] = "/tmp/agenttier-archive-XXXXXX"; /* a file system without O_TMPFILE */
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) unlink(name);
    return fd;
}

static void chunk_written(uv_fs_t *write) {
    struct upload *u = write->data;
    ssize_t n = write->result;
    uv_fs_req_cleanup(write);
    u->busy = false;
    if (u->closed) {
        upload_free(u);
        return;
    }
    if (n != (ssize_t)u->chunk_len) {
        cleanup_error struct error err = {0};
        error_set(&err, 507, "insufficient_storage", "the archive cannot be kept while it is unpacked: %s",
                  n < 0 ? uv_strerror((int)n) : "no space left");
        fail(u, &err);
    } else if (u->body_ended) {
        next_piece(u);
    } else {
        request_body_resume(u->r);
    }
}

/* Counts the marks that each entry of a zip's directory begins with, wherever they stand: no
 * reader can find more entries than that, so a zip of tiny entries is refused before one is made to
 * remember them all. */
static void count_marks(struct upload *u, const char *data, size_t len) {
    static const char mark[4] = {'P', 'K', 1, 2};
    char seam[6];
    size_t head = len < 3 ? len : 3;
    memcpy(seam, u->last, 3);
    memcpy(seam + 3, data, head);
    for (size_t i = 0; i + 4 <= 3 + head; i++)
        u->marks += memcmp(seam + i, mark, 4) == 0;
    for (const char *at = data, *end = data + len; (at = memmem(at, (size_t)(end - at), mark, 4)); at += 4)
        u->marks++;
    if (len >= 3) {
        memcpy(u->last, data + len - 3, 3);
    } else {
        memmove(u->last, u->last + len, 3 - len);
        memcpy(u->last + 3 - len, data, len);
    }
}

static size_t spool(struct upload *u, const char *data, size_t len) {
    if (u->busy) return 0;
    u->chunk_len = len < SPOOL_CHUNK ? len : SPOOL_CHUNK;
    cleanup_error struct error err = {0};
    if (u->format == ARCHIVE_ZIP) count_marks(u, data, u->chunk_len);
    if (u->spooled + u->chunk_len > SPOOL_MAX)
        error_set(&err, 413, "archive_too_large",
                  "a compressed archive may have %llu GiB; send a tar, which is not limited so",
                  SPOOL_MAX >> 30);
    else if (u->marks > MAX_DIRECTORY)
        error_set(&err, 413, "archive_too_large", "the archive holds more than %d entries",
                  ARCHIVE_MAX_ENTRIES);
    if (err.status) {
        fail(u, &err);
        return len;
    }
    memcpy(u->chunk, data, u->chunk_len);
    uv_buf_t buf = uv_buf_init(u->chunk, (unsigned)u->chunk_len);
    u->busy = true;
    u->write.data = u;
    uv_fs_write(u->r->uv, &u->write, u->spool, &buf, 1, (int64_t)u->spooled, chunk_written);
    u->spooled += u->chunk_len;
    return u->chunk_len;
}

static size_t pass_tar(struct upload *u, const char *data, size_t len) {
    cleanup_error struct error err = {0};
    size_t n = access_write(u->stream, data, len);
    if (!tar_guard_feed(u->guard, slice_make(data, n), &err)) {
        fail(u, &err);
        return len;
    }
    return n;
}

/* ---- The exchange ---- */

static bool start(struct upload *u) {
    if (u->format == ARCHIVE_TAR) {
        u->guard = tar_guard_new();
        return open_sandbox(u);
    }
    u->spool = open_spool();
    u->chunk = xcalloc(1, SPOOL_CHUNK);
    if (u->spool >= 0) return true;
    cleanup_error struct error err = {0};
    error_set_errno(&err, errno, "the archive cannot be kept while it is unpacked");
    fail(u, &err);
    return false;
}

static size_t on_body(struct request *r, const char *data, size_t len) {
    struct upload *u = r->state;
    if (reply_started(r)) return len;
    if (!u->decided) u->format = archive_sniff(slice_make(data, len));
    u->decided = true;
    if (!u->guard && u->spool < 0 && !start(u)) return len;
    return u->format == ARCHIVE_TAR ? pass_tar(u, data, len) : spool(u, data, len);
}

static void on_body_end(struct request *r) {
    struct upload *u = r->state;
    cleanup_error struct error err = {0};
    u->body_ended = true;
    if (reply_started(r)) return;
    if (!u->guard && u->spool < 0) {
        error_set(&err, 400, "bad_archive", "the body is empty");
        fail(u, &err);
    } else if (u->format == ARCHIVE_TAR) {
        if (tar_guard_finish(u->guard, &err))
            access_finish(u->stream);
        else
            fail(u, &err);
    } else if (!u->busy) {
        next_piece(u);
    }
}

static void on_close(struct request *r, bool aborted) {
    (void)aborted;
    struct upload *u = r->state;
    access_close(steal_ptr(u->stream));
    u->closed = true;
    if (!u->busy) upload_free(u);
}

static void on_client_writable(struct request *r) {
    (void)r;
}

static const struct stream_ops ops = {
    .on_body = on_body, .on_body_end = on_body_end, .on_writable = on_client_writable, .on_close = on_close};

void archive_write(struct request *r) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer path = {0};
    enum archive_format format = ARCHIVE_ZIP;
    bool given;
    if (!archive_path(r, &path, &err) || !archive_format_query(r, &format, &given, &err)) {
        reply_error(r, &err);
        return;
    }
    struct upload *u = xcalloc(1, sizeof *u);
    u->r = r;
    u->spool = -1;
    u->decided = given || archive_format_of_type(request_header(r, "Content-Type"), &format);
    u->format = format;
    u->args = json_pack("{s:s, s:s}", "path", path.data, "within", WORKSPACE);
    request_stream(r, &ops, u);
    router_touch(r);
}
