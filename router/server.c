/* Loops and connections: one libuv loop per core, each with libmicrohttpd daemons of its own on
 * SO_REUSEPORT sockets (external epoll), so that a request never changes threads. */
#include "router/server.h"

#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "router/forwarded.h"
#include "router/metrics.h"
#include "router/tcp_bytes.h"
#include "router/upstream.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* router/inbound.c is stricter than the library can be. Before 1.0 all that this adds is a text of its own
 * for a missing Host. */
#define LIBRARY_STRICTNESS      (MHD_VERSION >= 0x01000000 ? 1 : 0)
#define CONNECTION_MEMORY       (64 * 1024)
#define CONNECTION_IDLE_SECONDS 120
#define CONNECTIONS_PER_LOOP    10000
#define HEAD_TIMEOUT_MS         5000
#define SWEEP_MS                1000
#define WAITING_MS              20 /* most handlers have gone on by then, also on a busy machine */
#define DRAIN_MS                30000
#define GOODBYE_MS              3000 /* of that for upgraded connections that say goodbye */
#define LEFT_OVER_MS            6000 /* for what streams still do after they were closed */

struct server {
    struct router *router;
    struct loop *loops;
    int loop_count;
    struct sockaddr_storage addresses[MAX_LISTENERS];
    socklen_t address_lengths[MAX_LISTENERS];
    int address_count;
    int probe_from; /* the addresses from this one on are those of --probe-addr */
    char url[128];
};

struct router *server_router(struct server *server) {
    return server->router;
}
const char *server_url(const struct server *server) {
    return server->url;
}

/* ---- Connections ---- */

struct connection *connection_of(struct MHD_Connection *connection) {
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void on_hangup(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    struct connection *c = poll->data;
    uv_poll_stop(poll);
    c->hangup_started = false;
    if (c->exchange) exchange_doom(c->exchange);
}

void connection_watch_hangup(struct connection *c) {
    if (c->hangup_started) return;
    c->hangup_started = true;
    uv_poll_start(&c->hangup, UV_DISCONNECT, on_hangup);
}

void connection_unwatch_hangup(struct connection *c) {
    uv_poll_stop(&c->hangup);
    c->hangup_started = false;
}

static void free_connection(uv_handle_t *handle) {
    free(handle->data);
}

static void describe_peer(struct connection *c, struct MHD_Connection *connection) {
    const struct sockaddr *peer =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
    char text[INET6_ADDRSTRLEN] = "";
    if (peer->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, text, sizeof text);
    } else {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(a))
            inet_ntop(AF_INET, a->s6_addr + 12, text, sizeof text);
        else
            inet_ntop(AF_INET6, a, text, sizeof text);
    }
    snprintf(c->client_ip, sizeof c->client_ip, "%s", text);
}

static void on_connection(void *ctx, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct listener *listener = ctx;
    struct loop *loop = listener->loop;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct connection *c = xcalloc(1, sizeof *c);
        c->loop = loop;
        c->probes = listener->probes;
        c->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        c->head_since = monotonic_ms();
        describe_peer(c, connection);
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        uv_poll_init(&loop->uv, &c->hangup, c->fd);
        c->hangup.data = c;
        c->next = loop->connections;
        if (c->next) c->next->prev = c;
        loop->connections = c;
        inbound_add(loop, c);
        *socket_context = c;
        metrics_connections(loop->server->router->metrics, 1);
        return;
    }
    struct connection *c = *socket_context;
    if (c->prev)
        c->prev->next = c->next;
    else
        loop->connections = c->next;
    if (c->next) c->next->prev = c->prev;
    inbound_remove(loop, c);
    metrics_connections(loop->server->router->metrics, -1);
    uv_close((uv_handle_t *)&c->hangup, free_connection);
}

