#include "controller/pod_container.h"

#include "common/bytes.h"
#include "common/json.h"
#include "controller/names.h"
#include "controller/pod.h"
#include "controller/template_steps.h"
#include "controller/token_secret.h"

#define USER_ID        1000
#define TOKEN_VARIABLE "AGENTTIER_RUNTIME_TOKEN"

const char *container_mount_path(const json_t *resolved) {
    return json_str_at(resolved, "storage.mountPath");
}

bool container_privileged(const json_t *resolved) {
    return json_is_true(json_at(resolved, "security.privileged"));
}

static const char *image_of(const json_t *resolved, const struct settings *settings) {
    const char *image = json_str_at(resolved, "image.repository");
    return *image ? image : settings->default_image;
}

/* controller.md 5.4 */
static json_t *security_context(bool privileged, bool writable_root) {
    json_t *context = json_pack("{s:i, s:i}", "runAsUser", USER_ID, "runAsGroup", USER_ID);
    if (privileged) return context;
    json_object_set_new(context, "runAsNonRoot", json_true());
    if (!writable_root) json_object_set_new(context, "readOnlyRootFilesystem", json_true());
    json_object_set_new(context, "allowPrivilegeEscalation", json_false());
    json_object_set_new(context, "capabilities", json_pack("{s:[s]}", "drop", "ALL"));
    json_object_set_new(context, "seccompProfile", json_pack("{s:s}", "type", "RuntimeDefault"));
    return context;
}

/* ---- environment ------------------------------------------------------------------------------- */

static bool has_variable(const json_t *env, const char *name) {
    size_t i;
    json_t *entry;
    json_array_foreach(env, i, entry) if (strcmp(json_str_at(entry, "name"), name) == 0) return true;
    return false;
}

static void add_variable(json_t *env, const char *name, const char *value) {
    json_array_append_new(env, json_pack("{s:s, s:s}", "name", name, "value", value));
}

/* A home that can be written, the sandbox's name, then what template and sandbox say. */
static json_t *user_env(const struct object *sandbox, const json_t *resolved) {
    json_t *env = json_array();
    const json_t *given = json_object_get(resolved, "env");
    if (!has_variable(given, "HOME")) add_variable(env, "HOME", container_mount_path(resolved));
    if (!has_variable(given, "AGENTTIER_SANDBOX")) add_variable(env, "AGENTTIER_SANDBOX", sandbox->name);
    size_t i;
    json_t *entry;
    json_array_foreach(given, i, entry) {
        if (strcmp(json_str_at(entry, "name"), TOKEN_VARIABLE) != 0)
            json_array_append_new(env, json_deep_copy(entry));
    }
    return env;
}

/* Where the image brings a runtime that is to be used, it takes the sandbox's token from its environment.
 * Else an image that brings one all the same would serve everybody without a token: it gets one that nobody
 * knows (O7). */
static void add_token(json_t *env, const struct object *sandbox, const json_t *resolved,
                      const struct settings *settings) {
    if (settings->delivery == DELIVERY_IMAGE && pod_wants_runtime(resolved, settings)) {
        cleanup_free char *secret = name_of_token(sandbox);
        json_array_append_new(env, json_pack("{s:s, s:{s:{s:s, s:s}}}", "name", TOKEN_VARIABLE, "valueFrom",
                                             "secretKeyRef", "name", secret, "key", "token"));
        return;
    }
    char nobody[TOKEN_LEN + 1];
    token_generate(nobody);
    add_variable(env, TOKEN_VARIABLE, nobody);
}

static json_t *env_sources(const json_t *resolved) {
    json_t *sources = json_array();
    size_t i;
    json_t *credential;
    json_array_foreach(json_object_get(resolved, "credentials"), i, credential) {
        const char *as = json_str_at(credential, "mountAs");
        if (*as && strcmp(as, "env") != 0) continue;
        json_t *source = json_pack("{s:{s:s}}", "secretRef", "name", json_str_at(credential, "secretName"));
        const char *prefix = json_str_at(credential, "envPrefix");
        if (*prefix) json_object_set_new(source, "prefix", json_string(prefix));
        json_array_append_new(sources, source);
    }
    return sources;
}

/* ---- mounts ------------------------------------------------------------------------------------ */

static void add_mount(json_t *mounts, const char *name, const char *path, bool read_only) {
    json_t *mount = json_pack("{s:s, s:s}", "name", name, "mountPath", path);
    if (read_only) json_object_set_new(mount, "readOnly", json_true());
    json_array_append_new(mounts, mount);
}

static json_t *common_mounts(const json_t *resolved) {
    json_t *mounts = json_array();
    add_mount(mounts, "workspace", container_mount_path(resolved), false);
    add_mount(mounts, "tmp", "/tmp", false);
    return mounts;
}

static json_t *main_mounts(const json_t *resolved, const struct settings *settings) {
    json_t *mounts = common_mounts(resolved);
    size_t i;
    json_t *credential;
    json_array_foreach(json_object_get(resolved, "credentials"), i, credential) {
        const char *path = json_str_at(credential, "mountPath");
        if (strcmp(json_str_at(credential, "mountAs"), "file") != 0 || !*path) continue;
        cleanup_free char *volume = xasprintf("cred-%zu", i);
        add_mount(mounts, volume, path, true);
    }
    if (settings->delivery == DELIVERY_EXEC && pod_wants_runtime(resolved, settings))
        add_mount(mounts, "runtime", RUNTIME_MOUNT, false);
    return mounts;
}

