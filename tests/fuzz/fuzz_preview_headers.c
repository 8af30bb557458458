/* An application's answer head becomes headers for the client, and a client's headers a request for the
 * application. Whatever comes in, nothing that goes out may end a header line early, name a cookie of
 * ours, frame the body, or reach beyond the preview's prefix by a cookie's path. */
#include "router/preview_headers.h"

#include <stdint.h>
#include <stdio.h>

static void must(bool condition) {
    if (!condition) abort();
}

static const struct preview_place place = {.sandbox = "demo",
                                           .port = 3000,
                                           .base_url = {"http://router.example:8080", 26},
                                           .prefix = "/api/v1/sandboxes/demo/preview/3000"};

static void check_header(void *ctx, const char *name, const char *value) {
    (void)ctx;
    must(http1_token_valid(slice_of(name)));
    must(http1_value_valid(slice_of(value)) && !strchr(value, '\t'));
    static const char *const never[] = {"Connection", "Transfer-Encoding", "Content-Length",
                                        "Upgrade",    "Clear-Site-Data",   "X-Request-ID"};
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
        must(strcasecmp(name, never[i]) != 0);
    if (strcasecmp(name, "Set-Cookie") != 0) return;
    must(!preview_cookie_is_ours(slice_of(value)));
    must(!strcasestr(value, "; domain=") && strstr(value, "; Path=/api/v1/sandboxes/demo/preview/3000"));
}

static void request(struct slice bytes) {
    struct http1_head head;
    struct error err = {0};
    if (http1_parse_request(bytes, &head, &err) <= 0) return;
    char method[32];
    if (head.method.len >= sizeof method) return;
    memcpy(method, head.method.ptr, head.method.len);
    method[head.method.len] = '\0';
    const char *mark = memchr(head.target.ptr, '?', head.target.len);
    size_t path_len = mark ? (size_t)(mark - head.target.ptr) : head.target.len;
    struct preview_request in = {.place = place,
                                 .method = method,
                                 .path = slice_make(head.target.ptr, path_len),
                                 .query = mark ? slice_make(mark + 1, head.target.len - path_len - 1)
                                               : slice_of(""),
                                 .client_ip = "203.0.113.7",
                                 .request_id = "id",
                                 .auth_method = AUTH_BY_BEARER,
                                 .framing = head.framing,
                                 .content_length = head.content_length,
                                 .headers = head.headers,
                                 .header_count = head.header_count};
    cleanup_buffer struct buffer out = {.limit = 2 * HTTP1_MAX_HEAD};
    if (!preview_request_head(&in, &out, &err)) return;
    struct http1_head sent;
    if (out.len >= HTTP1_MAX_HEAD) return;
    ssize_t n = http1_parse_request(buffer_slice(&out), &sent, &err);
    must(n == (ssize_t)out.len || sent.header_count == HTTP1_MAX_HEADERS || n == -1);
    if (n < 0) {
        must(in.header_count + 6 > HTTP1_MAX_HEADERS); /* ours came on top of as many as there may be */
        return;
    }
    must(!http1_find(&sent, "authorization") && !http1_find(&sent, "x-api-key") &&
         !http1_find(&sent, "expect"));
    must(slice_equal_str(http1_find(&sent, "x-forwarded-for")->value, "203.0.113.7"));
    must(slice_equal_str(http1_find(&sent, "host")->value, "localhost:3000"));
    must(sent.framing == (in.framing == HTTP1_BODY_NONE && http1_find(&sent, "content-length")
                              ? HTTP1_BODY_LENGTH
                              : in.framing));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice bytes = slice_make((const char *)data, size);
    struct http1_head head;
    struct error err = {0};
    if (http1_parse_response(bytes, "GET", &head, &err) > 0) {
        cleanup_buffer struct buffer scratch = {.limit = 2 * HTTP1_MAX_HEAD};
        preview_answer_headers(&place, &head, &scratch, check_header, NULL);
    }
    error_clear(&err);
    request(bytes);
    return 0;
}
