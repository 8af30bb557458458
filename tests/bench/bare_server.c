/* Bare libmicrohttpd: the same bytes for every request. What the Router's reads are compared with, and what
 * previews are compared over. Usage: bare_server PORT THREADS FILE; it runs until its stdin ends. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data, size_t *size,
                              void **state) {
    static int seen;
    (void)url, (void)method, (void)version, (void)data;
    if (!*state) {
        *state = &seen;
        return MHD_YES;
    }
    *size = 0;
    return MHD_queue_response(connection, 200, ctx);
}

int main(int argc, char **argv) {
    FILE *file = argc == 4 ? fopen(argv[3], "rb") : NULL;
    if (!file) {
        fprintf(stderr, "usage: bare_server PORT THREADS FILE\n");
        return 2;
    }
    static char body[1 << 20];
    size_t n = fread(body, 1, sizeof body, file);
    fclose(file);
    struct MHD_Response *response = MHD_create_response_from_buffer(n, body, MHD_RESPMEM_PERSISTENT);
    MHD_add_response_header(response, "Content-Type", "application/json");
    int threads = atoi(argv[2]);
    struct MHD_Daemon *daemon =
        threads > 1
            ? MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, (uint16_t)atoi(argv[1]), NULL, NULL, answer,
                               response, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)threads, MHD_OPTION_END)
            : MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, (uint16_t)atoi(argv[1]), NULL, NULL, answer,
                               response, MHD_OPTION_END);
    if (!daemon) {
        perror("bare_server");
        return 1;
    }
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    MHD_stop_daemon(daemon);
    MHD_destroy_response(response);
    return 0;
}
