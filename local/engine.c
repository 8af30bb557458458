/* The engine's threads: one that waits (for the ends of processes and for times) and workers that make
 * passes. What changes in the store comes in over the watch. */
#include "local/engine_inside.h"

#include "common/json.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "local/etc.h"
#include "local/files.h"
#include "local/resource_limits.h"
#include "local/syscall_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define EPOLL_BATCH  64
#define RUNTIME_MAX  (64 * 1024 * 1024)
#define WORKER_STACK (512 * 1024)

/* ---- entries and queue -------------------------------------------------------------------------- */

static size_t bucket_of(const char *uid) {
    uint32_t h = 2166136261u;
    for (; *uid; uid++)
        h = (h ^ (unsigned char)*uid) * 16777619u;
    return h % ENGINE_BUCKETS;
}

struct entry *engine_entry(struct engine *e, const struct object *sandbox) {
    if (!state_dir_uid_valid(sandbox->uid)) return NULL; /* it names files */
    struct entry **at = &e->buckets[bucket_of(sandbox->uid)];
    for (; *at; at = &(*at)->next)
        if (strcmp((*at)->uid, sandbox->uid) == 0) return *at;
    struct entry *s = xcalloc(1, sizeof *s);
    s->uid = xstrdup(sandbox->uid);
    s->namespace = xstrdup(sandbox->namespace);
    s->name = xstrdup(sandbox->name);
    s->dir = state_dir_path(e->state, "sandboxes", s->uid);
    state_dir_socket(e->state, s->uid, s->socket_path);
    s->pidfd = -1;
    s->engine = e;
    *at = s;
    return s;
}

static void entry_free(struct entry *s) {
    first_run_end(s);
    fill_workspace_end(s);
    record_clear(&s->record);
    if (s->pidfd >= 0) close(s->pidfd);
    free(s->uid);
    free(s->namespace);
    free(s->name);
    free(s->dir);
    free(s);
}

static void wake_loop(struct engine *e) {
    uint64_t one = 1;
    if (write(e->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_error("the engine cannot be woken", "why", strerror(errno), NULL);
}

void engine_enqueue(struct engine *e, struct entry *s) {
    s->again = true;
    if (s->queued || s->busy) return;
    s->queued = true;
    s->queue_next = NULL;
    *e->queue_last = s;
    e->queue_last = &s->queue_next;
    pthread_cond_signal(&e->work);
}

void engine_watch_process(struct engine *e, struct entry *s) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.ptr = s};
    /* Closing the pidfd takes it out again; its number is never in there twice. */
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, s->pidfd, &event) != 0)
        log_error("the end of a sandbox cannot be watched", "sandbox", s->name, "why", strerror(errno), NULL);
}

static void on_change(void *ctx, enum store_change change, struct object *object) {
    struct engine *e = ctx;
    (void)change; /* a pass looks for itself */
    pthread_mutex_lock(&e->lock);
    struct entry *s = engine_entry(e, object);
    if (s) engine_enqueue(e, s);
    pthread_mutex_unlock(&e->lock);
}

/* ---- threads ------------------------------------------------------------------------------------ */

