/* Generates the /etc of sandboxes. Reads public files of the host's /etc, writes DIR/etc. */
#include "local/etc.h"

#include "common/bytes.h"
#include "common/secret.h"
#include "local/files.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_MAX (8 * 1024 * 1024)

struct etc_file {
    const char *name;
    const char *content;
};

static const struct etc_file generated[] = {
    {"passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\n"
               "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
               "sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/bash\n"},
    {"group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nsandbox:x:1000:\n"},
    {"hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
    {"resolv.conf", ""},
    {"host.conf", "multi on\n"},
    {"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\n"
                      "protocols: files\nservices: files\n"},
    {"shells", "/bin/sh\n/bin/bash\n"},
    {"profile", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin\nexport PATH\n"
                "[ -n \"${BASH-}\" ] && [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc\n"},
    {"bash.bashrc", "[ -z \"${PS1-}\" ] || PS1='\\u@\\h:\\w\\$ '\n"},
    {"inputrc",
     "set input-meta on\nset output-meta on\n\"\\e[1~\": beginning-of-line\n\"\\e[4~\": end-of-line\n"
     "\"\\e[3~\": delete-char\n\"\\e[1;5C\": forward-word\n\"\\e[1;5D\": backward-word\n"},
};

/* Copied when there, symlinks followed. */
static const char *const copied[] = {"ld.so.cache", "ld.so.conf", "localtime",  "os-release",
                                     "services",    "protocols",  "mime.types", "ssl/openssl.cnf"};
static const char *const copied_patterns[] = {"/etc/ld.so.conf.d/*.conf"};

static const char *const shown[] = {"/etc/alternatives",           "/etc/ssl/certs", "/etc/pki/tls/certs",
                                    "/etc/pki/ca-trust/extracted", "/etc/fonts",     "/etc/terminfo",
                                    "/etc/java-*-openjdk",         "/etc/python3*",  "/etc/perl"};

char **etc_shown(void) {
    char **list = xcalloc(1, sizeof *list);
    size_t count = 0;
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        glob_t found;
        if (glob(shown[i], GLOB_NOSORT, NULL, &found) == 0) {
            for (size_t k = 0; k < found.gl_pathc; k++) {
                struct stat st;
                if (stat(found.gl_pathv[k], &st) != 0 || !S_ISDIR(st.st_mode)) continue;
                list = xrealloc(list, (count + 2) * sizeof *list);
                list[count++] = xstrdup(found.gl_pathv[k] + strlen("/etc/"));
                list[count] = NULL;
            }
            globfree(&found);
        }
    }
    return list;
}

void etc_shown_free(char **list) {
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

/* One file of the generation: remembered in `digest`, written when `dir` is given. */
static bool emit(const char *dir, const char *name, struct slice content, struct buffer *digest,
                 struct error *err) {
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(content, hash);
    if (!buffer_printf(digest, "%s %s\n", name, hash)) return false;
    if (!dir) return true;
    cleanup_free char *path = xasprintf("%s/%s", dir, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    if (!directory_make(path, err)) return false;
    *slash = '/';
    return file_write(path, content, 0644, err);
}

static bool emit_copy(const char *dir, const char *path, struct buffer *digest, struct error *err) {
    cleanup_buffer struct buffer content = {0};
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return true;
    /* One that cannot be read (a hardened host, an ordinary user) is left out. */
    if (!file_read(path, COPY_MAX, &content, NULL)) return true;
    return emit(dir, path + strlen("/etc/"), buffer_slice(&content), digest, err);
}

/* All files, and the mount points of what is shown. Without `dir`: only the digest. */
static bool emit_all(const char *dir, struct buffer *digest, struct error *err) {
    for (size_t i = 0; i < sizeof generated / sizeof *generated; i++)
        if (!emit(dir, generated[i].name, slice_of(generated[i].content), digest, err)) return false;
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        cleanup_free char *path = xasprintf("/etc/%s", copied[i]);
        if (!emit_copy(dir, path, digest, err)) return false;
    }
    for (size_t i = 0; i < sizeof copied_patterns / sizeof *copied_patterns; i++) {
        glob_t found;
        if (glob(copied_patterns[i], 0, NULL, &found) != 0) continue;
        bool ok = true;
        for (size_t k = 0; ok && k < found.gl_pathc; k++)
            ok = emit_copy(dir, found.gl_pathv[k], digest, err);
        globfree(&found);
        if (!ok) return false;
    }
    char **points = etc_shown();
    bool ok = true;
    for (char **p = points; ok && *p; p++) {
        cleanup_free char *path = dir ? xasprintf("%s/%s", dir, *p) : NULL;
        ok = buffer_printf(digest, "%s/\n", *p) && (!dir || directory_make(path, err));
    }
    etc_shown_free(points);
    return ok;
}

bool etc_generate(const struct state_dir *state, char *name, size_t size, struct error *err) {
    cleanup_buffer struct buffer digest = {0};
    if (!emit_all(NULL, &digest, err)) return false;
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(buffer_slice(&digest), hash);
    snprintf(name, size, "%.16s", hash);
    cleanup_free char *final = state_dir_path(state, "etc", name);
    if (access(final, F_OK) == 0) return true;

    cleanup_free char *parent = xasprintf("%s/etc", state->path);
    if (!tree_remove(parent, "new", err)) return false;
    cleanup_free char *fresh = xasprintf("%s/new", parent);
    buffer_clear(&digest);
    if (!directory_make(fresh, err) || !emit_all(fresh, &digest, err)) return false;
    if (rename(fresh, final) != 0) {
        error_set_errno(err, errno, "creating %s", final);
        return false;
    }
    return true;
}
