/* See metrics.h. */
#include "router/metrics.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

#define BUCKETS 12

/* Upper bounds in seconds: 0.5 ms, then four times as much each. */
static const double bounds[BUCKETS - 1] = {0.0005, 0.002, 0.008,  0.032,   0.128,  0.512,
                                           2.048,  8.192, 32.768, 131.072, 524.288};

struct route_metrics {
    _Atomic uint64_t by_class[5]; /* 1xx .. 5xx */
    _Atomic uint64_t by_bucket[BUCKETS];
    _Atomic uint64_t total_ns;
};

struct metrics {
    _Atomic uint64_t auth[METRICS_AUTH_COUNT];
    _Atomic int connections;
    time_t started;
    struct route_metrics routes[]; /* one for each row, the last for no row */
};

struct metrics *metrics_new(void) {
    struct metrics *m = xcalloc(1, sizeof *m + (route_count + 1) * sizeof(struct route_metrics));
    m->started = time(NULL);
    return m;
}

void metrics_free(struct metrics *m) {
    free(m);
}

void metrics_connections(struct metrics *m, int change) {
    atomic_fetch_add(&m->connections, change);
}

void metrics_auth(struct metrics *m, enum metrics_auth outcome) {
    atomic_fetch_add_explicit(&m->auth[outcome], 1, memory_order_relaxed);
}

void metrics_count(struct metrics *m, const struct route *route, int status, uint64_t nanoseconds) {
    struct route_metrics *r = &m->routes[route ? (size_t)(route - routes) : route_count];
    int class = status / 100 - 1;
    if (class < 0 || class > 4) class = 4;
    size_t bucket = 0;
    double seconds = (double)nanoseconds / 1e9;
    while (bucket < BUCKETS - 1 && seconds > bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&r->by_class[class], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->by_bucket[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->total_ns, nanoseconds, memory_order_relaxed);
}

static const char *operation(size_t i) {
    return i < route_count ? routes[i].operation_id : "unrouted";
}

static uint64_t read_counter(_Atomic uint64_t *c) {
    return atomic_load_explicit(c, memory_order_relaxed);
}

static void render_histogram(struct route_metrics *r, const char *name, struct buffer *out) {
    uint64_t sum = 0;
    for (size_t b = 0; b < BUCKETS; b++)
        sum += read_counter(&r->by_bucket[b]);
    if (sum == 0) return;
    uint64_t running = 0;
    for (size_t b = 0; b < BUCKETS - 1; b++) {
        running += read_counter(&r->by_bucket[b]);
        buffer_printf(out,
                      "agenttier_http_request_duration_seconds_bucket{operation=\"%s\",le=\"%g\"} %llu\n",
                      name, bounds[b], (unsigned long long)running);
    }
    buffer_printf(out, "agenttier_http_request_duration_seconds_bucket{operation=\"%s\",le=\"+Inf\"} %llu\n",
                  name, (unsigned long long)sum);
    buffer_printf(out, "agenttier_http_request_duration_seconds_sum{operation=\"%s\"} %.6f\n", name,
                  (double)read_counter(&r->total_ns) / 1e9);
    buffer_printf(out, "agenttier_http_request_duration_seconds_count{operation=\"%s\"} %llu\n", name,
                  (unsigned long long)sum);
}

void metrics_render(struct metrics *m, struct buffer *out) {
    buffer_printf(out,
                  "# HELP agenttier_build_info The running version.\n# TYPE agenttier_build_info gauge\n"
                  "agenttier_build_info{version=\"%s\"} 1\n",
                  AGENTTIER_VERSION);
    buffer_append_str(
        out, "# HELP agenttier_http_requests_total Answered requests by operation and status class.\n"
             "# TYPE agenttier_http_requests_total counter\n");
    for (size_t i = 0; i <= route_count; i++)
        for (int c = 0; c < 5; c++) {
            uint64_t n = read_counter(&m->routes[i].by_class[c]);
            if (n)
                buffer_printf(out, "agenttier_http_requests_total{operation=\"%s\",class=\"%dxx\"} %llu\n",
                              operation(i), c + 1, (unsigned long long)n);
        }
    buffer_append_str(
        out, "# HELP agenttier_http_request_duration_seconds From the head to the last byte of the answer.\n"
             "# TYPE agenttier_http_request_duration_seconds histogram\n");
    for (size_t i = 0; i <= route_count; i++)
        render_histogram(&m->routes[i], operation(i), out);
    buffer_printf(out,
                  "# HELP agenttier_http_connections Open client connections.\n# TYPE "
                  "agenttier_http_connections gauge\n"
                  "agenttier_http_connections %d\n",
                  atomic_load(&m->connections));
    static const char *const outcomes[METRICS_AUTH_COUNT] = {"api_key", "token",   "dev",
                                                             "refused", "limited", "unavailable"};
    buffer_append_str(out, "# HELP agenttier_auth_total Callers by what their credential was.\n"
                           "# TYPE agenttier_auth_total counter\n");
    for (size_t i = 0; i < METRICS_AUTH_COUNT; i++)
        buffer_printf(out, "agenttier_auth_total{outcome=\"%s\"} %llu\n", outcomes[i],
                      (unsigned long long)read_counter(&m->auth[i]));
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    buffer_printf(
        out,
        "# HELP process_cpu_seconds_total User and system time.\n# TYPE process_cpu_seconds_total counter\n"
        "process_cpu_seconds_total %.3f\n",
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    buffer_printf(
        out,
        "# HELP process_start_time_seconds Unix time of the start.\n# TYPE process_start_time_seconds gauge\n"
        "process_start_time_seconds %lld\n",
        (long long)m->started);
}