static void *work(void *arg) {
    struct engine *e = arg;
    pthread_mutex_lock(&e->lock);
    while (!e->stopping) {
        struct entry *s = e->queue;
        if (!s) {
            pthread_cond_wait(&e->work, &e->lock);
            continue;
        }
        e->queue = s->queue_next;
        if (!e->queue) e->queue_last = &e->queue;
        s->queued = s->again = false;
        s->busy = true;
        s->due = 0;
        pthread_mutex_unlock(&e->lock);
        int64_t next = reconcile(e, s);
        pthread_mutex_lock(&e->lock);
        s->busy = false;
        bool gone = s->gone;
        if (!gone && (s->again || next == PASS_AGAIN))
            engine_enqueue(e, s);
        else if (next > 0)
            s->due = monotonic_ms() + next;
        if (gone || next > 0) wake_loop(e);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* Queues what is due, frees what is gone; returns ms until the next. */
static int look_at_times(struct engine *e) {
    int64_t now = monotonic_ms(), next = INT64_MAX;
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (struct entry **at = &e->buckets[i]; *at;) {
            struct entry *s = *at;
            if (s->gone && !s->queued && !s->busy) {
                *at = s->next;
                entry_free(s);
                continue;
            }
            if (s->due && s->due <= now) {
                s->due = 0;
                engine_enqueue(e, s);
            } else if (s->due && s->due < next) {
                next = s->due;
            }
            at = &s->next;
        }
    if (next == INT64_MAX) return -1;
    return next - now > 60000 ? 60000 : (int)(next - now);
}

static void *wait_for_things(void *arg) {
    struct engine *e = arg;
    struct epoll_event events[EPOLL_BATCH];
    int n = 0;
    pthread_mutex_lock(&e->lock);
    while (!e->stopping) {
        /* First the events: their entries may be freed below, never between. */
        for (int i = 0; i < n; i++) {
            uint64_t count;
            if (events[i].data.ptr)
                engine_enqueue(e, events[i].data.ptr);
            else if (read(e->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
                break;
        }
        int timeout = look_at_times(e);
        pthread_mutex_unlock(&e->lock);
        n = epoll_wait(e->epoll_fd, events, EPOLL_BATCH, timeout);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ---- start and stop ------------------------------------------------------------------------------ */

/* A copy named by its content: rebuilding the program does not disturb who runs from the old one. Nobody
 * may read it, which makes its processes untraceable for their own user. */
static bool install_runtime(struct engine *e, const char *path, struct error *err) {
    cleanup_buffer struct buffer bytes = {0};
    if (!path || !*path || access(path, R_OK) != 0) {
        error_set(err, 500, ERR_INTERNAL,
                  "the program agenttier-runtime is not at %s: build it, or say where it is with --runtime",
                  path && *path ? path : "(no path)");
        return false;
    }
    if (!file_read(path, RUNTIME_MAX, &bytes, err)) return false;
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(buffer_slice(&bytes), hash);
    snprintf(e->runtime, sizeof e->runtime, "%.32s", hash);
    cleanup_free char *final = state_dir_path(e->state, "bin", e->runtime);
    cleanup_free char *fresh = state_dir_path(e->state, "bin", "new");
    struct stat st;
    if (stat(final, &st) == 0 && st.st_size == (off_t)bytes.len) return true;
    if (unlink(fresh) != 0 && errno != ENOENT) {
        error_set_errno(err, errno, "removing %s", fresh);
        return false;
    }
    if (!file_write(fresh, buffer_slice(&bytes), 0111, err)) return false;
    if (rename(fresh, final) == 0) return true;
    error_set_errno(err, errno, "creating %s", final);
    return false;
}

static bool prepare(struct engine *e, const struct engine_options *options, struct error *err) {
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN};
    if (e->epoll_fd < 0 || e->wake_fd < 0 || e->cancel_fd < 0 ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->wake_fd, &wake) != 0) {
        error_set_errno(err, errno, "starting the engine");
        return false;
    }
    if (!process_boot_id(e->boot_id)) {
        error_set(err, 500, ERR_INTERNAL, "the boot id cannot be read: /proc must be mounted");
        return false;
    }
    if (!install_runtime(e, options->runtime_path, err) ||
        !etc_generate(e->state, e->etc, sizeof e->etc, err) || !syscall_filter_build(&e->seccomp, err))
        return false;
    e->etc_shown = etc_shown();
    e->ids = host_ids_new(e->state);
    e->machine_memory = machine_memory_bytes();
    e->own_users = geteuid() == 0;
    return true;
}

static void find_cgroups(struct engine *e) {
    cgroup_detect(&e->cgroups);
    if (!e->cgroups.cpu || !e->cgroups.memory || !e->cgroups.pids)
        log_warn("control groups are not writable here: sandboxes are limited process by process only", "cpu",
                 e->cgroups.cpu ? "yes" : "no", "memory", e->cgroups.memory ? "yes" : "no", "pids",
                 e->cgroups.pids ? "yes" : "no", NULL);
}

static bool start_threads(struct engine *e, struct error *err) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    int rc = pthread_create(&e->loop, &attr, wait_for_things, e);
    e->loop_started = rc == 0;
    while (rc == 0 && e->worker_count < ENGINE_WORKERS) {
        rc = pthread_create(&e->workers[e->worker_count], &attr, work, e);
        if (rc == 0) e->worker_count++;
    }
    pthread_attr_destroy(&attr);
    if (rc != 0) error_set_errno(err, rc, "starting the engine's threads");
    return rc == 0;
}

struct engine *engine_new(const struct engine_options *options, struct error *err) {
    struct engine *e = xcalloc(1, sizeof *e);
    e->state = options->state;
    e->storage_check_ms = options->storage_check_ms;
    e->store = options->store;
    e->epoll_fd = e->wake_fd = e->cancel_fd = -1;
    e->queue_last = &e->queue;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    e->locations = locations_new();
    if (prepare(e, options, err)) return e;
    engine_stop(e);
    return NULL;
}

bool engine_start(struct engine *e, struct error *err) {
    find_cgroups(e);
    adopt_all(e);
    e->events = events_start(e->store, true);
    e->trash = trash_start(e->state, e->ids);
    const struct snapshots_options snapshots = {.state = e->state,
                                                .store = e->store,
                                                .trash = e->trash,
                                                .own_users = e->own_users,
                                                .changed = fill_snapshot_changed,
                                                .ctx = e};
    e->snapshots = snapshots_start(&snapshots, err);
    if (!e->snapshots || !start_threads(e, err)) return false;
    if (e->storage_check_ms > 0) e->storage_watch = storage_watch_start(e, e->storage_check_ms);
    e->watch = e->store->ops->watch(e->store, KIND_SANDBOX, on_change, e);
    return true;
}

void engine_stop(struct engine *e) {
    if (!e) return;
    if (e->watch) e->store->ops->unwatch(e->store, e->watch);
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    uint64_t one = 1;
    if (e->cancel_fd >= 0 && write(e->cancel_fd, &one, sizeof one) < 0)
        log_error("the engine's waits cannot be cancelled", "why", strerror(errno), NULL);
    if (e->wake_fd >= 0) wake_loop(e);
    for (size_t i = 0; i < e->worker_count; i++)
        pthread_join(e->workers[i], NULL);
    if (e->loop_started) pthread_join(e->loop, NULL);
    snapshots_stop(e->snapshots);
    storage_watch_stop(e->storage_watch);
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (struct entry *s = e->buckets[i], *next; s; s = next) {
            next = s->next;
            entry_free(s);
        }
    snapshots_free(e->snapshots);
    events_stop(e->events);
    trash_stop(e->trash);
    host_ids_free(e->ids);
    cgroup_free(&e->cgroups);
    buffer_free(&e->seccomp);
    etc_shown_free(e->etc_shown);
    locations_free(e->locations);
    if (e->epoll_fd >= 0) close(e->epoll_fd);
    if (e->wake_fd >= 0) close(e->wake_fd);
    if (e->cancel_fd >= 0) close(e->cancel_fd);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->work);
    free(e);
}

struct snapshots *engine_snapshots(struct engine *e) {
    return e->snapshots;
}

bool engine_locate(void *ctx, struct object *sandbox, struct runtime_address *out, struct error *err) {
    struct engine *e = ctx;
    *out = (struct runtime_address){0};
    const char *phase = json_str_at(sandbox->json, "status.phase");
    if (locations_get(e->locations, sandbox->uid, out->unix_path, sizeof out->unix_path)) return true;
    error_set(err, 409, "sandbox_not_running", "sandbox \"%s\" is not running: it is %s", sandbox->name,
              strcmp(phase, "Running") == 0 ? "stopping or being restarted"
              : *phase                      ? phase
                                            : "Creating");
    return false;
}
