/* Failure and recovery of what k8s/watch.c follows. */
#include "k8s/watch_row.h"

#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "k8s/status.h"

#include <stdio.h>

#define PAUSE_MAX_MS 5000

static void set_trouble(struct watch_row *row, const char *why) {
    struct watch_thread *t = row->thread;
    pthread_mutex_lock(&t->lock);
    snprintf(t->trouble[row - t->rows], sizeof t->trouble[0], "%s", why);
    pthread_mutex_unlock(&t->lock);
}

/* A watch that goes on from where it was does not show whether the apiserver that comes back has the same
 * history: the shortest list does. */
static void look_at_history(struct watch_thread *t) {
    struct watch_row *shortest = NULL;
    size_t least = 0;
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *row = &t->rows[i];
        enum kind kind = row->cache_row->watch.kind;
        if (kind == KIND_EVENT || !row->newest[0]) continue;
        size_t count = cache_count(t->cache, kind);
        if (!shortest || count < least) {
            shortest = row;
            least = count;
        }
    }
    if (!shortest) return;
    watch_forget_version(shortest);
    free(shortest->probes);
    shortest->probes = xstrdup(t->newest);
}

bool watch_is_doubted(long status, const struct error *err) {
    return status == 403 && err->status == 503;
}

/* Once for each reason, not for each attempt. */
static void log_failure(struct watch_row *row, const struct error *err) {
    struct watch_thread *t = row->thread;
    if (err->status == 503 &&
        (row->transfer.status == 0 || row->transfer.status == 200)) { /* cut, or no answer */
        k8s_client_unanswered(t->client); /* first: whoever reads the log may count on it */
        if (!t->away)
            log_warn("the Kubernetes API does not answer; trying again", "error", err->message, NULL);
        if (!t->away) look_at_history(t);
        t->away = true;
        return;
    }
    if (row->logged == err->status) return;
    row->logged = err->status;
    log_write(watch_is_doubted(row->transfer.status, err) ? LOG_LEVEL_INFO : LOG_LEVEL_WARN,
              "the Kubernetes API is not followed; trying again", "resource", watch_plural(row), "error",
              err->message, NULL);
}

void watch_pause(struct watch_row *row, const struct error *err) {
    row->pause_ms = row->pause_ms ? row->pause_ms * 2 : WATCH_PAUSE_MIN_MS;
    if (row->pause_ms > PAUSE_MAX_MS) row->pause_ms = PAUSE_MAX_MS;
    int64_t wait = watch_jittered(row->pause_ms);
    if (row->transfer.retry_after > 0 && row->transfer.retry_after <= 60)
        wait += (int64_t)row->transfer.retry_after * 1000;
    row->state = ROW_WAITING;
    row->next_at = monotonic_ms() + wait;
    atomic_fetch_add(&row->thread->failures, 1);
    set_trouble(row, err->message);
    log_failure(row, err);
}

/* It is back: what waits for it need not wait longer, only not all at once. */
static void hurry(struct watch_thread *t) {
    for (size_t i = 0; i < t->count; i++) {
        int64_t soon = monotonic_ms() + watch_jittered(WATCH_PAUSE_MIN_MS);
        if (t->rows[i].state == ROW_WAITING && t->rows[i].next_at > soon) t->rows[i].next_at = soon;
    }
}

void watch_works(struct watch_row *row) {
    row->pause_ms = 0;
    if (row->thread->away) log_info("the Kubernetes API answers again", NULL);
    if (row->thread->away) hurry(row->thread);
    row->thread->away = false;
    if (row->logged) log_info("the Kubernetes API is followed again", "resource", watch_plural(row), NULL);
    row->logged = 0;
}

bool watch_find_failure(struct watch_row *row, CURLcode code, long status, struct error *err) {
    char what[64];
    snprintf(what, sizeof what, "%s %s", row->state == ROW_LISTING ? "list" : "watch", watch_plural(row));
    if (row->failed.status) {
        error_move(err, &row->failed);
        error_wrap(err, "%s", what);
    } else if (status >= 300) {
        json_error_t why;
        cleanup_json json_t *body =
            json_loadb(row->body.len ? row->body.data : "", row->body.len, JSON_ALLOW_NUL, &why);
        k8s_status_error(status, body, what, row->transfer.retry_after, err);
        k8s_client_doubt(row->thread->client, err);
        if (status == 401) k8s_client_refused(row->thread->client);
    } else if (code != CURLE_OK) {
        k8s_no_answer(what, transfer_why(&row->transfer, code), err);
    } else {
        return false;
    }
    return true;
}
