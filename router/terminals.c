/* See terminals.h. */
#include "router/terminals.h"

#include <jansson.h>
#include <pthread.h>

const char *const terminal_ending_names[TERMINAL_ENDINGS] = {
    [TERMINAL_CLIENT_LEFT] = "client_left",         [TERMINAL_SHELL_ENDED] = "shell_ended",
    [TERMINAL_NOT_STARTED] = "not_started",         [TERMINAL_SANDBOX_LOST] = "sandbox_lost",
    [TERMINAL_SANDBOX_STOPPED] = "sandbox_stopped", [TERMINAL_SANDBOX_DELETED] = "sandbox_deleted",
    [TERMINAL_ACCESS_REVOKED] = "access_revoked",   [TERMINAL_SESSION_EXPIRED] = "session_expired",
    [TERMINAL_SERVER_STOPS] = "server_stops",
};

struct terminals {
    pthread_mutex_t lock;
    json_t *users, *sandboxes; /* name -> how many; only those that have one */
    int per_user, per_sandbox;
    _Atomic int active;
    _Atomic int64_t held;
    _Atomic uint64_t ended[TERMINAL_ENDINGS], refused;
};

struct terminals *terminals_new(int per_user, int per_sandbox) {
    struct terminals *t = xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->users = json_object();
    t->sandboxes = json_object();
    t->per_user = per_user;
    t->per_sandbox = per_sandbox;
    return t;
}

void terminals_free(struct terminals *t) {
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    json_decref(t->users);
    json_decref(t->sandboxes);
    free(t);
}

static json_int_t count_of(const json_t *counts, const char *name) {
    return json_integer_value(json_object_get(counts, name));
}

static void change(json_t *counts, const char *name, json_int_t by) {
    json_int_t n = count_of(counts, name) + by;
    if (n > 0)
        json_object_set_new_nocheck(counts, name, json_integer(n));
    else
        json_object_del(counts, name);
}

bool terminals_admit(struct terminals *t, const char *sub, const char *uid, struct error *err) {
    pthread_mutex_lock(&t->lock);
    bool user_full = t->per_user && count_of(t->users, sub) >= t->per_user;
    bool sandbox_full = t->per_sandbox && count_of(t->sandboxes, uid) >= t->per_sandbox;
    if (!user_full && !sandbox_full) {
        change(t->users, sub, 1);
        change(t->sandboxes, uid, 1);
    }
    pthread_mutex_unlock(&t->lock);
    if (!user_full && !sandbox_full) {
        atomic_fetch_add(&t->active, 1);
        return true;
    }
    atomic_fetch_add(&t->refused, 1);
    if (user_full)
        error_set(err, 429, "too_many_terminals",
                  "you have %d terminals open, and more are not allowed: close one", t->per_user);
    else
        error_set(err, 429, "too_many_terminals",
                  "this sandbox has %d terminals open, and more are not allowed: close one", t->per_sandbox);
    if (err) err->retry_after = 5;
    return false;
}

void terminals_leave(struct terminals *t, const char *sub, const char *uid, enum terminal_ending how) {
    pthread_mutex_lock(&t->lock);
    change(t->users, sub, -1);
    change(t->sandboxes, uid, -1);
    pthread_mutex_unlock(&t->lock);
    /* In this order: who sees that it is gone sees why, too. */
    atomic_fetch_add(&t->ended[how], 1);
    atomic_fetch_sub(&t->active, 1);
}

_Atomic int64_t *terminals_held(struct terminals *t) {
    return &t->held;
}

void terminals_render(struct terminals *t, struct buffer *out) {
    buffer_printf(out,
                  "# HELP agenttier_terminals Terminals that are open.\n"
                  "# TYPE agenttier_terminals gauge\nagenttier_terminals %d\n"
                  "# HELP agenttier_terminal_buffered_bytes Bytes that wait between terminals and clients.\n"
                  "# TYPE agenttier_terminal_buffered_bytes gauge\nagenttier_terminal_buffered_bytes %lld\n"
                  "# HELP agenttier_terminals_refused_total Terminals above a limit of users or sandboxes.\n"
                  "# TYPE agenttier_terminals_refused_total counter\nagenttier_terminals_refused_total %llu\n"
                  "# HELP agenttier_terminals_ended_total Terminals that have ended, by why.\n"
                  "# TYPE agenttier_terminals_ended_total counter\n",
                  atomic_load(&t->active), (long long)atomic_load(&t->held),
                  (unsigned long long)atomic_load(&t->refused));
    for (int i = 0; i < TERMINAL_ENDINGS; i++)
        buffer_printf(out, "agenttier_terminals_ended_total{reason=\"%s\"} %llu\n", terminal_ending_names[i],
                      (unsigned long long)atomic_load(&t->ended[i]));
}
