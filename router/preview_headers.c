/* See router/preview_headers.h.
 *
 * The rule for a request's headers, first match wins:
 *   1. named by Connection: dropped (RFC 9110 7.6.1). Ours are added after that, so a client cannot strip
 * them;
 *   2. in the table: what the table says. It holds every standard end-to-end request header as PASS and
 *      all that is hop-by-hop, framing, a claim about the client, or a credential for us;
 *   3. unknown, as applications have many (X-CSRF-Token, HX-Request): passed, unless its name begins
 *      with that of a family through which credentials for us or for what stands before us travel, or
 *      that speaks for a proxy (the second table), or holds "agenttier";
 *   4. whatever the name: a value that holds one of our API keys is dropped.
 * Authorization is dropped when it proved to us who is calling, and passed otherwise (lessons I22). */
#include "router/preview_headers.h"

#include <ctype.h>
#include <stdio.h>

struct name_rule {
    const char *name; /* lower case */
    enum preview_rule rule;
};

static const struct name_rule request_rules[] = {
    {"accept", PREVIEW_PASS},
    {"accept-charset", PREVIEW_PASS},
    {"accept-encoding", PREVIEW_PASS},
    {"accept-language", PREVIEW_PASS},
    {"accept-ranges", PREVIEW_PASS},
    {"access-control-request-headers", PREVIEW_PASS},
    {"access-control-request-method", PREVIEW_PASS},
    {"authorization", PREVIEW_AUTHORIZATION},
    {"baggage", PREVIEW_PASS},
    {"cache-control", PREVIEW_PASS},
    {"cf-connecting-ip", PREVIEW_OURS},
    {"client-ip", PREVIEW_OURS},
    {"connection", PREVIEW_DROP},
    {"content-disposition", PREVIEW_PASS},
    {"content-encoding", PREVIEW_PASS},
    {"content-language", PREVIEW_PASS},
    {"content-length", PREVIEW_DROP}, /* we frame the body */
    {"content-location", PREVIEW_PASS},
    {"content-range", PREVIEW_PASS},
    {"content-type", PREVIEW_PASS},
    {"cookie", PREVIEW_COOKIE},
    {"cookie2", PREVIEW_DROP},
    {"date", PREVIEW_PASS},
    {"dnt", PREVIEW_PASS},
    {"expect", PREVIEW_DROP}, /* answered by us */
    {"fastly-client-ip", PREVIEW_OURS},
    {"forwarded", PREVIEW_OURS},
    {"from", PREVIEW_PASS},
    {"host", PREVIEW_DROP}, /* the application's own is sent */
    {"http2-settings", PREVIEW_DROP},
    {"idempotency-key", PREVIEW_PASS},
    {"if-match", PREVIEW_PASS},
    {"if-modified-since", PREVIEW_PASS},
    {"if-none-match", PREVIEW_PASS},
    {"if-range", PREVIEW_PASS},
    {"if-unmodified-since", PREVIEW_PASS},
    {"keep-alive", PREVIEW_DROP},
    {"last-event-id", PREVIEW_PASS},
    {"max-forwards", PREVIEW_PASS},
    {"origin", PREVIEW_ORIGIN},
    {"pragma", PREVIEW_PASS},
    {"prefer", PREVIEW_PASS},
    {"priority", PREVIEW_PASS},
    {"proxy", PREVIEW_DROP}, /* would be HTTP_PROXY to a CGI program */
    {"range", PREVIEW_PASS},
    {"referer", PREVIEW_REFERER},
    {"save-data", PREVIEW_PASS},
    {"te", PREVIEW_DROP},
    {"traceparent", PREVIEW_PASS},
    {"tracestate", PREVIEW_PASS},
    {"trailer", PREVIEW_DROP},
    {"transfer-encoding", PREVIEW_DROP},
    {"true-client-ip", PREVIEW_OURS},
    {"upgrade", PREVIEW_DROP},
    {"upgrade-insecure-requests", PREVIEW_PASS},
    {"user-agent", PREVIEW_PASS},
    {"via", PREVIEW_PASS},
    {"x-api-key", PREVIEW_OURS},
    {"x-client-ip", PREVIEW_OURS},
    {"x-cluster-client-ip", PREVIEW_OURS},
    {"x-original-host", PREVIEW_OURS},
    {"x-original-url", PREVIEW_OURS},
    {"x-real-ip", PREVIEW_OURS},
    {"x-request-id", PREVIEW_OURS},
    {"x-requested-with", PREVIEW_PASS},
    {"x-rewrite-url", PREVIEW_OURS},
};

