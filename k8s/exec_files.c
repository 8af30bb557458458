/* Files and archives over pods/exec (http-api.md 2.9, 5.5): the scripts' parameters and what becomes of
 * their answers. */
#include "k8s/exec_stream.h"

#include <stdio.h>

static const char *arg(const struct exec_stream *s, const char *name) {
    const char *value = json_string_value(json_object_get(s->args, name));
    return value ? value : "";
}

/* ---- Parameters ---- */

static bool path_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, arg(s, "path"));
    return true;
}

static bool read_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    json_int_t offset = json_integer_value(json_object_get(s->args, "offset"));
    json_t *length = json_object_get(s->args, "length");
    if (offset < 0 || (length && (!json_is_integer(length) || json_integer_value(length) < 1))) {
        error_set(err, 400, ERR_BAD_REQUEST, "offset and length are out of range");
        return false;
    }
    exec_param(out, arg(s, "path"));
    exec_param_number(out, offset);
    if (length)
        exec_param_number(out, json_integer_value(length));
    else
        exec_param(out, "");
    return true;
}

static bool write_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, arg(s, "path"));
    exec_param(out, s->nonce);
    exec_param(out, s->v5 ? "5" : "4");
    return true;
}

static bool remove_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, arg(s, "path"));
    exec_param(out, json_is_true(json_object_get(s->args, "recursive")) ? "1" : "0");
    return true;
}

static bool archive_params(struct exec_stream *s, struct buffer *out, struct error *err) {
    (void)err;
    exec_param(out, arg(s, "path"));
    exec_param(out, arg(s, "within"));
    if (s->op == ACCESS_ARCHIVE_WRITE) exec_param(out, s->v5 ? "5" : "4");
    return true;
}

/* ---- Answers: a line, then a body ---- */

static void bad_answer(struct exec_stream *s) {
    exec_fail_with(s, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox gave an answer that makes no sense");
}

static void on_line(struct exec_stream *s) {
    const char *line = buffer_cstr(&s->line);
    s->has_line = true;
    if (line[0] == '!') {
        cleanup_error struct error err = {0};
        exec_refusal(line + 1, arg(s, "path"), &err);
        exec_fail(s, &err);
    } else if (line[0] != '+') {
        bad_answer(s);
    } else if (s->row->on_line) {
        s->row->on_line(s, line + 1);
    }
}

static void on_data(struct exec_stream *s, int channel, const char *data, size_t len) {
    if (channel == 2) {
        size_t room = EXEC_WORDS_MAX - s->words.len;
        buffer_append(&s->words, data, len < room ? len : room);
        return;
    }
    if (!s->has_line) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        if (!buffer_append(&s->line, data, n)) {
            bad_answer(s);
            return;
        }
        if (!end) return;
        on_line(s);
        data += n + 1;
        len -= n + 1;
    }
    if (len && !exec_over(s) && s->row->on_body) s->row->on_body(s, data, len);
}

/* Whether the script ended well. */
static bool ended_well(struct exec_stream *s, int exit_code) {
    if (exit_code == 0 && s->has_line) return true;
    cleanup_error struct error err = {0};
    if (exit_code == 0)
        error_set(&err, 502, ERR_SANDBOX_BAD_ANSWER, "the sandbox gave no answer");
    else
        exec_complaint(buffer_slice(&s->words), exit_code, arg(s, "path"), &err);
    exec_fail(s, &err);
    return false;
}

static json_t *path_json(const struct exec_stream *s) {
    return json_string_repaired(slice_of(arg(s, "path")));
}

/* ---- Entries ---- */

static void keep_body(struct exec_stream *s, const char *data, size_t len) {
    if (!buffer_append(&s->answer, data, len))
        exec_fail_with(s, 413, "directory_too_large", "the listing of the directory is too large");
}

static void on_entries_end(struct exec_stream *s, int exit_code) {
    cleanup_error struct error err = {0};
    if (!ended_well(s, exit_code)) return;
    json_t *result = exec_entries(buffer_slice(&s->answer), arg(s, "path"), s->op == ACCESS_LIST, &err);
    if (result)
        exec_succeed(s, result);
    else
        exec_fail(s, &err);
}

/* ---- Reading ---- */

static void on_read_line(struct exec_stream *s, const char *line) {
    struct access_head head;
    if (!exec_file(line, &head)) {
        bad_answer(s);
        return;
    }
    head.offset = (uint64_t)json_integer_value(json_object_get(s->args, "offset"));
    json_t *length = json_object_get(s->args, "length");
    if (head.offset > head.size || (head.offset == head.size && (head.offset > 0 || length))) {
        cleanup_error struct error err = {0};
        error_set(&err, 416, "range_not_satisfiable", "%.300s has %llu bytes", arg(s, "path"),
                  (unsigned long long)head.size);
        exec_fail(s, &err);
        return;
    }
    head.length = head.size - head.offset;
    if (length && (uint64_t)json_integer_value(length) < head.length)
        head.length = (uint64_t)json_integer_value(length);
    s->wanted = head.length;
    if (s->events.on_head) s->events.on_head(s->ctx, &head);
    if (!exec_over(s) && s->wanted == 0) exec_succeed(s, NULL);
}

static void on_read_body(struct exec_stream *s, const char *data, size_t len) {
    size_t n = len < s->wanted - s->got ? len : (size_t)(s->wanted - s->got);
    s->got += n;
    exec_give(s, 1, data, n);
    if (!exec_over(s) && s->got == s->wanted && !s->paused) exec_succeed(s, NULL);
}

