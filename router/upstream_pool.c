/* Idle connections to applications: found by (sandbox UID, port), the latest used first, bounded in
 * number and age, and dropped as soon as the application closes them or says something unasked.
 * They belong to a UID, so a sandbox that takes over a name never gets another's (lessons S16). */
#include "router/upstream_conn.h"

#include <errno.h>
#include <sys/socket.h>

#define SWEEP_MS 5000

static size_t bucket_of(const char *uid, int port) {
    uint32_t h = 2166136261u ^ (uint32_t)port;
    for (; *uid; uid++)
        h = (h ^ (unsigned char)*uid) * 16777619u;
    return (h ^ (h >> 16)) % UPSTREAM_BUCKETS;
}

void upstream_pool_handle_closed(struct upstream_pool *pool) {
    if (--pool->open_handles > 0 || !pool->closing) return;
    buffer_free(&pool->scratch);
    free(pool);
}

static void on_sweep(uv_timer_t *timer) {
    struct upstream_pool *pool = timer->data;
    uint64_t now = uv_now(pool->loop);
    while (pool->oldest && now - pool->oldest->idle_since >= UPSTREAM_IDLE_MS) {
        struct upstream *u = pool->oldest;
        upstream_pool_unlink(u);
        upstream_destroy(u);
    }
    if (!pool->idle) uv_timer_stop(timer);
}

struct upstream_pool *upstream_pool_new(uv_loop_t *loop) {
    struct upstream_pool *pool = xcalloc(1, sizeof *pool);
    pool->loop = loop;
    pool->scratch.limit = 2 * HTTP1_MAX_HEAD;
    pool->open_handles = 1;
    uv_timer_init(loop, &pool->sweep);
    pool->sweep.data = pool;
    return pool;
}

static void on_timer_closed(uv_handle_t *handle) {
    upstream_pool_handle_closed(handle->data);
}

void upstream_pool_free(struct upstream_pool *pool) {
    if (!pool) return;
    pool->closing = true;
    while (pool->oldest) {
        struct upstream *u = pool->oldest;
        upstream_pool_unlink(u);
        upstream_destroy(u);
    }
    uv_close((uv_handle_t *)&pool->sweep, on_timer_closed);
}

bool upstream_pool_admit(struct upstream_pool *pool) {
    if (pool->active >= UPSTREAM_MAX_ACTIVE) return false;
    pool->active++;
    return true;
}

void upstream_pool_leave(struct upstream_pool *pool) {
    pool->active--;
}

bool upstream_pool_to_tunnel(struct upstream_pool *pool) {
    if (pool->tunnels >= UPSTREAM_MAX_TUNNELS) return false;
    pool->tunnels++;
    pool->active--;
    return true;
}

void upstream_pool_leave_tunnel(struct upstream_pool *pool) {
    pool->tunnels--;
}

struct buffer *upstream_pool_scratch(struct upstream_pool *pool) {
    buffer_clear(&pool->scratch);
    return &pool->scratch;
}

size_t upstream_pool_idle(const struct upstream_pool *pool) {
    return pool->idle;
}

void upstream_pool_unlink(struct upstream *u) {
    struct upstream_pool *pool = u->pool;
    struct upstream **link = &pool->buckets[bucket_of(u->uid, u->port)];
    while (*link != u)
        link = &(*link)->bucket_next;
    *link = u->bucket_next;
    *(u->newer ? &u->newer->older : &pool->newest) = u->older;
    *(u->older ? &u->older->newer : &pool->oldest) = u->newer;
    u->bucket_next = u->newer = u->older = NULL;
    pool->idle--;
}

void upstream_pool_put(struct upstream *u) {
    struct upstream_pool *pool = u->pool;
    struct upstream **bucket = &pool->buckets[bucket_of(u->uid, u->port)];
    size_t same = 0;
    for (struct upstream *v = *bucket; v && pool->idle >= UPSTREAM_MAX_TARGET; v = v->bucket_next)
        same += v->port == u->port && !strcmp(v->uid, u->uid);
    if (pool->closing || !u->uid[0] || same >= UPSTREAM_MAX_TARGET) {
        upstream_destroy(u);
        return;
    }
    if (pool->idle >= UPSTREAM_MAX_IDLE) {
        struct upstream *oldest = pool->oldest;
        upstream_pool_unlink(oldest);
        upstream_destroy(oldest);
    }
    u->state = UPSTREAM_IDLE;
    u->events = NULL;
    u->ctx = NULL;
    u->idle_since = uv_now(pool->loop);
    u->bucket_next = *bucket;
    *bucket = u;
    u->older = pool->newest;
    *(pool->newest ? &pool->newest->newer : &pool->oldest) = u;
    pool->newest = u;
    pool->idle++;
    upstream_watch(u, UV_READABLE); /* the end of the connection, or words unasked */
    if (!uv_is_active((uv_handle_t *)&pool->sweep))
        uv_timer_start(&pool->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
}

/* The loop may not have seen yet that the application closed it: the kernel has. */
static bool still_open(const struct upstream *u) {
    char byte;
    return recv(u->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

struct upstream *upstream_reuse(struct upstream_pool *pool, const char *uid, int port, uint64_t max_idle_ms,
                                bool certain) {
    struct upstream *next;
    for (struct upstream *u = pool->buckets[bucket_of(uid, port)]; u; u = next) {
        next = u->bucket_next;
        if (u->port != port || strcmp(u->uid, uid) != 0) continue;
        uint64_t age = uv_now(pool->loop) - u->idle_since;
        if (age > max_idle_ms && age <= UPSTREAM_IDLE_MS) return NULL; /* the rest is older */
        upstream_pool_unlink(u);
        bool trusted = !certain && age < UPSTREAM_FRESH_MS;
        if (age <= UPSTREAM_IDLE_MS && (trusted || still_open(u))) {
            u->reused = true;
            u->state = UPSTREAM_TAKEN;
            return u;
        }
        upstream_destroy(u);
    }
    return NULL;
}
