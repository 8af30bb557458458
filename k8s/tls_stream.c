#include "k8s/tls_stream.h"

#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#define AHEAD_MAX     65536
#define PIECE         16384
#define DEAD_AFTER_MS 60000 /* sent bytes that nobody acknowledges */

enum state { RESOLVING, CONNECTING, HANDSHAKING, OPEN, OVER };

struct tls_stream {
    uv_loop_t *loop;
    struct tls_stream_events events;
    void *ctx;
    char host[256], service[8], name[256];

    enum state state;
    uv_getaddrinfo_t lookup;
    bool looking; /* the look-up holds this structure */
    struct addrinfo *addresses, *next;
    int fd;
    uv_poll_t poll;
    bool polling;
    uv_timer_t timer, kick;
    int handles; /* and the look-up: the last one frees the stream */
    bool closed;

    SSL *ssl;
    SSL_CTX *tls;
    BIO *in, *out; /* owned by ssl */
    struct buffer unsent;
    size_t unsent_start;
    bool eof, paused, short_write;
    char last_error[160];
};

/* ---- Memory ---- */

#define TRIM_STREAMS 16

/* Of this process: which stream ends last is known to no loop. */
static struct {
    pthread_mutex_t lock;
    int open, most; /* most: since memory was last given back */
} streams = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void count_one(void) {
    pthread_mutex_lock(&streams.lock);
    if (++streams.open > streams.most) streams.most = streams.open;
    pthread_mutex_unlock(&streams.lock);
}

/* OpenSSL's small pieces of many connections would stay with us (O10): given back when most of them have
 * ended, those included that ended what others had left in pods. */
static void count_out(void) {
    pthread_mutex_lock(&streams.lock);
    bool fewer = --streams.open <= streams.most / 8 && streams.most >= TRIM_STREAMS;
    if (fewer) streams.most = streams.open;
    pthread_mutex_unlock(&streams.lock);
    if (fewer) malloc_trim(0);
}

/* ---- Ends ---- */

static void unhold(struct tls_stream *s) {
    if (--s->handles > 0) return;
    if (s->ssl) SSL_free(s->ssl);
    if (s->tls) SSL_CTX_free(s->tls);
    if (s->addresses) uv_freeaddrinfo(s->addresses);
    buffer_free(&s->unsent);
    free(s);
    count_out();
}

static void on_handle_closed(uv_handle_t *handle) {
    unhold(handle->data);
}

static void drop_socket(struct tls_stream *s) {
    /* Before the descriptor: libuv knows a poll handle by its number. */
    if (s->polling) uv_close((uv_handle_t *)&s->poll, on_handle_closed);
    s->polling = false;
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

static void end(struct tls_stream *s) {
    s->state = OVER;
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->kick);
    if (s->looking) uv_cancel((uv_req_t *)&s->lookup);
    drop_socket(s);
}

static void fail(struct tls_stream *s, int status, const char *code, const char *what, const char *why) {
    if (s->state == OVER) return;
    end(s);
    cleanup_error struct error err = {0};
    error_set(&err, status, code, "the Kubernetes API at %s:%s %s%s%s", s->host, s->service, what,
              why[0] ? ": " : "", why);
    if (status == 503) err.retry_after = 1;
    s->events.on_error(s->ctx, &err);
}

static void fail_tls(struct tls_stream *s) {
    char why[200] = "";
    long verified = SSL_get_verify_result(s->ssl);
    if (verified != X509_V_OK)
        snprintf(why, sizeof why, "%s", X509_verify_cert_error_string(verified));
    else
        ERR_error_string_n(ERR_get_error(), why, sizeof why);
    ERR_clear_error();
    fail(s, 503, ERR_UNAVAILABLE,
         verified != X509_V_OK ? "has a certificate that is not trusted" : "ended the TLS connection", why);
}

/* ---- Sending ---- */

static void update_interest(struct tls_stream *s);