static void *on_target(void *ctx, const char *target, struct MHD_Connection *connection) {
    struct listener *listener = ctx;
    return exchange_new(listener->loop, target, connection);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **state) {
    (void)url; /* decoded and cut at %00 by the library: the raw target is what counts (lessons M5) */
    struct listener *listener = ctx;
    return exchange_handle(listener->loop, connection, method, version, data, size, state);
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
    (void)ctx;
    struct exchange *x = *state;
    struct connection *c = connection_of(connection);
    if (!x) return;
    *state = NULL;
    bool ok = code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (ok && x->close_after)
        linger_after(x->loop, c->fd);
    else if (!x->upgrade && !inbound_next(&c->inbound, x->number))
        shutdown(c->fd, SHUT_RDWR);
    exchange_completed(x, ok);
    c->head_since = 0;
    c->bytes_at_idle = 0;
}

/* Paths are decoded by us, from the raw target. */
static size_t keep_escapes(void *ctx, struct MHD_Connection *connection, char *text) {
    (void)ctx, (void)connection;
    return strlen(text);
}

__attribute__((format(printf, 2, 0))) static void on_library_log(void *ctx, const char *format,
                                                                 va_list args) {
    (void)ctx;
    char text[256];
    vsnprintf(text, sizeof text, format, args);
    log_debug("libmicrohttpd", "detail", text, NULL);
}

/* ---- Driving libmicrohttpd from libuv ---- */

/* Runs it until it waits for the network; *wait, when true, is the time in ms after which it must be run
 * again. While exchanges wait for their handlers it says "at once" in any case, which counts only as long as
 * another one moves. */
static bool run_daemon(struct loop *loop, struct MHD_Daemon *daemon, uint64_t *wait) {
    MHD_UNSIGNED_LONG_LONG timeout;
    for (int rounds = 1;; rounds++) {
        MHD_run(daemon);
        if (loop->waiting_count > 0 && loop->moving == 0) return false;
        if (MHD_get_timeout(daemon, &timeout) != MHD_YES) return false;
        if (timeout > 0 || rounds == 16) break;
        /* An answer that the client takes at once needs two runs. */
        if (rounds == 3) loop_suspend_waiting(loop, 0);
    }
    *wait = timeout;
    return true;
}

static void run_daemons(struct loop *loop) {
    uint64_t wait = UINT64_MAX, one;
    loop->run_again = false;
    for (int i = 0; i < loop->listener_count; i++)
        if (run_daemon(loop, loop->listeners[i].daemon, &one) && one < wait) wait = one;
    if (loop->waiting_count > 0 && wait > WAITING_MS) wait = WAITING_MS;
    if (wait != UINT64_MAX || loop->run_again) {
        uint64_t due = loop->run_again ? 0 : wait;
        if (!uv_is_active((uv_handle_t *)&loop->timer) || uv_timer_get_due_in(&loop->timer) > due)
            uv_timer_start(&loop->timer, loop->timer.timer_cb, due, 0);
    }
}

/* A handler answered, so a connection was resumed: it goes on in the same turn of the loop. */
static void on_before_wait(uv_prepare_t *prepare) {
    struct loop *loop = prepare->data;
    if (loop->run_again) run_daemons(loop);
    log_flush();
}

static void on_after_wait(uv_check_t *check) {
    struct loop *loop = check->data;
    if (loop->run_again) run_daemons(loop);
}

void loop_request_id(struct loop *loop, char out[17]) {
    static const char digits[] = "0123456789abcdef";
    if (loop->random_left < 8) {
        random_bytes(loop->random, sizeof loop->random);
        loop->random_left = sizeof loop->random;
    }
    for (int i = 0; i < 8; i++) {
        unsigned char byte = loop->random[--loop->random_left];
        out[2 * i] = digits[byte >> 4];
        out[2 * i + 1] = digits[byte & 15];
    }
    out[16] = '\0';
}

static void on_daemon_ready(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    struct loop *loop = poll->data;
    loop->run_again = true; /* in on_after_wait(), together with what applications answered */
}

static void on_timer(uv_timer_t *timer) {
    loop_suspend_waiting(timer->data, WAITING_MS);
    run_daemons(timer->data);
}

/* ---- Once a second: slow heads, slow bodies, slow readers, the end of a drain ---- */

