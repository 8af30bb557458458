#include "k8s/kubeconfig.h"

#include "common/json.h"
#include "common/text.h"
#include "k8s/yaml_json.h"

void kubeconfig_free(struct kubeconfig *k) {
    char **const texts[] = {&k->server,  &k->tls_server_name,  &k->namespace,   &k->ca_file,
                            &k->ca,      &k->certificate_file, &k->certificate, &k->key_file,
                            &k->key,     &k->token_file,       &k->token,       &k->username,
                            &k->password};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        free(*texts[i]);
    json_decref(k->exec);
    *k = (struct kubeconfig){0};
}

static bool wrong(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool wrong(struct error *err, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    cleanup_free char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0) text = NULL;
    va_end(args);
    error_set(err, 400, ERR_BAD_REQUEST, "kubeconfig: %s", text ? text : "is wrong");
    return false;
}

/* The text of a member, or NULL when it is not given or empty. False: it is not text. */
static bool text_of(const json_t *object, const char *name, const char **out, struct error *err) {
    json_t *value = json_object_get(object, name);
    *out = NULL;
    if (value == NULL || json_is_null(value)) return true;
    if (!json_is_string(value)) return wrong(err, "%s must be text", name);
    if (json_string_length(value) > 0) *out = json_string_value(value);
    return true;
}

static bool copy_text(const json_t *object, const char *name, char **out, struct error *err) {
    const char *text;
    if (!text_of(object, name, &text, err)) return false;
    if (text) *out = xstrdup(text);
    return true;
}

/* base64 may be folded over lines. */
static bool decode_data(const json_t *object, const char *name, char **out, struct error *err) {
    const char *text;
    if (!text_of(object, name, &text, err)) return false;
    if (text == NULL) return true;
    cleanup_buffer struct buffer packed = {0}, decoded = {0};
    for (const char *c = text; *c; c++)
        if (!strchr(" \t\r\n", *c)) buffer_append_char(&packed, *c);
    if (!base64_decode(buffer_slice(&packed), &decoded) || memchr(decoded.data, '\0', decoded.len))
        return wrong(err, "%s is not base64 of a PEM text", name);
    buffer_cstr(&decoded);
    *out = buffer_steal(&decoded, NULL);
    return true;
}

static bool refuse(const json_t *object, const char *name, const char *why, struct error *err) {
    json_t *value = json_object_get(object, name);
    bool given = value && !json_is_null(value) &&
                 !(json_is_string(value) && json_string_length(value) == 0) &&
                 !(json_is_array(value) && json_array_size(value) == 0) &&
                 !(json_is_object(value) && json_object_size(value) == 0);
    return !given || wrong(err, "%s is not supported: %s", name, why);
}

/* The `member` object of the entry of that name in a list of {name, member}; the first one counts. */
static const json_t *entry(const json_t *root, const char *list, const char *member, const char *name,
                           struct error *err) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(root, list), i, item) {
        const char *its = json_string_value(json_object_get(item, "name"));
        if (!its || strcmp(its, name) != 0) continue;
        const json_t *found = json_object_get(item, member);
        if (json_is_object(found)) return found;
        wrong(err, "%s \"%s\" has no %s", list, name, member);
        return NULL;
    }
    wrong(err, "there is no \"%s\" among its %s", name, list);
    return NULL;
}

static bool read_cluster(const json_t *cluster, struct kubeconfig *out, struct error *err) {
    const char *insecure;
    if (!copy_text(cluster, "server", &out->server, err) ||
        !copy_text(cluster, "tls-server-name", &out->tls_server_name, err) ||
        !copy_text(cluster, "certificate-authority", &out->ca_file, err) ||
        !decode_data(cluster, "certificate-authority-data", &out->ca, err) ||
        !text_of(cluster, "insecure-skip-tls-verify", &insecure, err) ||
        !refuse(cluster, "proxy-url", "reach the apiserver directly", err))
        return false;
    if (!out->server) return wrong(err, "the cluster has no server");
    if (insecure && strcmp(insecure, "true") != 0 && strcmp(insecure, "false") != 0)
        return wrong(err, "insecure-skip-tls-verify must be true or false");
    out->insecure = insecure && insecure[0] == 't';
    if (out->insecure && (out->ca || out->ca_file))
        return wrong(err, "a certificate-authority and insecure-skip-tls-verify exclude each other");
    return true;
}