/* Moves what OpenSSL wrote to `unsent`. */
static void collect(struct tls_stream *s) {
    if (!s->ssl) return;
    for (size_t n; (n = BIO_ctrl_pending(s->out)) > 0;) {
        char *at = buffer_reserve(&s->unsent, n);
        int got = BIO_read(s->out, at, (int)n);
        if (got <= 0) return;
        buffer_commit(&s->unsent, (size_t)got);
    }
}

static void flush(struct tls_stream *s) {
    collect(s);
    while (s->fd >= 0 && s->unsent_start < s->unsent.len) {
        ssize_t n = send(s->fd, s->unsent.data + s->unsent_start, s->unsent.len - s->unsent_start,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (n < 0) { /* the peer no longer takes anything; what it said is still read */
            buffer_clear(&s->unsent);
            s->unsent_start = 0;
            return;
        }
        s->unsent_start += (size_t)n;
    }
    if (s->unsent_start == s->unsent.len) {
        buffer_clear(&s->unsent);
        s->unsent_start = 0;
    } else if (s->unsent_start > AHEAD_MAX / 2) {
        buffer_consume(&s->unsent, s->unsent_start);
        s->unsent_start = 0;
    }
}

size_t tls_stream_room(const struct tls_stream *s) {
    size_t held = s->unsent.len - s->unsent_start;
    return s->state == OPEN && held < AHEAD_MAX ? AHEAD_MAX - held : 0;
}

size_t tls_stream_write(struct tls_stream *s, const char *data, size_t len) {
    if (s->state == OVER) return len;
    size_t taken = 0;
    while (taken < len) {
        size_t room = tls_stream_room(s), n = len - taken < room ? len - taken : room;
        if (n == 0) break;
        if (n > PIECE) n = PIECE;
        if (!s->ssl) {
            buffer_append(&s->unsent, data + taken, n);
        } else if (SSL_write(s->ssl, data + taken, (int)n) <= 0) {
            ERR_clear_error();
            break; /* the reading side finds out why */
        }
        taken += n;
        flush(s);
    }
    if (taken < len || tls_stream_room(s) == 0) s->short_write = true;
    update_interest(s);
    return taken;
}

/* ---- Receiving ---- */

/* Brings bytes of the kernel to OpenSSL. 1 = some, 0 = none now, -1 = the end. */
static int receive(struct tls_stream *s) {
    char piece[PIECE];
    ssize_t n;
    do
        n = recv(s->fd, piece, sizeof piece, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    if (n <= 0) {
        s->eof = true;
        return -1;
    }
    return BIO_write(s->in, piece, (int)n) == (int)n ? 1 : -1;
}

ssize_t tls_stream_read(struct tls_stream *s, char *out, size_t len) {
    if (s->state != OPEN) return s->state == OVER ? -1 : 0;
    if (!s->ssl) {
        ssize_t n;
        do
            n = recv(s->fd, out, len, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n > 0) return n;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        s->eof = true;
        return -1;
    }
    for (;;) {
        ERR_clear_error();
        int n = SSL_read(s->ssl, out, len < PIECE ? (int)len : PIECE);
        if (n > 0) return n;
        int why = SSL_get_error(s->ssl, n);
        flush(s); /* an answer to what came: a key update, an alert */
        if (why != SSL_ERROR_WANT_READ || s->eof) {
            s->eof = true;
            ERR_clear_error();
            return -1;
        }
        int got = receive(s);
        if (got == 0) return 0;
        if (got < 0) return -1;
    }
}

/* ---- Connecting ---- */

static void try_next(struct tls_stream *s);

static void opened(struct tls_stream *s) {
    s->state = OPEN;
    uv_timer_stop(&s->timer);
    s->events.on_connected(s->ctx);
}

static void handshake(struct tls_stream *s) {
    for (;;) {
        ERR_clear_error();
        int rc = SSL_do_handshake(s->ssl);
        flush(s);
        if (rc == 1) {
            opened(s);
            return;
        }
        if (SSL_get_error(s->ssl, rc) != SSL_ERROR_WANT_READ) {
            fail_tls(s);
            return;
        }
        int got = receive(s);
        if (got == 0) return;
        if (got < 0) {
            fail(s, 503, ERR_UNAVAILABLE, "closed the connection during the TLS handshake", "");
            return;
        }
    }
}

static void on_timer(uv_timer_t *timer) {
    struct tls_stream *s = timer->data;
    fail(s, 504, "sandbox_timeout",
         s->state == HANDSHAKING ? "did not finish the TLS handshake in time"
                                 : "did not accept a connection in time",
         "");
}

static bool start_tls(struct tls_stream *s) {
    s->ssl = SSL_new(s->tls);
    if (!s->ssl) return false;
    s->in = BIO_new(BIO_s_mem());
    s->out = BIO_new(BIO_s_mem());
    if (!s->in || !s->out) abort(); /* out of memory */
    SSL_set_bio(s->ssl, s->in, s->out);
    SSL_set_connect_state(s->ssl);
    X509_VERIFY_PARAM *param = SSL_get0_param(s->ssl);
    struct in6_addr ignored;
    if (inet_pton(AF_INET, s->name, &ignored) == 1 || inet_pton(AF_INET6, s->name, &ignored) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, s->name) == 1;
    return SSL_set1_host(s->ssl, s->name) == 1 && SSL_set_tlsext_host_name(s->ssl, s->name) == 1;
}

static void tcp_connected(struct tls_stream *s) {
    int errnum = 0, one = 1, dead = DEAD_AFTER_MS;
    socklen_t len = sizeof errnum;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0) errnum = errno;
    if (errnum) {
        snprintf(s->last_error, sizeof s->last_error, "%s", strerror(errnum));
        try_next(s);
        return;
    }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof dead);
    if (!s->tls) {
        opened(s);
        return;
    }
    s->state = HANDSHAKING;
    uv_timer_start(&s->timer, on_timer, TLS_STREAM_HANDSHAKE_MS, 0);
    if (start_tls(s))
        handshake(s);
    else
        fail_tls(s);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct tls_stream *s = poll->data;
    if (status < 0) events = UV_READABLE | UV_WRITABLE; /* a reset: what came before it is still read */
    if (s->state == CONNECTING) {
        tcp_connected(s);
    } else if (s->state == HANDSHAKING) {
        flush(s);
        handshake(s);
    } else {
        if (events & UV_WRITABLE) {
            flush(s);
            if (s->short_write && tls_stream_room(s) >= AHEAD_MAX / 2) {
                s->short_write = false;
                s->events.on_writable(s->ctx);
            }
        }
        if (s->state == OPEN && (events & UV_READABLE) && !s->paused) s->events.on_readable(s->ctx);
    }
    update_interest(s);
}