/* Families of request headers that never pass: ours, proxies', and those in which identity-aware
 * proxies before us put the caller's tokens (oauth2-proxy, AWS, Google, Azure, Cloudflare). */
static const char *const request_families[] = {
    "cf-access-",   "proxy-",  "x-amzn-oidc-",          "x-api-key",   "x-auth-request-",
    "x-forwarded-", "x-goog-", "x-ms-client-principal", "x-ms-token-", "x-remote-",
};

static const struct name_rule answer_rules[] = {
    {"accept-ch", PREVIEW_DROP}, /* this and others below speak for the whole origin, which is ours */
    {"alt-svc", PREVIEW_DROP},
    {"clear-site-data", PREVIEW_DROP},
    {"connection", PREVIEW_DROP},
    {"content-length", PREVIEW_DROP},
    {"content-location", PREVIEW_LOCATION},
    {"critical-ch", PREVIEW_DROP},
    {"expect-ct", PREVIEW_DROP},
    {"keep-alive", PREVIEW_DROP},
    {"location", PREVIEW_LOCATION},
    {"nel", PREVIEW_DROP},
    {"origin-agent-cluster", PREVIEW_DROP},
    {"public-key-pins", PREVIEW_DROP},
    {"public-key-pins-report-only", PREVIEW_DROP},
    {"report-to", PREVIEW_DROP},
    {"reporting-endpoints", PREVIEW_DROP},
    {"service-worker-allowed", PREVIEW_DROP},
    {"set-cookie", PREVIEW_SET_COOKIE},
    {"set-cookie2", PREVIEW_DROP},
    {"strict-transport-security", PREVIEW_DROP},
    {"te", PREVIEW_DROP},
    {"trailer", PREVIEW_DROP},
    {"transfer-encoding", PREVIEW_DROP},
    {"upgrade", PREVIEW_DROP},
    {"x-lighttpd-send-file", PREVIEW_DROP}, /* orders to a proxy before us, with its rights */
    {"x-request-id", PREVIEW_OURS},
    {"x-reproxy-url", PREVIEW_DROP},
    {"x-sendfile", PREVIEW_DROP},
};
static const char *const answer_families[] = {"proxy-", "x-agenttier"};

#define PREVIEW_CSP "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"

/* ---- Names ---- */

static bool starts_nocase(struct slice s, const char *prefix) {
    size_t n = strlen(prefix);
    return s.len >= n && strncasecmp(s.ptr, prefix, n) == 0;
}

static bool contains_nocase(struct slice s, const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= s.len; i++)
        if (strncasecmp(s.ptr + i, word, n) == 0) return true;
    return false;
}

static const struct name_rule *find_rule(const struct name_rule *rules, size_t count, struct slice name) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const char *candidate = rules[mid].name;
        size_t len = strlen(candidate);
        int c = strncasecmp(name.ptr, candidate, name.len < len ? name.len : len);
        if (c == 0 && name.len == len) return &rules[mid];
        if (c < 0 || (c == 0 && name.len < len))
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

enum preview_rule preview_request_rule(struct slice name) {
    const struct name_rule *rule =
        find_rule(request_rules, sizeof request_rules / sizeof request_rules[0], name);
    if (rule) return rule->rule;
    for (size_t i = 0; i < sizeof request_families / sizeof request_families[0]; i++)
        if (starts_nocase(name, request_families[i])) return PREVIEW_OURS;
    return contains_nocase(name, "agenttier") ? PREVIEW_OURS : PREVIEW_PASS;
}

enum preview_rule preview_answer_rule(struct slice name) {
    const struct name_rule *rule =
        find_rule(answer_rules, sizeof answer_rules / sizeof answer_rules[0], name);
    if (rule) return rule->rule;
    for (size_t i = 0; i < sizeof answer_families / sizeof answer_families[0]; i++)
        if (starts_nocase(name, answer_families[i])) return PREVIEW_DROP;
    /* X-Accel-Redirect and its like order nginx to serve its own files; Buffering only says how. */
    if (starts_nocase(name, "x-accel-") && !slice_equal_nocase(name, "x-accel-buffering"))
        return PREVIEW_DROP;
    return PREVIEW_PASS;
}

