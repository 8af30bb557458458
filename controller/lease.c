#include "controller/lease.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* ---- pure -------------------------------------------------------------------------------------- */

static const char *holder(const json_t *lease) {
    return json_str_at(lease, "spec.holderIdentity");
}

enum lease_step lease_decide(struct lease_view *view, const json_t *lease, const char *identity,
                             int64_t now_ms) {
    if (!lease) return LEASE_CREATE;
    char record[sizeof view->record];
    snprintf(record, sizeof record, "%.250s %.64s", holder(lease), json_str_at(lease, "spec.renewTime"));
    if (strcmp(record, view->record) != 0) {
        memcpy(view->record, record, sizeof record);
        view->seen_at = now_ms;
    }
    if (strcmp(holder(lease), identity) == 0) return LEASE_RENEW;
    if (!*holder(lease)) return LEASE_TAKE;
    int64_t seconds = json_integer_value(json_at(lease, "spec.leaseDurationSeconds"));
    int64_t duration = seconds > 0 && seconds < 3600 ? seconds * 1000 : LEASE_DURATION_MS;
    return now_ms - view->seen_at >= duration ? LEASE_TAKE : LEASE_WAIT;
}

static json_t *micro_time(void) {
    struct timespec now;
    struct tm utc;
    char date[32], text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text, sizeof text, "%s.%06ldZ", date, (long)(now.tv_nsec / 1000 % 1000000));
    return json_string(text);
}

json_t *lease_write(const json_t *lease, const char *namespace, const char *identity, enum lease_step step) {
    json_t *now = micro_time();
    json_t *made =
        lease ? json_deep_copy(lease)
              : json_pack("{s:s, s:s, s:{s:s, s:s}, s:{}}", "apiVersion", "coordination.k8s.io/v1", "kind",
                          "Lease", "metadata", "name", LEASE_NAME, "namespace", namespace, "spec");
    if (!json_is_object(json_object_get(made, "spec"))) json_object_set_new(made, "spec", json_object());
    json_t *spec = json_object_get(made, "spec");
    json_object_set_new(spec, "holderIdentity", json_string(identity));
    json_object_set_new(spec, "leaseDurationSeconds", json_integer(LEASE_DURATION_MS / 1000));
    if (step != LEASE_RENEW) {
        json_int_t transitions = json_integer_value(json_object_get(spec, "leaseTransitions"));
        json_object_set(spec, "acquireTime", now);
        json_object_set_new(spec, "leaseTransitions", json_integer(transitions + (lease ? 1 : 0)));
    }
    json_object_set_new(spec, "renewTime", now);
    return made;
}

bool lease_lost(const struct lease_view *view, int64_t now_ms) {
    return view->leading && now_ms - view->renewed_at >= LEASE_RENEW_MS;
}

/* ---- the thread -------------------------------------------------------------------------------- */

/* One thread asks, which may take as long as the apiserver lets it; another one keeps the time, so that a
 * call that hangs does not keep us leading. */
struct lease {
    struct k8s_client *client;
    char *namespace, *identity, *path, *collection;
    void (*on_change)(void *ctx, bool leading);
    void *ctx;
    pthread_t asker, keeper;
    int started;
    pthread_mutex_t change; /* held while a change is carried out: one after the other. Before `lock` */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
    struct lease_view view;
};

/* Waits, or until we stop. With the lock. */
static void pause_for(struct lease *l, int64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    while (!l->stopping && pthread_cond_timedwait(&l->wake, &l->lock, &until) == 0)
        ;
}

static bool write_lease(struct lease *l, const json_t *lease, enum lease_step step, struct error *err) {
    cleanup_json json_t *body = lease_write(lease, l->namespace, l->identity, step);
    return k8s_call(l->client, lease ? "PUT" : "POST", lease ? l->path : l->collection, NULL, body, NULL,
                    err);
}

/* Asks and writes once; true: the Lease is ours. The view is under the lock, calls are not. */
static bool try_once(struct lease *l, struct error *err) {
    cleanup_json json_t *lease = NULL;
    if (!k8s_call(l->client, "GET", l->path, NULL, NULL, &lease, err)) {
        if (err->status != 404) return false;
        error_clear(err);
        lease = NULL;
    }
    int64_t asked_at = monotonic_ms();
    pthread_mutex_lock(&l->lock);
    enum lease_step step = lease_decide(&l->view, lease, l->identity, asked_at);
    pthread_mutex_unlock(&l->lock);
    if (step == LEASE_WAIT || !write_lease(l, lease, step, err)) return false;
    pthread_mutex_lock(&l->lock);
    l->view.renewed_at = asked_at;
    pthread_mutex_unlock(&l->lock);
    return true;
}

