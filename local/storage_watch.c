/* See storage_watch.h. */
#include "local/storage_watch.h"

#include "common/bytes.h"
#include "common/units.h"
#include "local/engine_inside.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512 /* of st_blocks */
/* Between two sandboxes it rests so many times as long as the first one took. */
#define REST_FACTOR 9

struct storage_watch {
    struct engine *engine;
    int64_t interval_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic bool stopping;
};

/* ---- One workspace ---- */

static DIR *open_below(int parent, const char *name) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0) close(fd);
    return dir;
}

static int64_t bytes_of(const struct stat *st) {
    int64_t bytes = (int64_t)st->st_blocks * BLOCK;
    return S_ISDIR(st->st_mode) || st->st_nlink < 2 ? bytes : bytes / (int64_t)st->st_nlink;
}

int64_t storage_measure(const char *path, _Atomic bool *cancel) {
    DIR *dirs[STORAGE_DEPTH];
    int depth = 0;
    int64_t total = 0;
    if (!(dirs[0] = open_below(AT_FDCWD, path))) return -1;
    while (depth >= 0) {
        struct dirent *e = *cancel ? NULL : readdir(dirs[depth]);
        if (!e) {
            closedir(dirs[depth--]);
            continue;
        }
        struct stat st;
        int at = dirfd(dirs[depth]);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(at, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        total += bytes_of(&st);
        if (S_ISDIR(st.st_mode) && depth + 1 < STORAGE_DEPTH && (dirs[depth + 1] = open_below(at, e->d_name)))
            depth++;
    }
    return *cancel ? -1 : total;
}

/* ---- All of them ---- */

/* False: it ends. */
static bool rest(struct storage_watch *w, int64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&w->lock);
    while (!w->stopping && pthread_cond_timedwait(&w->wake, &w->lock, &until) == 0) {
    }
    pthread_mutex_unlock(&w->lock);
    return !w->stopping;
}

struct found {
    char *uid, *path;
    uint64_t run; /* of the entry, when it was found */
};

static struct entry *entry_of(struct engine *e, const char *uid) {
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (struct entry *s = e->buckets[i]; s; s = s->next)
            if (strcmp(s->uid, uid) == 0) return s;
    return NULL;
}

/* Those that have a limit. Entries may go while they are measured, so they are found again by their ids. */
static struct found *find_limited(struct engine *e, size_t *count) {
    struct found *all = NULL;
    *count = 0;
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < ENGINE_BUCKETS; i++)
        for (const struct entry *s = e->buckets[i]; s; s = s->next) {
            if (s->storage_limit == 0) continue;
            all = xrealloc(all, (*count + 1) * sizeof *all);
            all[(*count)++] =
                (struct found){xstrdup(s->uid), xasprintf("%s/workspace", s->dir), s->storage_run};
        }
    pthread_mutex_unlock(&e->lock);
    return all;
}

static void measured(struct engine *e, const struct found *f, int64_t used) {
    pthread_mutex_lock(&e->lock);
    struct entry *s = entry_of(e, f->uid);
    if (s && s->storage_run == f->run && s->storage_limit > 0) {
        s->storage_used = used;
        if (used > s->storage_limit) engine_enqueue(e, s);
    }
    pthread_mutex_unlock(&e->lock);
}

static void *run(void *arg) {
    struct storage_watch *w = arg;
    while (rest(w, w->interval_ms)) {
        size_t count;
        struct found *all = find_limited(w->engine, &count);
        for (size_t i = 0; i < count; i++) {
            int64_t begun = monotonic_ms();
            int64_t used = w->stopping ? -1 : storage_measure(all[i].path, &w->stopping);
            if (used >= 0) {
                measured(w->engine, &all[i], used);
                rest(w, REST_FACTOR * (monotonic_ms() - begun));
            }
            free(all[i].uid);
            free(all[i].path);
        }
        free(all);
    }
    return NULL;
}

struct storage_watch *storage_watch_start(struct engine *e, int64_t interval_ms) {
    struct storage_watch *w = xcalloc(1, sizeof *w);
    pthread_condattr_t clock;
    w->engine = e;
    w->interval_ms = interval_ms;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &clock);
    pthread_condattr_destroy(&clock);
    if (pthread_create(&w->thread, NULL, run, w) != 0) abort();
    return w;
}

void storage_watch_stop(struct storage_watch *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
}

/* ---- What a pass makes of it ---- */

bool storage_exceeded(struct engine *e, struct entry *s, int64_t limit, int64_t *used) {
    pthread_mutex_lock(&e->lock);
    s->storage_limit = limit;
    *used = s->storage_used;
    pthread_mutex_unlock(&e->lock);
    return limit > 0 && *used > limit;
}

void storage_forget(struct engine *e, struct entry *s) {
    pthread_mutex_lock(&e->lock);
    s->storage_limit = s->storage_used = 0;
    s->storage_run++;
    pthread_mutex_unlock(&e->lock);
}