static void update_interest(struct tls_stream *s) {
    if (!s->polling || s->state == OVER) return;
    int events = 0;
    if (s->state == CONNECTING || s->unsent_start < s->unsent.len) events |= UV_WRITABLE;
    if (s->state == HANDSHAKING || (s->state == OPEN && !s->paused && !s->eof)) events |= UV_READABLE;
    if (events)
        uv_poll_start(&s->poll, events, on_poll);
    else
        uv_poll_stop(&s->poll);
}

static void on_poll_closed_retry(uv_handle_t *handle) {
    struct tls_stream *s = handle->data;
    if (!s->closed && s->state != OVER) try_next(s);
    unhold(s);
}

/* The next address, or the failure of the last one. */
static void try_next(struct tls_stream *s) {
    if (s->polling) { /* a poll handle is used again only after it was closed */
        uv_close((uv_handle_t *)&s->poll, on_poll_closed_retry);
        s->polling = false;
        close(s->fd);
        s->fd = -1;
        return;
    }
    while (s->next) {
        struct addrinfo *to = s->next;
        s->next = to->ai_next;
        s->fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (s->fd >= 0 && (connect(s->fd, to->ai_addr, to->ai_addrlen) == 0 || errno == EINPROGRESS) &&
            uv_poll_init(s->loop, &s->poll, s->fd) == 0) {
            s->poll.data = s;
            s->polling = true;
            s->handles++;
            update_interest(s);
            return;
        }
        snprintf(s->last_error, sizeof s->last_error, "%s", strerror(errno));
        if (s->fd >= 0) close(s->fd);
        s->fd = -1;
    }
    fail(s, 503, ERR_UNAVAILABLE, "cannot be reached", s->last_error);
}

