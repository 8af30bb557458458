/* The environment of a sandbox. */
#include "local/sandbox_env.h"

#include "common/json.h"

#include <string.h>

#define TOKEN_VARIABLE "AGENTTIER_RUNTIME_TOKEN" /* the runtime's own */

static void put(struct sandbox_env *env, const char *name, const char *value) {
    for (size_t i = 0; i < env->count; i++)
        if (strcmp(env->items[i].name, name) == 0) {
            free(env->items[i].value);
            env->items[i].value = xstrdup(value);
            return;
        }
    env->items = xrealloc(env->items, (env->count + 1) * sizeof *env->items);
    env->items[env->count++] = (struct env_entry){.name = xstrdup(name), .value = xstrdup(value)};
}

struct identity {
    const char *sandbox, *namespace, *uid;
};

/* The downward fields that mean something here. Secrets and ConfigMaps of the store are the Router's
 * own: whoever may write an environment must not read them through it. */
static const char *from_field(const json_t *source, const struct identity *id) {
    const char *path = json_str_at(source, "fieldRef.fieldPath");
    if (strcmp(path, "metadata.name") == 0) return id->sandbox;
    if (strcmp(path, "metadata.namespace") == 0) return id->namespace;
    if (strcmp(path, "metadata.uid") == 0) return id->uid;
    return NULL;
}

static bool optional_source(const json_t *source) {
    static const char *const kinds[] = {"secretKeyRef", "configMapKeyRef", "fileKeyRef"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (json_is_true(json_object_get(json_object_get(source, kinds[i]), "optional"))) return true;
    return false;
}

static bool put_entry(struct sandbox_env *env, const json_t *entry, const struct identity *id,
                      struct error *err) {
    const char *name = json_str_at(entry, "name");
    if (!*name || strchr(name, '=')) {
        error_set_field(err, "env.name", "is not a name of an environment variable");
        return false;
    }
    if (strcmp(name, TOKEN_VARIABLE) == 0) return true;
    const json_t *source = json_object_get(entry, "valueFrom");
    if (!json_is_object(source)) {
        put(env, name, json_str_at(entry, "value"));
        return true;
    }
    const char *value = from_field(source, id);
    if (value) put(env, name, value);
    if (value || optional_source(source)) return true;
    error_set_field(err, "env.valueFrom", "of \"%.100s\" is not available on the local backend", name);
    return false;
}

bool sandbox_env_make(const json_t *list, const char *sandbox, const char *namespace, const char *uid,
                      const char *shell, struct sandbox_env *out, struct error *err) {
    *out = (struct sandbox_env){0};
    put(out, "PATH", SANDBOX_PATH);
    put(out, "HOME", SANDBOX_HOME);
    put(out, "USER", "sandbox");
    put(out, "LOGNAME", "sandbox");
    put(out, "SHELL", shell);
    put(out, "LANG", "C.UTF-8");
    put(out, "AGENTTIER_SANDBOX", sandbox);
    const struct identity id = {.sandbox = sandbox, .namespace = namespace, .uid = uid};
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!put_entry(out, json_array_get(list, i), &id, err)) {
            sandbox_env_free(out);
            return false;
        }
    return true;
}

void sandbox_env_free(struct sandbox_env *env) {
    for (size_t i = 0; i < env->count; i++) {
        free(env->items[i].name);
        free(env->items[i].value);
    }
    free(env->items);
    *env = (struct sandbox_env){0};
}
