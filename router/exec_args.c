#include "router/exec_args.h"

#include "common/json.h"
#include "common/text.h"

#include <ctype.h>

void exec_args_free(struct exec_args *a) {
    json_decref(a->access);
    buffer_free(&a->input);
    *a = (struct exec_args){0};
}

/* A text is for the shell; an array is argv and no shell sees it (tutorial.md row 4, lesson S14). */
static json_t *take_command(const json_t *body, struct error *err) {
    json_t *command = json_object_get(body, "command");
    if (json_is_string(command)) {
        if (json_string_length(command) == 0) {
            error_set_field(err, "command", "must not be empty");
            return NULL;
        }
        return json_pack("[s, s, O]", "/bin/sh", "-c", command);
    }
    if (!json_is_array(command)) {
        error_set_field(err, "command", "%s",
                        command && !json_is_null(command) ? "must be a string or an array of strings"
                                                          : "is missing: a string or an array of strings");
        return NULL;
    }
    size_t n = json_array_size(command);
    for (size_t i = 0; i < n; i++)
        if (!json_is_string(json_array_get(command, i))) {
            error_set_field(err, "command", "must be an array of strings; item %zu is not one", i);
            return NULL;
        }
    if (n == 0 || json_string_length(json_array_get(command, 0)) == 0) {
        error_set_field(err, "command", "must name a program");
        return NULL;
    }
    return json_incref(command);
}

static bool env_name_valid(const char *name) {
    if (!isalpha((unsigned char)name[0]) && name[0] != '_') return false;
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_') return false;
    return true;
}

static bool take_env(const json_t *body, json_t *to, struct error *err) {
    json_t *env = NULL;
    if (!json_get_object(body, "env", &env, err)) return false;
    const char *name;
    json_t *value;
    json_object_foreach(env, name, value) {
        if (!env_name_valid(name)) {
            error_set_field(err, "env", "has a name that is not [A-Za-z_][A-Za-z0-9_]*");
            return false;
        }
        if (!json_is_string(value)) {
            error_set_field(err, "env", "must have strings as values; %.64s is not one", name);
            return false;
        }
    }
    if (env) json_object_set(to, "env", env);
    return true;
}

static bool take_timeout(const json_t *body, bool detach, json_t *to, struct error *err) {
    json_int_t seconds = 0;
    if (!json_get_int(body, "timeout", 0, INT64_MAX, &seconds, err)) return false;
    /* A command in the background does not inherit the default of one that is waited for (lesson I4). */
    if (seconds == 0) seconds = detach ? EXEC_MAX_TIMEOUT_S : EXEC_DEFAULT_TIMEOUT_S;
    if (seconds > EXEC_MAX_TIMEOUT_S) seconds = EXEC_MAX_TIMEOUT_S;
    json_object_set_new(to, "timeoutMs", json_integer(seconds * 1000));
    return true;
}

static bool take_input(const json_t *body, struct exec_args *out, struct error *err) {
    const char *text = NULL, *encoded = NULL;
    if (!json_get_string(body, "stdin", &text, err) || !json_get_string(body, "stdinBase64", &encoded, err))
        return false;
    if (text && encoded) {
        error_set_field(err, "stdinBase64", "cannot be given together with stdin");
        return false;
    }
    if (encoded && !base64_decode(slice_of(encoded), &out->input)) {
        error_set_field(err, "stdinBase64", "is not base64");
        return false;
    }
    if (text) buffer_append_str(&out->input, text);
    out->has_input = text || encoded;
    return true;
}

static bool parse(const json_t *body, struct exec_args *out, struct error *err) {
    out->access = json_object();
    json_t *command = take_command(body, err);
    if (!command) return false;
    json_object_set_new(out->access, "command", command);

    const char *dir = NULL, *encoding = NULL;
    if (!json_get_bool(body, "detach", &out->detach, err) ||
        !take_timeout(body, out->detach, out->access, err) || !take_env(body, out->access, err) ||
        !json_get_string(body, "workingDir", &dir, err) ||
        !json_get_string(body, "encoding", &encoding, err) || !take_input(body, out, err))
        return false;
    if (dir && (dir[0] != '/' || strlen(dir) > 4096)) {
        error_set_field(err, "workingDir", "must be an absolute path of at most 4096 bytes");
        return false;
    }
    if (encoding && strcmp(encoding, "utf8") != 0 && strcmp(encoding, "base64") != 0) {
        error_set_field(err, "encoding", "must be utf8 or base64");
        return false;
    }
    out->base64 = encoding && strcmp(encoding, "base64") == 0;
    if (dir) json_object_set_new(out->access, "workingDir", json_string(dir));
    json_object_set_new(out->access, "outputLimit", json_integer(EXEC_OUTPUT_LIMIT));
    if (out->has_input) json_object_set_new(out->access, "stdin", json_true());
    return true;
}

bool exec_args_parse(const json_t *body, struct exec_args *out, struct error *err) {
    *out = (struct exec_args){0};
    if (parse(body, out, err)) return true;
    exec_args_free(out);
    return false;
}

bool idempotency_key_valid(const char *key) {
    size_t n = strlen(key);
    for (size_t i = 0; i < n; i++)
        if (key[i] < 0x21 || key[i] > 0x7e) return false;
    return n >= 1 && n <= 255;
}

bool exec_wait_parse(const char *text, int *milliseconds, struct error *err) {
    uint64_t seconds = 0;
    if (text && !slice_parse_u64(slice_of(text), EXEC_MAX_WAIT_S, &seconds)) {
        error_set_field(err, "wait", "must be whole seconds from 0 to %d", EXEC_MAX_WAIT_S);
        return false;
    }
    *milliseconds = (int)seconds * 1000;
    return true;
}
