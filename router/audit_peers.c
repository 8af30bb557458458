/* See audit_peers.h. */
#include "router/audit_peers.h"

#include "backend/history.h"
#include "common/log.h"
#include "router/router.h"

#include <curl/curl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <strings.h>

#define PEERS_MAX      16
#define CONNECT_MS     1000L
#define TOTAL_MS       4000L
#define ANSWER_MAX     (64 << 20)
#define CREDENTIAL_MAX (16 * 1024)

/* ---- who they are ---- */

struct peer {
    char url[96]; /* "http://10.0.0.7:8080" */
    CURL *curl;
    struct buffer body;
    bool answered;
};

struct peers {
    struct peer list[PEERS_MAX];
    size_t count;
};

/* The same address without its port? */
static bool same_host(const struct sockaddr *a, const struct sockaddr *b) {
    if (!b || a->sa_family != b->sa_family) return false;
    if (a->sa_family == AF_INET)
        return memcmp(&((const struct sockaddr_in *)(const void *)a)->sin_addr,
                      &((const struct sockaddr_in *)(const void *)b)->sin_addr, sizeof(struct in_addr)) == 0;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* Whether that is this very Router: an address of this machine, and our port. */
static bool is_self(const struct config *config, const struct sockaddr *address, const char *port) {
    const char *own = strrchr(config->listen_addr, ':');
    if (!own || strcmp(own + 1, port) != 0) return false;
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) != 0) return false;
    for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next)
        found = same_host(address, i->ifa_addr);
    freeifaddrs(all);
    return found;
}

