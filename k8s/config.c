#include "k8s/config.h"

#include "common/json.h"
#include "common/lazy.h"
#include "common/text.h"
#include "k8s/exec_plugin.h"
#include "k8s/kubeconfig.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#define SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"
#define MAX_FILE        (1024 * 1024)
#define RENEW_BEFORE    90 /* seconds before a plugin's answer expires; we look every minute */

struct k8s_config {
    struct kubeconfig source;
    char *folder; /* of the kubeconfig: what its file names are relative to */
    char *host, *prefix, *server, *tls_name;
    uint16_t port;
    bool tls;
    pthread_mutex_t refreshing;    /* held while files are read and a plugin runs */
    struct exec_credential plugin; /* its last answer; under `refreshing` */
    pthread_mutex_t lock;          /* for the pointer below, held for a moment */
    struct k8s_credentials *credentials;
};

/* ---- credentials ---- */

void k8s_credentials_unref(struct k8s_credentials *c) {
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1) return;
    if (c->authorization) explicit_bzero(c->authorization, strlen(c->authorization));
    if (c->key) explicit_bzero(c->key, strlen(c->key));
    free(c->authorization);
    free(c->ca);
    free(c->certificate);
    free(c->key);
    SSL_CTX_free(c->ssl);
    free(c);
}

struct k8s_credentials *k8s_config_credentials(struct k8s_config *config) {
    pthread_mutex_lock(&config->lock);
    struct k8s_credentials *c = config->credentials;
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&config->lock);
    return c;
}

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* ---- files ---- */

static char *read_file(const char *folder, const char *name, struct error *err) {
    cleanup_free char *path = name[0] == '/' || !folder ? xstrdup(name) : xasprintf("%s/%s", folder, name);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    cleanup_buffer struct buffer text = {.limit = MAX_FILE + 1};
    ssize_t n = -1;
    while (fd >= 0) {
        char *to = buffer_reserve(&text, 16384);
        if (!to) break;
        n = read(fd, to, 16384);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        buffer_commit(&text, (size_t)n);
    }
    if (fd < 0 || n < 0) {
        error_set_errno(err, errno, "%s cannot be read", path);
        return NULL;
    }
    if (n > 0 || (text.len && memchr(text.data, '\0', text.len))) {
        error_set(err, 400, ERR_BAD_REQUEST, "%s is %s", path, n > 0 ? "above 1 MiB" : "not a text");
        return NULL;
    }
    if (text.len == 0) return xstrdup("");
    buffer_cstr(&text);
    return buffer_steal(&text, NULL);
}

/* Data, else the file's text, else NULL. False: the file cannot be read. */
static bool load(const struct k8s_config *config, const char *data, const char *file, char **out,
                 struct error *err) {
    *out = NULL;
    if (data) *out = xstrdup(data);
    if (!data && file) *out = read_file(config->folder, file, err);
    return *out != NULL || (!data && !file);
}

/* ---- TLS ---- */

static bool ssl_wrong(struct error *err, const char *what) {
    char why[160] = "";
    unsigned long code = ERR_get_error();
    if (code) ERR_error_string_n(code, why, sizeof why);
    ERR_clear_error();
    error_set(err, 400, ERR_BAD_REQUEST, "%s%s%s", what, code ? ": " : "", why);
    return false;
}

static int no_password(char *buf, int size, int rwflag, void *ctx) {
    (void)buf, (void)size, (void)rwflag, (void)ctx;
    return 0;
}

static bool add_cas(SSL_CTX *ctx, const char *pem, struct error *err) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    int count = 0;
    for (X509 *x; (x = PEM_read_bio_X509_AUX(bio, NULL, no_password, NULL)) != NULL; count++) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x);
        X509_free(x);
    }
    BIO_free(bio);
    ERR_clear_error();
    return count > 0 || ssl_wrong(err, "the certificate authority is not a PEM certificate");
}

