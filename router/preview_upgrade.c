/* See preview_upgrade.h. */
#include "router/preview_upgrade.h"

#include <openssl/evp.h>
#include <stdio.h>

#define WEBSOCKET_KEY_LEN 24 /* base64 of 16 bytes */
#define WEBSOCKET_GUID    "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

/* The value of the only header of that name. False: there are several. */
static bool only_one(const struct http1_header *headers, size_t count, const char *name,
                     const struct slice **value) {
    *value = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!slice_equal_nocase(headers[i].name, name)) continue;
        if (*value) return false;
        *value = &headers[i].value;
    }
    return true;
}

static bool lists_token(const struct http1_header *headers, size_t count, const char *name,
                        const char *token) {
    for (size_t i = 0; i < count; i++) {
        if (!slice_equal_nocase(headers[i].name, name)) continue;
        struct slice rest = headers[i].value;
        while (rest.len) {
            const char *comma = memchr(rest.ptr, ',', rest.len);
            size_t n = comma ? (size_t)(comma - rest.ptr) : rest.len;
            if (slice_equal_nocase(slice_trim(slice_make(rest.ptr, n)), token)) return true;
            rest = slice_make(rest.ptr + n + (comma ? 1 : 0), rest.len - n - (comma ? 1 : 0));
        }
    }
    return false;
}

/* protocol-name ["/" protocol-version], both tokens. */
static bool protocol_valid(struct slice s) {
    const char *slash = s.len ? memchr(s.ptr, '/', s.len) : NULL;
    if (s.len == 0 || s.len >= PREVIEW_PROTOCOL_MAX) return false;
    if (!slash) return http1_token_valid(s);
    size_t n = (size_t)(slash - s.ptr);
    return http1_token_valid(slice_make(s.ptr, n)) && http1_token_valid(slice_make(slash + 1, s.len - n - 1));
}

static bool bad_handshake(struct error *err, const char *why) {
    error_set(err, 400, ERR_BAD_REQUEST, "this upgrade cannot be made: %s", why);
    return false;
}

/* Canonical base64 of 16 bytes: "==" at the end, and no set bit below the last byte. */
static bool key_valid(struct slice key) {
    unsigned char bytes[WEBSOCKET_KEY_LEN];
    char again[WEBSOCKET_KEY_LEN + 1];
    if (key.len != WEBSOCKET_KEY_LEN || key.ptr[22] != '=' || key.ptr[23] != '=') return false;
    if (EVP_DecodeBlock(bytes, (const unsigned char *)key.ptr, WEBSOCKET_KEY_LEN) != 18) return false;
    EVP_EncodeBlock((unsigned char *)again, bytes, 16);
    return memcmp(again, key.ptr, WEBSOCKET_KEY_LEN) == 0;
}

static bool expect_accept(struct slice key, struct preview_upgrade *out) {
    char text[WEBSOCKET_KEY_LEN + sizeof WEBSOCKET_GUID];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    int n = snprintf(text, sizeof text, "%.*s" WEBSOCKET_GUID, (int)key.len, key.ptr);
    if (!EVP_Digest(text, (size_t)n, digest, &digest_len, EVP_sha1(), NULL) || digest_len != 20) return false;
    EVP_EncodeBlock((unsigned char *)out->accept, digest, 20);
    return true;
}

static bool websocket_wanted(const struct http1_header *headers, size_t count, const char *method,
                             struct preview_upgrade *out, struct error *err) {
    const struct slice *key, *version;
    if (strcmp(method, "GET") != 0) return bad_handshake(err, "a WebSocket begins with GET");
    if (!only_one(headers, count, "sec-websocket-key", &key) || !key || !key_valid(*key))
        return bad_handshake(err, "Sec-WebSocket-Key must be there once, with 16 bytes in base64");
    if (!only_one(headers, count, "sec-websocket-version", &version) || !version)
        return bad_handshake(err, "Sec-WebSocket-Version must be there once");
    if (!expect_accept(*key, out)) {
        error_set(err, 500, ERR_INTERNAL, "the WebSocket key could not be hashed");
        return false;
    }
    return true;
}

bool preview_upgrade_wanted(const struct http1_header *headers, size_t count, const char *method,
                            bool http_1_0, int64_t body_length, struct preview_upgrade *out,
                            struct error *err) {
    const struct slice *protocol;
    *out = (struct preview_upgrade){0};
    if (!only_one(headers, count, "upgrade", &protocol))
        return bad_handshake(err, "it has more than one Upgrade header");
    if (!protocol || http_1_0 || !lists_token(headers, count, "connection", "upgrade")) return true;
    if (memchr(protocol->ptr, ',', protocol->len) || slice_equal_nocase(*protocol, "h2c")) return true;
    if (!protocol_valid(*protocol)) return bad_handshake(err, "Upgrade does not name a protocol");
    if (body_length != 0) return bad_handshake(err, "the request has a body");
    memcpy(out->protocol, protocol->ptr, protocol->len);
    out->websocket = slice_equal_nocase(*protocol, "websocket");
    return !out->websocket || websocket_wanted(headers, count, method, out, err);
}

static bool bad_grant(struct error *err, const char *why) {
    error_set(err, 502, "upstream_bad_answer",
              "the application's answer to the upgrade is not acceptable: %s", why);
    return false;
}

bool preview_upgrade_granted(const struct preview_upgrade *asked, const struct http1_head *answer,
                             struct error *err) {
    const struct slice *protocol, *accept;
    const struct http1_header *headers = answer->headers;
    size_t count = answer->header_count;
    if (answer->status != 101 || !asked->protocol[0]) return bad_grant(err, "it switched protocols unasked");
    if (answer->minor != 1) return bad_grant(err, "it is not HTTP/1.1");
    if (http1_find(answer, "content-length") || http1_find(answer, "transfer-encoding"))
        return bad_grant(err, "a 101 has no body");
    if (!answer->upgrade) return bad_grant(err, "it has no Connection: Upgrade");
    if (!only_one(headers, count, "upgrade", &protocol) || !protocol ||
        !slice_equal_nocase(*protocol, asked->protocol))
        return bad_grant(err, "its Upgrade is not the protocol that was asked for");
    if (!asked->websocket) return true;
    if (!only_one(headers, count, "sec-websocket-accept", &accept) || !accept ||
        !slice_equal_str(*accept, asked->accept))
        return bad_grant(err, "its Sec-WebSocket-Accept does not belong to the request");
    return true;
}

bool preview_upgrade_origin(const char *origin, struct slice base_url) {
    if (!origin || strcmp(origin, "null") == 0) return true;
    return slice_equal_nocase(base_url, origin);
}