static void lead(struct lease *l, bool leading) {
    pthread_mutex_lock(&l->change);
    pthread_mutex_lock(&l->lock);
    bool change = l->view.leading != leading;
    l->view.leading = leading;
    pthread_mutex_unlock(&l->lock);
    if (change) {
        log_info(leading ? "leading" : "not leading any more", "identity", l->identity, NULL);
        l->on_change(l->ctx, leading);
    }
    pthread_mutex_unlock(&l->change);
}

static void *ask(void *arg) {
    struct lease *l = arg;
    bool told = false;
    pthread_mutex_lock(&l->lock);
    while (!l->stopping) {
        pthread_mutex_unlock(&l->lock);
        cleanup_error struct error err = {0};
        bool ours = try_once(l, &err);
        /* A conflict is another instance being faster. */
        if (err.status && err.status != 409 && !told)
            log_warn("the lease cannot be asked for", "why", err.message, NULL);
        told = err.status != 0 && err.status != 409;
        pthread_mutex_lock(&l->lock);
        bool fresh = monotonic_ms() - l->view.renewed_at < LEASE_RENEW_MS;
        pthread_mutex_unlock(&l->lock);
        if (ours && fresh) lead(l, true);
        pthread_mutex_lock(&l->lock);
        pause_for(l, LEASE_RETRY_MS);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static void *keep_time(void *arg) {
    struct lease *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stopping) {
        int64_t now = monotonic_ms();
        bool lost = lease_lost(&l->view, now);
        if (lost) {
            pthread_mutex_unlock(&l->lock);
            lead(l, false);
            pthread_mutex_lock(&l->lock);
        }
        int64_t left = l->view.leading ? l->view.renewed_at + LEASE_RENEW_MS - now : LEASE_RETRY_MS;
        pause_for(l, left > 0 ? left : LEASE_RETRY_MS / 10);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

struct lease *lease_start(struct k8s_client *client, const char *namespace, const char *identity,
                          void (*on_change)(void *ctx, bool leading), void *ctx, struct error *err) {
    struct lease *l = xcalloc(1, sizeof *l);
    l->client = client;
    l->namespace = xstrdup(namespace);
    l->identity = xstrdup(identity);
    l->collection = xasprintf("/apis/coordination.k8s.io/v1/namespaces/%s/leases", namespace);
    l->path = xasprintf("%s/" LEASE_NAME, l->collection);
    l->on_change = on_change;
    l->ctx = ctx;
    pthread_mutex_init(&l->change, NULL);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = pthread_create(&l->asker, NULL, ask, l);
    if (rc == 0) l->started++, rc = pthread_create(&l->keeper, NULL, keep_time, l);
    if (rc == 0) return l->started++, l;
    error_set_errno(err, rc, "starting the threads of the lease");
    lease_stop(l);
    return NULL;
}

static void give_back(struct lease *l) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *lease = NULL;
    if (!k8s_call(l->client, "GET", l->path, NULL, NULL, &lease, &err) ||
        strcmp(holder(lease), l->identity) != 0)
        return;
    cleanup_json json_t *free_one = lease_write(lease, l->namespace, "", LEASE_RENEW);
    json_object_del(json_object_get(free_one, "spec"), "holderIdentity");
    json_object_set_new(json_object_get(free_one, "spec"), "leaseDurationSeconds", json_integer(1));
    if (!k8s_call(l->client, "PUT", l->path, NULL, free_one, NULL, &err))
        log_warn("the lease could not be given back", "why", err.message, NULL);
}

void lease_stop(struct lease *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->wake);
    pthread_mutex_unlock(&l->lock);
    if (l->started > 0) pthread_join(l->asker, NULL);
    if (l->started > 1) pthread_join(l->keeper, NULL);
    if (l->view.leading) {
        lead(l, false);
        give_back(l);
    }
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->change);
    free(l->namespace);
    free(l->identity);
    free(l->path);
    free(l->collection);
    free(l);
}
