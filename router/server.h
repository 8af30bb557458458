/* The server's inside: loops, connections and exchanges. Only server.c, exchange.c, request.c
 * and reply.c include this; handlers see router/request.h. */
#pragma once

#include "router/framing.h"
#include "router/inbound.h"
#include "router/ratelimit.h"
#include "router/request.h"
#include "router/router.h"

#include <microhttpd.h>
#include <uv.h>

#define STREAM_BUFFER_SIZE (64 * 1024)
#define MAX_LISTENERS      8

struct loop;
struct server;
struct verification;
struct auth_question;

/* One client connection. */
struct connection {
    struct loop *loop;
    struct exchange *exchange; /* the request under way, or NULL */
    int fd;
    struct inbound inbound; /* checks what comes in */
    uint64_t requests;      /* that libmicrohttpd has begun */
    char client_ip[64];
    bool probes;      /* came in on --probe-addr: health and metrics only */
    uv_poll_t hangup; /* watches for the client going away while we are not reading */
    bool hangup_started;
    int64_t head_since;     /* ms; when the head now awaited began to arrive, 0 = idle */
    uint64_t bytes_at_idle; /* TCP bytes received when the last request ended */
    struct connection *prev, *next;
};

enum exchange_stage {
    STAGE_HEAD,    /* head not looked at yet */
    STAGE_AUTH,    /* others are asked who the caller is; the body waits */
    STAGE_BODY,    /* body arriving */
    STAGE_DISCARD, /* answered already; the body is read and dropped first */
    STAGE_WORKER,  /* a worker thread has the request */
    STAGE_WAIT,    /* the handler answers later */
    STAGE_REPLY,   /* the answer was handed to libmicrohttpd */
    STAGE_UPGRADED /* the handler has the connection */
};

/* What libmicrohttpd does with an exchange: router/waiting.c. */
enum exchange_motion {
    MOTION_HEAD,      /* its head arrives: nothing to do but to wait for the network */
    MOTION_MOVES,     /* its body arrives, or its answer goes out */
    MOTION_WAITS,     /* it asks us again in each run */
    MOTION_SUSPENDED, /* nothing */
    MOTION_OVER       /* nothing any more: it was upgraded or is complete */
};

/* A fixed ring of bytes on their way to the client. */
struct ring {
    char *data; /* STREAM_BUFFER_SIZE, allocated when a stream begins */
    size_t start, len;
};

/* One request and its answer. Owned by the connection's loop; freed in the completed callback. */
struct exchange {
    struct request request; /* first: a handler's pointer is ours */
    struct loop *loop;
    struct connection *client;
    struct MHD_Connection *connection;
    enum exchange_stage stage;
    struct buffer target; /* raw */
    uint64_t number;      /* of the connection's requests, from 1 */
    struct buffer path;
    struct buffer body;
    struct framing framing;
    uint64_t body_seen;
    size_t body_limit;
    size_t body_held; /* of the budget for large bodies */
    enum exchange_motion motion;
    struct exchange *waiting_prev, *waiting_next; /* while MOTION_WAITS: oldest first */
    uint64_t waiting_since;                       /* uv_now() */
    bool doomed, body_paused, in_callback, body_done;
    /* the answer */
    struct MHD_Response *response;
    int status;
    struct buffer headers; /* set before the answer: packed_headers.h */
    bool close_after;
    void (*on_socket)(struct request *r, int fd, struct slice ahead); /* of an upgrade */
    struct MHD_UpgradeResponseHandle *upgrade;                        /* while STAGE_UPGRADED */
    bool upgrade_closed;
    int64_t revoked_at; /* ms; when on_revoked was called */
    struct ring out;
    bool streaming, out_ended, out_aborted, want_writable;
    uint64_t bytes_out;
    uint64_t started_ns;
    int64_t progress_at;     /* ms; start of the current minimum-rate window */
    uint64_t progress_bytes; /* moved since then */
    uint64_t delivered;      /* of the connection's bytes, at the end of the last window */
    char **query_values;     /* decoded, owned */
    size_t query_count;
    uv_work_t work;
    struct rate_state rate;            /* for the RateLimit-* headers; limit 0 = none */
    struct verification *verification; /* under way in STAGE_AUTH: router/verification.c */
    struct exchange *prev, *next;
};

