/* Root file systems of sandboxes: names and what is shown of them. */
#include "local/rootfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_NAME_MAX  200
#define TOP_ENTRIES_MAX 256

static const char *const of_host[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"};
static const char *const own[] = {"proc", "sys", "dev",   "tmp",  "run",        "workspace",
                                  "home", "mnt", "media", "boot", ".agenttier", ".dockerenv"};

void root_entries_free(struct root_entries *list) {
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].name);
        free(list->items[i].target);
    }
    free(list->items);
    *list = (struct root_entries){0};
}

static bool wanted(const char *name, bool host) {
    if (host) {
        for (size_t i = 0; i < sizeof of_host / sizeof *of_host; i++)
            if (strcmp(name, of_host[i]) == 0) return true;
        return false;
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(name, own[i]) == 0) return false;
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool add_entry(struct root_entries *out, int dir, const char *name) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT;
    char target[PATH_MAX];
    ssize_t n = 0;
    if (S_ISLNK(st.st_mode)) {
        n = readlinkat(dir, name, target, sizeof target - 1);
        if (n < 0) return false;
        target[n] = '\0';
    } else if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
        return true;
    }
    out->items = xrealloc(out->items, (out->count + 1) * sizeof *out->items);
    out->items[out->count++] =
        (struct root_entry){.name = xstrdup(name), .target = S_ISLNK(st.st_mode) ? xstrdup(target) : NULL};
    return true;
}

bool rootfs_entries(const char *directory, bool host, struct root_entries *out, struct error *err) {
    *out = (struct root_entries){0};
    DIR *dir = opendir(directory);
    if (!dir) {
        error_set_errno(err, errno, "opening the root file system %s", directory);
        return false;
    }
    bool ok = true;
    struct dirent *e;
    while (ok && out->count < TOP_ENTRIES_MAX && (e = readdir(dir)))
        if (wanted(e->d_name, host)) ok = add_entry(out, dirfd(dir), e->d_name);
    if (!ok) {
        error_set_errno(err, errno, "reading the root file system %s", directory);
        root_entries_free(out);
    }
    closedir(dir);
    return ok;
}

bool image_name_valid(const char *name) {
    size_t n = strlen(name);
    return n > 0 && n <= IMAGE_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._/:-") == n &&
           strchr("abcdefghijklmnopqrstuvwxyz0123456789", name[0]);
}

void image_directory(const char *name, char *out) {
    size_t i = 0;
    for (; i < IMAGE_NAME_MAX && name[i]; i++)
        out[i] = name[i] == '/' ? '+' : name[i] == ':' ? '=' : name[i];
    out[i] = '\0';
}

char *rootfs_find(const char *state_dir, const char *name, struct error *err) {
    if (!image_name_valid(name)) {
        error_set(
            err, 400, ERR_BAD_REQUEST,
            "image \"%.200s\" is not a name this machine can have: lower-case letters, digits and ._/:- only",
            name);
        return NULL;
    }
    char directory[IMAGE_NAME_MAX + 1];
    image_directory(name, directory);
    char *path = xasprintf("%s/images/%s", state_dir, directory);
    char *real = realpath(path, NULL); /* an image is a symlink to its generation */
    free(path);
    if (!real)
        error_set(
            err, 404, ERR_NOT_FOUND,
            "rootfs \"%s\" is not imported; import it with: agenttier-router import-image --state-dir=%s "
            "--name=%s PATH",
            name, state_dir, name);
    return real;
}
