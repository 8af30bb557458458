#include "runtime/exec_request.h"

#include <stdio.h>
#include <sys/random.h>

#define ARGUMENTS_MAX        65536
#define EXEC_SECONDS_DEFAULT 60
#define EXEC_SECONDS_MAX     1800

extern char **environ;

static bool id_valid(const char *id) {
    size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    return n >= 1 && n <= 64 && id[n] == '\0';
}

static bool take_command(const json_t *json, struct exec_request *out, struct error *err) {
    json_t *command = NULL;
    if (!json_get_array(json, "command", &command, err)) return false;
    size_t n = json_array_size(command);
    if (n == 0 || n > ARGUMENTS_MAX) {
        error_set(err, 400, ERR_BAD_REQUEST, n ? "command has too many arguments" : "command is required");
        return false;
    }
    out->argv = xcalloc(n + 1, sizeof *out->argv);
    for (size_t i = 0; i < n; i++) {
        const char *argument = json_string_value(json_array_get(command, i));
        if (!argument) {
            error_set_field(err, "command", "must be an array of strings");
            return false;
        }
        out->argv[i] = (char *)(uintptr_t)argument;
    }
    if (!*out->argv[0]) {
        error_set(err, 400, ERR_BAD_REQUEST, "command is required");
        return false;
    }
    return true;
}

/* The runtime's own environment with the request's laid over it. */
static bool take_env(json_t *json, struct exec_request *out, struct error *err) {
    json_t *env = NULL;
    if (!json_get_object(json, "env", &env, err)) return false;
    size_t own = 0, n = 0;
    while (environ[own])
        own++;
    out->env = xcalloc(own + json_object_size(env) + 1, sizeof *out->env);
    for (size_t i = 0; i < own; i++) {
        size_t name = strcspn(environ[i], "=");
        bool replaced = false;
        if (env) {
            char *key = slice_dup(slice_make(environ[i], name));
            replaced = json_object_get(env, key) != NULL;
            free(key);
        }
        if (!replaced) out->env[n++] = xstrdup(environ[i]);
    }
    const char *key;
    json_t *value;
    json_object_foreach(env, key, value) {
        if (!json_is_string(value) || !*key || strchr(key, '=')) {
            error_set_field(err, "env", "must be an object of strings with names without '='");
            return false;
        }
        out->env[n++] = xasprintf("%s=%s", key, json_string_value(value));
    }
    return true;
}

static bool take_common(json_t *json, struct exec_request *out, struct error *err) {
    if (!take_command(json, out, err) || !take_env(json, out, err) ||
        !json_get_string(json, "workingDir", &out->dir, err))
        return false;
    if (out->dir && !*out->dir) out->dir = NULL;
    return true;
}

static bool take_key(const json_t *json, struct exec_request *out, struct error *err) {
    const char *id = NULL, *digest = NULL;
    if (!json_get_string(json, "id", &id, err) || !json_get_string(json, "digest", &digest, err))
        return false;
    if (!id || !id_valid(id)) {
        error_set_field(err, "id", "must be 1 to 64 of A-Z, a-z, 0-9, _ and -");
        return false;
    }
    if (digest && strlen(digest) > EXEC_DIGEST_MAX) {
        error_set_field(err, "digest", "is longer than %d bytes", EXEC_DIGEST_MAX);
        return false;
    }
    out->key.kind = EXEC_STREAM;
    snprintf(out->key.id, sizeof out->key.id, "%s", id);
    snprintf(out->key.digest, sizeof out->key.digest, "%s", digest ? digest : "");
    return true;
}

bool exec_request_parse_stream(struct slice text, struct exec_request *out, struct error *err) {
    out->json = json_parse_object(text, err);
    if (!out->json) return false;
    json_int_t timeout = 0, limit = EXEC_OUTPUT_LIMIT;
    if (!take_key(out->json, out, err) || !json_get_bool(out->json, "keep", &out->key.keep, err) ||
        !json_get_bool(out->json, "attach", &out->attach, err) ||
        !json_get_bool(out->json, "stdin", &out->wants_stdin, err) ||
        !json_get_int(out->json, "timeoutMs", 0, EXEC_TIMEOUT_MAX, &timeout, err) ||
        !json_get_int(out->json, "outputLimit", 0, EXEC_OUTPUT_MAX, &limit, err))
        return false;
    out->timeout_ms = timeout;
    out->output_limit = (uint64_t)limit;
    return out->attach || take_common(out->json, out, err);
}

static bool known_members_only(json_t *json, bool invoke, struct error *err) {
    static const char *const known[] = {"command",    "stdin", "timeoutSeconds",
                                        "workingDir", "env",   "invokeId"};
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known - (invoke ? 0 : 1); i++)
            found = found || strcmp(known[i], key) == 0;
        if (!found) {
            error_set(err, 400, ERR_BAD_REQUEST, "unknown field \"%.100s\"", key);
            return false;
        }
    }
    return true;
}

static bool take_invoke_id(const json_t *json, struct exec_request *out, struct error *err) {
    const char *id = NULL;
    if (!json_get_string(json, "invokeId", &id, err)) return false;
    if (id && strlen(id) > EXEC_ID_MAX) {
        error_set_field(err, "invokeId", "is longer than %d bytes", EXEC_ID_MAX);
        return false;
    }
    out->key.kind = EXEC_INVOKE;
    if (id && *id) {
        snprintf(out->key.id, sizeof out->key.id, "%s", id);
        return true;
    }
    uint64_t random[2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        error_set(err, 500, ERR_INTERNAL, "the kernel has no random bytes");
        return false;
    }
    snprintf(out->key.id, sizeof out->key.id, "%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    return true;
}

bool exec_request_parse_reference(struct slice text, bool invoke, struct exec_request *out,
                                  struct error *err) {
    out->json = json_parse_object(text, err);
    json_int_t seconds = 0;
    if (!out->json || !known_members_only(out->json, invoke, err) ||
        !json_get_int(out->json, "timeoutSeconds", INT64_MIN, INT64_MAX, &seconds, err) ||
        !json_get_string(out->json, "stdin", &out->stdin_text, err)) {
        error_wrap(err, "invalid request body");
        return false;
    }
    if (seconds <= 0) seconds = invoke ? EXEC_SECONDS_MAX : EXEC_SECONDS_DEFAULT;
    if (seconds > EXEC_SECONDS_MAX) seconds = EXEC_SECONDS_MAX;
    out->timeout_ms = seconds * 1000;
    out->output_limit = EXEC_OUTPUT_LIMIT;
    out->key.kind = EXEC_ANONYMOUS;
    if (out->stdin_text && !*out->stdin_text) out->stdin_text = NULL;
    out->wants_stdin = out->stdin_text != NULL;
    if (invoke && !take_invoke_id(out->json, out, err)) return false;
    return take_common(out->json, out, err);
}

void exec_request_free(struct exec_request *r) {
    for (char **e = r->env; e && *e; e++)
        free(*e);
    free(r->env);
    free(r->argv);
    json_decref(r->json);
    *r = (struct exec_request){0};
}
