/* Upgrades (WebSocket and others) in previews: which a request asks for, and whether an answer really
 * grants it. Only after a checked grant do bytes pass unlooked at. Pure. (http-api.md 2.11; lessons S2, S20)
 */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "common/http1.h"

#define PREVIEW_PROTOCOL_MAX 64

struct preview_upgrade {
    char protocol[PREVIEW_PROTOCOL_MAX]; /* "websocket", "name/version"; "" = none asked for */
    bool websocket;
    char accept[32]; /* the Sec-WebSocket-Accept that belongs to the request's key */
};

/* What the request asks for. Nothing when it does not ask, asks in HTTP/1.0, for several protocols or for
 * "h2c": such an Upgrade may be ignored (RFC 9110 7.8). False: 400 bad_request, a handshake that no
 * server should accept, or one with a body. */
bool preview_upgrade_wanted(const struct http1_header *headers, size_t count, const char *method,
                            bool http_1_0, int64_t body_length, struct preview_upgrade *out,
                            struct error *err);

/* Whether a 101 grants just what was asked for. False: 502 upstream_bad_answer. */
bool preview_upgrade_granted(const struct preview_upgrade *asked, const struct http1_head *answer,
                             struct error *err);

/* Whether a browser's page of that Origin may open a connection for a caller who shows no credential of
 * his own (lesson S3): our own origin or the opaque one ("null") that previewed pages have. */
bool preview_upgrade_origin(const char *origin, struct slice base_url);