static void on_resolved(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found) {
    struct tls_stream *s = lookup->data;
    s->looking = false;
    if (s->closed || s->state == OVER) {
        if (found) uv_freeaddrinfo(found);
    } else if (status != 0) {
        fail(s, 503, ERR_UNAVAILABLE, "cannot be found", uv_strerror(status));
    } else {
        s->addresses = s->next = found;
        s->state = CONNECTING;
        try_next(s);
    }
    unhold(s);
}

static void on_kick(uv_timer_t *kick) {
    struct tls_stream *s = kick->data;
    if (s->state == RESOLVING && s->next) {
        s->state = CONNECTING;
        try_next(s);
    } else if (s->state == RESOLVING) {
        fail(s, 503, ERR_UNAVAILABLE, "cannot be looked up", s->last_error);
    } else if (s->state == OPEN && !s->paused) {
        s->events.on_readable(s->ctx);
    }
    update_interest(s);
}

struct tls_stream *tls_stream_open(uv_loop_t *loop, const char *host, uint16_t port, SSL_CTX *tls,
                                   const char *name, const struct tls_stream_events *events, void *ctx) {
    struct tls_stream *s = xcalloc(1, sizeof *s);
    count_one();
    *s = (struct tls_stream){.loop = loop, .events = *events, .ctx = ctx, .fd = -1};
    snprintf(s->host, sizeof s->host, "%s", host);
    snprintf(s->service, sizeof s->service, "%u", port);
    snprintf(s->name, sizeof s->name, "%s", name ? name : host);
    if (tls) SSL_CTX_up_ref(tls);
    s->tls = tls;
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->kick);
    s->timer.data = s->kick.data = s->lookup.data = s;
    s->handles = 2;
    uv_timer_start(&s->timer, on_timer, TLS_STREAM_CONNECT_MS, 0);
    /* An address needs no look-up, which would wait for its turn behind whatever the loop's workers do. */
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST};
    if (getaddrinfo(s->host, s->service, &hints, &s->addresses) == 0) {
        s->next = s->addresses;
        uv_timer_start(&s->kick, on_kick, 0, 0);
        return s;
    }
    s->addresses = NULL;
    hints.ai_flags = AI_NUMERICSERV;
    int rc = uv_getaddrinfo(loop, &s->lookup, on_resolved, s->host, s->service, &hints);
    s->looking = rc == 0;
    if (s->looking) {
        s->handles++;
    } else {
        snprintf(s->last_error, sizeof s->last_error, "%s", uv_strerror(rc));
        uv_timer_start(&s->kick, on_kick, 0, 0);
    }
    return s;
}

void tls_stream_pause(struct tls_stream *s) {
    s->paused = true;
    update_interest(s);
}

void tls_stream_resume(struct tls_stream *s) {
    if (!s->paused || s->state == OVER) return;
    s->paused = false;
    /* What OpenSSL already holds makes no descriptor readable. */
    uv_timer_start(&s->kick, on_kick, 0, 0);
}

void tls_stream_close(struct tls_stream *s) {
    if (!s || s->closed) return;
    s->closed = true;
    if (s->state == OPEN) {
        if (s->ssl) SSL_shutdown(s->ssl);
        ERR_clear_error();
        flush(s);
    }
    end(s);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->kick, on_handle_closed);
}