static bool use_certificate(SSL_CTX *ctx, const char *certificate, const char *key, struct error *err) {
    BIO *bio = BIO_new_mem_buf(certificate, -1);
    X509 *leaf = PEM_read_bio_X509_AUX(bio, NULL, no_password, NULL), *more;
    bool ok = leaf != NULL && SSL_CTX_use_certificate(ctx, leaf) == 1;
    X509_free(leaf);
    while (ok && (more = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL)
        if (SSL_CTX_add0_chain_cert(ctx, more) != 1) X509_free(more);
    BIO_free(bio);
    if (!ok) return ssl_wrong(err, "the client certificate is not a PEM certificate");
    ERR_clear_error();
    bio = BIO_new_mem_buf(key, -1);
    EVP_PKEY *private = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    ok = private && SSL_CTX_use_PrivateKey(ctx, private) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    EVP_PKEY_free(private);
    return ok ||
           ssl_wrong(err, "the client key is not a PEM key without a password that fits the certificate");
}

static bool make_ssl(const struct k8s_config *config, struct k8s_credentials *c, struct error *err) {
    if (!config->tls) return true;
    c->ssl = SSL_CTX_new(TLS_client_method());
    if (!c->ssl) return ssl_wrong(err, "no TLS context");
    SSL_CTX_set_min_proto_version(c->ssl, TLS1_2_VERSION);
    SSL_CTX_set_verify(c->ssl, config->source.insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
    if (c->ca && !add_cas(c->ssl, c->ca, err)) return false;
    if (!c->ca && SSL_CTX_set_default_verify_paths(c->ssl) != 1)
        return ssl_wrong(err, "the system's certificate authorities cannot be used");
    return !c->certificate || use_certificate(c->ssl, c->certificate, c->key, err);
}

/* ---- what is current ---- */

static char *trimmed(const char *text) {
    size_t start = strspn(text, " \t\r\n"), end = strlen(text);
    while (end > start && strchr(" \t\r\n", text[end - 1]))
        end--;
    return slice_dup(slice_make(text + start, end - start));
}

/* A header's value must stay one. */
static bool set_authorization(struct k8s_credentials *c, const char *scheme, const char *secret,
                              struct error *err) {
    for (const char *p = secret; *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p == 127) {
            error_set(err, 400, ERR_BAD_REQUEST, "the token has a character that a token cannot have");
            return false;
        }
    }
    if (!secret[0]) {
        error_set(err, 400, ERR_BAD_REQUEST, "the token is empty");
        return false;
    }
    c->authorization = xasprintf("%s %s", scheme, secret);
    return true;
}

static bool authorize(struct k8s_config *config, struct k8s_credentials *c, struct error *err) {
    const struct kubeconfig *s = &config->source;
    if (s->exec && config->plugin.token) return set_authorization(c, "Bearer", config->plugin.token, err);
    if (s->token_file) {
        cleanup_free char *text = read_file(config->folder, s->token_file, err);
        if (!text) return false;
        cleanup_free char *token = trimmed(text);
        memset(text, 0, strlen(text));
        return set_authorization(c, "Bearer", token, err);
    }
    if (s->token) return set_authorization(c, "Bearer", s->token, err);
    if (!s->username) return true;
    cleanup_free char *pair = xasprintf("%s:%s", s->username, s->password ? s->password : "");
    cleanup_buffer struct buffer basic = {0};
    base64_encode(slice_of(pair), &basic);
    return set_authorization(c, "Basic", buffer_cstr(&basic), err);
}

static bool fill(struct k8s_config *config, struct k8s_credentials *c, struct error *err) {
    const struct kubeconfig *s = &config->source;
    if (!authorize(config, c, err) || !load(config, s->ca, s->ca_file, &c->ca, err)) return false;
    c->expires = config->plugin.expires;
    if (config->plugin.certificate) {
        c->certificate = xstrdup(config->plugin.certificate);
        c->key = xstrdup(config->plugin.key);
    } else if (!load(config, s->certificate, s->certificate_file, &c->certificate, err) ||
               !load(config, s->key, s->key_file, &c->key, err)) {
        return false;
    }
    return make_ssl(config, c, err);
}

static bool run_plugin(struct k8s_config *config, bool refused, struct error *err) {
    if (!config->source.exec) return true;
    bool there = config->plugin.token || config->plugin.certificate;
    bool fresh = config->plugin.expires == 0 || config->plugin.expires > time(NULL) + RENEW_BEFORE;
    if (there && fresh && !refused) return true;
    struct exec_credential got;
    if (!exec_plugin_run(config->source.exec, config->folder ? config->folder : ".", &got, err)) return false;
    exec_credential_free(&config->plugin);
    config->plugin = got;
    return true;
}

static bool unchanged(const struct k8s_credentials *a, const struct k8s_credentials *b) {
    return same_text(a->authorization, b->authorization) && same_text(a->ca, b->ca) &&
           same_text(a->certificate, b->certificate) && same_text(a->key, b->key);
}

bool k8s_config_refresh(struct k8s_config *config, bool refused, struct error *err) {
    pthread_mutex_lock(&config->refreshing);
    struct k8s_credentials *c = xcalloc(1, sizeof *c);
    atomic_init(&c->refs, 1);
    bool ok = run_plugin(config, refused, err) && fill(config, c, err);
    pthread_mutex_unlock(&config->refreshing);
    struct k8s_credentials *old = c;
    if (ok) {
        pthread_mutex_lock(&config->lock);
        /* Connections are kept as long as what they were made with. */
        if (!config->credentials || !unchanged(config->credentials, c)) {
            old = config->credentials;
            config->credentials = c;
        }
        pthread_mutex_unlock(&config->lock);
    }
    k8s_credentials_unref(old);
    return ok;
}

/* ---- loading ---- */

static bool split_server(struct k8s_config *config, struct error *err) {
    CURLU *url = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *user = NULL, *query = NULL;
    bool ok = url && curl_url_set(url, CURLUPART_URL, config->source.server, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_USER, &user, 0) != CURLUE_OK &&
              curl_url_get(url, CURLUPART_QUERY, &query, 0) != CURLUE_OK &&
              (strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0);
    if (ok) {
        size_t len = strlen(host);
        bool brackets = host[0] == '[' && len > 2;
        config->tls = strcmp(scheme, "https") == 0;
        config->host = brackets ? slice_dup(slice_make(host + 1, len - 2)) : xstrdup(host);
        config->port = (uint16_t)atoi(port);
        len = strlen(path);
        while (len > 0 && path[len - 1] == '/')
            len--;
        config->prefix = slice_dup(slice_make(path, len));
        config->server = xasprintf("%s://%s:%s%s", scheme, host, port, config->prefix);
    } else {
        error_set(err, 400, ERR_BAD_REQUEST, "the server \"%s\" is not an https or http URL",
                  config->source.server);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(user);
    curl_free(query);
    curl_url_cleanup(url);
    return ok;
}

static bool from_pod(struct k8s_config *config, struct error *err) {
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    const char *folder = getenv("AGENTTIER_SERVICE_ACCOUNT_DIR"); /* for tests and unusual mounts */
    if (!folder || !folder[0]) folder = SERVICE_ACCOUNT;
    if (!host || !host[0] || !port || !port[0]) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "no way to a cluster: this is not one of its pods and there is no kubeconfig; give "
                  "--kubeconfig=FILE");
        return false;
    }
    struct kubeconfig *s = &config->source;
    bool v6 = strchr(host, ':') != NULL;
    s->server = xasprintf("https://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
    s->token_file = xasprintf("%s/token", folder);
    s->ca_file = xasprintf("%s/ca.crt", folder);
    cleanup_free char *path = xasprintf("%s/namespace", folder);
    cleanup_free char *text = read_file(NULL, path, NULL);
    s->namespace = text ? trimmed(text) : NULL;
    return true;
}

static bool from_file(struct k8s_config *config, const char *path, const char *context, struct error *err) {
    if (strchr(path, ':') && access(path, R_OK) != 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "a list of kubeconfigs (\"%s\") is not supported: name one file",
                  path);
        return false;
    }
    cleanup_free char *text = read_file(NULL, path, err);
    if (!text) return false;
    const char *slash = strrchr(path, '/');
    config->folder = slash ? slice_dup(slice_make(path, (size_t)(slash - path + 1))) : xstrdup(".");
    bool ok = kubeconfig_parse(slice_of(text), context, &config->source, err);
    if (!ok) error_wrap(err, "%s", path);
    return ok;
}

