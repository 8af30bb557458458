/* The state directory: created, locked, named. */
#include "local/state_dir.h"

#include "common/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_WAIT_MS  5000
#define UID_MAX       63
#define SOCKET_SUFFIX "/run/.sock"

static const char *const folders[] = {"bin",       "etc",       "images", "run",
                                      "sandboxes", "snapshots", "trash",  "lost"};

static bool make_parents(const char *path, struct error *err) {
    cleanup_free char *copy = xstrdup(path);
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        if (mkdir(copy, 0755) != 0 && errno != EEXIST) {
            error_set_errno(err, errno, "creating %s", copy);
            return false;
        }
        *p = '/';
    }
    if (mkdir(copy, 0700) != 0 && errno != EEXIST) {
        error_set_errno(err, errno, "creating the state directory %s", copy);
        return false;
    }
    return true;
}

static bool take_lock(struct state_dir *state, struct error *err) {
    cleanup_free char *path = xasprintf("%s/lock", state->path);
    state->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (state->lock_fd < 0) {
        error_set_errno(err, errno, "opening %s", path);
        return false;
    }
    char text[32] = {0};
    bool locked = flock(state->lock_fd, LOCK_EX | LOCK_NB) == 0;
    /* A Router that was killed while it started a sandbox has left a process that has the lock until it
     * executes bubblewrap: a matter of milliseconds, of many where the machine is busy. */
    for (int waited = 0; !locked && errno == EWOULDBLOCK && waited < LOCK_WAIT_MS; waited += 10) {
        usleep(10000);
        locked = flock(state->lock_fd, LOCK_EX | LOCK_NB) == 0;
    }
    if (!locked) {
        if (errno != EWOULDBLOCK) {
            error_set_errno(err, errno, "locking %s", path);
            return false;
        }
        ssize_t n = pread(state->lock_fd, text, sizeof text - 1, 0);
        text[strcspn(text, "\n")] = '\0';
        error_set(
            err, 503, ERR_UNAVAILABLE,
            "the state directory %s is in use by the Router with process id %s; stop it or choose another "
            "with --state-dir",
            state->path, n > 0 ? text : "unknown");
        return false;
    }
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(state->lock_fd, 0) != 0 || pwrite(state->lock_fd, text, (size_t)n, 0) != n) {
        error_set_errno(err, errno, "writing %s", path);
        return false;
    }
    return true;
}

static bool make_folders(struct state_dir *state, struct error *err) {
    if (chmod(state->path, 0700) != 0) {
        error_set_errno(err, errno, "closing %s to others", state->path);
        return false;
    }
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        cleanup_free char *folder = xasprintf("%s/%s", state->path, folders[i]);
        if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
            error_set_errno(err, errno, "creating %s", folder);
            return false;
        }
    }
    cleanup_free char *run = xasprintf("%s/run", state->path);
    state->run_fd = open(run, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (state->run_fd < 0) error_set_errno(err, errno, "opening %s", run);
    return state->run_fd >= 0;
}

bool state_dir_open(struct state_dir *out, const char *path, struct error *err) {
    *out = (struct state_dir){.lock_fd = -1, .run_fd = -1};
    if (!path || !*path) {
        error_set(err, 400, ERR_BAD_REQUEST, "no state directory was given (--state-dir)");
        return false;
    }
    if (!make_parents(path, err)) return false;
    out->path = realpath(path, NULL);
    if (!out->path) {
        error_set_errno(err, errno, "resolving %s", path);
        return false;
    }
    struct stat st;
    if (stat(out->path, &st) == 0 && st.st_uid != geteuid()) {
        error_set(
            err, 500, ERR_INTERNAL,
            "the state directory %s belongs to user %u and the Router runs as user %u; give it to that user "
            "or choose another with --state-dir",
            out->path, (unsigned)st.st_uid, (unsigned)geteuid());
        goto fail;
    }
    if (!take_lock(out, err) || !make_folders(out, err)) goto fail;
    out->short_run = strlen(out->path) + sizeof SOCKET_SUFFIX + UID_MAX <= SOCKET_PATH_MAX;
    return true;
fail:
    state_dir_close(out);
    return false;
}

void state_dir_close(struct state_dir *state) {
    if (state->run_fd >= 0) close(state->run_fd);
    if (state->lock_fd >= 0) close(state->lock_fd);
    free(state->path);
    *state = (struct state_dir){.lock_fd = -1, .run_fd = -1};
}

char *state_dir_path(const struct state_dir *state, const char *sub, const char *name) {
    return xasprintf("%s/%s/%s", state->path, sub, name);
}

void state_dir_socket(const struct state_dir *state, const char *uid, char out[SOCKET_PATH_MAX]) {
    if (state->short_run)
        snprintf(out, SOCKET_PATH_MAX, "%s/run/%s.sock", state->path, uid);
    else
        snprintf(out, SOCKET_PATH_MAX, "/proc/self/fd/%d/%s.sock", state->run_fd, uid);
}

bool state_dir_uid_valid(const char *uid) {
    size_t n = strlen(uid);
    return n > 0 && n <= UID_MAX && uid[0] != '-' &&
           strspn(uid, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == n;
}
