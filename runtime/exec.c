#include "runtime/exec.h"

#include "runtime/reply.h"
#include "runtime/supervisor.h"

#include "common/text.h"
#include "common/units.h"

#include <stdio.h>
#include <sys/stat.h>

#define START_MAX   (1536 * 1024) /* of the JSON in S frames together */
#define WAIT_MAX_MS 600000
#define READ_SIZE   (16 * 1024)

static void refuse_stream(struct conn *c, const struct error *err) {
    cleanup_buffer struct buffer text = {0};
    json_text_error(&text, err);
    char header[FRAME_HEADER_LEN];
    frame_put_header(header, FRAME_ERROR, (uint32_t)text.len);
    if (conn_send(c, slice_make(header, sizeof header)) && conn_send(c, buffer_slice(&text))) conn_finish(c);
}

/* Reads until a whole frame is at the start of c->in. */
static bool await_frame(struct conn *c, struct frame_header *header, int64_t deadline, struct error *err) {
    for (;;) {
        int got = frame_get_header(buffer_slice(&c->in), header);
        if (got < 0) {
            error_set(err, 400, ERR_BAD_REQUEST, "the frame is too long");
            return false;
        }
        if (got > 0 && c->in.len >= FRAME_HEADER_LEN + header->len) return true;
        char chunk[READ_SIZE];
        int64_t left = deadline - monotonic_ms();
        ssize_t n = left > 0 ? conn_receive(c, chunk, sizeof chunk, left) : -1;
        if (n <= 0 || !buffer_append(&c->in, chunk, (size_t)n)) {
            error_set(err, 400, ERR_BAD_REQUEST, "no complete start frame came");
            return false;
        }
    }
}

/* The JSON of the S frame, with the parts before it. */
static bool read_start(struct conn *c, struct buffer *text, struct error *err) {
    int64_t deadline = monotonic_ms() + HEAD_TIMEOUT_MS;
    text->limit = START_MAX;
    buffer_consume(&c->in, c->used);
    c->used = 0;
    c->in.limit = HTTP1_MAX_HEAD + FRAME_HEADER_LEN + FRAME_MAX_PAYLOAD + 2 * READ_SIZE;
    for (;;) {
        struct frame_header header;
        if (!await_frame(c, &header, deadline, err)) return false;
        if (header.type != FRAME_START && header.type != FRAME_START_PART) {
            error_set(err, 400, ERR_BAD_REQUEST, "the first frame must be S");
            return false;
        }
        if (header.len && !buffer_append(text, c->in.data + FRAME_HEADER_LEN, header.len)) {
            error_set(err, 413, ERR_BAD_REQUEST, "the start is larger than %d bytes", START_MAX);
            return false;
        }
        buffer_consume(&c->in, FRAME_HEADER_LEN + header.len);
        if (header.type == FRAME_START) return true;
    }
}

static void explain(enum registry_answer answer, const char *id, struct error *err) {
    switch (answer) {
    case REGISTRY_REUSED:
        error_set(err, 409, "exec_id_reused", "exec id %s belongs to another command", id);
        break;
    case REGISTRY_FULL:
        error_set(err, 429, "too_many_execs", "%d commands are running", EXEC_RUNNING_MAX);
        break;
    case REGISTRY_NONE: error_set(err, 404, "exec_not_found", "no exec with id %s", id); break;
    case REGISTRY_STARTED:
    case REGISTRY_FOUND: break;
    }
}

/* Whether the command was begun over pods/exec, before this runtime was in the pod: what k8s/scripts/kept.sh
 * keeps of it is there. A command that is asked for twice is not begun twice. */
static bool begun_elsewhere(const struct exec_request *request, struct error *err) {
    static const char *const places[] = {"/tmp", "/var/tmp", "/dev/shm"};
    const struct exec_key *key = &request->key;
    char path[64 + EXEC_ID_MAX];
    struct stat found;
    if (request->attach || !key->keep || !key->digest[0]) return false;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/.agenttier-exec/%s", places[i], key->id);
        if (lstat(path, &found) != 0 || !S_ISDIR(found.st_mode)) continue;
        error_set(err, 409, "exec_elsewhere", "exec %s was begun over pods/exec", key->id);
        return true;
    }
    return false;
}

static void hand_over(struct conn *c, int control, struct error *err) {
    struct control_message m = {.op = CONTROL_ATTACH};
    struct slice rest = slice_make(c->in.data + c->used, c->in.len - c->used);
    if (control_send(control, m, c->fd, rest))
        close(steal_fd(c->fd)); /* ours no longer: to end it here would cut it there too */
    else
        error_set(err, 404, "exec_not_found", "the exec's outcome is no longer kept");
    close(control);
}

