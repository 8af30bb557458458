/* A blocking HTTP client for one answer from a sandbox's runtime. What it reads is hostile input. */
#include "local/runtime_client.h"

#include "common/http1.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ANSWER_MAX  (16 * 1024 * 1024)
#define PUT_TIMEOUT 60000
#define EXEC_GRACE  15000 /* beyond the command's own limit */
#define OUTPUT_TAIL 300

static int connect_to(const char *path, struct error *err) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        error_set(err, 500, ERR_INTERNAL, "the socket path %s is too long", path);
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox's runtime cannot be reached: %s",
                  strerror(errno));
        return -1;
    }
    return steal_fd(fd);
}

/* Waits for `events` on fd. False with err: the deadline passed or the sandbox died. */
static bool await(const struct runtime_call *call, int fd, short events, int64_t deadline,
                  struct error *err) {
    for (;;) {
        struct pollfd p[3] = {{.fd = fd, .events = events},
                              {.fd = call->death_fd, .events = POLLIN},
                              {.fd = call->cancel_fd, .events = POLLIN}};
        int64_t left = deadline - monotonic_ms();
        int n = left > 0 ? poll(p, 3, (int)left) : 0;
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            error_set(err, 504, "sandbox_timeout", "the sandbox's runtime did not answer in %d ms",
                      call->timeout_ms);
            return false;
        }
        if (p[0].revents) return true; /* an answer that came before the end still counts */
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE,
                  p[1].revents ? "the sandbox's process 1 ended" : "the Router is shutting down");
        return false;
    }
}

static bool send_all(const struct runtime_call *call, int fd, struct slice bytes, int64_t deadline,
                     struct error *err) {
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n > 0) {
            bytes = slice_make(bytes.ptr + n, bytes.len - (size_t)n);
            continue;
        }
        if (errno == EPIPE || errno == ECONNRESET) return true; /* it may have answered early */
        if (errno != EAGAIN && errno != EINTR) {
            error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "writing to the sandbox's runtime: %s",
                      strerror(errno));
            return false;
        }
        if (!await(call, fd, POLLOUT, deadline, err)) return false;
    }
    return true;
}

/* Unpacks what follows the head, when all of it is there. 1 yes, 0 more, -1 broken. */
static int take_body(const struct http1_head *head, struct slice rest, bool ended, struct buffer *body) {
    if (head->framing == HTTP1_BODY_NONE) return 1;
    if (head->framing == HTTP1_BODY_LENGTH) {
        if (head->content_length > ANSWER_MAX) return -1;
        if (rest.len < head->content_length) return ended ? -1 : 0;
        return !body || buffer_append(body, rest.ptr, (size_t)head->content_length) ? 1 : -1;
    }
    if (head->framing == HTTP1_BODY_UNTIL_CLOSE) {
        if (!ended) return 0;
        return !body || buffer_append(body, rest.ptr, rest.len) ? 1 : -1;
    }
    struct http1_chunked chunked = {0};
    cleanup_buffer struct buffer whole = {.limit = ANSWER_MAX};
    while (rest.len > 0) {
        size_t consumed = 0;
        struct slice part = {0};
        int rc = http1_chunked_decode(&chunked, rest, &consumed, &part);
        if (rc < 0 || (part.len > 0 && !buffer_append(&whole, part.ptr, part.len))) return -1;
        if (rc == 1) return !body || buffer_append(body, whole.data, whole.len) ? 1 : -1;
        if (consumed == 0) break;
        rest = slice_make(rest.ptr + consumed, rest.len - consumed);
    }
    return ended ? -1 : 0;
}

static int read_answer(const struct runtime_call *call, int fd, int64_t deadline, struct buffer *body,
                       struct error *err) {
    cleanup_buffer struct buffer raw = {.limit = ANSWER_MAX + HTTP1_MAX_HEAD};
    struct http1_head head;
    ssize_t head_len = 0;
    size_t parsed_at = 0;
    for (bool ended = false;;) {
        char part[16384];
        ssize_t n = recv(fd, part, sizeof part, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!await(call, fd, POLLIN, deadline, err)) return -1;
            continue;
        }
        ended = n <= 0;
        if (n > 0 && !buffer_append(&raw, part, (size_t)n)) break;
        if (head_len == 0 || parsed_at != (size_t)(uintptr_t)raw.data) {
            /* The head's slices point into the buffer, which moves as it grows. */
            head_len = http1_parse_response(buffer_slice(&raw), call->method, &head, err);
            parsed_at = (size_t)(uintptr_t)raw.data;
            if (head_len < 0) return -1;
        }
        int rc = head_len == 0 ? 0
                               : take_body(&head, slice_make(raw.data + head_len, raw.len - (size_t)head_len),
                                           ended, body);
        if (rc == 1) return head.status;
        if (rc < 0 || ended) break;
    }
    error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox's runtime gave no whole answer");
    return -1;
}