/* Bytes that a file has grown by meanwhile are not wanted; with all of them here it has been read, whatever
 * became of the script, which may have died of a closed pipe. */
static void on_read_end(struct exec_stream *s, int exit_code) {
    if (s->has_line && s->got == s->wanted) {
        exec_succeed(s, NULL);
    } else if (ended_well(s, exit_code)) {
        exec_fail_with(s, 409, "file_changed", "the file became shorter while it was read");
    }
}

/* ---- Writing ---- */

static void on_write_end(struct exec_stream *s, int exit_code) {
    unsigned long long bytes;
    int created, used = 0;
    struct access_head file;
    if (!ended_well(s, exit_code)) return;
    const char *line = buffer_cstr(&s->line) + 1;
    if (sscanf(line, "%llu %d %n", &bytes, &created, &used) < 2 || used == 0 || !s->finished ||
        bytes != s->written) {
        bad_answer(s);
        return;
    }
    if (!exec_file(line + used, &file)) { /* no stat in the image: the line is as good a mark */
        struct access_head none = {0};
        file = none;
        char plain[64];
        snprintf(plain, sizeof plain, "8000 %llu 0 %.32s", bytes, s->nonce);
        if (!exec_file(plain, &file)) return;
    }
    exec_succeed(s, json_pack("{s:o, s:I, s:s, s:b}", "path", path_json(s), "bytes", (json_int_t)bytes,
                              "etag", file.etag, "created", created == 1));
}

static void on_mkdir_end(struct exec_stream *s, int exit_code) {
    if (!ended_well(s, exit_code)) return;
    exec_succeed(s, json_pack("{s:o, s:b}", "path", path_json(s), "created",
                              strcmp(buffer_cstr(&s->line), "+1") == 0));
}

static void on_remove_end(struct exec_stream *s, int exit_code) {
    if (ended_well(s, exit_code)) exec_succeed(s, NULL);
}

/* ---- Archives ---- */

static void on_archive_body(struct exec_stream *s, const char *data, size_t len) {
    cleanup_error struct error err = {0};
    buffer_clear(&s->scratch);
    if (!tar_filter_feed(s->tar, slice_make(data, len), &s->scratch, &err)) {
        err.status = 502; /* the sandbox's fault, not the caller's */
        exec_fail(s, &err);
        return;
    }
    exec_give(s, 1, s->scratch.data, s->scratch.len);
}

static void on_archive_end(struct exec_stream *s, int exit_code) {
    cleanup_error struct error err = {0};
    /* 1 of GNU tar: a file changed while it was read; its content is as long as its header says. */
    if (!ended_well(s, exit_code == 1 && s->has_line ? 0 : exit_code)) return;
    buffer_clear(&s->scratch);
    if (!tar_filter_finish(s->tar, &s->scratch, &err)) {
        err.status = 502;
        exec_fail(s, &err);
        return;
    }
    exec_give(s, 1, s->scratch.data, s->scratch.len);
    if (!exec_over(s)) exec_succeed(s, NULL);
}

static void on_unpack_end(struct exec_stream *s, int exit_code) {
    if (!ended_well(s, exit_code)) return;
    if (!s->finished) {
        bad_answer(s);
        return;
    }
    exec_succeed(s, json_pack("{s:o, s:I, s:I}", "path", path_json(s), "entries",
                              (json_int_t)tar_filter_entries(s->tar), "bytes",
                              (json_int_t)tar_filter_bytes(s->tar)));
}

const struct exec_row *exec_file_row(enum access_op op) {
    static const struct exec_row rows[] = {
        [ACCESS_STAT] = {.script = exec_script_stat,
                         .patience_ms = 15000,
                         .params = path_params,
                         .on_data = on_data,
                         .on_body = keep_body,
                         .on_end = on_entries_end},
        [ACCESS_LIST] = {.script = exec_script_list,
                         .patience_ms = 30000,
                         .params = path_params,
                         .on_data = on_data,
                         .on_body = keep_body,
                         .on_end = on_entries_end},
        [ACCESS_READ] = {.script = exec_script_read,
                         .patience_ms = 60000,
                         .params = read_params,
                         .on_data = on_data,
                         .on_line = on_read_line,
                         .on_body = on_read_body,
                         .on_end = on_read_end},
        [ACCESS_WRITE] = {.script = exec_script_write,
                          .input = true,
                          .patience_ms = 60000,
                          .params = write_params,
                          .on_data = on_data,
                          .on_end = on_write_end},
        [ACCESS_MKDIR] = {.script = exec_script_mkdir,
                          .patience_ms = 15000,
                          .params = path_params,
                          .on_data = on_data,
                          .on_end = on_mkdir_end},
        [ACCESS_REMOVE] = {.script = exec_script_remove,
                           .patience_ms = 120000,
                           .params = remove_params,
                           .on_data = on_data,
                           .on_end = on_remove_end},
        [ACCESS_ARCHIVE_READ] = {.script = exec_script_archive_read,
                                 .patience_ms = 60000,
                                 .params = archive_params,
                                 .on_data = on_data,
                                 .on_body = on_archive_body,
                                 .on_end = on_archive_end},
        [ACCESS_ARCHIVE_WRITE] = {.script = exec_script_archive_write,
                                  .input = true,
                                  .patience_ms = 120000,
                                  .params = archive_params,
                                  .on_data = on_data,
                                  .on_end = on_unpack_end},
    };
    return op < sizeof rows / sizeof *rows && rows[op].script ? &rows[op] : NULL;
}
