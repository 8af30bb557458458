/* What a template wants done in a sandbox before it is Running: its files and its initScripts
 * (controller.md 5.5). All of it is done by the runtime, as the sandbox's user. Scripts can take long, so
 * a thread does it and asks for a pass when it is done. */
#include "local/engine_inside.h"

#include "backend/templates.h"
#include "common/json.h"
#include "local/runtime_client.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SCRIPT_TIMEOUT_S 900
#define CHMOD_TIMEOUT_S  10
#define DEFAULT_MODE     0644

struct first_run {
    struct engine *engine;
    struct entry *entry;
    json_t *files, *scripts;
    bool first; /* the workspace is new; else only what is not in it */
    char *working_dir;
    struct runtime_peer peer;
    int pidfd;
    pthread_t thread;
    _Atomic bool done;
    bool failed;
    struct error err;
};

static bool in_memory(const char *path) {
    return strncmp(path, "/tmp/", 5) == 0;
}

static bool put_one(struct first_run *r, const json_t *file, struct error *err) {
    const char *path = json_str_at(file, "path");
    const json_t *content = json_object_get(file, "content");
    if (!json_is_string(content) || json_string_length(content) == 0) return true;
    /* /tmp is empty after every start; the workspace keeps what users made of it. */
    if (!r->first && !in_memory(path)) return true;
    struct slice bytes = slice_make(json_string_value(content), json_string_length(content));
    if (!runtime_put_file(&r->peer, path, bytes, err)) return false;
    const json_t *mode = json_object_get(file, "mode");
    if (!json_is_integer(mode) || json_integer_value(mode) == DEFAULT_MODE) return true;
    char text[16];
    snprintf(text, sizeof text, "%04o", (unsigned)json_integer_value(mode) & 0777);
    cleanup_json json_t *command = json_pack("[s, s, s, s]", "chmod", "--", text, path);
    if (runtime_exec(&r->peer, command, "/", CHMOD_TIMEOUT_S, err)) return true;
    error_wrap(err, "chmod %s %s", text, path);
    return false;
}

static bool work(struct first_run *r, struct error *err) {
    for (size_t i = 0; i < json_array_size(r->files); i++)
        if (!put_one(r, json_array_get(r->files, i), err)) {
            error_wrap(err, "template files");
            return false;
        }
    if (!r->first || json_array_size(r->scripts) == 0) return true;
    cleanup_buffer struct buffer script = {0};
    buffer_append_str(&script, "set -e\n");
    for (size_t i = 0; i < json_array_size(r->scripts); i++) {
        const char *text = json_string_value(json_array_get(r->scripts, i));
        if (text && !buffer_printf(&script, "%s\n", text)) return false;
    }
    cleanup_json json_t *command = json_pack("[s, s, s]", "/bin/sh", "-c", buffer_cstr(&script));
    if (runtime_exec(&r->peer, command, r->working_dir, SCRIPT_TIMEOUT_S, err)) return true;
    error_wrap(err, "initScripts");
    return false;
}

static void *run(void *arg) {
    struct first_run *r = arg;
    r->failed = !work(r, &r->err);
    atomic_store(&r->done, true);
    struct engine *e = r->engine;
    pthread_mutex_lock(&e->lock);
    engine_enqueue(e, r->entry);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

static bool begin(struct engine *e, struct entry *s, const json_t *spec, struct error *err) {
    struct first_run *r = xcalloc(1, sizeof *r);
    r->engine = e;
    r->entry = s;
    r->files = json_deep_copy(json_object_get(spec, "files"));
    r->scripts = json_deep_copy(json_object_get(spec, "initScripts"));
    r->first = !s->record.initialized;
    const char *mount = json_str_at(spec, "storage.mountPath");
    r->working_dir = xstrdup(*mount ? mount : "/workspace");
    r->pidfd = fcntl(s->pidfd, F_DUPFD_CLOEXEC, 3);
    r->peer =
        (struct runtime_peer){.socket_path = s->socket_path, .death_fd = r->pidfd, .cancel_fd = e->cancel_fd};
    s->first_run = r;
    int rc = pthread_create(&r->thread, NULL, run, r);
    if (rc == 0) return true;
    error_set_errno(err, rc, "starting a thread for initScripts");
    r->thread = pthread_self();
    first_run_end(s);
    return false;
}

void first_run_end(struct entry *s) {
    struct first_run *r = s->first_run;
    if (!r) return;
    s->first_run = NULL;
    if (!pthread_equal(r->thread, pthread_self())) pthread_join(r->thread, NULL);
    json_decref(r->files);
    json_decref(r->scripts);
    free(r->working_dir);
    if (r->pidfd >= 0) close(r->pidfd);
    error_clear(&r->err);
    free(r);
}

enum first_run_state first_run(struct engine *e, struct entry *s, const struct object *sandbox,
                               struct error *err) {
    if (s->first_run_done) return FIRST_RUN_DONE;
    if (!s->first_run) {
        cleanup_json json_t *spec = template_resolve(e->store, sandbox->json, err);
        if (!spec) return FIRST_RUN_FAILED;
        size_t files = json_array_size(json_object_get(spec, "files"));
        size_t scripts = s->record.initialized ? 0 : json_array_size(json_object_get(spec, "initScripts"));
        if (files + scripts > 0) return begin(e, s, spec, err) ? FIRST_RUN_GOING : FIRST_RUN_FAILED;
    } else {
        if (!atomic_load(&s->first_run->done)) return FIRST_RUN_GOING;
        bool failed = s->first_run->failed;
        if (failed) error_move(err, &s->first_run->err);
        first_run_end(s);
        if (failed) return FIRST_RUN_FAILED;
    }
    s->first_run_done = true;
    if (s->record.initialized) return FIRST_RUN_DONE;
    s->record.initialized = true;
    return record_save(s->dir, &s->record, err) ? FIRST_RUN_DONE : FIRST_RUN_FAILED;
}