static bool head_too_slow(struct connection *c, int64_t now) {
    if (c->exchange && c->exchange->stage != STAGE_HEAD) return false;
    if (!c->exchange && c->head_since == 0) {
        /* Between requests: has the next head begun to arrive? */
        uint64_t seen = tcp_bytes_received(c->fd);
        if (inbound_waits(&c->inbound))
            c->head_since = now;
        else if (c->bytes_at_idle == 0)
            c->bytes_at_idle = seen;
        else if (seen > c->bytes_at_idle)
            c->head_since = now;
        return false;
    }
    return c->head_since != 0 && now - c->head_since > HEAD_TIMEOUT_MS;
}

static void finish_drain(struct loop *loop, int64_t now) {
    bool running = false; /* upgraded connections are not waited for (http-api.md 1.13), but for a goodbye */
    bool goodbye = now < loop->drain_deadline - DRAIN_MS + GOODBYE_MS;
    for (struct exchange *x = loop->exchanges; x; x = x->next)
        running = running || x->stage != STAGE_UPGRADED ||
                  (goodbye && x->request.stream && x->request.stream->on_drain);
    if (running && now < loop->drain_deadline) return;
    for (struct exchange *x = loop->exchanges; x; x = x->next)
        exchange_doom(x);
    bool worker = false;
    for (struct exchange *x = loop->exchanges; x; x = x->next)
        worker = worker || x->stage == STAGE_WORKER;
    if (!worker) {
        loop->stopped = true;
        uv_stop(&loop->uv);
    }
}

static void on_sweep(uv_timer_t *timer) {
    struct loop *loop = timer->data;
    int64_t now = monotonic_ms();
    for (struct connection *c = loop->connections; c; c = c->next) {
        bool slow = head_too_slow(c, now) || (c->exchange && exchange_too_slow(c->exchange, now));
        if (slow) shutdown(c->fd, SHUT_RDWR); /* the library sees the end and cleans up */
    }
    for (struct exchange *x = loop->exchanges; x; x = x->next)
        exchange_check_access(x, now);
    if (loop->draining) finish_drain(loop, now);
    run_daemons(loop);
}

static void begin_drain(struct loop *loop) {
    if (loop->draining) return;
    loop->draining = true;
    int64_t now = monotonic_ms();
    loop->drain_deadline = now + DRAIN_MS;
    for (int i = 0; i < loop->listener_count; i++) {
        int fd = MHD_quiesce_daemon(loop->listeners[i].daemon);
        if (fd >= 0) close(fd);
        loop->listeners[i].quiesced = true;
    }
    for (struct exchange *x = loop->exchanges; x; x = x->next) {
        exchange_begin_drain(x, now);
        if (x->request.stream && x->request.stream->on_drain) x->request.stream->on_drain(&x->request);
    }
    uv_timer_start(&loop->sweep, on_sweep, 1, 50);
}

static void on_wake(uv_async_t *async) {
    struct loop *loop = async->data;
    if (atomic_load(&loop->server->router->draining)) begin_drain(loop);
    run_daemons(loop);
}

/* ---- Start ---- */

static int bind_address(const struct sockaddr *address, socklen_t len, struct error *err) {
    cleanup_close int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1, off = 0;
    if (fd < 0) {
        error_set_errno(err, errno, "cannot make a socket");
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (address->sa_family == AF_INET6) {
        bool any = IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, any ? &off : &on, sizeof on);
    }
    if (bind(fd, address, len) != 0 || listen(fd, 1024) != 0) {
        error_set_errno(err, errno,
                        "cannot listen there; is another program using the port? choose another address");
        return -1;
    }
    return steal_fd(fd);
}

static bool start_listener(struct loop *loop, int address, struct error *err) {
    struct server *server = loop->server;
    struct listener *l = &loop->listeners[loop->listener_count];
    int fd =
        bind_address((struct sockaddr *)&server->addresses[address], server->address_lengths[address], err);
    if (fd < 0) return false;
    l->loop = loop;
    l->probes = address >= server->probe_from;
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, l, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_PER_LOOP,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_IDLE_SECONDS, MHD_OPTION_URI_LOG_CALLBACK,
        on_target, l, MHD_OPTION_NOTIFY_COMPLETED, on_completed, l, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, l, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_STRICT_FOR_CLIENT,
        LIBRARY_STRICTNESS, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL,
        /* main() ignores it; otherwise the library would not use sendfile() */
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!l->daemon) {
        close(fd);
        error_set(err, 500, ERR_INTERNAL, "the HTTP library could not be started");
        return false;
    }
    uv_poll_init(&loop->uv, &l->poll, MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
    l->poll.data = loop;
    uv_poll_start(&l->poll, UV_READABLE, on_daemon_ready);
    loop->listener_count++;
    return true;
}

