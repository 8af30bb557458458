#include "k8s/upgrade.h"

#include "common/json.h"
#include "common/text.h"
#include "k8s/status.h"

#include <openssl/evp.h>
#include <stdio.h>

#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

bool upgrade_request(const char *host, uint16_t port, struct slice target, const char *authorization,
                     const char *const *protocols, const char *key, struct buffer *out, struct error *err) {
    bool ipv6 = strchr(host, ':') != NULL;
    if (target.len == 0 || target.ptr[0] != '/' || memchr(target.ptr, ' ', target.len) ||
        !http1_value_valid(target) || !http1_value_valid(slice_of(host)) || strchr(host, ' ') ||
        (authorization && !http1_value_valid(slice_of(authorization)))) {
        error_set(err, 500, ERR_INTERNAL, "the request to the Kubernetes API cannot be written");
        return false;
    }
    buffer_append_str(out, "GET ");
    buffer_append(out, target.ptr, target.len);
    buffer_printf(out, ipv6 ? " HTTP/1.1\r\nHost: [%s]:%u\r\n" : " HTTP/1.1\r\nHost: %s:%u\r\n", host, port);
    buffer_printf(out,
                  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: %s\r\nUser-Agent: agenttier/" AGENTTIER_VERSION
                  "\r\nSec-WebSocket-Protocol: ",
                  key);
    for (size_t i = 0; protocols[i]; i++) {
        if (i) buffer_append_str(out, ", ");
        buffer_append_str(out, protocols[i]);
    }
    buffer_append_str(out, "\r\n");
    if (authorization) {
        buffer_append_str(out, "Authorization: ");
        buffer_append_str(out, authorization);
        buffer_append_str(out, "\r\n");
    }
    return buffer_append_str(out, "\r\n");
}

void upgrade_accept(const char *key, char out[32]) {
    char text[WEBSOCKET_KEY_LEN + sizeof GUID];
    int n = snprintf(text, sizeof text, "%.*s" GUID, WEBSOCKET_KEY_LEN, key);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (EVP_Digest(text, (size_t)n, digest, &len, EVP_sha1(), NULL) != 1) abort();
    EVP_EncodeBlock((unsigned char *)out, digest, (int)len);
}

static bool bad(struct error *err, const char *what) {
    error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the Kubernetes API answered with %s", what);
    return false;
}

/* The one header of that name; NULL: none, or more than one. */
static const struct http1_header *only(const struct http1_head *head, const char *name, bool *twice) {
    const struct http1_header *found = NULL;
    for (size_t i = 0; i < head->header_count; i++) {
        if (!slice_equal_nocase(head->headers[i].name, name)) continue;
        if (found) *twice = true;
        found = &head->headers[i];
    }
    return found;
}

static bool check(const struct http1_head *head, const char *key, const char *const *protocols, int *chosen,
                  struct error *err) {
    bool twice = false;
    const struct http1_header *upgrade = only(head, "Upgrade", &twice),
                              *accept = only(head, "Sec-WebSocket-Accept", &twice),
                              *protocol = only(head, "Sec-WebSocket-Protocol", &twice);
    if (twice) return bad(err, "a WebSocket header twice");
    if (head->status != 101 || !head->upgrade || !upgrade || !slice_equal_nocase(upgrade->value, "websocket"))
        return bad(err, "something else than a WebSocket");
    char wanted[32];
    upgrade_accept(key, wanted);
    if (!accept || !slice_equal_str(accept->value, wanted)) return bad(err, "a WebSocket for somebody else");
    if (http1_find(head, "Sec-WebSocket-Extensions")) return bad(err, "an extension that nobody offered");
    for (int i = 0; protocol && protocols[i]; i++)
        if (slice_equal_str(protocol->value, protocols[i])) {
            *chosen = i;
            return true;
        }
    return bad(err, "a protocol that nobody offered");
}

int upgrade_check(const struct http1_head *head, const char *key, const char *const *protocols,
                  struct error *err) {
    int chosen = -1;
    return check(head, key, protocols, &chosen, err) ? chosen : -1;
}

/* The Status object of a refusal, or NULL. */
static json_t *status_of(struct slice body) {
    json_t *status = json_parse_object(body, NULL);
    if (status && strcmp(json_str_at(status, "kind"), "Status") == 0) return status;
    json_decref(status);
    return NULL;
}

/* A stranger's text in one line; `text` may be anything. */
static void one_line(struct slice text, char *out, size_t cap) {
    cleanup_buffer struct buffer repaired = {0};
    if (text.len > cap / 4) text.len = cap / 4;
    utf8_repair(text, &repaired);
    size_t n = 0;
    for (size_t i = 0; i < repaired.len && n + 1 < cap; i++)
        out[n++] =
            (unsigned char)repaired.data[i] < 0x20 || repaired.data[i] == 0x7f ? ' ' : repaired.data[i];
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = 0;
}

bool upgrade_refuses_protocol(int status, struct slice body) {
    cleanup_json json_t *object = status_of(body);
    if (status != 400 && status != 403) return false;
    return !object || strcmp(json_str_at(object, "reason"), "Forbidden") != 0;
}

void upgrade_refusal(int status, struct slice body, const char *pod, struct error *err) {
    cleanup_json json_t *object = status_of(body);
    const char *said = object ? json_str_at(object, "message") : "";
    char why[900];
    one_line(said[0] ? slice_of(said) : body, why, sizeof why);
    const char *reason = object ? json_str_at(object, "reason") : "";
    if (status == 404 && (!object || strcmp(reason, "NotFound") == 0)) {
        error_set(err, 404, "sandbox_not_found", "the sandbox's pod \"%s\" is not there: %s", pod, why);
    } else if (status == 403) {
        error_set(err, 403, ERR_KUBERNETES_FORBIDDEN,
                  "the Router may not run commands in pods (it needs get and create on pods/exec): %s", why);
    } else if (status == 401) {
        error_set(err, 503, ERR_KUBERNETES_UNAUTHORIZED,
                  "the Kubernetes API does not accept the Router's credentials");
        err->retry_after = 5;
    } else if (status == 429 || status == 503 || status == 504) {
        error_set(err, 503, ERR_UNAVAILABLE, "the Kubernetes API is busy or away: %s", why);
        err->retry_after = 1;
    } else {
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE,
                  "the command could not be started in pod \"%s\": %s (%d)", pod,
                  why[0] ? why : "no reason given", status);
    }
}