static void add_address(struct peers *peers, const struct addrinfo *a, const char *port) {
    char host[64];
    if (peers->count == PEERS_MAX ||
        getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
        return;
    bool v6 = a->ai_family == AF_INET6;
    struct peer *p = &peers->list[peers->count];
    snprintf(p->url, sizeof p->url, "http://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
    for (size_t i = 0; i < peers->count; i++)
        if (strcmp(peers->list[i].url, p->url) == 0) return;
    peers->count++;
}

/* All addresses of one "HOST:PORT" but our own: a headless Service has one for each replica. */
static void find(const struct config *config, struct slice text, struct peers *peers, json_t *missing) {
    cleanup_free char *name = slice_dup(text);
    char *colon = strrchr(name, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    if (colon) *colon = '\0';
    if (!colon || getaddrinfo(name, colon + 1, &hints, &found) != 0) {
        if (colon) *colon = ':';
        json_array_append_new(missing, json_string_repaired(slice_of(name)));
        return;
    }
    for (const struct addrinfo *a = found; a; a = a->ai_next)
        if (!is_self(config, a->ai_addr, colon + 1)) add_address(peers, a, colon + 1);
    freeaddrinfo(found);
}

static void find_all(const struct config *config, struct peers *peers, json_t *missing) {
    for (const char *at = config->history_peers; *at;) {
        size_t n = strcspn(at, ",");
        struct slice one = slice_trim(slice_make(at, n));
        if (one.len > 0) find(config, one, peers, missing);
        at += n + (at[n] == ',');
    }
}

/* ---- asking ---- */

static size_t on_bytes(char *data, size_t size, size_t count, void *ctx) {
    struct buffer *body = ctx;
    return buffer_append(body, data, size * count) ? size * count : 0;
}

static struct curl_slist *with_header(struct curl_slist *list, struct request *r, const char *name) {
    const char *value = request_header(r, name);
    if (!value || !value[0] || strlen(value) > CREDENTIAL_MAX) return list;
    cleanup_free char *line = xasprintf("%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(list, line);
    explicit_bzero(line, strlen(line));
    return longer ? longer : list;
}

/* The caller's question, asked for their own actions: what comes first in a query counts. */
static char *question(struct request *r, const struct peer *p) {
    cleanup_free char *query = slice_dup(r->query);
    return xasprintf("%s/api/v1/audit/events?scope=local&kind=action&%s", p->url, query);
}

static void prepare(struct request *r, struct peer *p, CURLM *multi, struct curl_slist *headers) {
    cleanup_free char *url = question(r, p);
    p->body.limit = ANSWER_MAX;
    p->curl = curl_easy_init();
    if (!p->curl) return;
    curl_easy_setopt(p->curl, CURLOPT_URL, url);
    curl_easy_setopt(p->curl, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(p->curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(p->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(p->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(p->curl, CURLOPT_TIMEOUT_MS, TOTAL_MS);
    curl_easy_setopt(p->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(p->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(p->curl, CURLOPT_WRITEDATA, &p->body);
    curl_easy_setopt(p->curl, CURLOPT_PRIVATE, p);
    curl_multi_add_handle(multi, p->curl);
}

/* All at once; each has its own time limit, so this ends. */
static void ask_all(CURLM *multi) {
    int running = 1, left;
    while (running > 0 && curl_multi_perform(multi, &running) == CURLM_OK && running > 0)
        if (curl_multi_poll(multi, NULL, 0, 1000, NULL) != CURLM_OK) break;
    for (CURLMsg *m; (m = curl_multi_info_read(multi, &left));) {
        struct peer *p = NULL;
        long status = 0;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &p);
        curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
        p->answered = m->msg == CURLMSG_DONE && m->data.result == CURLE_OK && status == 200;
    }
}

/* ---- merging ---- */

static int first_first(const void *a, const void *b) {
    return history_cursor_order(json_str_at(*(json_t *const *)a, "cursor"),
                                json_str_at(*(json_t *const *)b, "cursor"));
}

bool audit_merge(json_t *events, int limit) {
    size_t count = json_array_size(events), kept = 0;
    cleanup_free json_t **list = xcalloc(count + 1, sizeof *list);
    for (size_t i = 0; i < count; i++)
        list[i] = json_incref(json_array_get(events, i));
    qsort(list, count, sizeof *list, first_first);
    json_array_clear(events);
    for (size_t i = 0; i < count; i++) {
        /* Asked twice by two names, it answers twice. */
        bool again = i > 0 && strcmp(json_str_at(list[i], "cursor"), json_str_at(list[i - 1], "cursor")) == 0;
        if (!again && kept++ < (size_t)limit) json_array_append(events, list[i]);
    }
    for (size_t i = 0; i < count; i++)
        json_decref(list[i]);
    return kept > (size_t)limit;
}

/* What a peer answered, into `events`; whether it has more. False in *sound: it is no answer of a Router. */
static bool take(const struct peer *p, json_t *events, bool *sound) {
    cleanup_json json_t *answer = p->answered ? json_parse_object(buffer_slice(&p->body), NULL) : NULL;
    json_t *theirs = json_object_get(answer, "events");
    *sound = json_is_array(theirs);
    size_t i;
    json_t *entry;
    json_array_foreach(theirs, i, entry) {
        if (json_str_at(entry, "cursor")[0] && strcmp(json_str_at(entry, "details.kind"), "action") == 0)
            json_array_append(events, entry);
    }
    return json_str_at(answer, "continue")[0] != '\0';
}

static void take_all(struct peers *peers, json_t *events, int limit, char **cursor, json_t *missing) {
    bool more = *cursor != NULL;
    for (size_t i = 0; i < peers->count; i++) {
        bool sound;
        if (take(&peers->list[i], events, &sound)) more = true;
        if (sound) continue;
        json_array_append_new(missing, json_string(peers->list[i].url + strlen("http://")));
        log_warn("another replica's history did not answer", "peer", peers->list[i].url, NULL);
    }
    if (audit_merge(events, limit)) more = true;
    free(*cursor);
    *cursor = NULL;
    size_t count = json_array_size(events);
    if (more && count > 0) *cursor = xstrdup(json_str_at(json_array_get(events, count - 1), "cursor"));
}

void audit_ask_peers(struct request *r, json_t *events, int limit, char **cursor, json_t *missing) {
    struct peers peers = {.count = 0};
    find_all(r->router->config, &peers, missing);
    struct curl_slist *headers = with_header(with_header(NULL, r, "X-API-Key"), r, "Authorization");
    CURLM *multi = curl_multi_init();
    if (multi) {
        for (size_t i = 0; i < peers.count; i++)
            prepare(r, &peers.list[i], multi, headers);
        ask_all(multi);
    }
    take_all(&peers, events, limit, cursor, missing);
    for (size_t i = 0; i < peers.count; i++) {
        struct peer *p = &peers.list[i];
        if (p->curl) curl_multi_remove_handle(multi, p->curl);
        curl_easy_cleanup(p->curl);
        buffer_free(&p->body);
    }
    curl_multi_cleanup(multi);
    for (struct curl_slist *h = headers; h; h = h->next)
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(headers);
}
