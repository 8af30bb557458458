/* See verification.h. */
#include "router/verification.h"

#include "router/auth.h"

#define RUNNING_MAX 2 /* a loop: router/main.c counts them into the size of the worker pool */
#define WAITING_MAX 256

struct verification {
    struct verification *next; /* while it waits for its turn */
    struct loop *loop;
    struct exchange *exchange; /* NULL: abandoned */
    struct auth_question *question;
    void (*done)(struct exchange *x, struct auth_question *question);
    uv_work_t work;
};

static void run(uv_work_t *work) {
    struct verification *v = work->data;
    auth_question_ask(v->question);
}

static void start_next(struct loop *loop);

static void finish(struct verification *v) {
    auth_question_free(v->question);
    free(v);
}

static void after(uv_work_t *work, int status) {
    (void)status;
    struct verification *v = work->data;
    struct loop *loop = v->loop;
    struct exchange *x = v->exchange;
    loop->verifications_running--;
    if (x) {
        x->verification = NULL;
        v->done(x, v->question);
    }
    finish(v);
    start_next(loop);
}

static void start_next(struct loop *loop) {
    while (loop->verifications_waiting && loop->verifications_running < RUNNING_MAX) {
        struct verification *v = loop->verifications_waiting;
        loop->verifications_waiting = v->next;
        if (!v->next) loop->verifications_last = NULL;
        loop->verifications_count--;
        if (!v->exchange) { /* nobody waits for it any more */
            finish(v);
            continue;
        }
        loop->verifications_running++;
        uv_queue_work(&loop->uv, &v->work, run, after);
    }
}

bool verification_start(struct exchange *x, struct auth_question *question,
                        void (*done)(struct exchange *x, struct auth_question *question), struct error *err) {
    struct loop *loop = x->loop;
    if (loop->verifications_count >= WAITING_MAX) {
        auth_question_free(question);
        error_set(err, 503, "busy", "too many tokens wait to be checked; retry in a second");
        err->retry_after = 1;
        return false;
    }
    struct verification *v = xcalloc(1, sizeof *v);
    v->loop = loop;
    v->exchange = x;
    v->question = question;
    v->done = done;
    v->work.data = v;
    x->verification = v;
    if (loop->verifications_last)
        loop->verifications_last->next = v;
    else
        loop->verifications_waiting = v;
    loop->verifications_last = v;
    loop->verifications_count++;
    start_next(loop);
    return true;
}

void verification_abandon(struct exchange *x) {
    if (!x->verification) return;
    x->verification->exchange = NULL;
    x->verification = NULL;
}