/* Where a kubeconfig is when none was named, or NULL: in a pod, or when there is none. */
static char *usual_kubeconfig(void) {
    const char *service = getenv("KUBERNETES_SERVICE_HOST"), *named = getenv("KUBECONFIG"),
               *home = getenv("HOME");
    if (service && service[0]) return NULL;
    if (named && named[0]) return xstrdup(named);
    cleanup_free char *path = home && home[0] ? xasprintf("%s/.kube/config", home) : NULL;
    return path && access(path, R_OK) == 0 ? steal_ptr(path) : NULL;
}

struct k8s_config *k8s_config_load(const char *kubeconfig, const char *context, struct error *err) {
    struct k8s_config *config = xcalloc(1, sizeof *config);
    pthread_mutex_init(&config->refreshing, NULL);
    pthread_mutex_init(&config->lock, NULL);
    cleanup_free char *path = kubeconfig && kubeconfig[0] ? xstrdup(kubeconfig) : usual_kubeconfig();
    bool ok = lazy_open(&lazy_curl, err) && lazy_open(&lazy_ssl, err) &&
              (path ? from_file(config, path, context, err) : from_pod(config, err)) &&
              split_server(config, err);
    if (ok) {
        config->tls_name =
            xstrdup(config->source.tls_server_name ? config->source.tls_server_name : config->host);
        ok = k8s_config_refresh(config, false, err);
    }
    if (ok) return config;
    k8s_config_free(config);
    return NULL;
}

