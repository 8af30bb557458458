/* What of a request's head reaches an application in a sandbox, and what of its answer's
 * head reaches the client. Pure functions, fuzzed. (http-api.md 2.11, W-08, W-57; lessons
 * I22, I27, S18 to S20, S25) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "common/http1.h"
#include "router/identity.h"

/* Where one preview lives, from parts that were checked. All borrowed. */
struct preview_place {
    const char *sandbox;   /* its name */
    int port;              /* in the sandbox */
    struct slice base_url; /* "http://host[:port]" as the client sees us */
    const char *prefix;    /* "/api/v1/sandboxes/<name>/preview/<port>": preview_prefix() */
};
#define PREVIEW_PREFIX_MAX 128
/* False: the name is longer than any sandbox's. */
bool preview_prefix(const char *sandbox, int port, char out[PREVIEW_PREFIX_MAX]);

/* What becomes of a header. */
enum preview_rule {
    PREVIEW_PASS, /* end to end, unchanged */
    PREVIEW_DROP, /* for this connection only, or not for a preview */
    PREVIEW_OURS, /* a credential of ours, or something that only we may say */
    PREVIEW_AUTHORIZATION,
    PREVIEW_COOKIE,
    PREVIEW_ORIGIN,
    PREVIEW_REFERER,
    PREVIEW_SET_COOKIE,
    PREVIEW_LOCATION,
};
enum preview_rule preview_request_rule(struct slice name);
enum preview_rule preview_answer_rule(struct slice name);
/* Whether a cookie of that name logs in here: "agenttier_...", "__Host-agenttier...", or the session of a
 * proxy before us ("_oauth2_proxy", "CF_Authorization", ...). */
bool preview_cookie_is_ours(struct slice name);

struct preview_request {
    struct preview_place place;
    const char *method;
    struct slice path;  /* raw, canonical: starts with a preview prefix, of any spelling */
    struct slice query; /* raw, without '?' */
    const char *client_ip, *request_id;
    enum auth_method auth_method;
    enum http1_framing framing; /* of the body as we send it */
    uint64_t content_length;
    const char *upgrade;                /* the protocol that is asked for, or "" */
    const struct http1_header *headers; /* of the client, all of them */
    size_t header_count;
};
/* Appends the whole head for the application, built from checked parts only. False: 400 bad_request or
 * 431 headers_too_large. */
bool preview_request_head(const struct preview_request *request, struct buffer *out, struct error *err);

/* Calls `emit` for every header that the client gets, in order, both NUL-terminated and valid during
 * the call. Not among them: Content-Length and what frames the body. */
void preview_answer_headers(const struct preview_place *place, const struct http1_head *head,
                            struct buffer *scratch,
                            void (*emit)(void *ctx, const char *name, const char *value), void *ctx);

/* Appends a Location for the client: root-relative and target-absolute ones stay under the prefix. */
bool preview_location(const struct preview_place *place, struct slice value, struct buffer *out);
/* Appends a Set-Cookie for the client: without Domain, its Path under the prefix. False: dropped. */
bool preview_set_cookie(const struct preview_place *place, struct slice value, struct buffer *out);
/* Appends a Cookie header's value without cookies of ours; nothing when none is left. */
void preview_cookie(struct slice value, struct buffer *out);
