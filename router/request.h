/* One request, from its head to its answer. It lives its whole life on the loop that
 * accepted it; only a ROUTE_UNARY handler runs elsewhere, on a worker thread, alone with
 * the request. Handlers include this header and nothing of libmicrohttpd. */
#pragma once

#include "backend/backend.h"
#include "common/bytes.h"
#include "common/error.h"
#include "common/json.h"
#include "router/identity.h"
#include "router/route.h"

#include <uv.h>

struct router; /* what all requests share: router/router.h */

/* A ROUTE_STREAM handler's callbacks. All run on the loop; none is called after
 * on_close, which comes exactly once. */
struct stream_ops {
    /* Body bytes; returns how many it took. Less than len: nothing more is offered until
     * request_body_resume(). */
    size_t (*on_body)(struct request *r, const char *data, size_t len);
    /* The whole body was taken. */
    void (*on_body_end)(struct request *r);
    /* reply_stream_write() took less than it was given; there is room again. */
    void (*on_writable)(struct request *r);
    /* The caller's access was taken away: say so and end the exchange within seconds. NULL: it is cut. */
    void (*on_revoked)(struct request *r);
    /* The server shuts down: end an upgraded connection within a second or two. NULL: it is cut. */
    void (*on_drain)(struct request *r);
    /* The exchange is over: answered in full (aborted = false), or the client went away or the server
     * gives it up (true). Free r->state here. */
    void (*on_close)(struct request *r, bool aborted);
};

/* What a request adds to its record in the history: router/audit.h. */
struct audit_note {
    char *name, *namespace; /* of what it made or changed; owned */
    json_t *details;        /* owned */
    const char *action;     /* instead of the row's; static */
    const char *code;       /* of the error that was answered; static */
    bool recorded;
};

struct request {
    struct router *router;
    const struct route *route;
    struct backend *backend;
    uv_loop_t *uv;
    struct upstream_pool *upstreams; /* this loop's idle preview connections: router/upstream.h */

    const char *method;
    struct slice target; /* raw request target */
    struct slice path;   /* canonical, still percent-encoded, without query */
    struct slice query;  /* raw, without '?' */
    struct route_params params;
    char request_id[129];
    char client_ip[64];

    struct identity identity;
    unsigned char key_digest[32]; /* SHA-256 of the API key, when identity.is_key */
    struct object *sandbox;       /* for AUTH_SANDBOX_*: owned by the request, stays valid */
    json_t *body;                 /* for JSON routes: an object */
    int64_t body_length;          /* Content-Length, -1 = chunked, 0 = none */
    bool http_1_0;                /* no upgrades there */

    struct audit_note audit;

    const struct stream_ops *stream;
    void *state; /* the handler's own */

    struct exchange *exchange; /* the server's side: router/server.c */
};

/* A path parameter by its name, percent-decoded; never NULL for a name in the pattern. */
const char *request_param(const struct request *r, const char *name);
/* The first query parameter of that name, percent- and plus-decoded; NULL when absent.
 * Valid as long as the request. */
const char *request_query(struct request *r, const char *name);
/* The first header of that name, NULL when absent. */
const char *request_header(struct request *r, const char *name);
/* Calls `each` for every request header, in order, until it returns false. */
void request_each_header(struct request *r, bool (*each)(void *ctx, struct slice name, struct slice value),
                         void *ctx);
/* Fills in client_ip: the peer, or whom a trusted proxy forwards for (http-api.md 1.11). */
void request_find_client(struct request *r, const char *peer);
/* "http://host[:port]" as the client sees us, from Host (or X-Forwarded-* of a trusted
 * proxy); appended to `out`. */
void request_base_url(struct request *r, struct buffer *out);

/* ---- One answer, exactly once, from the handler (inline, unary) or at any later time on
 * the loop (stream). Extra headers first. ---- */
void reply_header(struct request *r, const char *name, const char *value); /* both copied */
void reply_json(struct request *r, int status, json_t *body);              /* takes the reference */
void reply_text(struct request *r, int status, const char *content_type, char *data,
                size_t len); /* takes malloc'ed data */
/* Bytes that live in an object's view: kept alive by a reference, not copied. */
void reply_view(struct request *r, int status, struct object *owner, const char *data, size_t len);
void reply_empty(struct request *r, int status);
void reply_error(struct request *r, const struct error *err); /* borrowed */
/* A file's bytes from a descriptor (taken), by sendfile. */
void reply_fd(struct request *r, int status, const char *content_type, int fd, uint64_t offset,
              uint64_t length);

/* ---- Streams ---- */
/* Called by a ROUTE_STREAM handler before it returns, unless it answered already. */
void request_stream(struct request *r, const struct stream_ops *ops, void *state);
void request_body_resume(struct request *r);
/* Starts the answer. content_length -1 = chunked. Content-Type by reply_header before. */
void reply_stream_begin(struct request *r, int status, int64_t content_length);
/* Takes up to the free space of a fixed buffer (64 KiB); returns how much. Less than
 * len: on_writable follows. Each write goes out at once. */
size_t reply_stream_write(struct request *r, const char *data, size_t len);
void reply_stream_end(struct request *r);
/* Cuts the connection without the final chunk: the client sees that the body is incomplete. */
void reply_stream_abort(struct request *r);

/* ---- Upgrades ---- */
/* Answers 101 to a ROUTE_STREAM request without a body, with the headers set so far (Upgrade among them;
 * Connection is added), and hands the client's connection over: when the head went out, `on_socket` gets a
 * descriptor of it (non-blocking, the handler's to close) and what the client has sent ahead, valid during
 * the call. From then on the handler ends the exchange by request_upgrade_end(), after which on_close
 * follows; on_close with aborted = true may come at any time before, as for every stream. Upgraded
 * connections are outside of all time limits of requests and are not waited for in a drain. */
void reply_upgrade(struct request *r, void (*on_socket)(struct request *r, int fd, struct slice ahead));
void request_upgrade_end(struct request *r);

/* The JSON body of an error: {"error", "code", ...}. New reference. */
json_t *error_body(const struct error *err);
bool reply_started(const struct request *r);
