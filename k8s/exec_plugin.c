#include "k8s/exec_plugin.h"

#include "common/json.h"
#include "common/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

void exec_credential_free(struct exec_credential *c) {
    free(c->token);
    free(c->certificate);
    free(c->key);
    *c = (struct exec_credential){0};
}

static char *text_member(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    return text && text[0] ? xstrdup(text) : NULL;
}

bool exec_credential_parse(struct slice text, const char *api_version, struct exec_credential *out,
                           struct error *err) {
    *out = (struct exec_credential){0};
    cleanup_json json_t *root = json_parse_object(text, err);
    if (!root) return false;
    const json_t *status = json_object_get(root, "status");
    const char *expires = json_str_at(status, "expirationTimestamp");
    time_t at = 0;
    if (strcmp(json_str_at(root, "kind"), "ExecCredential") != 0 ||
        strcmp(json_str_at(root, "apiVersion"), api_version) != 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "it printed no ExecCredential of %s", api_version);
        return false;
    }
    if (expires[0] && !rfc3339_parse(expires, &at)) {
        error_set(err, 400, ERR_BAD_REQUEST, "its status.expirationTimestamp is not a time");
        return false;
    }
    struct exec_credential c = {.token = text_member(status, "token"),
                                .certificate = text_member(status, "clientCertificateData"),
                                .key = text_member(status, "clientKeyData"),
                                .expires = at};
    if ((c.certificate != NULL) != (c.key != NULL) || (!c.token && !c.certificate)) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "its status needs a token, or clientCertificateData with clientKeyData");
        exec_credential_free(&c);
        return false;
    }
    *out = c;
    return true;
}

/* ---- running it ---- */

struct texts {
    char **items;
    size_t count;
};

static void texts_add(struct texts *t, char *text) {
    t->items = xrealloc(t->items, (t->count + 2) * sizeof *t->items);
    t->items[t->count++] = text;
    t->items[t->count] = NULL;
}

static void texts_free(struct texts *t) {
    for (size_t i = 0; i < t->count; i++)
        free(t->items[i]);
    free(t->items);
}
#define cleanup_texts __attribute__((cleanup(texts_free)))

static bool is_set(const struct texts *env, const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < env->count; i++)
        if (strncmp(env->items[i], name, len) == 0 && env->items[i][len] == '=') return true;
    return false;
}

/* What the kubeconfig sets goes before what we have. */
static void make_environment(const json_t *exec, struct texts *env) {
    const char *version = json_str_at(exec, "apiVersion");
    texts_add(env, xasprintf("KUBERNETES_EXEC_INFO={\"apiVersion\":\"%s\",\"kind\":\"ExecCredential\","
                             "\"spec\":{\"interactive\":false}}",
                             version));
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(exec, "env"), i, item) {
        const char *name = json_str_at(item, "name");
        if (!is_set(env, name)) texts_add(env, xasprintf("%s=%s", name, json_str_at(item, "value")));
    }
    for (char **v = environ; *v; v++) {
        cleanup_free char *name = slice_dup(slice_make(*v, strcspn(*v, "=")));
        if (!is_set(env, name)) texts_add(env, xstrdup(*v));
    }
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* All that comes until the end. False: too much, or not in time. */
static bool read_all(int fd, int64_t deadline, struct buffer *out, struct error *err) {
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0) {
            error_set(err, 503, ERR_UNAVAILABLE, "it did not end in time");
            return false;
        }
        char *to = buffer_reserve(out, 16384);
        if (!to) {
            error_set(err, 503, ERR_UNAVAILABLE, "it printed too much");
            return false;
        }
        ssize_t n = read(fd, to, 16384);
        if (n == 0) return true;
        if (n > 0) buffer_commit(out, (size_t)n);
        if (n < 0 && errno != EINTR) {
            error_set_errno(err, errno, "its output cannot be read");
            return false;
        }
    }
}

/* Waits for the end; kills what closed its output and goes on. */
static bool reap(pid_t pid, bool kill_first, int64_t deadline, struct error *err) {
    int status = 0;
    if (kill_first) kill(-pid, SIGKILL);
    for (;;) {
        pid_t ended = waitpid(pid, &status, kill_first ? 0 : WNOHANG);
        if (ended == pid) break;
        if (ended < 0 && errno != EINTR) return false;
        if (ended == 0 && now_ms() > deadline) {
            kill(-pid, SIGKILL);
            kill_first = true;
        } else if (ended == 0) {
            nanosleep(&(struct timespec){0, 5000000}, NULL);
        }
    }
    if (kill_first) return false;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    error_set(err, 503, ERR_UNAVAILABLE, "it ended with status %d",
              WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return false;
}

static int start(const char *program, char **argv, char **env, int out, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawnattr_init(&attr);
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int failed = posix_spawnp(pid, program, &actions, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return failed;
}

static bool run(const json_t *exec, const char *program, struct buffer *output, struct error *err) {
    cleanup_texts struct texts argv = {0}, env = {0};
    texts_add(&argv, xstrdup(json_str_at(exec, "command")));
    size_t i;
    json_t *arg;
    json_array_foreach(json_object_get(exec, "args"), i, arg)
        texts_add(&argv, xstrdup(json_string_value(arg)));
    make_environment(exec, &env);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(err, errno, "no pipe for it");
        return false;
    }
    cleanup_close int in = ends[0];
    pid_t pid = 0;
    int failed = start(program, argv.items, env.items, ends[1], &pid);
    close(ends[1]);
    if (failed) {
        const char *hint = json_str_at(exec, "installHint");
        error_set_errno(err, failed, "it cannot be started%s%s", hint[0] ? "; " : "", hint);
        return false;
    }
    int64_t deadline = now_ms() + EXEC_PLUGIN_TIMEOUT_MS;
    bool ok = read_all(in, deadline, output, err);
    return reap(pid, !ok, deadline, err) && ok;
}

bool exec_plugin_run(const json_t *exec, const char *folder, struct exec_credential *out, struct error *err) {
    const char *command = json_str_at(exec, "command");
    cleanup_free char *program =
        strchr(command, '/') && command[0] != '/' ? xasprintf("%s/%s", folder, command) : xstrdup(command);
    cleanup_buffer struct buffer output = {.limit = EXEC_PLUGIN_MAX_OUTPUT};
    bool ok = run(exec, program, &output, err) &&
              exec_credential_parse(buffer_slice(&output), json_str_at(exec, "apiVersion"), out, err);
    if (output.data) memset(output.data, 0, output.len);
    if (!ok) error_wrap(err, "credential plugin \"%s\"", command);
    return ok;
}