/* Beginnings of the names of cookies that log a browser in here: ours, and the sessions of the identity-aware
 * proxies whose headers do not pass either. They are valid for the whole origin, so whoever has one acts as
 * the caller. */
static const char *const login_cookies[] = {
    "agenttier_",       "_oauth2_proxy",      "appserviceauthsession",
    "authelia_session", "authentik_",         "awselbauth",
    "cf_appsession",    "cf_authorization",   "gcp_iap",
    "gcp_iaap",         "_pomerium",          "_forward_auth",
    "mod_auth_openidc", "ory_kratos_session", "vouchcookie",
};

bool preview_cookie_is_ours(struct slice name) {
    static const char *const markers[] = {"__host-", "__secure-"};
    if (starts_nocase(name, "__host-agenttier") || starts_nocase(name, "__secure-agenttier")) return true;
    for (size_t i = 0; i < sizeof markers / sizeof markers[0]; i++) {
        size_t n = strlen(markers[i]);
        if (!starts_nocase(name, markers[i])) continue;
        name = slice_make(name.ptr + n, name.len - n);
        break;
    }
    for (size_t i = 0; i < sizeof login_cookies / sizeof login_cookies[0]; i++)
        if (starts_nocase(name, login_cookies[i])) return true;
    return false;
}

/* "atk_" and 43 characters of base64url: an API key (http-api.md 3.3). */
static bool holds_api_key(struct slice value) {
    const char *at = value.ptr, *end = value.ptr + value.len;
    while ((at = memmem(at, (size_t)(end - at), "atk_", 4))) {
        at += 4;
        size_t n = 0;
        while (n < 43 && at + n < end && (isalnum((unsigned char)at[n]) || at[n] == '-' || at[n] == '_'))
            n++;
        if (n == 43) return true;
    }
    return false;
}

/* Takes the part before the next `separator` off the front. */
static struct slice next_part(struct slice *rest, char separator) {
    const char *at = rest->len ? memchr(rest->ptr, separator, rest->len) : NULL;
    struct slice part = slice_make(rest->ptr, at ? (size_t)(at - rest->ptr) : rest->len);
    size_t skip = part.len + (at ? 1 : 0);
    *rest = slice_make(rest->ptr + skip, rest->len - skip);
    return slice_trim(part);
}

/* Whether one of the Connection headers names it. */
static bool named_by_connection(const struct http1_header *headers, size_t count, struct slice name) {
    for (size_t i = 0; i < count; i++) {
        if (!slice_equal_nocase(headers[i].name, "connection")) continue;
        struct slice rest = headers[i].value;
        while (rest.len) {
            struct slice token = next_part(&rest, ',');
            if (token.len == name.len && token.len && strncasecmp(token.ptr, name.ptr, name.len) == 0)
                return true;
        }
    }
    return false;
}

/* Whether any Connection header names more than what is dropped in any case, so that names must be
 * looked up: nearly no request has one that does. */
static bool connection_names_others(const struct http1_header *headers, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (slice_equal_nocase(headers[i].name, "connection") &&
            !slice_equal_nocase(headers[i].value, "keep-alive") &&
            !slice_equal_nocase(headers[i].value, "close"))
            return true;
    return false;
}

/* ---- The request ---- */

bool preview_prefix(const char *sandbox, int port, char out[PREVIEW_PREFIX_MAX]) {
    int n = snprintf(out, PREVIEW_PREFIX_MAX, "/api/v1/sandboxes/%s/preview/%d", sandbox, port);
    return n > 0 && n < PREVIEW_PREFIX_MAX;
}

/* What follows "/api/v1/sandboxes/{id}/preview/{port}", which the route has matched. */
static struct slice path_below_prefix(struct slice path) {
    size_t slashes = 0, i = 0;
    for (; i < path.len; i++)
        if (path.ptr[i] == '/' && ++slashes == 7) break;
    return slice_make(path.ptr + i, path.len - i);
}