struct loop {
    struct server *server;
    int index;
    uv_loop_t uv;
    uv_thread_t thread;
    uv_async_t wake; /* another thread wants something: drain, stop */
    uv_timer_t timer, sweep;
    struct listener {
        struct loop *loop;
        struct MHD_Daemon *daemon;
        uv_poll_t poll;
        bool quiesced, probes;
    } listeners[MAX_LISTENERS];
    int listener_count;
    struct connection *connections;
    struct connection **by_fd; /* by_fd_room of them */
    size_t by_fd_room;
    struct exchange *exchanges;
    struct exchange *spare; /* used ones, linked by `next`: their memory and small buffers are used again */
    unsigned spare_count;
    struct lingering *lingering; /* router/linger.c */
    int lingering_count;
    struct upstream_pool *upstreams;
    struct verification *verifications_waiting, *verifications_last; /* router/verification.c */
    int verifications_count, verifications_running;
    bool draining, stopped;
    int64_t drain_deadline;
    unsigned moving; /* exchanges that are MOTION_MOVES */
    struct exchange *waiting, *waiting_last;
    unsigned waiting_count;
    bool run_again;           /* a connection that goes on waits for the daemon to be run */
    uv_prepare_t before_wait; /* both look at run_again */
    uv_check_t after_wait;
    unsigned char random[512]; /* for request ids */
    size_t random_left;
};

/* exchange.c */
void *exchange_new(struct loop *loop, const char *target, struct MHD_Connection *connection);
enum MHD_Result exchange_handle(struct loop *loop, struct MHD_Connection *connection, const char *method,
                                const char *version, const char *data, size_t *size, void **state);
void exchange_completed(struct exchange *x, bool ok);
/* Frees what was kept of used ones. */
void exchange_free_spare(struct loop *loop);
/* The client has gone, or we give it up: tells the handler and closes the connection. */
void exchange_doom(struct exchange *x);
/* Whether the client has moved fewer bytes than it must (lessons I38, S26). */
bool exchange_too_slow(struct exchange *x, int64_t now);
/* A drain begins, which asks for some progress in shorter times. */
void exchange_begin_drain(struct exchange *x, int64_t now);
/* Ends a stream whose caller lost access to its sandbox. */
void exchange_check_access(struct exchange *x, int64_t now);

/* waiting.c */
/* Nothing is done with the connection until exchange_wake(). Only the loop, or libmicrohttpd's callbacks for
 * that connection, may call it. */
void exchange_suspend(struct exchange *x);
/* The same for what most likely goes on soon. */
void exchange_wait(struct exchange *x);
/* Lets libmicrohttpd go on with a connection that waits or is suspended. */
void exchange_wake(struct exchange *x);
void exchange_set_motion(struct exchange *x, enum exchange_motion motion);
/* Suspends those that have waited for so long. Not from within libmicrohttpd's callbacks. */
void loop_suspend_waiting(struct loop *loop, uint64_t longer_ms);

/* exchange.c, for exchange_body.c: */
/* Answers with an error now. What the client still sends is dropped. */
void exchange_refuse(struct exchange *x, struct error *err);
/* Tells the handler that its stream is over, once. */
void exchange_close_stream(struct exchange *x, bool aborted);

/* exchange_body.c */
/* A refused body up to this size is read and dropped, so that the client reads the answer
 * instead of a reset; above it the connection is closed after the answer. */
#define EXCHANGE_DISCARD_MAX (256ULL << 20)
/* Takes what libmicrohttpd brings of the body; `*size` becomes what it shall bring again. MHD_NO: the
 * connection is cut. */
enum MHD_Result exchange_take_body(struct exchange *x, const char *data, size_t *size);
/* What the route wants of the whole body, in request.body; false with 400 or 413. */
bool exchange_parse_body(struct exchange *x, struct error *err);
/* Frees it, and its part of the budget. */
void exchange_release_body(struct exchange *x);

/* reply.c */
/* Queues x->response with the standard headers. */
enum MHD_Result reply_queue(struct exchange *x);
/* Gives an upgraded connection back to libmicrohttpd, which closes it. */
void reply_upgrade_close(struct exchange *x);

/* server.c */
/* 16 hexadecimal digits that no other request has. */
void loop_request_id(struct loop *loop, char out[17]);
struct connection *connection_of(struct MHD_Connection *connection);
void connection_watch_hangup(struct connection *c);
void connection_unwatch_hangup(struct connection *c);

/* inbound_recv.c: only on the loop's own thread. */
/* From now on what this thread reads of the loop's connections is checked. */
void inbound_watch(struct loop *loop);
void inbound_add(struct loop *loop, struct connection *c);
void inbound_remove(struct loop *loop, struct connection *c);

/* linger.c */
/* The last answer was sent on this connection, which libmicrohttpd closes next: what the client still sends
 * is read and dropped for a while, so that it gets to read that answer. */
void linger_after(struct loop *loop, int fd);
/* Ends all of that; the loop gives the memory back when it runs. */
void linger_stop(struct loop *loop);

struct router *server_router(struct server *server);
/* Binds and starts the loops; false with err when an address cannot be had. */
struct server *server_start(struct router *router, struct error *err);
/* Refuses new connections, lets running requests finish (at most 30 s; those whose client neither sends nor
 * takes a byte for 10 s are cut), stops and frees. */
void server_drain_and_stop(struct server *server);
/* "http://127.0.0.1:8081" of the first listener, for people. */
const char *server_url(const struct server *server);