static bool start_loop(struct loop *loop, struct server *server, int index, struct error *err) {
    loop->server = server;
    loop->index = index;
    uv_loop_init(&loop->uv);
    loop->uv.data = loop;
    uv_async_init(&loop->uv, &loop->wake, on_wake);
    uv_timer_init(&loop->uv, &loop->timer);
    uv_timer_init(&loop->uv, &loop->sweep);
    uv_prepare_init(&loop->uv, &loop->before_wait);
    uv_check_init(&loop->uv, &loop->after_wait);
    loop->before_wait.data = loop->after_wait.data = loop;
    uv_prepare_start(&loop->before_wait, on_before_wait);
    uv_check_start(&loop->after_wait, on_after_wait);
    loop->wake.data = loop->timer.data = loop->sweep.data = loop;
    uv_timer_start(&loop->timer, on_timer, 0, 0);
    uv_timer_start(&loop->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    loop->upstreams = upstream_pool_new(&loop->uv);
    const struct config *config = server->router->config;
    for (int a = 0; a < server->address_count; a++) {
        if (start_listener(loop, a, err)) continue;
        bool probes = a >= server->probe_from;
        error_wrap(err, "%s=%s", probes ? "--probe-addr" : "--listen-addr",
                   probes ? config->probe_addr : config->listen_addr);
        return false;
    }
    return true;
}

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void)ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_patience_over(uv_timer_t *timer) {
    uv_stop(timer->loop);
}

/* On the loop's own thread after it stopped: connections first, then everything else. */
static void stop_loop(struct loop *loop) {
    for (struct exchange *x = loop->exchanges; x; x = x->next)
        exchange_doom(x);
    for (int i = 0; i < loop->listener_count; i++) {
        MHD_run(loop->listeners[i].daemon);
        uv_poll_stop(&loop->listeners[i].poll);
        uv_close((uv_handle_t *)&loop->listeners[i].poll, NULL);
        MHD_stop_daemon(loop->listeners[i].daemon);
    }
    linger_stop(loop);
    upstream_pool_free(loop->upstreams);
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->before_wait, NULL);
    uv_close((uv_handle_t *)&loop->after_wait, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
    uv_close((uv_handle_t *)&loop->sweep, NULL);
    /* Streams close by themselves, and commands that they leave behind are still ended (lessons I3); what
     * is left after that is closed here. */
    uv_timer_t patience;
    uv_timer_init(&loop->uv, &patience);
    uv_unref((uv_handle_t *)&patience);
    uv_timer_start(&patience, on_patience_over, LEFT_OVER_MS, 0);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    uv_walk(&loop->uv, close_handle, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    exchange_free_spare(loop);
    uv_loop_close(&loop->uv);
    inbound_watch(NULL);
    free(loop->by_fd);
}

static void run_loop(void *arg) {
    struct loop *loop = arg;
    inbound_watch(loop);
    log_collect(true); /* written in on_before_wait() */
    while (!loop->stopped)
        uv_run(&loop->uv, UV_RUN_DEFAULT);
    log_collect(false);
    stop_loop(loop);
}

static void describe_url(struct server *server) {
    char host[64] = "";
    int port = 0;
    const struct sockaddr *a = (const struct sockaddr *)&server->addresses[0];
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        port = ntohs(v4->sin_port);
        if (v4->sin_addr.s_addr == INADDR_ANY) snprintf(host, sizeof host, "localhost");
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a;
        char text[INET6_ADDRSTRLEN];
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        snprintf(host, sizeof host, "[%s]", text);
        port = ntohs(v6->sin6_port);
        if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) snprintf(host, sizeof host, "localhost");
    }
    snprintf(server->url, sizeof server->url, "http://%s:%d", host, port);
}

