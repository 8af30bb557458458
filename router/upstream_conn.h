/* A connection to an application, as router/upstream.c (exchanges) and router/upstream_pool.c
 * (idle connections) share it. Nobody else includes this. */
#pragma once

#include "router/upstream.h"

#define UPSTREAM_UID_MAX 64

enum upstream_state {
    UPSTREAM_IDLE,   /* in the pool */
    UPSTREAM_TAKEN,  /* by a request that has not sent yet */
    UPSTREAM_HEAD,   /* waits for the answer's head */
    UPSTREAM_BODY,   /* in the answer's body */
    UPSTREAM_OVER,   /* on_end or on_error was given */
    UPSTREAM_CLOSED, /* memory waits for the loop */
};

struct upstream {
    uv_poll_t poll;
    struct upstream_pool *pool;
    int fd;
    int interest; /* what `poll` watches */
    enum upstream_state state;

    /* The target: idle connections are looked up by it. */
    char uid[UPSTREAM_UID_MAX];
    int port;
    struct upstream *bucket_next;   /* same hash */
    struct upstream *newer, *older; /* all idle ones by age */
    uint64_t idle_since;

    /* The exchange. */
    const struct upstream_events *events;
    void *ctx;
    const char *method;
    bool reused;     /* an exchange went over it before */
    bool got_bytes;  /* of this answer */
    bool paused;     /* on_body took less */
    bool keep_alive; /* the answer allows another exchange */
    bool ended;      /* the answer's last byte was decoded; `held` may be waiting */
    bool delivering; /* within on_body */
    bool resumed;    /* meanwhile */
    bool upgrades;   /* a 101 was asked for */
    unsigned interim;
    enum http1_framing answer_framing;
    uint64_t answer_left;
    struct http1_chunked chunked;
    struct buffer held; /* an incomplete head, or decoded body that on_body did not take */

    enum http1_framing send_framing;
    uint64_t send_left;
    bool send_done;     /* the request was written in full, or up to `out` */
    bool send_dead;     /* the application takes no more */
    bool want_writable; /* upstream_write() took less */
    struct buffer out;  /* what the socket did not take */
};

struct upstream_pool {
    uv_loop_t *loop;
    uv_timer_t sweep; /* runs while something is idle */
    bool closing;
    unsigned open_handles; /* the timer and the connections */
    unsigned active, tunnels;
    size_t idle;
    struct upstream *newest, *oldest;
#define UPSTREAM_BUCKETS 64
    struct upstream *buckets[UPSTREAM_BUCKETS];
    struct buffer scratch;
    char read_buffer[UPSTREAM_BUFFER]; /* what arrives is handed on from here; only the rest is copied */
};

/* Watches for `events` (UV_READABLE, UV_WRITABLE), 0 = none. */
void upstream_watch(struct upstream *u, int events);
/* Frees the connection; it must not be in the pool's lists. */
void upstream_destroy(struct upstream *u);
/* Puts it among the idle ones; closes it instead when the pool is closing. */
void upstream_pool_put(struct upstream *u);
/* One of the pool's handles was closed: the last one of a pool that is closing frees it. */
void upstream_pool_handle_closed(struct upstream_pool *pool);
/* Takes an idle one out of the lists. */
void upstream_pool_unlink(struct upstream *u);
