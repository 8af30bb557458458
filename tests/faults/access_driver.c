/* One operation of backend/access.h over pods/exec, for tests: content from standard input, data of channel 1
 * to standard output, of channel 2 to standard error, everything else as JSON lines to descriptor 3.
 *   access_driver KUBECONFIG NAMESPACE POD OP ARGS [close-after-ms [read-rate bytes/s]]
 * SIGUSR1 makes a terminal's window 100 by 44, SIGUSR2 closes the stream. */
#include "common/json.h"
#include "k8s/exec_access.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#define IN_SIZE 60000

static struct driver {
    uv_loop_t loop;
    struct access_stream *stream;
    struct k8s_config *config;
    uv_timer_t closer, reader, feeder;
    uv_signal_t resizer, ender;
    char in[IN_SIZE];
    size_t in_len, in_sent, rate;
    bool eof, gone;
    int status;
} d;

static void tell(json_t *line) {
    json_dumpfd(line, 3, JSON_COMPACT);
    if (write(3, "\n", 1) != 1) d.status = 2;
    json_decref(line);
}

static void end(int status) {
    d.status = status;
    access_close(steal_ptr(d.stream));
    uv_close((uv_handle_t *)&d.closer, NULL);
    uv_close((uv_handle_t *)&d.reader, NULL);
    uv_close((uv_handle_t *)&d.feeder, NULL);
    uv_close((uv_handle_t *)&d.resizer, NULL);
    uv_close((uv_handle_t *)&d.ender, NULL);
}

static void write_all(int fd, const char *data, size_t len) {
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR) exit(3);
        if (n > 0) data += n, len -= (size_t)n;
    }
}

static void on_head(void *ctx, const struct access_head *h) {
    (void)ctx;
    tell(json_pack("{s:{s:I, s:I, s:I, s:s, s:I, s:i}}", "head", "size", (json_int_t)h->size, "offset",
                   (json_int_t)h->offset, "length", (json_int_t)h->length, "etag", h->etag, "modifiedAt",
                   (json_int_t)h->modified_at, "mode", (int)h->mode));
}

static void on_started(void *ctx) {
    (void)ctx;
    tell(json_pack("{s:b}", "started", 1));
}

static void resume(uv_timer_t *timer) {
    (void)timer;
    if (d.stream) access_resume(d.stream);
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    (void)ctx;
    write_all(channel, data, len);
    if (!d.rate) return;
    access_pause(d.stream);
    uv_timer_start(&d.reader, resume, len * 1000 / d.rate + 1, 0);
}

static void feed(void *ctx);

static void feed_later(uv_timer_t *timer) {
    (void)timer;
    feed(NULL);
}

static void feed(void *ctx) {
    (void)ctx;
    while (d.stream) {
        if (d.in_sent < d.in_len) {
            d.in_sent += access_write(d.stream, d.in + d.in_sent, d.in_len - d.in_sent);
            if (d.in_sent < d.in_len) return;
        }
        if (d.eof) {
            access_finish(d.stream);
            return;
        }
        struct pollfd in = {0, POLLIN, 0};
        if (poll(&in, 1, 0) == 0) { /* nothing to send yet */
            uv_timer_start(&d.feeder, feed_later, 10, 0);
            return;
        }
        ssize_t n = read(0, d.in, sizeof d.in);
        d.in_len = n > 0 ? (size_t)n : 0;
        d.in_sent = 0;
        d.eof = n <= 0;
    }
}

static void on_end(void *ctx, const json_t *result) {
    (void)ctx;
    tell(json_pack("{s:O}", "result", result));
    end(0);
}

static void on_error(void *ctx, const struct error *err) {
    (void)ctx;
    tell(json_pack("{s:{s:i, s:s, s:s}}", "error", "status", err->status, "code", err->code, "message",
                   err->message));
    end(1);
}

static void on_close_time(uv_timer_t *timer) {
    (void)timer;
    tell(json_pack("{s:b}", "closed", 1));
    end(0);
}

static void on_signal(uv_signal_t *handle, int number) {
    (void)handle;
    if (!d.stream) return;
    if (number == SIGUSR1)
        access_resize(d.stream, 100, 44);
    else
        on_close_time(NULL);
}

static void on_gone(void *owner) {
    (void)owner;
    d.gone = true;
}

static int op_of(const char *name) {
    static const char *const names[] = {"exec",          "attach", "kill",    "stat",   "list",
                                        "read",          "write",  "mkdir",   "remove", "archive_read",
                                        "archive_write", "dial",   "terminal"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(names[i], name) == 0) return i;
    exit(2);
}

int main(int argc, char **argv) {
    cleanup_error struct error err = {0};
    if (argc < 6) return 2;
    d.config = k8s_config_load(argv[1], NULL, &err);
    cleanup_json json_t *args = json_parse_object(slice_of(argv[5]), &err);
    if (!d.config || !args) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    struct pod_place place = {.container = "sandbox"};
    snprintf(place.namespace, sizeof place.namespace, "%s", argv[2]);
    snprintf(place.pod, sizeof place.pod, "%s", argv[3]);
    struct access_events events = {.on_head = on_head,
                                   .on_started = on_started,
                                   .on_data = on_data,
                                   .on_writable = feed,
                                   .on_end = on_end,
                                   .on_error = on_error};
    uv_loop_init(&d.loop);
    uv_timer_init(&d.loop, &d.closer);
    uv_timer_init(&d.loop, &d.reader);
    uv_timer_init(&d.loop, &d.feeder);
    uv_signal_init(&d.loop, &d.resizer);
    uv_signal_init(&d.loop, &d.ender);
    uv_signal_start(&d.resizer, on_signal, SIGUSR1);
    uv_signal_start(&d.ender, on_signal, SIGUSR2);
    if (argc > 6 && atoi(argv[6]) > 0) uv_timer_start(&d.closer, on_close_time, (uint64_t)atoi(argv[6]), 0);
    if (argc > 7) d.rate = (size_t)atoll(argv[7]);
    int op = op_of(argv[4]);
    d.stream = exec_access_open(d.config, &d.loop, &place, (enum access_op)op, args, &events, NULL, on_gone,
                                NULL, &err);
    if (!d.stream) {
        on_error(NULL, &err);
    } else if (op == ACCESS_WRITE || op == ACCESS_ARCHIVE_WRITE || op == ACCESS_TERMINAL ||
               json_is_true(json_object_get(args, "stdin"))) {
        feed(NULL);
    }
    uv_run(&d.loop, UV_RUN_DEFAULT);
    if (d.stream == NULL && !d.gone && err.status == 0) d.status = 4; /* it was not counted out */
    if (uv_loop_close(&d.loop) != 0) d.status = 5;
    k8s_config_free(d.config);
    return d.status;
}
