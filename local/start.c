/* From an object to running processes. */
#include "local/engine_inside.h"

#include "backend/templates.h"
#include "common/json.h"
#include "common/log.h"
#include "local/files.h"
#include "local/launch.h"
#include "local/sandbox_env.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LAUNCH_TIMEOUT_MS 10000
#define HOSTNAME_MAX      63
#define FREE_BYTES_MIN    (16L * 1024 * 1024)

/* What a start collects; freed as a whole. */
struct start {
    char *root; /* of an image, or NULL */
    char *workspace, *runtime, *etc;
    char *working_dir;
    const char *mount_path; /* of the workspace; borrowed from the resolved spec */
    struct sandbox_env env;
    struct limits limits;
    struct cgroup_set cgroups;
    int lock_fd;
};

static void start_free(struct start *t) {
    free(t->root);
    free(t->workspace);
    free(t->runtime);
    free(t->etc);
    free(t->working_dir);
    sandbox_env_free(&t->env);
    cgroup_set_close(&t->cgroups);
    if (t->lock_fd >= 0) close(t->lock_fd);
}

/* NULL without err: the host's own system. */
static bool find_root(struct engine *e, const json_t *spec, char **root, struct error *err) {
    const char *image = json_str_at(spec, "image.repository");
    *root = NULL;
    if (!*image || strcmp(image, IMAGE_HOST) == 0) return true;
    *root = rootfs_find(e->state->path, image, err);
    return *root != NULL;
}

bool start_possible(struct engine *e, const struct object *sandbox) {
    cleanup_json json_t *spec = template_resolve(e->store, sandbox->json, NULL);
    cleanup_free char *root = NULL;
    return spec && find_root(e, spec, &root, NULL);
}

/* ---- directories ------------------------------------------------------------------------------ */

bool take_host_id(struct engine *e, struct record *r, struct error *err) {
    if (!e->own_users || r->own_user) return true;
    r->host_uid = host_ids_take(e->ids);
    r->own_user = r->host_uid != 0;
    if (!r->own_user)
        error_set(err, 503, ERR_UNAVAILABLE, "all %d user ids of sandboxes are in use", HOST_ID_COUNT);
    return r->own_user;
}

static bool make_workspace(struct engine *e, struct entry *s, const char *path, struct error *err) {
    struct stat st;
    if ((mkdir(s->dir, 0700) != 0 && errno != EEXIST) || (mkdir(path, 0700) != 0 && errno != EEXIST) ||
        lstat(path, &st) != 0) {
        error_set_errno(err, errno, "creating %s", path);
        return false;
    }
    struct statvfs disk;
    if (statvfs(path, &disk) == 0 && (int64_t)disk.f_bavail * (int64_t)disk.f_frsize < FREE_BYTES_MIN) {
        error_set(err, 507, "disk_full",
                  "less than %ld MiB are free on the file system of %s: free some space",
                  FREE_BYTES_MIN >> 20, e->state->path);
        return false;
    }
    if (!S_ISDIR(st.st_mode)) {
        error_set(err, 500, ERR_INTERNAL, "%s is not a directory", path);
        return false;
    }
    if (s->record.own_user && st.st_uid != s->record.host_uid &&
        lchown(path, s->record.host_uid, (gid_t)s->record.host_uid) != 0) {
        error_set_errno(err, errno, "giving %s to user %u", path, (unsigned)s->record.host_uid);
        return false;
    }
    return true;
}

/* The directory below the workspace that `path` (seen from inside) names, or NULL when it is not there or is
 * reached through a symlink. On the first start, when the workspace is empty, it is made. */