/* Appends a part of the target; what may not stand in one is refused (controls, space, '#') or, for bytes
 * above ASCII, encoded as every client should have done. */
static bool append_target(struct buffer *out, struct slice part) {
    size_t start = 0;
    for (size_t i = 0; i < part.len; i++) {
        unsigned char c = (unsigned char)part.ptr[i];
        if (c <= ' ' || c == 0x7f || c == '#') return false;
        if (c < 0x80) continue;
        if (!buffer_append(out, part.ptr + start, i - start) || !buffer_printf(out, "%%%02X", c))
            return false;
        start = i + 1;
    }
    return buffer_append(out, part.ptr + start, part.len - start);
}

static bool add_header(struct buffer *out, const char *name, struct slice value) {
    return http1_value_valid(value) && buffer_append_str(out, name) && buffer_append(out, ": ", 2) &&
           buffer_append(out, value.ptr, value.len) && buffer_append(out, "\r\n", 2);
}

void preview_cookie(struct slice value, struct buffer *out) {
    struct slice rest = value;
    size_t start = out->len;
    while (rest.len) {
        struct slice pair = next_part(&rest, ';'), after = pair;
        if (!pair.len || preview_cookie_is_ours(next_part(&after, '=')) || holds_api_key(pair)) continue;
        if (out->len > start) buffer_append(out, "; ", 2);
        buffer_append(out, pair.ptr, pair.len);
    }
}

/* The path and more of a URL on our own origin; false: it is elsewhere. */
static bool url_on_base(const struct preview_place *place, struct slice url, struct slice *rest) {
    struct slice base = place->base_url;
    if (!base.len || url.len < base.len || strncasecmp(url.ptr, base.ptr, base.len) != 0) return false;
    *rest = slice_make(url.ptr + base.len, url.len - base.len);
    return !rest->len || rest->ptr[0] == '/' || rest->ptr[0] == '?' || rest->ptr[0] == '#';
}

/* Whether a path is the prefix or below it. */
static bool under_prefix(const struct preview_place *place, struct slice path) {
    size_t n = strlen(place->prefix);
    return slice_starts_with(path, place->prefix) && (path.len == n || strchr("/?#", path.ptr[n]));
}

/* A page of the preview that sends a form or a script's request is of the application's own origin to
 * the application, as it would be without us: such checks compare Origin and Referer with Host. */
static bool add_origin(const struct preview_place *place, struct slice value, struct buffer *out) {
    struct slice rest;
    if (url_on_base(place, value, &rest) && !rest.len)
        return buffer_printf(out, "Origin: http://localhost:%d\r\n", place->port);
    return add_header(out, "Origin", value);
}

static bool add_referer(const struct preview_place *place, struct slice value, struct buffer *out) {
    struct slice rest;
    if (!url_on_base(place, value, &rest)) return add_header(out, "Referer", value);
    if (!under_prefix(place, rest)) return true; /* another page of ours: not the application's business */
    rest = slice_make(rest.ptr + strlen(place->prefix), rest.len - strlen(place->prefix));
    return http1_value_valid(rest) && buffer_printf(out, "Referer: http://localhost:%d", place->port) &&
           buffer_append(out, rest.ptr, rest.len) && buffer_append(out, "\r\n", 2);
}

static bool add_cookie(struct slice value, struct buffer *out) {
    size_t start = out->len;
    if (!buffer_append(out, "Cookie: ", 8)) return false;
    size_t empty = out->len;
    preview_cookie(value, out);
    if (out->len > empty) return buffer_append(out, "\r\n", 2);
    out->len = start; /* all were ours */
    return true;
}

static bool add_client_header(const struct preview_request *request, const struct http1_header *h,
                              struct buffer *out) {
    enum preview_rule rule = preview_request_rule(h->name);
    if (rule == PREVIEW_DROP || rule == PREVIEW_OURS) return true;
    if (!http1_token_valid(h->name) || !http1_value_valid(h->value)) return false;
    if (rule == PREVIEW_COOKIE) return add_cookie(h->value, out);
    if (holds_api_key(h->value)) return true;
    switch (rule) {
    case PREVIEW_AUTHORIZATION:
        /* Only where something else is known to have proved who is calling is it the application's. */
        if (request->auth_method != AUTH_BY_API_KEY_HEADER && request->auth_method != AUTH_BY_DEV)
            return true;
        break;
    case PREVIEW_ORIGIN: return add_origin(&request->place, h->value, out);
    case PREVIEW_REFERER: return add_referer(&request->place, h->value, out);
    default: break;
    }
    return buffer_append(out, h->name.ptr, h->name.len) && buffer_append(out, ": ", 2) &&
           buffer_append(out, h->value.ptr, h->value.len) && buffer_append(out, "\r\n", 2);
}