int runtime_call(const struct runtime_call *call, struct buffer *body, struct error *err) {
    int64_t deadline = monotonic_ms() + call->timeout_ms;
    cleanup_close int fd = connect_to(call->socket_path, err);
    if (fd < 0) return -1;
    cleanup_buffer struct buffer head = {0};
    buffer_printf(&head, "%s %s HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n", call->method,
                  call->target);
    if (call->content_type)
        buffer_printf(&head, "Content-Type: %s\r\nContent-Length: %zu\r\n", call->content_type,
                      call->body.len);
    buffer_append_str(&head, "\r\n");
    if (!send_all(call, fd, buffer_slice(&head), deadline, err) ||
        !send_all(call, fd, call->body, deadline, err))
        return -1;
    return read_answer(call, fd, deadline, body, err);
}

bool runtime_healthy(const struct runtime_peer *peer, int timeout_ms, struct error *err) {
    struct runtime_call call = {.socket_path = peer->socket_path,
                                .death_fd = peer->death_fd,
                                .cancel_fd = peer->cancel_fd,
                                .timeout_ms = timeout_ms,
                                .method = "GET",
                                .target = "/healthz"};
    int status = runtime_call(&call, NULL, err);
    if (status >= 0 && status != 200)
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox's runtime answers /healthz with %d",
                  status);
    return status == 200;
}

bool runtime_put_file(const struct runtime_peer *peer, const char *path, struct slice content,
                      struct error *err) {
    cleanup_buffer struct buffer target = {0};
    buffer_append_str(&target, "/files?path=");
    percent_encode(slice_of(path), "/", &target);
    struct runtime_call call = {.socket_path = peer->socket_path,
                                .death_fd = peer->death_fd,
                                .cancel_fd = peer->cancel_fd,
                                .timeout_ms = PUT_TIMEOUT,
                                .method = "PUT",
                                .target = buffer_cstr(&target),
                                .content_type = "application/octet-stream",
                                .body = content};
    cleanup_buffer struct buffer answer = {0};
    int status = runtime_call(&call, &answer, err);
    if (status < 0) return false;
    if (status == 200 || status == 201 || status == 204) return true;
    cleanup_json json_t *reason = json_parse_object(buffer_slice(&answer), NULL);
    const char *text = reason ? json_str_at(reason, "error") : "";
    error_set(err, 500, ERR_INTERNAL, "writing %s: %s (status %d)", path, *text ? text : "refused", status);
    return false;
}

static void set_command_error(const json_t *answer, int timeout_seconds, struct error *err) {
    const char *output = json_str_at(answer, "stderr");
    if (!*output) output = json_str_at(answer, "stdout");
    size_t len = strlen(output);
    const char *tail = output + (len > OUTPUT_TAIL ? len - OUTPUT_TAIL : 0);
    while (((unsigned char)*tail & 0xc0) == 0x80)
        tail++; /* not into a character */
    if (json_is_true(json_object_get(answer, "timedOut")))
        error_set(err, 500, ERR_INTERNAL, "it did not end in %d seconds", timeout_seconds);
    else
        error_set(err, 500, ERR_INTERNAL, "it ended with %d: %s",
                  (int)json_integer_value(json_object_get(answer, "exitCode")), tail);
}

bool runtime_exec(const struct runtime_peer *peer, const json_t *command, const char *working_dir,
                  int timeout_seconds, struct error *err) {
    cleanup_json json_t *request = json_pack("{s:O, s:i, s:s}", "command", command, "timeoutSeconds",
                                             timeout_seconds, "workingDir", working_dir);
    size_t len = 0;
    cleanup_free char *text = json_dump_line(request, &len);
    struct runtime_call call = {.socket_path = peer->socket_path,
                                .death_fd = peer->death_fd,
                                .cancel_fd = peer->cancel_fd,
                                .timeout_ms = timeout_seconds * 1000 + EXEC_GRACE,
                                .method = "POST",
                                .target = "/exec",
                                .content_type = "application/json",
                                .body = slice_make(text, len)};
    cleanup_buffer struct buffer body = {0};
    int status = runtime_call(&call, &body, err);
    if (status < 0) return false;
    cleanup_json json_t *answer = json_parse_object(slice_trim(buffer_slice(&body)), err);
    if (!answer) return false;
    if (status != 200) {
        error_set(err, 500, ERR_INTERNAL, "%s (status %d)", json_str_at(answer, "error"), status);
        return false;
    }
    const json_t *code = json_object_get(answer, "exitCode");
    if (json_is_integer(code) && json_integer_value(code) == 0) return true;
    set_command_error(answer, timeout_seconds, err);
    return false;
}
