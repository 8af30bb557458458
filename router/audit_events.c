/* The Events of sandboxes on their way into the history, and the opening of the history: audit.h. */
#include "router/audit.h"

#include "common/lazy.h"
#include "common/log.h"
#include "common/units.h"
#include "router/router.h"

#include <stdatomic.h>
#include <stdio.h>

struct event_recorder {
    struct store *store;
    struct history *history;
    void *watch;
    _Atomic bool following; /* the Events that were there at the start are through */
};

/* The phase that a sandbox entered, when that is what the event tells of. */
static const char *phase_of(const char *reason) {
    static const char *const phases[] = {"Creating", "Running", "Stopped", "Error"};
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
        if (strcmp(reason, phases[i]) == 0) return phases[i];
    return "";
}

bool event_entry(const json_t *event, struct history_entry *out, char key[128]) {
    static const char *const times[] = {"lastTimestamp", "eventTime", "firstTimestamp",
                                        "metadata.creationTimestamp"};
    if (strcmp(json_str_at(event, "involvedObject.kind"), "Sandbox") != 0) return false;
    struct timespec at = {0};
    for (size_t i = 0; i < 4; i++)
        if (rfc3339_parse(json_str_at(event, times[i]), &at.tv_sec)) break;
    *out = (struct history_entry){.is_event = true,
                                  .sandbox = json_str_at(event, "involvedObject.name"),
                                  .namespace = json_str_at(event, "involvedObject.namespace"),
                                  .phase = phase_of(json_str_at(event, "reason")),
                                  .reason = json_str_at(event, "reason"),
                                  .message = json_str_at(event, "message"),
                                  .type = json_str_at(event, "type"),
                                  .key = key};
    rfc3339_format_nanos(at, out->ts);
    /* A repeat raises the count and the time of one Event object. */
    snprintf(key, 128, "%.60s/%lld/%.40s", json_str_at(event, "metadata.uid"),
             (long long)json_integer_value(json_object_get(event, "count")), out->ts);
    return true;
}

static char *clean(const char *text) {
    struct buffer out = {0};
    audit_text(slice_of(text), &out);
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

static void on_event(void *ctx, enum store_change change, struct object *o) {
    struct event_recorder *r = ctx;
    struct history_entry e;
    char key[128];
    if (change == STORE_DELETED || !event_entry(o->json, &e, key)) return;
    cleanup_free char *sandbox = clean(e.sandbox), *namespace = clean(e.namespace), *reason = clean(e.reason),
                      *message = clean(e.message), *type = clean(e.type);
    e.sandbox = sandbox;
    e.namespace = namespace;
    e.reason = reason;
    e.message = message;
    e.type = type;
    /* A store's thread must not wait; the start may. */
    history_add(r->history, &e, atomic_load(&r->following) ? HISTORY_LIGHT : HISTORY_PATIENT);
}

struct event_recorder *event_recorder_new(struct store *store, struct history *history) {
    if (!history) return NULL;
    struct event_recorder *r = xcalloc(1, sizeof *r);
    r->store = store;
    r->history = history;
    r->watch = store->ops->watch(store, KIND_EVENT, on_event, r);
    atomic_store(&r->following, true);
    return r;
}

void event_recorder_free(struct event_recorder *r) {
    if (!r) return;
    r->store->ops->unwatch(r->store, r->watch);
    free(r);
}

bool audit_open(const struct config *config, struct history **out, struct error *err) {
    struct history_options options = {0};
    struct quantity size;
    int64_t ns;
    *out = NULL;
    if (!duration_parse(config->history_retention, &ns) || ns < 0) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--history-retention takes a duration such as 2160h, or 0, not \"%s\"",
                  config->history_retention);
        return false;
    }
    if (!quantity_parse(config->history_max_size, &size) || size.nano < 0) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--history-max-size takes a quantity such as 1Gi, or 0, not \"%s\"",
                  config->history_max_size);
        return false;
    }
    options.retention_s = ns / 1000000000;
    options.max_bytes = quantity_ceil(size);
    bool local = strcmp(config->backend, "local") == 0 && config->state_dir[0];
    if (strcmp(config->history_db, "none") == 0 || (!config->history_db[0] && !local)) return true;
    cleanup_free char *path =
        config->history_db[0] ? xstrdup(config->history_db) : xasprintf("%s/history.db", config->state_dir);
    options.path = path;
    if (config->history_peers[0] && !lazy_open(&lazy_curl, err)) return false; /* audit_peers.c */
    cleanup_error struct error failed = {0};
    *out = history_open(&options, &failed);
    if (!*out) log_error("there is no history of what is done", "error", failed.message, NULL);
    return true;
}
