/* Allocation of user ids. What is taken is read off the workspaces' owners, so there is no list that
 * could be lost. */
#include "local/host_ids.h"

#include "common/bytes.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

struct host_ids {
    pthread_mutex_t lock;
    size_t next;
    bool taken[HOST_ID_COUNT];
};

static void mark_folder(struct host_ids *ids, const struct state_dir *state, const char *folder) {
    cleanup_free char *path = xasprintf("%s/%s", state->path, folder);
    DIR *dir = opendir(path);
    if (!dir) return;
    struct dirent *e;
    while ((e = readdir(dir))) {
        char name[300];
        struct stat st;
        snprintf(name, sizeof name, "%s/workspace", e->d_name);
        if (e->d_name[0] != '.' && fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            host_ids_mark(ids, st.st_uid);
    }
    closedir(dir);
}

struct host_ids *host_ids_new(const struct state_dir *state) {
    struct host_ids *ids = xcalloc(1, sizeof *ids);
    pthread_mutex_init(&ids->lock, NULL);
    struct stat st;
    /* Two Routers with a directory each start at different places, so that they rarely meet. */
    if (stat(state->path, &st) == 0) ids->next = (size_t)(st.st_ino * 2654435761u) % HOST_ID_COUNT;
    mark_folder(ids, state, "sandboxes");
    mark_folder(ids, state, "trash");
    mark_folder(ids, state, "lost");
    return ids;
}

void host_ids_free(struct host_ids *ids) {
    if (!ids) return;
    pthread_mutex_destroy(&ids->lock);
    free(ids);
}

uid_t host_ids_take(struct host_ids *ids) {
    uid_t id = 0;
    pthread_mutex_lock(&ids->lock);
    for (size_t tried = 0; tried < HOST_ID_COUNT && id == 0; tried++) {
        size_t at = ids->next;
        ids->next = (at + 1) % HOST_ID_COUNT;
        if (ids->taken[at]) continue;
        ids->taken[at] = true;
        id = (uid_t)(HOST_ID_FIRST + at);
    }
    pthread_mutex_unlock(&ids->lock);
    return id;
}

static void set(struct host_ids *ids, uid_t id, bool taken) {
    if (id < HOST_ID_FIRST || id >= HOST_ID_FIRST + HOST_ID_COUNT) return;
    pthread_mutex_lock(&ids->lock);
    ids->taken[id - HOST_ID_FIRST] = taken;
    pthread_mutex_unlock(&ids->lock);
}

void host_ids_mark(struct host_ids *ids, uid_t id) {
    set(ids, id, true);
}
void host_ids_release(struct host_ids *ids, uid_t id) {
    set(ids, id, false);
}