static bool find_working_dir(const struct entry *s, const char *workspace, const char *mount,
                             const char *path) {
    size_t n = strlen(mount);
    if (strncmp(path, mount, n) != 0 || path[n] != '/') {
        mount = SANDBOX_WORKSPACE;
        n = strlen(mount);
        if (strncmp(path, mount, n) != 0 || path[n] != '/') return false;
    }
    if (!mount_path_valid(path)) return false; /* also: no dot components */
    cleanup_close int at = open(workspace, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    cleanup_free char *copy = xstrdup(path + n + 1);
    char *save = NULL;
    for (char *part = strtok_r(copy, "/", &save); part && at >= 0; part = strtok_r(NULL, "/", &save)) {
        if (!s->record.initialized && mkdirat(at, part, 0755) == 0 && s->record.own_user &&
            fchownat(at, part, s->record.host_uid, (gid_t)s->record.host_uid, AT_SYMLINK_NOFOLLOW) != 0)
            return false;
        int next = openat(at, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(at);
        at = next;
    }
    return at >= 0;
}

static bool prepare_places(struct engine *e, struct entry *s, const json_t *spec, struct start *t,
                           struct error *err) {
    t->workspace = xasprintf("%s/workspace", s->dir);
    t->runtime = state_dir_path(e->state, "bin", e->runtime);
    t->etc = state_dir_path(e->state, "etc", e->etc);
    t->mount_path = json_str_at(spec, "storage.mountPath");
    if (!*t->mount_path) t->mount_path = SANDBOX_WORKSPACE;
    if (strcmp(t->mount_path, SANDBOX_WORKSPACE) != 0 && !mount_path_valid(t->mount_path)) {
        error_set_field(err, "storage.mountPath",
                        "\"%.200s\" cannot be used: it is not a plain absolute path, or "
                        "belongs to the system",
                        t->mount_path);
        return false;
    }
    if (!take_host_id(e, &s->record, err) || !make_workspace(e, s, t->workspace, err)) {
        error_wrap(err, "PVC creation failed");
        return false;
    }
    const char *wanted = json_str_at(spec, "harness.workingDir");
    bool usable = *wanted && find_working_dir(s, t->workspace, t->mount_path, wanted);
    t->working_dir = xstrdup(usable ? wanted : t->mount_path);
    return true;
}

/* ---- processes --------------------------------------------------------------------------------- */

static bool write_intent(struct engine *e, struct entry *s, const struct start *t, struct error *err) {
    struct record *r = &s->record;
    snprintf(r->boot_id, sizeof r->boot_id, "%s", e->boot_id);
    snprintf(r->runtime, sizeof r->runtime, "%s", e->runtime);
    snprintf(r->etc, sizeof r->etc, "%s", e->etc);
    snprintf(r->image, sizeof r->image, "%s", t->root ? strrchr(t->root, '/') + 1 : "");
    r->stopping[0] = '\0';
    r->init = r->monitor = (struct process_id){0};
    record_set_cgroups(r, &t->cgroups);
    return record_save(s->dir, r, err);
}

static bool run(struct engine *e, struct entry *s, struct start *t, struct error *err) {
    char hostname[HOSTNAME_MAX + 1];
    snprintf(hostname, sizeof hostname, "%.*s", HOSTNAME_MAX, s->name);
    struct launch_plan plan = {
        .dir = s->dir,
        .socket_path = s->socket_path,
        .workspace = t->workspace,
        .runtime = t->runtime,
        .root = t->root,
        .etc = t->etc,
        .hostname = hostname,
        .mount_path = strcmp(t->mount_path, SANDBOX_WORKSPACE) != 0 ? t->mount_path : NULL,
        .working_dir = t->working_dir,
        .etc_shown = e->etc_shown,
        .env = t->env.items,
        .env_count = t->env.count,
        .own_user = s->record.own_user,
        .host_uid = s->record.host_uid,
        .cgroups = &t->cgroups,
        .seccomp = buffer_slice(&e->seccomp),
        .lock_fd = t->lock_fd,
        .timeout_ms = LAUNCH_TIMEOUT_MS,
    };
    struct launched launched;
    if (!launch(&plan, &launched, err)) return false;
    s->record.monitor = launched.monitor;
    s->record.init = launched.init;
    s->pidfd = process_open(launched.init);
    if (s->pidfd >= 0 && record_save(s->dir, &s->record, err)) return true;
    if (s->pidfd < 0) {
        char log[300];
        launch_read_log(s->dir, log, sizeof log);
        error_set(err, 500, ERR_INTERNAL, "process 1 ended at once: %s", *log ? log : "it said nothing");
    } else {
        close(s->pidfd);
        s->pidfd = -1;
    }
    process_kill_tree(launched.monitor);
    process_signal(launched.init, SIGKILL);
    return false;
}

bool start_sandbox(struct engine *e, struct entry *s, const struct object *sandbox, json_t **resolved,
                   struct error *err) {
    struct start t = {.cgroups = CGROUP_SET_NONE, .lock_fd = -1};
    *resolved = template_resolve(e->store, sandbox->json, err);
    bool ok = *resolved && find_root(e, *resolved, &t.root, err) && prepare_places(e, s, *resolved, &t, err);
    if (!ok) {
        start_free(&t);
        return false;
    }
    const char *shell = access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh";
    ok = limits_from_resources(json_object_get(*resolved, "resources"), e->machine_memory, &t.limits, err) &&
         sandbox_env_make(json_object_get(*resolved, "env"), s->name, s->namespace, s->uid, shell, &t.env,
                          err) &&
         (t.lock_fd = launch_lock(s->dir, err)) >= 0 &&
         cgroup_create(&e->cgroups, s->uid, &t.limits, &t.cgroups, err) && write_intent(e, s, &t, err) &&
         run(e, s, &t, err);
    if (!ok) {
        if (err->status == 0)
            error_set(err, 503, ERR_UNAVAILABLE, "processes of an earlier start have not ended yet");
        error_wrap(err, "Pod creation failed");
        for (size_t i = 0; i < t.cgroups.count; i++) {
            cgroup_kill(t.cgroups.paths[i]);
            for (int k = 0; k < 50 && !cgroup_remove(t.cgroups.paths[i]); k++)
                usleep(1000);
        }
    }
    start_free(&t);
    return ok;
}

bool limit_processes(struct engine *e, struct entry *s, const struct object *sandbox, struct error *err) {
    if (e->cgroups.memory && e->cgroups.pids) return true;
    struct limits limits;
    cleanup_json json_t *spec = template_resolve(e->store, sandbox->json, err);
    uid_t user = s->record.own_user ? s->record.host_uid : geteuid();
    return spec &&
           limits_from_resources(json_object_get(spec, "resources"), e->machine_memory, &limits, err) &&
           limits_apply_to_process(s->record.init.pid, user, &limits, err);
}
