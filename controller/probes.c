#include "controller/probes.h"

#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>
#include <netinet/in.h>

#define CONNECTIONS 64
#define TIMEOUT_S   10
#define MEMORY      (16 * 1024)

struct probes {
    struct MHD_Daemon *daemon;
    probes_fn *answer;
    void *ctx;
};

static enum MHD_Result reply(struct MHD_Connection *connection, int status, struct buffer *text) {
    size_t len;
    char *data = buffer_steal(text, &len);
    struct MHD_Response *response = MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(data);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result queued = MHD_queue_response(connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **request) {
    static const int begun;
    struct probes *p = ctx;
    if (*request == NULL) {
        *request = (void *)&begun;
        return MHD_YES;
    }
    if (*upload_size > 0) {
        *upload_size = 0; /* nobody reads it */
        return MHD_YES;
    }
    struct buffer text = {0};
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        buffer_append_str(&text, "method not allowed\n");
        return reply(connection, 405, &text);
    }
    int status = p->answer(p->ctx, url, &text);
    if (status == 404) buffer_append_str(&text, "not found\n");
    return reply(connection, status, &text);
}

/* The addresses that HOST:PORT names; NULL with err. */
static struct addrinfo *resolve(const char *address, struct error *err) {
    const char *colon = strrchr(address, ':');
    struct addrinfo *found = NULL;
    if (colon) {
        const char *host = address;
        size_t n = (size_t)(colon - address);
        if (n >= 2 && host[0] == '[' && colon[-1] == ']') host++, n -= 2;
        cleanup_free char *name = slice_dup(slice_make(host, n));
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
        if (getaddrinfo(n > 0 ? name : NULL, colon + 1, &hints, &found) == 0) return found;
    }
    error_set(err, 400, ERR_BAD_REQUEST,
              "\"%s\" is not an address to listen on, such as :8081 or 127.0.0.1:8081", address);
    return NULL;
}

struct probes *probes_start(const char *address, probes_fn *answer, void *ctx, struct error *err) {
    struct probes *p = xcalloc(1, sizeof *p);
    p->answer = answer;
    p->ctx = ctx;
    if (!*address || strcmp(address, "0") == 0) return p;
    struct addrinfo *found = resolve(address, err);
    for (struct addrinfo *a = found; a && !p->daemon; a = a->ai_next) {
        unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO;
        if (a->ai_family == AF_INET6) flags |= MHD_USE_IPv6;
        p->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, p, MHD_OPTION_SOCK_ADDR, a->ai_addr,
                                     MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
                                     MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S,
                                     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY,
                                     MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    }
    if (found && !p->daemon) error_set(err, 500, ERR_INTERNAL, "cannot listen on %s", address);
    freeaddrinfo(found);
    if (p->daemon) return p;
    free(p);
    return NULL;
}

void probes_stop(struct probes *p) {
    if (!p) return;
    if (p->daemon) MHD_stop_daemon(p->daemon);
    free(p);
}
