#include "runtime/serve.h"

#include "runtime/archive.h"
#include "runtime/dial.h"
#include "runtime/directory.h"
#include "runtime/exec.h"
#include "runtime/files.h"
#include "runtime/terminal.h"
#include "runtime/reply.h"

#define FEATURES "[\"files\",\"dir\",\"stat\",\"archive\",\"exec-stream\",\"exec-attach\",\"dial\",\"pty\"]"

/* Compares in a time that depends on the lengths only. */
static bool same_secret(struct slice a, struct slice b) {
    if (a.len != b.len) return false;
    unsigned char difference = 0;
    for (size_t i = 0; i < a.len; i++)
        difference = (unsigned char)(difference | (a.ptr[i] ^ b.ptr[i]));
    return difference == 0;
}

static bool authorized(const struct request *r, const char *token, struct error *err) {
    static const char scheme[] = "Bearer ";
    if (!token) return true;
    const struct http1_header *h = http1_find(&r->head, "Authorization");
    if (!h || !slice_starts_with(h->value, scheme)) {
        error_set(err, 401, "unauthorized", "missing bearer token");
        return false;
    }
    size_t skip = sizeof scheme - 1;
    if (*token && same_secret(slice_make(h->value.ptr + skip, h->value.len - skip), slice_of(token)))
        return true;
    error_set(err, 401, "unauthorized", "invalid bearer token");
    return false;
}

static void serve_health(struct request *r) {
    cleanup_buffer struct buffer body = {0};
    buffer_printf(&body, "{\"status\":\"ok\",\"version\":\"%s\",\"features\":" FEATURES "}",
                  AGENTTIER_VERSION);
    reply_json(r->conn, 200, &body);
}

static void serve_exec_stream(struct request *r, const struct serve_options *o) {
    exec_stream(r, o->registry);
}
static void serve_exec(struct request *r, const struct serve_options *o) {
    exec_reference(r, o->registry, false);
}
static void serve_invoke(struct request *r, const struct serve_options *o) {
    exec_reference(r, o->registry, true);
}
static void serve_file_get(struct request *r, const struct serve_options *o) {
    files_get(r);
}
static void serve_file_put(struct request *r, const struct serve_options *o) {
    files_put(r, o->umask);
}
static void serve_file_delete(struct request *r, const struct serve_options *o) {
    files_delete(r);
}
static void serve_stat(struct request *r, const struct serve_options *o) {
    directory_stat(r);
}
static void serve_list(struct request *r, const struct serve_options *o) {
    directory_list(r);
}
static void serve_mkdir(struct request *r, const struct serve_options *o) {
    directory_make(r);
}
static void serve_archive_get(struct request *r, const struct serve_options *o) {
    archive_get(r);
}
static void serve_archive_put(struct request *r, const struct serve_options *o) {
    archive_put(r);
}
static void serve_dial(struct request *r, const struct serve_options *o) {
    dial(r);
}
static void serve_pty(struct request *r, const struct serve_options *o) {
    terminal_serve(r, o->registry);
}

static const struct route {
    const char *path;
    const char *method; /* NULL = the handler looks at it itself */
    void (*handler)(struct request *r, const struct serve_options *options);
} routes[] = {
    {"/exec/stream", "POST", serve_exec_stream},
    {"/exec", NULL, serve_exec},
    {"/invoke", NULL, serve_invoke},
    {"/stat", "GET", serve_stat},
    {"/dir", "GET", serve_list},
    {"/files", "GET", serve_file_get},
    {"/files", "PUT", serve_file_put},
    {"/files", "DELETE", serve_file_delete},
    {"/mkdir", "POST", serve_mkdir},
    {"/archive", "GET", serve_archive_get},
    {"/archive", "PUT", serve_archive_put},
    {"/dial", "POST", serve_dial},
    {"/pty", NULL, serve_pty},
};

static bool after_prefix(struct slice path, const char *prefix, struct slice *rest) {
    size_t n = strlen(prefix);
    if (!slice_starts_with(path, prefix)) return false;
    *rest = slice_make(path.ptr + n, path.len - n);
    return true;
}

static void route(struct request *r, const struct serve_options *options, struct error *err) {
    bool known = false;
    struct slice rest;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!slice_equal_str(r->path, routes[i].path)) continue;
        known = true;
        if (routes[i].method && !request_method_is(r, routes[i].method)) continue;
        routes[i].handler(r, options);
        return;
    }
    if (known)
        error_set(err, 405, ERR_BAD_REQUEST, "this method is not served here");
    else if (after_prefix(r->path, "/exec/", &rest))
        exec_by_id(r, options->registry, rest);
    else if (after_prefix(r->path, "/invoke/cancel/", &rest))
        exec_cancel_invoke(r, options->registry, rest);
    else
        error_set(err, 404, ERR_NOT_FOUND, "no such path");
}

void serve_connection(struct conn *c, const struct serve_options *options) {
    struct request r = {.conn = c};
    struct error err = {0};
    if (conn_read_head(c, &r, &err)) {
        if (slice_equal_str(r.path, "/healthz"))
            serve_health(&r);
        else if (authorized(&r, options->token, &err))
            route(&r, options, &err);
    }
    if (err.status && !c->answered) reply_error(c, &err);
    error_clear(&err);
    if (c->fd >= 0) conn_finish(c);
}