/* ---- containers -------------------------------------------------------------------------------- */

static void set_if(json_t *object, const char *name, const json_t *value) {
    if (json_array_size(value) + json_object_size(value) > 0)
        json_object_set_new(object, name, json_deep_copy(value));
}

static json_t *take_if(json_t *object, const char *name, json_t *list) {
    if (json_array_size(list) > 0)
        json_object_set_new(object, name, list);
    else
        json_decref(list);
    return object;
}

json_t *container_main(const struct object *sandbox, const json_t *resolved,
                       const struct settings *settings) {
    const char *dir = json_str_at(resolved, "harness.workingDir");
    json_t *env = user_env(sandbox, resolved);
    if (settings->memory_sidecar_image[0] && strcmp(json_str_at(resolved, "mode"), "agent") == 0)
        add_variable(env, "MEM0_BASE_URL", "http://localhost:8000");
    add_token(env, sandbox, resolved, settings);
    json_t *c = json_pack("{s:s, s:s, s:b, s:b, s:s, s:o, s:o, s:o}", "name", MAIN_CONTAINER, "image",
                          image_of(resolved, settings), "stdin", 1, "tty", 1, "workingDir",
                          *dir ? dir : container_mount_path(resolved), "env", env, "securityContext",
                          security_context(container_privileged(resolved), false), "volumeMounts",
                          main_mounts(resolved, settings));
    const char *policy = json_str_at(resolved, "image.pullPolicy");
    if (*policy) json_object_set_new(c, "imagePullPolicy", json_string(policy));
    set_if(c, "command", json_at(resolved, "harness.command"));
    set_if(c, "args", json_at(resolved, "harness.args"));
    set_if(c, "resources", json_object_get(resolved, "resources"));
    return take_if(c, "envFrom", env_sources(resolved));
}

static json_t *step_container(const char *name, json_t *command, const json_t *resolved,
                              const struct settings *settings, bool writable_root) {
    json_t *c =
        json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", name, "image", image_of(resolved, settings), "command",
                  command, "securityContext", security_context(container_privileged(resolved), writable_root),
                  "volumeMounts", common_mounts(resolved));
    const char *policy = json_str_at(resolved, "image.pullPolicy");
    if (*policy) json_object_set_new(c, "imagePullPolicy", json_string(policy));
    set_if(c, "resources", json_object_get(resolved, "resources"));
    return c;
}

json_t *container_init_list(const struct object *sandbox, const json_t *resolved,
                            const struct settings *settings) {
    json_t *list = json_array();
    json_t *files = files_command(json_object_get(resolved, "files"));
    if (files) json_array_append_new(list, step_container("file-deployer", files, resolved, settings, false));
    json_t *scripts = scripts_command(json_object_get(resolved, "initScripts"));
    if (scripts) {
        json_t *c = step_container("init-scripts", scripts, resolved, settings, true);
        json_object_set_new(c, "env", user_env(sandbox, resolved));
        json_object_set_new(c, "workingDir", json_string(container_mount_path(resolved)));
        json_array_append_new(list, c);
    }
    size_t i;
    json_t *written;
    json_array_foreach(json_object_get(resolved, "initContainers"), i, written)
        json_array_append_new(list, container_guarded(written, container_privileged(resolved)));
    return list;
}

json_t *container_memory(const json_t *resolved, const struct settings *settings) {
    cleanup_free char *data = xasprintf("%s/.agenttier/memory", container_mount_path(resolved));
    json_t *mounts = json_array();
    add_mount(mounts, "workspace", container_mount_path(resolved), false);
    json_t *env = json_array();
    add_variable(env, "MEM0_HOST", "127.0.0.1");
    add_variable(env, "MEM0_PORT", "8000");
    add_variable(env, "MEM0_DATA_DIR", data);
    return json_pack("{s:s, s:s, s:o, s:o, s:{s:{s:s, s:s}, s:{s:s, s:s}}}", "name", "mem0", "image",
                     settings->memory_sidecar_image, "env", env, "volumeMounts", mounts, "resources",
                     "requests", "cpu", "100m", "memory", "128Mi", "limits", "cpu", "500m", "memory",
                     "512Mi");
}

json_t *container_guarded(const json_t *written, bool privileged) {
    json_t *c = json_deep_copy(written);
    if (privileged || !json_is_object(c)) return c;
    json_t *context = json_object_get(c, "securityContext");
    if (!json_is_object(context)) {
        context = json_object();
        json_object_set_new(c, "securityContext", context);
    }
    json_object_del(context, "privileged");
    json_object_del(context, "procMount");
    json_object_del(json_object_get(context, "capabilities"), "add");
    json_object_set_new(context, "allowPrivilegeEscalation", json_false());
    size_t i;
    json_t *port;
    json_array_foreach(json_object_get(c, "ports"), i, port) {
        json_object_del(port, "hostPort");
        json_object_del(port, "hostIP");
    }
    return c;
}
