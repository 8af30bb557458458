#include "k8s/transfer.h"

#include "common/bytes.h"

#include <stdio.h>
#include <strings.h>

#define USER_AGENT "agenttier-router/" AGENTTIER_VERSION

static size_t on_header(char *data, size_t size, size_t count, void *ctx) {
    struct transfer *t = ctx;
    struct slice line = slice_trim(slice_make(data, size * count));
    static const char name[] = "retry-after:";
    if (line.len > 9 && strncmp(line.ptr, "HTTP/", 5) == 0) {
        const char *space = memchr(line.ptr, ' ', line.len);
        uint64_t status = 0;
        struct slice rest = space ? slice_make(space + 1, line.len - (size_t)(space + 1 - line.ptr)) : line;
        if (rest.len > 3) rest.len = 3;
        t->status = slice_parse_u64(rest, 999, &status) ? (long)status : 0;
        return size * count;
    }
    if (line.len > sizeof name && strncasecmp(line.ptr, name, sizeof name - 1) == 0) {
        struct slice value = slice_make(line.ptr + sizeof name - 1, line.len - (sizeof name - 1));
        while (value.len && strchr("\r\n", value.ptr[value.len - 1]))
            value.len--;
        uint64_t seconds = 0;
        if (slice_parse_u64(slice_trim(value), 86400, &seconds)) t->retry_after = (int)seconds;
    }
    return size * count;
}

static void set_blob(CURL *easy, CURLoption option, const char *pem) {
    if (!pem) return;
    struct curl_blob blob = {(void *)pem, strlen(pem), CURL_BLOB_NOCOPY};
    curl_easy_setopt(easy, option, &blob);
}

static void set_tls(struct transfer *t, const struct k8s_config *config) {
    const struct k8s_credentials *c = t->credentials;
    bool verify = !k8s_config_insecure(config);
    curl_easy_setopt(t->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYPEER, verify ? 1L : 0L);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYHOST, verify ? 2L : 0L);
    if (c->ca) { /* that one and no other: the system's folder would be trusted beside it */
        curl_easy_setopt(t->easy, CURLOPT_CAPATH, NULL);
        set_blob(t->easy, CURLOPT_CAINFO_BLOB, c->ca);
    }
    if (!c->certificate) return;
    set_blob(t->easy, CURLOPT_SSLCERT_BLOB, c->certificate);
    set_blob(t->easy, CURLOPT_SSLKEY_BLOB, c->key);
}

/* The name in the URL is the one that libcurl verifies: with tls-server-name it is that, and the
 * connection goes to the real host. */
static char *make_url(struct transfer *t, const struct k8s_config *config, const char *path) {
    const char *name = k8s_config_tls_name(config), *host = k8s_config_host(config);
    if (!k8s_config_tls(config) || strcmp(name, host) == 0)
        return xasprintf("%s%s", k8s_config_server(config), path);
    bool v6 = strchr(host, ':') != NULL;
    const char *open = v6 ? "[" : "", *close = v6 ? "]" : "";
    unsigned port = k8s_config_port(config);
    cleanup_free char *header = xasprintf("Host: %s%s%s:%u", open, host, close, port);
    t->headers = curl_slist_append(t->headers, header);
    cleanup_free char *to = xasprintf("::%s%s%s:%u", open, host, close, port);
    t->connect_to = curl_slist_append(NULL, to);
    curl_easy_setopt(t->easy, CURLOPT_CONNECT_TO, t->connect_to);
    return xasprintf("https://%s:%u%s%s", name, port, k8s_config_path_prefix(config), path);
}

void transfer_prepare(struct transfer *t, struct k8s_config *config, const char *method, const char *path,
                      const char *content_type) {
    CURL *easy = t->easy;
    curl_easy_reset(easy);
    t->headers = t->connect_to = NULL;
    t->credentials = k8s_config_credentials(config);
    t->retry_after = 0;
    t->status = 0;
    t->why[0] = '\0';
    cleanup_free char *url = make_url(t, config, path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, USER_AGENT);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->why);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)K8S_CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, K8S_IDLE_CONNECTION_S);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 20L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 10L);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    if (k8s_config_tls(config)) set_tls(t, config);
    t->headers = curl_slist_append(t->headers, "Accept: application/json");
    t->headers = curl_slist_append(t->headers, "Expect:");
    if (content_type) {
        cleanup_free char *type = xasprintf("Content-Type: %s", content_type);
        t->headers = curl_slist_append(t->headers, type);
    }
    if (t->credentials->authorization) {
        cleanup_free char *line = xasprintf("Authorization: %s", t->credentials->authorization);
        t->headers = curl_slist_append(t->headers, line);
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t->headers);
}

void transfer_done(struct transfer *t) {
    curl_easy_setopt(t->easy, CURLOPT_CONNECT_TO, NULL);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(t->headers);
    curl_slist_free_all(t->connect_to);
    t->headers = t->connect_to = NULL;
    k8s_credentials_unref(t->credentials);
    t->credentials = NULL;
}

const char *transfer_why(const struct transfer *t, CURLcode code) {
    return t->why[0] ? t->why : curl_easy_strerror(code);
}
