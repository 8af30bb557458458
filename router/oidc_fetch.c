#include "router/oidc_fetch.h"

#include <curl/curl.h>
#include <string.h>
#include <strings.h>

#define CONNECT_SECONDS 5L
#define TOTAL_SECONDS   10L
#define REDIRECTS_MAX   3L

static bool is_loopback_host(struct slice host) {
    if (slice_equal_nocase(host, "localhost") || slice_equal_str(host, "[::1]")) return true;
    return slice_starts_with(host, "127.") && strspn(host.ptr, "0123456789.") >= host.len;
}

bool oidc_url_allowed(const char *url) {
    for (const char *c = url; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f) return false;
    if (strncasecmp(url, "https://", 8) == 0) return url[8] != '\0' && url[8] != '/';
    if (strncasecmp(url, "http://", 7) != 0) return false;
    const char *authority = url + 7;
    size_t n = strcspn(authority, "/?#");
    if (memchr(authority, '@', n)) return false;
    struct slice host = slice_make(authority, n);
    const char *bracket = memchr(host.ptr, ']', host.len);
    const char *colon =
        memchr(bracket ? bracket : host.ptr, ':', host.len - (bracket ? (size_t)(bracket - host.ptr) : 0));
    if (colon) host.len = (size_t)(colon - host.ptr);
    return is_loopback_host(host);
}

static size_t on_bytes(char *data, size_t size, size_t count, void *ctx) {
    size_t n = size * count;
    return buffer_append(ctx, data, n) ? n : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    return atomic_load((const _Atomic bool *)ctx) ? 1 : 0;
}

static void prepare(CURL *curl, const struct oidc_fetch *how, const char *url, struct buffer *body) {
    bool https = strncasecmp(url, "https://", 8) == 0;
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, https ? "https" : "http");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, https ? 1L : 0L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, TOTAL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "agenttier-router/" AGENTTIER_VERSION);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, (void *)(uintptr_t)how->give_up);
    if (!https) curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    if (how->ca_file && how->ca_file[0]) curl_easy_setopt(curl, CURLOPT_CAINFO, how->ca_file);
}

bool oidc_fetch(const struct oidc_fetch *how, const char *url, size_t limit, struct buffer *out,
                struct error *err) {
    cleanup_buffer struct buffer body = {.limit = limit};
    long status = 0;
    if (!oidc_url_allowed(url)) {
        error_set(err, 502, ERR_UNAVAILABLE, "%.200s is not an https URL", url);
        return false;
    }
    CURL *curl = curl_easy_init();
    if (!curl) {
        error_set(err, 500, ERR_INTERNAL, "the HTTP client could not be started");
        return false;
    }
    char detail[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
    prepare(curl, how, url, &body);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    if (code == CURLE_WRITE_ERROR) {
        error_set(err, 502, ERR_UNAVAILABLE, "%.200s: the answer is larger than %zu bytes", url, limit);
    } else if (code != CURLE_OK) {
        error_set(err, 502, ERR_UNAVAILABLE, "%.200s: %s", url,
                  detail[0] ? detail : curl_easy_strerror(code));
    } else if (status != 200) {
        error_set(err, 502, ERR_UNAVAILABLE, "%.200s answered %ld", url, status);
    } else {
        buffer_append(out, body.len ? body.data : "", body.len);
        return true;
    }
    return false;
}