void k8s_config_free(struct k8s_config *config) {
    if (!config) return;
    k8s_credentials_unref(config->credentials);
    exec_credential_free(&config->plugin);
    kubeconfig_free(&config->source);
    free(config->folder);
    free(config->host);
    free(config->prefix);
    free(config->server);
    free(config->tls_name);
    pthread_mutex_destroy(&config->refreshing);
    pthread_mutex_destroy(&config->lock);
    free(config);
}

/* ---- readers ---- */

const char *k8s_config_host(const struct k8s_config *config) {
    return config->host;
}

uint16_t k8s_config_port(const struct k8s_config *config) {
    return config->port;
}

bool k8s_config_tls(const struct k8s_config *config) {
    return config->tls;
}

const char *k8s_config_path_prefix(const struct k8s_config *config) {
    return config->prefix;
}

const char *k8s_config_server(const struct k8s_config *config) {
    return config->server;
}

const char *k8s_config_namespace(const struct k8s_config *config) {
    return config->source.namespace ? config->source.namespace : "";
}

const char *k8s_config_tls_name(const struct k8s_config *config) {
    return config->tls_name;
}

bool k8s_config_insecure(const struct k8s_config *config) {
    return config->source.insecure;
}

char *k8s_config_authorization(struct k8s_config *config) {
    struct k8s_credentials *c = k8s_config_credentials(config);
    char *copy = c->authorization ? xstrdup(c->authorization) : NULL;
    k8s_credentials_unref(c);
    return copy;
}

SSL_CTX *k8s_config_ssl_ctx(struct k8s_config *config) {
    struct k8s_credentials *c = k8s_config_credentials(config);
    SSL_CTX *ssl = c->ssl;
    if (ssl) SSL_CTX_up_ref(ssl);
    k8s_credentials_unref(c);
    return ssl;
}