/* Adds what `host` (NULL: every address) means. False: nothing, with getaddrinfo()'s result in *rc. */
static bool add_addresses(struct server *server, const char *host, const char *port, int *rc) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    if (!host) hints.ai_family = AF_INET6; /* dual stack; IPv4 alone where there is no IPv6 */
    *rc = getaddrinfo(host, port, &hints, &found);
    if (*rc != 0) return false;
    int before = server->address_count;
    for (struct addrinfo *a = found; a && server->address_count < MAX_LISTENERS; a = a->ai_next) {
        cleanup_error struct error ignored = {0};
        cleanup_close int probe = bind_address(a->ai_addr, a->ai_addrlen, &ignored);
        bool not_here = probe < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL);
        if (not_here && (a->ai_next || server->address_count > 0)) continue;
        struct sockaddr_storage *to = &server->addresses[server->address_count];
        memcpy(to, a->ai_addr, a->ai_addrlen);
        server->address_lengths[server->address_count++] = a->ai_addrlen;
    }
    freeaddrinfo(found);
    return server->address_count > before;
}

/* "[HOST]:PORT" into further addresses. An empty host is every address; "localhost" is both loopbacks, also
 * where no file or server says so (RFC 6761). */
static bool resolve(struct server *server, const char *flag, const char *listen_addr, struct error *err) {
    const char *colon = strrchr(listen_addr, ':');
    uint64_t port;
    if (!colon || !slice_parse_u64(slice_of(colon + 1), 65535, &port)) {
        error_set(err, 400, ERR_BAD_REQUEST, "%s takes [HOST]:PORT, not \"%s\"", flag, listen_addr);
        return false;
    }
    struct slice host_part = slice_make(listen_addr, (size_t)(colon - listen_addr));
    if (host_part.len >= 2 && host_part.ptr[0] == '[')
        host_part = slice_make(host_part.ptr + 1, host_part.len - 2);
    cleanup_free char *host = slice_dup(host_part);
    int rc, ignored;
    if (strcasecmp(host, "localhost") == 0) {
        bool v4 = add_addresses(server, "127.0.0.1", colon + 1, &rc);
        if (add_addresses(server, "::1", colon + 1, &ignored) || v4) return true;
    } else if (add_addresses(server, host[0] ? host : NULL, colon + 1, &rc)) {
        return true;
    }
    error_set(err, 400, ERR_BAD_REQUEST, "%s=%s: %s", flag, listen_addr,
              rc ? gai_strerror(rc) : "no such address here");
    return false;
}

static bool resolve_all(struct server *server, const struct config *config, struct error *err) {
    if (!resolve(server, "--listen-addr", config->listen_addr, err)) return false;
    describe_url(server);
    server->probe_from = server->address_count;
    return !config->probe_addr[0] || resolve(server, "--probe-addr", config->probe_addr, err);
}

struct server *server_start(struct router *router, struct error *err) {
    struct server *server = xcalloc(1, sizeof *server);
    server->router = router;
    if (!resolve_all(server, router->config, err)) {
        free(server);
        return NULL;
    }
    int count = router->config->threads > 0 ? router->config->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    server->loops = xcalloc((size_t)count, sizeof *server->loops);
    for (int i = 0; i < count; i++) {
        server->loop_count++;
        if (!start_loop(&server->loops[i], server, i, err)) {
            for (int j = 0; j <= i; j++)
                stop_loop(&server->loops[j]);
            free(server->loops);
            free(server);
            return NULL;
        }
    }
    for (int i = 0; i < count; i++)
        uv_thread_create(&server->loops[i].thread, run_loop, &server->loops[i]);
    return server;
}

void server_drain_and_stop(struct server *server) {
    atomic_store(&server->router->draining, true);
    for (int i = 0; i < server->loop_count; i++)
        uv_async_send(&server->loops[i].wake);
    for (int i = 0; i < server->loop_count; i++)
        uv_thread_join(&server->loops[i].thread);
    free(server->loops);
    free(server);
}
