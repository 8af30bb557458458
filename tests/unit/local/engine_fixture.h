/* A local backend with real sandboxes, for tests: opened on a fresh state directory, driven through its
 * store, its sandboxes entered through their runtime. Static functions: each suite uses some. */
#pragma once

#include "common/json.h"
#include "common/units.h"
#include "local/files.h"
#include "local/launch.h"
#include "local/local.h"
#include "local/record.h"
#include "local/runtime_client.h"
#include "local/selfcheck.h"
#include "local/state_dir.h"

#include <check.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
/* The runtime is then dynamic and reserves terabytes of addresses. */
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define UNUSED   __attribute__((unused))
#define WAIT_MS  60000
#define ORDINARY 54321 /* a user without an account */

struct fixture {
    char dir[64];
    struct backend *backend;
};

static inline const char *runtime_program(void) {
    const char *path = getenv("AGENTTIER_RUNTIME");
    return path && access(path, R_OK) == 0 ? path : NULL;
}

/* Why the suite cannot run here, or NULL. */
UNUSED static const char *why_not(void) {
    static char reason[600];
    struct error err = {0};
    if (!runtime_program()) return "AGENTTIER_RUNTIME does not name the built agenttier-runtime";
    struct selfcheck check;
    selfcheck_begin(&check);
    if (selfcheck_end(&check, &err)) return NULL;
    snprintf(reason, sizeof reason, "%s", err.message);
    return reason;
}

UNUSED static void open_backend(struct fixture *f) {
    struct error err = {0};
    const struct local_options options = {.state_dir = f->dir, .runtime_path = runtime_program()};
    f->backend = local_backend_open(&options, &err);
    ck_assert_msg(f->backend != NULL, "%s", err.message);
}

