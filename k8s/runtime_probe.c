#include "k8s/runtime_probe.h"

#include "backend/runtime_socket.h"
#include "common/http1.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "k8s/paths.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define PROBE_MS   3000
#define ANSWER_MAX 16384

static const struct {
    const char *name;
    unsigned bit;
} names[] = {{"files", RUNTIME_FILES},
             {"dir", RUNTIME_DIR},
             {"stat", RUNTIME_STAT},
             {"archive", RUNTIME_ARCHIVE},
             {"exec-stream", RUNTIME_EXEC_STREAM},
             {"exec-attach", RUNTIME_EXEC_ATTACH},
             {"dial", RUNTIME_DIAL}};

bool runtime_features(struct slice body, unsigned *features) {
    cleanup_json json_t *health = json_parse_object(body, NULL);
    *features = 0;
    if (!health || strcmp(json_str_at(health, "status"), "ok") != 0) return false;
    const json_t *list = json_object_get(health, "features");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        for (size_t k = 0; name && k < sizeof names / sizeof *names; k++)
            if (strcmp(name, names[k].name) == 0) *features |= names[k].bit;
    }
    return true;
}

bool runtime_token(const json_t *secret, char *out, size_t cap) {
    cleanup_buffer struct buffer token = {.limit = 4096};
    const char *encoded = json_str_at(secret, "data.token");
    if (!encoded[0] || !base64_decode(slice_of(encoded), &token) || token.len == 0 || token.len >= cap)
        return false;
    for (size_t i = 0; i < token.len; i++)
        if (token.data[i] <= 0x20 || token.data[i] > 0x7e) return false; /* it goes into a header */
    memcpy(out, token.data, token.len);
    out[token.len] = 0;
    return true;
}

static bool wait_for(int fd, short events, int64_t deadline) {
    struct pollfd p = {fd, events, 0};
    for (;;) {
        int64_t left = deadline - monotonic_ms();
        if (left <= 0) return false;
        int n = poll(&p, 1, (int)left);
        if (n > 0) return true;
        if (n == 0 || errno != EINTR) return false;
    }
}

/* The body of a 200 to GET /healthz. */
static bool ask_health(const struct runtime_address *to, struct buffer *answer, struct slice *body) {
    cleanup_error struct error err = {0};
    bool again;
    int64_t deadline = monotonic_ms() + PROBE_MS;
    cleanup_close int fd = runtime_socket_connect(to, &again, &err);
    int errnum = 0;
    socklen_t len = sizeof errnum;
    if (fd < 0 || !wait_for(fd, POLLOUT, deadline) ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0 || errnum)
        return false;
    cleanup_buffer struct buffer request = {0};
    buffer_printf(&request,
                  strchr(to->host, ':') ? "GET /healthz HTTP/1.1\r\nHost: [%s]:%u\r\n"
                                        : "GET /healthz HTTP/1.1\r\nHost: %s:%u\r\n",
                  to->host, to->port);
    buffer_append_str(&request, "Connection: close\r\n\r\n");
    if (send(fd, request.data, request.len, MSG_NOSIGNAL) != (ssize_t)request.len) return false;
    while (answer->len < ANSWER_MAX && wait_for(fd, POLLIN, deadline)) {
        char piece[4096];
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n > 0 && buffer_append(answer, piece, (size_t)n)) {
            struct http1_head head;
            ssize_t used = http1_parse_response(buffer_slice(answer), "GET", &head, NULL);
            if (used < 0) return false;
            if (used == 0 || head.framing != HTTP1_BODY_LENGTH ||
                answer->len - (size_t)used < head.content_length)
                continue;
        }
        break; /* all of it is there, or no more comes */
    }
    struct http1_head head;
    ssize_t used = http1_parse_response(buffer_slice(answer), "GET", &head, NULL);
    if (used <= 0 || head.status != 200) return false;
    *body = slice_make(answer->data + used, answer->len - (size_t)used);
    if (head.framing == HTTP1_BODY_CHUNKED) {
        struct http1_chunked chunks = {0};
        size_t eaten;
        struct slice first;
        if (http1_chunked_decode(&chunks, *body, &eaten, &first) < 0) return false;
        *body = first;
    }
    return true;
}

/* Of an earlier or later sandbox of the same name: its token is not this one's (O5). */
static bool of_another(const json_t *secret, const struct object *sandbox) {
    const json_t *owners = json_at(secret, "metadata.ownerReferences");
    for (size_t i = 0; i < json_array_size(owners); i++) {
        const json_t *owner = json_array_get(owners, i);
        if (strcmp(json_str_at(owner, "kind"), "Sandbox") == 0 &&
            strcmp(json_str_at(owner, "uid"), sandbox->uid) != 0)
            return true;
    }
    return false;
}

static bool read_token(struct k8s_client *client, const struct pod_place *place, const struct object *sandbox,
                       char *out, size_t cap) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *secret = NULL;
    cleanup_buffer struct buffer path = {0};
    cleanup_free char *name = xasprintf("%s-runtime-token", sandbox->name);
    k8s_path(KIND_SECRET, place->namespace, name, NULL, &path);
    if (k8s_call(client, "GET", buffer_cstr(&path), NULL, NULL, &secret, &err))
        return !of_another(secret, sandbox) && runtime_token(secret, out, cap);
    if (err.status != 404)
        log_warn("the token of a sandbox's runtime cannot be read, pods/exec is used", "namespace",
                 place->namespace, "sandbox", sandbox->name, "why", err.message, NULL);
    return false;
}

void runtime_probe(struct k8s_client *client, const struct pod_place *place, const struct object *sandbox,
                   struct runtime_found *out) {
    cleanup_error struct error err = {0};
    cleanup_buffer struct buffer answer = {0};
    struct slice body;
    *out = (struct runtime_found){.address.port = RUNTIME_PORT};
    if (!pod_place_dialable(place, &err)) return;
    snprintf(out->address.host, sizeof out->address.host, "%s", place->ip);
    if (!read_token(client, place, sandbox, out->address.token, sizeof out->address.token)) return;
    if (ask_health(&out->address, &answer, &body) && runtime_features(body, &out->features))
        out->there = true;
    else
        log_info("a sandbox's runtime does not answer, pods/exec is used", "namespace", place->namespace,
                 "sandbox", sandbox->name, NULL);
}