static bool add_our_headers(const struct preview_request *request, struct buffer *out) {
    struct slice base = request->place.base_url, proto = base, host = base;
    const char *sep = base.len ? memmem(base.ptr, base.len, "://", 3) : NULL;
    if (sep) {
        proto.len = (size_t)(sep - base.ptr);
        host = slice_make(sep + 3, base.len - proto.len - 3);
    }
    return add_header(out, "X-Forwarded-For", slice_of(request->client_ip)) &&
           add_header(out, "X-Forwarded-Host", host) && add_header(out, "X-Forwarded-Proto", proto) &&
           add_header(out, "X-Forwarded-Prefix", slice_of(request->place.prefix)) &&
           add_header(out, "X-Request-ID", slice_of(request->request_id));
}

static bool add_framing(const struct preview_request *request, struct buffer *out) {
    if (request->upgrade && request->upgrade[0])
        return buffer_printf(out, "Connection: Upgrade\r\nUpgrade: %s\r\n", request->upgrade);
    if (request->framing == HTTP1_BODY_CHUNKED)
        return buffer_append_str(out, "Transfer-Encoding: chunked\r\n");
    /* RFC 9110 8.6: a method that expects a body says when there is none. */
    bool expects = !strcmp(request->method, "POST") || !strcmp(request->method, "PUT") ||
                   !strcmp(request->method, "PATCH");
    if (request->framing != HTTP1_BODY_LENGTH && !expects) return true;
    return buffer_printf(out, "Content-Length: %llu\r\n",
                         request->framing == HTTP1_BODY_LENGTH ? (unsigned long long)request->content_length
                                                               : 0ull);
}

bool preview_request_head(const struct preview_request *request, struct buffer *out, struct error *err) {
    struct slice below = path_below_prefix(request->path);
    if (!http1_token_valid(slice_of(request->method))) {
        error_set(err, 400, ERR_BAD_REQUEST, "the request's method is malformed");
        return false;
    }
    bool fits = buffer_append_str(out, request->method) && buffer_append_char(out, ' ');
    if (!below.len) fits = fits && buffer_append_char(out, '/');
    bool clean = append_target(out, below);
    if (request->query.len)
        clean = clean && buffer_append_char(out, '?') && append_target(out, request->query);
    if (!clean) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "the request's target holds a control character, a space or '#'");
        return false;
    }
    /* "localhost": development servers refuse other names, as a guard against DNS rebinding. */
    fits = fits && buffer_printf(out, " HTTP/1.1\r\nHost: localhost:%d\r\n", request->place.port);
    bool names_others = connection_names_others(request->headers, request->header_count);
    for (size_t i = 0; i < request->header_count && fits; i++) {
        if (names_others &&
            named_by_connection(request->headers, request->header_count, request->headers[i].name))
            continue;
        if (!add_client_header(request, &request->headers[i], out)) {
            error_set(err, 400, ERR_BAD_REQUEST, "a header of the request is malformed");
            return false;
        }
    }
    if (!fits || !add_our_headers(request, out) || !add_framing(request, out) ||
        !buffer_append(out, "\r\n", 2)) {
        error_set(err, 400, ERR_BAD_REQUEST, "the request's head cannot be passed on");
        return false;
    }
    return true;
}

/* ---- The answer ---- */

/* What follows scheme and authority in a URL that means the application itself: as it knows itself, or
 * by our public name as X-Forwarded-Host told it. */
