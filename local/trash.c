/* The remover of deleted sandboxes' files. */
#include "local/trash.h"

#include "common/log.h"
#include "local/files.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

struct trash {
    const struct state_dir *state;
    struct host_ids *ids;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool work, stopping;
};

static bool stopping(struct trash *t) {
    pthread_mutex_lock(&t->lock);
    bool is = t->stopping;
    pthread_mutex_unlock(&t->lock);
    return is;
}

static void remove_one(struct trash *t, const char *folder, const char *name) {
    cleanup_error struct error err = {0};
    cleanup_free char *workspace = xasprintf("%s/%s/workspace", folder, name);
    struct stat st;
    bool known = lstat(workspace, &st) == 0;
    if (!tree_remove(folder, name, &err))
        log_warn("files of a deleted sandbox cannot be removed", "why", err.message, NULL);
    else if (known)
        host_ids_release(t->ids, st.st_uid); /* no file of that user is left */
}

static void remove_all(struct trash *t) {
    cleanup_free char *folder = xasprintf("%s/trash", t->state->path);
    DIR *dir = opendir(folder);
    if (!dir) return;
    struct dirent *e;
    while (!stopping(t) && (e = readdir(dir)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove_one(t, folder, e->d_name);
    closedir(dir);
}

static void *run(void *arg) {
    struct trash *t = arg;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping) {
        if (!t->work) {
            pthread_cond_wait(&t->wake, &t->lock);
            continue;
        }
        t->work = false;
        pthread_mutex_unlock(&t->lock);
        remove_all(t);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

struct trash *trash_start(const struct state_dir *state, struct host_ids *ids) {
    struct trash *t = xcalloc(1, sizeof *t);
    t->state = state;
    t->ids = ids;
    t->work = true;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    if (pthread_create(&t->thread, NULL, run, t) != 0) abort();
    return t;
}

void trash_stop(struct trash *t) {
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    free(t);
}

bool trash_take(struct trash *t, const char *folder, const char *name, struct error *err) {
    cleanup_free char *from = state_dir_path(t->state, folder, name);
    cleanup_free char *to = state_dir_path(t->state, "trash", name);
    if (rename(from, to) != 0 && errno != ENOENT) {
        error_set_errno(err, errno, "moving %s away", from);
        return false;
    }
    pthread_mutex_lock(&t->lock);
    t->work = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    return true;
}
