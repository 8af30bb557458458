/* Exchanges for which libmicrohttpd has nothing to do until their handler goes on, in two ways.
 *
 * Suspended, a connection is out of the library's hands. That costs three system calls: it is taken out of
 * the epoll set and put back, and read in vain. Most handlers that wait answer within a millisecond or two,
 * so at first their exchange only *waits*: the library keeps it and asks again in every run. It then says
 * that there is always something to do, which cannot be told apart from work that is really there. So
 * exchanges wait in this way only while the library is busy with no other, not many of them, and not for
 * long; else they are suspended. */
#include "router/server.h"

/* Whether a connection without an answer is asked again in each run: not looked into from 1.0 on. */
#define LIBRARY_ASKS_AGAIN (MHD_VERSION < 0x01000000)
#define WAITING_MAX        64

static void unlink_waiting(struct exchange *x) {
    struct loop *loop = x->loop;
    *(x->waiting_prev ? &x->waiting_prev->waiting_next : &loop->waiting) = x->waiting_next;
    *(x->waiting_next ? &x->waiting_next->waiting_prev : &loop->waiting_last) = x->waiting_prev;
    x->waiting_prev = x->waiting_next = NULL;
    loop->waiting_count--;
}

void exchange_set_motion(struct exchange *x, enum exchange_motion motion) {
    if (x->motion == MOTION_WAITS) unlink_waiting(x);
    x->loop->moving -= x->motion == MOTION_MOVES;
    x->loop->moving += motion == MOTION_MOVES;
    x->motion = motion;
}

/* We read nothing from its client meanwhile, so the library does not see that it goes away. */
static void watch_hangup(struct exchange *x) {
    if (x->request.route && x->request.route->kind == ROUTE_STREAM) connection_watch_hangup(x->client);
}

void exchange_suspend(struct exchange *x) {
    if (x->motion == MOTION_SUSPENDED) return;
    exchange_set_motion(x, MOTION_SUSPENDED);
    watch_hangup(x);
    MHD_suspend_connection(x->connection);
}

void exchange_wait(struct exchange *x) {
    struct loop *loop = x->loop;
    if (x->motion != MOTION_MOVES) return;
    if (!LIBRARY_ASKS_AGAIN || loop->waiting_count >= WAITING_MAX) {
        exchange_suspend(x);
        return;
    }
    exchange_set_motion(x, MOTION_WAITS);
    watch_hangup(x);
    x->waiting_since = uv_now(&loop->uv);
    x->waiting_prev = loop->waiting_last;
    *(x->waiting_prev ? &x->waiting_prev->waiting_next : &loop->waiting) = x;
    loop->waiting_last = x;
    loop->waiting_count++;
}

void exchange_wake(struct exchange *x) {
    if (x->motion == MOTION_SUSPENDED)
        MHD_resume_connection(x->connection);
    else if (x->motion != MOTION_WAITS)
        return;
    exchange_set_motion(x, MOTION_MOVES);
    x->loop->run_again = true;
}

void loop_suspend_waiting(struct loop *loop, uint64_t longer_ms) {
    uint64_t now = uv_now(&loop->uv);
    while (loop->waiting && now - loop->waiting->waiting_since >= longer_ms) {
        exchange_suspend(loop->waiting);
        loop->run_again = true; /* what the library says of the rest is true only after another run */
    }
}