static bool texts_only(const json_t *list) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) if (!json_is_string(item)) return false;
    return true;
}

static bool read_exec(const json_t *user, struct kubeconfig *out, struct error *err) {
    json_t *exec = json_object_get(user, "exec");
    if (exec == NULL || json_is_null(exec)) return true;
    const char *command, *version, *mode;
    if (!json_is_object(exec)) return wrong(err, "exec must be an object");
    if (!text_of(exec, "command", &command, err) || !text_of(exec, "apiVersion", &version, err) ||
        !text_of(exec, "interactiveMode", &mode, err))
        return false;
    if (!command) return wrong(err, "exec has no command");
    if (!version || (strcmp(version, "client.authentication.k8s.io/v1") != 0 &&
                     strcmp(version, "client.authentication.k8s.io/v1beta1") != 0))
        return wrong(err, "exec.apiVersion must be client.authentication.k8s.io/v1 or v1beta1");
    if (mode && strcmp(mode, "Always") == 0)
        return wrong(err, "exec.interactiveMode is Always, and a server has no terminal");
    json_t *args = json_object_get(exec, "args"), *env = json_object_get(exec, "env"), *item;
    if ((args && !json_is_null(args) && !json_is_array(args)) || !texts_only(args))
        return wrong(err, "exec.args must be a list of texts");
    if (env && !json_is_null(env) && !json_is_array(env)) return wrong(err, "exec.env must be a list");
    size_t i;
    json_array_foreach(env, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!name || !name[0] || strchr(name, '=') || !json_is_string(json_object_get(item, "value")))
            return wrong(err, "exec.env must be a list of {name, value}");
    }
    out->exec = json_incref(exec);
    return true;
}

static bool read_user(const json_t *user, struct kubeconfig *out, struct error *err) {
    static const char *const as = "the Router acts as itself only";
    return copy_text(user, "client-certificate", &out->certificate_file, err) &&
           decode_data(user, "client-certificate-data", &out->certificate, err) &&
           copy_text(user, "client-key", &out->key_file, err) &&
           decode_data(user, "client-key-data", &out->key, err) &&
           copy_text(user, "token", &out->token, err) &&
           copy_text(user, "tokenFile", &out->token_file, err) &&
           copy_text(user, "username", &out->username, err) &&
           copy_text(user, "password", &out->password, err) &&
           refuse(user, "auth-provider", "use an exec plugin", err) && refuse(user, "as", as, err) &&
           refuse(user, "as-uid", as, err) && refuse(user, "as-groups", as, err) &&
           refuse(user, "as-user-extra", as, err) && read_exec(user, out, err);
}

static bool read_context(const json_t *root, const char *name, struct kubeconfig *out, struct error *err) {
    const json_t *context = entry(root, "contexts", "context", name, err);
    const char *cluster_name, *user_name;
    if (!context || !copy_text(context, "namespace", &out->namespace, err) ||
        !text_of(context, "cluster", &cluster_name, err) || !text_of(context, "user", &user_name, err))
        return false;
    if (!cluster_name) return wrong(err, "context \"%s\" names no cluster", name);
    const json_t *cluster = entry(root, "clusters", "cluster", cluster_name, err);
    if (!cluster || !read_cluster(cluster, out, err)) return false;
    if (!user_name) return true;
    const json_t *user = entry(root, "users", "user", user_name, err);
    return user && read_user(user, out, err);
}

static bool check(const struct kubeconfig *k, struct error *err) {
    bool certificate = k->certificate || k->certificate_file, key = k->key || k->key_file;
    if (certificate != key) return wrong(err, "a client certificate and a client key need each other");
    return true;
}

bool kubeconfig_parse(struct slice text, const char *context, struct kubeconfig *out, struct error *err) {
    *out = (struct kubeconfig){0};
    cleanup_json json_t *root = yaml_parse(text, err);
    if (!root) {
        error_wrap(err, "kubeconfig");
        return false;
    }
    const char *name = context && context[0] ? context : NULL;
    if (!json_is_object(root)) return wrong(err, "it is not a configuration");
    if (!name && !text_of(root, "current-context", &name, err)) return false;
    if (!name) return wrong(err, "no context is given and it has no current-context");
    if (read_context(root, name, out, err) && check(out, err)) return true;
    kubeconfig_free(out);
    return false;
}
