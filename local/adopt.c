/* What an earlier Router left on this machine: sandboxes that run are taken up, half-made ones ended, and
 * directories that no object has put aside. */
#include "local/engine_inside.h"

#include "common/json.h"
#include "common/log.h"
#include "local/files.h"
#include "local/launch.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STRAY_ROUNDS  400
#define STRAY_WAIT_US 5000

/* Ends whatever still belongs to a launch whose process 1 is not known or has ended: found by the record, the
 * launch file, the control groups and at last by the lock that every one of them inherited. */
static bool end_strays(struct entry *s, struct error *err) {
    for (int round = 0; round < STRAY_ROUNDS; round++) {
        process_kill_tree(s->record.monitor);
        process_kill_tree(launch_recorded(s->dir));
        for (size_t i = 0; i < s->record.cgroup_count; i++)
            cgroup_kill(s->record.cgroups[i]);
        int fd = launch_lock(s->dir, err);
        if (fd >= 0) {
            close(fd);
            remove_groups(&s->record); /* its last process may have let go of the lock, but not left them */
            s->record.init = s->record.monitor = (struct process_id){0};
            return record_save(s->dir, &s->record, err);
        }
        if (err && err->status) return false;
        cleanup_free char *lock = xasprintf("%s/lock", s->dir);
        struct stat st;
        if (round % 20 == 4 && stat(lock, &st) == 0) process_kill_holders(&st);
        usleep(STRAY_WAIT_US);
    }
    error_set(err, 503, ERR_UNAVAILABLE, "processes of an earlier start in %s do not end", s->dir);
    return false;
}

bool adopt_entry(struct engine *e, struct entry *s, const struct object *sandbox, struct error *err) {
    struct stat st;
    if (lstat(s->dir, &st) != 0) {
        if (errno != ENOENT) {
            error_set_errno(err, errno, "looking at %s", s->dir);
            return false;
        }
        s->loaded = true; /* never started */
        return true;
    }
    if (!record_load(s->dir, &s->record, err)) return false;
    if (s->record.own_user) host_ids_mark(e->ids, s->record.host_uid);
    if (strcmp(s->record.boot_id, e->boot_id) != 0) {
        s->record.init = s->record.monitor = (struct process_id){0};
        s->loaded = true;
        return true;
    }
    s->pidfd = process_open(s->record.init);
    if (s->pidfd < 0) {
        if (!end_strays(s, err)) return false;
        s->loaded = true;
        return true;
    }
    s->loaded = true;
    engine_watch_process(e, s);
    const char *phase = sandbox ? json_str_at(sandbox->json, "status.phase") : "";
    bool wanted = sandbox && !*json_str_at(sandbox->json, "metadata.deletionTimestamp");
    if (wanted && strcmp(phase, "Running") == 0 && !*s->record.stopping) {
        locations_put(e->locations, s->uid, s->socket_path);
        log_info("sandbox adopted", "sandbox", s->name, "pid", log_int(s->record.init.pid), NULL);
    }
    return true;
}

/* A directory without an object: its processes end; its files are kept for a person to look at, because only
 * a store that was lost or replaced brings this about. */
static void put_aside(struct engine *e, const char *uid) {
    cleanup_error struct error err = {0};
    struct entry s = {.uid = (char *)uid, .namespace = (char *)"", .name = (char *)uid, .pidfd = -1};
    s.dir = state_dir_path(e->state, "sandboxes", uid);
    bool ok = record_load(s.dir, &s.record, &err);
    if (ok && strcmp(s.record.boot_id, e->boot_id) == 0) {
        process_signal(s.record.init, SIGKILL);
        ok = end_strays(&s, &err);
    }
    cleanup_free char *lost = state_dir_path(e->state, "lost", uid);
    if (ok && rename(s.dir, lost) != 0) error_set_errno(&err, errno, "moving %s", s.dir);
    if (err.status)
        log_warn("a sandbox that the store does not know stays in place", "why", err.message, NULL);
    else
        log_warn("a sandbox that the store does not know was ended; its files are kept", "path", lost, NULL);
    record_clear(&s.record);
    free(s.dir);
}

static bool known(struct engine *e, const char *uid) {
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (struct entry *s = e->buckets[i]; s; s = s->next)
            if (strcmp(s->uid, uid) == 0) return true;
    return false;
}

static void adopt_directories(struct engine *e) {
    cleanup_free char *path = xasprintf("%s/sandboxes", e->state->path);
    DIR *dir = opendir(path);
    if (!dir) return;
    struct dirent *d;
    while ((d = readdir(dir)))
        if (state_dir_uid_valid(d->d_name) && !known(e, d->d_name)) put_aside(e, d->d_name);
    closedir(dir);
}

/* Generations in bin/, etc/ and images/ that neither this Router nor a living sandbox uses. */
static bool in_use(struct engine *e, size_t offset, const char *current, const char *name) {
    if (strcmp(name, current) == 0) return true;
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (struct entry *s = e->buckets[i]; s; s = s->next)
            if (s->pidfd >= 0 && strcmp((const char *)&s->record + offset, name) == 0) return true;
    return false;
}

static void remove_unused(struct engine *e, const char *folder, size_t offset, const char *current) {
    cleanup_free char *path = xasprintf("%s/%s", e->state->path, folder);
    DIR *dir = opendir(path);
    if (!dir) return;
    bool images = strcmp(folder, "images") == 0;
    struct dirent *d;
    while ((d = readdir(dir))) {
        /* Of images only generations (NAME@HEX) that no NAME points to. */
        if (d->d_name[0] == '.' || (images && !strchr(d->d_name, '@'))) continue;
        if (images) {
            char linked[300] = {0}, name[256];
            snprintf(name, sizeof name, "%.*s", (int)strcspn(d->d_name, "@"), d->d_name);
            if (readlinkat(dirfd(dir), name, linked, sizeof linked - 1) > 0 && strcmp(linked, d->d_name) == 0)
                continue;
            if (strstr(d->d_name, ".new")) continue; /* an import under way */
        }
        if (!in_use(e, offset, current, d->d_name)) tree_remove(path, d->d_name, NULL);
    }
    closedir(dir);
}

void adopt_all(struct engine *e) {
    cleanup_object_list struct object_list all = e->store->ops->list(e->store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        cleanup_error struct error err = {0};
        struct entry *s = engine_entry(e, all.items[i]);
        if (s && !adopt_entry(e, s, all.items[i], &err))
            log_warn("a sandbox cannot be taken up yet", "sandbox", s->name, "why", err.message, NULL);
    }
    adopt_directories(e);
    remove_unused(e, "bin", offsetof(struct record, runtime), e->runtime);
    remove_unused(e, "etc", offsetof(struct record, etc), e->etc);
    remove_unused(e, "images", offsetof(struct record, image), "");
}