static bool url_on_target(const struct preview_place *place, struct slice url, struct slice *rest) {
    if (url_on_base(place, url, rest)) return true;
    if (starts_nocase(url, "http://"))
        url = slice_make(url.ptr + 7, url.len - 7);
    else if (starts_nocase(url, "https://"))
        url = slice_make(url.ptr + 8, url.len - 8);
    else if (slice_starts_with(url, "//"))
        url = slice_make(url.ptr + 2, url.len - 2);
    else
        return false;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]", "0.0.0.0"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char authority[32];
        int n = snprintf(authority, sizeof authority, "%s:%d", names[i], place->port);
        if (!starts_nocase(url, authority)) continue;
        *rest = slice_make(url.ptr + n, url.len - (size_t)n);
        if (!rest->len || rest->ptr[0] == '/' || rest->ptr[0] == '?' || rest->ptr[0] == '#') return true;
    }
    return false;
}

bool preview_location(const struct preview_place *place, struct slice value, struct buffer *out) {
    struct slice rest = value;
    bool root_relative = value.len && value.ptr[0] == '/' && !(value.len > 1 && value.ptr[1] == '/');
    if (!root_relative && !url_on_target(place, value, &rest))
        return buffer_append(out, value.ptr, value.len);
    /* An application that honours X-Forwarded-Prefix has said it already. */
    if (under_prefix(place, rest)) return buffer_append(out, rest.ptr, rest.len);
    return buffer_append_str(out, place->prefix) &&
           (rest.len && rest.ptr[0] == '/' ? true : buffer_append_char(out, '/')) &&
           buffer_append(out, rest.ptr, rest.len);
}

bool preview_set_cookie(const struct preview_place *place, struct slice value, struct buffer *out) {
    struct slice rest = value, pair = next_part(&rest, ';'), after = pair, path = {0};
    struct slice name = next_part(&after, '=');
    /* Without a name or without '=', browsers send the value alone, which could spell a cookie of ours. */
    if (!name.len || name.len == pair.len || preview_cookie_is_ours(name)) return false;
    bool fits = buffer_append(out, pair.ptr, pair.len);
    while (rest.len && fits) {
        struct slice attribute = next_part(&rest, ';'), attribute_value = attribute;
        struct slice attribute_name = next_part(&attribute_value, '=');
        if (slice_equal_nocase(attribute_name, "domain") || !attribute.len) continue;
        if (slice_equal_nocase(attribute_name, "path")) {
            path = slice_trim(attribute_value); /* the last one counts */
            continue;
        }
        fits = buffer_append(out, "; ", 2) && buffer_append(out, attribute.ptr, attribute.len);
    }
    if (!path.len || path.ptr[0] != '/') path = slice_of("/");
    fits = fits && buffer_append_str(out, "; Path=");
    if (!under_prefix(place, path)) fits = fits && buffer_append_str(out, place->prefix);
    return fits && buffer_append(out, path.ptr, path.len);
}

void preview_answer_headers(const struct preview_place *place, const struct http1_head *head,
                            struct buffer *scratch,
                            void (*emit)(void *ctx, const char *name, const char *value), void *ctx) {
    bool names_others = connection_names_others(head->headers, head->header_count);
    for (size_t i = 0; i < head->header_count; i++) {
        const struct http1_header *h = &head->headers[i];
        enum preview_rule rule = preview_answer_rule(h->name);
        if (rule == PREVIEW_DROP || rule == PREVIEW_OURS) continue;
        if (names_others && named_by_connection(head->headers, head->header_count, h->name)) continue;
        buffer_clear(scratch);
        bool fits = buffer_append(scratch, h->name.ptr, h->name.len) && buffer_append_char(scratch, '\0');
        size_t value_at = scratch->len;
        if (rule == PREVIEW_LOCATION)
            fits = fits && preview_location(place, h->value, scratch);
        else if (rule == PREVIEW_SET_COOKIE)
            fits = fits && preview_set_cookie(place, h->value, scratch);
        else
            fits = fits && buffer_append(scratch, h->value.ptr, h->value.len);
        /* The server's library refuses a tab, which means the same as a space (RFC 9110 5.5). */
        for (size_t k = value_at; k < scratch->len; k++)
            if (scratch->data[k] == '\t') scratch->data[k] = ' ';
        if (fits && buffer_append_char(scratch, '\0')) emit(ctx, scratch->data, scratch->data + value_at);
    }
    /* Beside the application's own policies, which hold as well: its pages run on the API's origin and
     * must not act as the person who looks at them. */
    emit(ctx, "Content-Security-Policy", PREVIEW_CSP);
}