/* With `ordinary` and as root: continues as a user without privileges. */
UNUSED static void fixture_open(struct fixture *f, bool ordinary) {
    snprintf(f->dir, sizeof f->dir, "/tmp/agenttier-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(f->dir));
    if (ordinary && geteuid() == 0) {
        ck_assert_int_eq(chown(f->dir, ORDINARY, ORDINARY), 0);
        ck_assert(setgroups(0, NULL) == 0 && setresgid(ORDINARY, ORDINARY, ORDINARY) == 0 &&
                  setresuid(ORDINARY, ORDINARY, ORDINARY) == 0);
        prctl(PR_SET_DUMPABLE, 1); /* as a login of that user would be */
    }
    open_backend(f);
}

UNUSED static struct object *get(struct fixture *f, const char *name) {
    return f->backend->store->ops->get(f->backend->store, KIND_SANDBOX, "default", name);
}

UNUSED static char *status_of(struct fixture *f, const char *name, const char *member) {
    struct object *o = get(f, name);
    char path[64];
    snprintf(path, sizeof path, "status.%s", member);
    char *text = xstrdup(o ? json_str_at(o->json, path) : "(gone)");
    object_unref(o);
    return text;
}

/* Until a start has begun: it may be over by the time that we look. */
UNUSED static void await_start(struct fixture *f, const char *name) {
    for (int64_t until = monotonic_ms() + WAIT_MS;;) {
        cleanup_free char *now = status_of(f, name, "phase");
        if (now[0]) return;
        ck_assert_msg(monotonic_ms() < until, "%s has no phase", name);
        usleep(500);
    }
}

/* The phase, "" for none; "(gone)" waits for the end of the object. */
UNUSED static void await_phase(struct fixture *f, const char *name, const char *phase) {
    int64_t until = monotonic_ms() + WAIT_MS;
    for (;;) {
        cleanup_free char *now = status_of(f, name, "phase");
        if (strcmp(now, phase) == 0) return;
        cleanup_free char *message = status_of(f, name, "message");
        ck_assert_msg(monotonic_ms() < until, "%s is %s (%s), not %s", name, now, message, phase);
        usleep(500);
    }
}

UNUSED static void put(struct fixture *f, enum kind kind, json_t *object) {
    struct error err = {0};
    ck_assert_ptr_nonnull(object);
    bool ok = f->backend->store->ops->create(f->backend->store, kind, object, NULL, &err);
    ck_assert_msg(ok, "%s", err.message);
    json_decref(object);
}

/* `spec` is taken; NULL = {}. */
UNUSED static void create(struct fixture *f, const char *name, json_t *spec) {
    put(f, KIND_SANDBOX,
        json_pack("{s:s, s:s, s:{s:s, s:s}, s:o}", "apiVersion", "agenttier.io/v1alpha1", "kind", "Sandbox",
                  "metadata", "name", name, "namespace", "default", "spec", spec ? spec : json_object()));
}

UNUSED static void patch(struct fixture *f, enum store_part part, const char *name, json_t *change) {
    struct error err = {0};
    ck_assert_ptr_nonnull(change);
    bool ok = f->backend->store->ops->patch(f->backend->store, KIND_SANDBOX, part, "default", name, change,
                                            NULL, NULL, &err);
    ck_assert_msg(ok, "%s", err.message);
    json_decref(change);
}

UNUSED static void annotate(struct fixture *f, const char *name, const char *action) {
    patch(f, STORE_MAIN, name,
          json_pack("{s:{s:{s:s}}}", "metadata", "annotations", "agenttier.io/action", action));
}

UNUSED static void resume(struct fixture *f, const char *name) {
    patch(f, STORE_STATUS, name,
          json_pack("{s:{s:s, s:s}}", "status", "phase", "Creating", "message", "Resuming"));
}

UNUSED static void delete (struct fixture *f, const char *name) {
    struct error err = {0};
    bool ok = f->backend->store->ops->remove(f->backend->store, KIND_SANDBOX, "default", name, NULL, &err);
    ck_assert_msg(ok, "%s", err.message);
}

/* The directory of a sandbox, and its record. */
UNUSED static char *directory_of(struct fixture *f, const char *name) {
    struct object *o = get(f, name);
    ck_assert_ptr_nonnull(o);
    char *dir = xasprintf("%s/sandboxes/%s", f->dir, o->uid);
    object_unref(o);
    return dir;
}

UNUSED static struct record record_of(struct fixture *f, const char *name) {
    struct record r;
    cleanup_free char *dir = directory_of(f, name);
    ck_assert(record_load(dir, &r, NULL));
    return r;
}

/* Runs a shell script inside; its standard output and error, the caller frees. */
UNUSED static char *inside(struct fixture *f, const char *name, const char *script) {
    struct object *o = get(f, name);
    ck_assert_ptr_nonnull(o);
    char path[SOCKET_PATH_MAX];
    snprintf(path, sizeof path, "%s/run/%s.sock", f->dir, o->uid);
    object_unref(o);
    json_t *request =
        json_pack("{s:[s, s, s], s:i}", "command", "/bin/sh", "-c", script, "timeoutSeconds", 60);
    size_t len;
    cleanup_free char *text = json_dump_line(request, &len);
    json_decref(request);
    struct runtime_call call = {.socket_path = path,
                                .death_fd = -1,
                                .cancel_fd = -1,
                                .timeout_ms = 90000,
                                .method = "POST",
                                .target = "/exec",
                                .content_type = "application/json",
                                .body = slice_make(text, len)};
    cleanup_buffer struct buffer body = {0};
    struct error err = {0};
    int status = runtime_call(&call, &body, &err);
    ck_assert_msg(status == 200, "%d %s %s", status, err.message, buffer_cstr(&body));
    json_t *answer = json_parse_object(buffer_slice(&body), &err);
    ck_assert_ptr_nonnull(answer);
    char *output = xasprintf("%s%s", json_str_at(answer, "stdout"), json_str_at(answer, "stderr"));
    json_decref(answer);
    return output;
}

UNUSED static void expect_inside(struct fixture *f, const char *name, const char *script,
                                 const char *output) {
    cleanup_free char *got = inside(f, name, script);
    ck_assert_msg(strcmp(got, output) == 0, "%s\n  gave: %s\n  not: %s", script, got, output);
}

/* Deletes what is left, closes, removes the directory. */
UNUSED static void fixture_close(struct fixture *f) {
    struct object_list all = f->backend->store->ops->list(f->backend->store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++)
        f->backend->store->ops->remove(f->backend->store, KIND_SANDBOX, "default", all.items[i]->name, NULL,
                                       NULL);
    for (size_t i = 0; i < all.count; i++)
        await_phase(f, all.items[i]->name, "(gone)");
    object_list_free(&all);
    f->backend->close(f->backend);
    ck_assert(tree_remove("/tmp", f->dir + strlen("/tmp/"), NULL));
}