void exec_stream(struct request *r, int registry) {
    struct conn *c = r->conn;
    struct error err = {0};
    if (!request_upgrades_to(r, "agenttier-exec/1") || r->head.framing != HTTP1_BODY_NONE) {
        error_set(&err, 426, ERR_BAD_REQUEST, "send Connection: Upgrade and Upgrade: agenttier-exec/1");
        reply_error(c, &err);
        return;
    }
    if (!conn_send(c, slice_of(UPGRADE_ANSWER("agenttier-exec/1")))) return;
    c->answered = true;
    struct buffer text = {0};
    struct exec_request request = {0};
    int control = -1;
    enum registry_answer answer = 0;
    if (read_start(c, &text, &err) && exec_request_parse_stream(buffer_slice(&text), &request, &err) &&
        !begun_elsewhere(&request, &err))
        answer = request.attach ? registry_find(registry, EXEC_STREAM, request.key.id, true, &control, &err)
                                : registry_start(registry, &request.key, &control, &err);
    buffer_free(&text);
    if (answer == REGISTRY_FOUND)
        hand_over(c, control, &err);
    else if (answer == REGISTRY_STARTED)
        supervisor_run(c, registry, control, &request, VIEWER_FRAMES);
    else if (answer)
        explain(answer, request.key.id, &err);
    if (err.status) refuse_stream(c, &err);
    exec_request_free(&request);
    error_clear(&err);
}

void exec_reference(struct request *r, int registry, bool invoke) {
    struct conn *c = r->conn;
    struct error err = {0};
    struct buffer text = {0};
    struct exec_request request = {0};
    int control = -1;
    enum registry_answer answer = 0;
    if (!request_method_is(r, "POST")) {
        error_set(&err, 405, ERR_BAD_REQUEST, "POST required");
    } else if (!body_read_all(r, JSON_BODY_MAX, &text, &err)) {
        if (err.status == 413) err.status = 400; /* as the reference */
        error_wrap(&err, "invalid request body");
    } else if (exec_request_parse_reference(buffer_slice(&text), invoke, &request, &err)) {
        answer = registry_start(registry, &request.key, &control, &err);
    }
    buffer_free(&text);
    if (answer == REGISTRY_STARTED) {
        c->answered = true;
        supervisor_run(c, registry, control, &request, invoke ? VIEWER_EVENTS : VIEWER_JSON);
    } else {
        if (answer) explain(answer, request.key.id, &err);
        reply_error(c, &err);
    }
    exec_request_free(&request);
    error_clear(&err);
}

/* Gives the connection to the exec's supervisor, which answers. */
static void pass_on(struct request *r, int registry, enum exec_kind kind, const char *id, bool kept_only,
                    struct control_message m) {
    struct error err = {0};
    int control = -1;
    enum registry_answer answer = registry_find(registry, kind, id, kept_only, &control, &err);
    bool given = answer == REGISTRY_FOUND && control_send(control, m, r->conn->fd, slice_make(NULL, 0));
    if (control >= 0) close(control);
    if (given) {
        close(steal_fd(r->conn->fd));
        return;
    }
    if (answer) explain(REGISTRY_NONE, id, &err);
    if (kind == EXEC_INVOKE && answer)
        error_set(&err, 404, "exec_not_found", "no in-flight invoke with that id");
    reply_error(r->conn, &err);
}

void exec_by_id(struct request *r, int registry, struct slice id) {
    struct error err = {0};
    cleanup_buffer struct buffer wait = {0};
    uint64_t wait_ms = 0;
    cleanup_free char *name = slice_dup(id);
    int there = request_query(r, "waitMs", &wait);
    if (there < 0 || (there > 0 && !slice_parse_u64(buffer_slice(&wait), UINT32_MAX, &wait_ms))) {
        error_set_field(&err, "waitMs", "must be a number of milliseconds");
    } else if (request_method_is(r, "GET")) {
        if (wait_ms > WAIT_MAX_MS) wait_ms = WAIT_MAX_MS;
        struct control_message m = {.op = CONTROL_WAIT, .wait_ms = (int64_t)wait_ms};
        pass_on(r, registry, EXEC_STREAM, name, true, m);
        return;
    } else if (request_method_is(r, "DELETE")) {
        pass_on(r, registry, EXEC_STREAM, name, false, (struct control_message){.op = CONTROL_KILL});
        return;
    } else {
        error_set(&err, 405, ERR_BAD_REQUEST, "GET or DELETE required");
    }
    reply_error(r->conn, &err);
    error_clear(&err);
}

void exec_cancel_invoke(struct request *r, int registry, struct slice id) {
    struct error err = {0};
    cleanup_buffer struct buffer name = {0};
    if (!request_method_is(r, "POST")) {
        error_set(&err, 405, ERR_BAD_REQUEST, "POST required");
    } else if (id.len == 0 || !percent_decode(id, &name)) {
        error_set(&err, 400, ERR_BAD_REQUEST, "invokeId path component required");
    } else {
        pass_on(r, registry, EXEC_INVOKE, buffer_cstr(&name), false,
                (struct control_message){.op = CONTROL_CANCEL});
        return;
    }
    reply_error(r->conn, &err);
}
