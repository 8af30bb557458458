/* One connection in its own process: waiting with limits, reading the head, sending.
 * Plain blocking style on a non-blocking socket. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"
#include "common/http1.h"

#define HEAD_TIMEOUT_MS   5000
#define STALL_TIMEOUT_MS  300000 /* no byte moved in this time: the peer is taken for gone */
#define LINGER_TIMEOUT_MS 5000   /* for the rest of a body that nobody wants */
#define JSON_BODY_MAX     (8 * 1024 * 1024 + 1024)
#define UPGRADE_ANSWER(protocol)                                                                             \
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " protocol "\r\n\r\n"

struct conn {
    int fd;           /* non-blocking; owned by the process */
    int signals;      /* signalfd: a SIGTERM there means that the runtime stops */
    bool local;       /* a UNIX socket: descriptors can be passed */
    bool stopping;    /* a SIGTERM was read */
    bool answered;    /* the head of an answer was sent */
    struct buffer in; /* what was read so far: the head, then the start of the body */
    size_t used;      /* bytes of `in` that were consumed */
};

struct request {
    struct conn *conn;
    struct http1_head head; /* points into conn->in */
    struct slice path;      /* the target up to '?', not decoded */
    struct slice query;
};

/* Waits until one of poll(2) `events` is there. False: the time is over (ms, -1 = no limit),
 * the peer is gone, or the runtime stops. */
bool conn_wait(struct conn *c, short events, int64_t timeout_ms);

/* Up to `cap` bytes: > 0, 0 = end of stream, -1 = error, time over or stopping. */
ssize_t conn_receive(struct conn *c, void *out, size_t cap, int64_t timeout_ms);

/* Sends all of it; false when the peer does not take it. */
bool conn_send(struct conn *c, struct slice bytes);
/* As conn_send, with an open descriptor that goes with the first byte. UNIX sockets only. */
bool conn_send_fd(struct conn *c, struct slice bytes, int fd);

/* Reads and parses one request head. False: nothing usable came (err.status is 0 when the
 * peer just went away or took too long). */
bool conn_read_head(struct conn *c, struct request *r, struct error *err);

/* Ends the connection so that what was sent arrives, though the peer may still be sending. */
void conn_finish(struct conn *c);

/* The value of a query member, percent-decoded into `out` (cleared first). 1 = there, 0 = absent,
 * -1 = badly encoded or there twice. '+' is a plus. */
int request_query(const struct request *r, const char *name, struct buffer *out);
bool request_method_is(const struct request *r, const char *method);
/* Whether `Connection: upgrade` and `Upgrade: protocol` were sent. */
bool request_upgrades_to(const struct request *r, const char *protocol);

/* The body of a request. Zero-initialise, then body_open(). */
struct body {
    struct conn *conn;
    enum http1_framing framing;
    uint64_t left;               /* HTTP1_BODY_LENGTH */
    struct http1_chunked chunks; /* HTTP1_BODY_CHUNKED */
    struct slice rest;           /* read, not yet given out */
    char *buffer;
    bool ended;
};
#define BODY_BUFFER (128 * 1024)
/* Answers "Expect: 100-continue" first. */
bool body_open(struct body *b, const struct request *r);
/* The next bytes, borrowed until the next call. 1 = some, 0 = the end, -1 = cut, stalled or
 * malformed (err). */
int body_next(struct body *b, struct slice *out, struct error *err);
void body_free(struct body *b);
/* All of it, at most `max` bytes; more is 413. */
bool body_read_all(const struct request *r, size_t max, struct buffer *out, struct error *err);
#define cleanup_body __attribute__((cleanup(body_free)))
