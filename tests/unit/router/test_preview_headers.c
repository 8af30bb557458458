/* What passes between a client and a previewed application (http-api.md 2.11; lessons I22, S18 to S20, S25).
 */
#include "router/preview_headers.h"

#include <check.h>
#include <stdio.h>

#define KEY   "atk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
#define TOKEN "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2ln"

static const struct preview_place place = {.sandbox = "demo",
                                           .port = 3000,
                                           .base_url = {"http://router.example:8080", 26},
                                           .prefix = "/api/v1/sandboxes/demo/preview/3000"};

/* ---- Requests ---- */

static struct http1_header header(const char *name, const char *value) {
    return (struct http1_header){slice_of(name), slice_of(value)};
}

static struct preview_request request_of(const struct http1_header *headers, size_t count) {
    return (struct preview_request){.place = place,
                                    .method = "GET",
                                    .path = slice_of("/api/v1/sandboxes/demo/preview/3000/api/a%2Fb"),
                                    .query = slice_of("x=1&y=%20"),
                                    .client_ip = "203.0.113.7",
                                    .request_id = "req-1",
                                    .auth_method = AUTH_BY_API_KEY_HEADER,
                                    .framing = HTTP1_BODY_NONE,
                                    .headers = headers,
                                    .header_count = count};
}

/* The head, which the strict codec must accept as it is. */
static const char *build(const struct preview_request *request, struct buffer *out) {
    struct error err = {0};
    buffer_clear(out);
    ck_assert_msg(preview_request_head(request, out, &err), "%s", err.message);
    struct http1_head head;
    ck_assert_int_eq(http1_parse_request(buffer_slice(out), &head, &err), (ssize_t)out->len);
    return buffer_cstr(out);
}

START_TEST(request_is_built_from_checked_parts) {
    struct http1_header headers[] = {header("Host", "router.example:8080"), header("X-Api-Key", KEY),
                                     header("Accept", "*/*"), header("X-CSRF-Token", "abc")};
    struct preview_request request = request_of(headers, 4);
    cleanup_buffer struct buffer out = {0};
    ck_assert_str_eq(build(&request, &out), "GET /api/a%2Fb?x=1&y=%20 HTTP/1.1\r\n"
                                            "Host: localhost:3000\r\n"
                                            "Accept: */*\r\n"
                                            "X-CSRF-Token: abc\r\n"
                                            "X-Forwarded-For: 203.0.113.7\r\n"
                                            "X-Forwarded-Host: router.example:8080\r\n"
                                            "X-Forwarded-Proto: http\r\n"
                                            "X-Forwarded-Prefix: /api/v1/sandboxes/demo/preview/3000\r\n"
                                            "X-Request-ID: req-1\r\n"
                                            "\r\n");
}
END_TEST

START_TEST(target_is_origin_form) {
    static const struct {
        const char *path, *query, *line;
    } cases[] = {
        {"/api/v1/sandboxes/demo/preview/3000", "", "GET / HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/demo/preview/3000/", "", "GET / HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/demo/preview/3000", "a=b", "GET /?a=b HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/d%65mo/preview/3000/x", "", "GET /x HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/demo/preview/3000//x/../y", "", "GET //x/../y HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/demo/preview/3000/\xc3\xa9", "q=\xc3\xa9", "GET /%C3%A9?q=%C3%A9 HTTP/1.1\r\n"},
        {"/api/v1/sandboxes/demo/preview/3000/%0d%0aX:%201", "", "GET /%0d%0aX:%201 HTTP/1.1\r\n"},
    };
    cleanup_buffer struct buffer out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct preview_request request = request_of(NULL, 0);
        request.path = slice_of(cases[i].path);
        request.query = slice_of(cases[i].query);
        const char *head = build(&request, &out);
        ck_assert_msg(!strncmp(head, cases[i].line, strlen(cases[i].line)), "%s: %s", cases[i].path, head);
    }
}
END_TEST

START_TEST(hostile_parts_are_refused) {
    static const char *const paths[] = {"/x\r\nEvil: 1", "/x y", "/x\ty", "/x#y", "/x\x7f", "/x\n"};
    cleanup_buffer struct buffer out = {0};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", place.prefix, paths[i]);
        struct preview_request request = request_of(NULL, 0);
        struct error err = {0};
        request.path = slice_of(path);
        ck_assert(!preview_request_head(&request, &out, &err));
        ck_assert_int_eq(err.status, 400);
        request.path = slice_of(place.prefix);
        request.query = slice_of(paths[i]);
        ck_assert(!preview_request_head(&request, &out, &err));
    }
    static const char *const methods[] = {"", "GET /evil HTTP/1.1\r\n", "G ET", "G\tT", "GET\n"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct preview_request request = request_of(NULL, 0);
        struct error err = {0};
        request.method = methods[i];
        ck_assert(!preview_request_head(&request, &out, &err));
    }
    struct http1_header bad[] = {
        header("X-A", "b\r\nEvil: 1"), header("X-A\r\nEvil", "b"), header("X A", "b"),
        header("X-A", "b\x01"),        header("Referer", "a\nb"),  header("Origin", "a\r")};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct preview_request request = request_of(&bad[i], 1);
        struct error err = {0};
        ck_assert(!preview_request_head(&request, &out, &err));
        ck_assert_int_eq(err.status, 400);
    }
}
END_TEST

/* S25: every header and cookie that can carry a credential for us, each seeded, none of them seen outside. */
START_TEST(no_credential_of_ours_passes) {
    struct http1_header headers[] = {
        header("Authorization", "Bearer " TOKEN),
        header("authorization", "Bearer " TOKEN),
        header("X-API-Key", KEY),
        header("x-api-key", "ak_seed"),
        header("X-Api-Key-Id", "seed"),
        header("X-AgentTier-User", "seed"),
        header("X-AGENTTIER-INTERNAL", "seed"),
        header("Agenttier-Token", "seed"),
        header("X-My-AgentTier-Key", "seed"),
        header("Proxy-Authorization", "Basic seed"),
        header("Proxy-Connection", "seed"),
        header("X-Forwarded-Access-Token", "seed"),
        header("X-Forwarded-User", "seed"),
        header("X-Forwarded-Client-Cert", "seed"),
        header("X-Auth-Request-Access-Token", "seed"),
        header("X-Amzn-Oidc-Data", "seed"),
        header("X-Goog-Iap-Jwt-Assertion", "seed"),
        header("Cf-Access-Jwt-Assertion", "seed"),
        header("X-Ms-Token-Aad-Id-Token", "seed"),
        header("X-Remote-User", "seed"),
        header("Cookie", "agenttier_session=seed; __Host-agenttier=seed; AgentTier_x=seed"),
        header("Cookie", "  __host-agenttier_preview=seed ;__Secure-agenttier=seed"),
        header("Cookie", "app=1; agenttier_session=\"seed\"; theme=dark"),
        header("Cookie", "k=" KEY),
        header(
            "Cookie",
            "_oauth2_proxy=seed; _oauth2_proxy_0=seed; __Host-_oauth2_proxy=seed; __Secure-GCP_IAP_UID=seed"),
        header("Cookie", "CF_Authorization=seed; AWSELBAuthSessionCookie-0=seed; AppServiceAuthSession=seed; "
                         "_pomerium=seed"),
        header("Cookie",
               "authelia_session=seed; mod_auth_openidc_session=seed; _forward_auth=seed; VouchCookie=seed"),
        header("X-Custom", "prefix " KEY " suffix"),
        header("Idempotency-Key", "job-1"),
        header("Referer", "http://router.example:8080/ui?token=seed"),
    };
    static const enum auth_method methods[] = {AUTH_BY_NONE, AUTH_BY_BEARER};
    cleanup_buffer struct buffer out = {0};
    for (size_t i = 0; i < 2; i++) {
        struct preview_request request = request_of(headers, sizeof headers / sizeof headers[0]);
        request.auth_method = methods[i];
        const char *head = build(&request, &out);
        ck_assert_ptr_null(strstr(head, "seed"));
        ck_assert_ptr_null(strstr(head, "atk_"));
        ck_assert_ptr_null(strstr(head, TOKEN));
        ck_assert_ptr_null(strcasestr(head, "authorization"));
        ck_assert_ptr_nonnull(strstr(head, "Cookie: app=1; theme=dark\r\n"));
        ck_assert_ptr_nonnull(strstr(head, "Idempotency-Key: job-1\r\n"));
        size_t cookies = 0;
        for (const char *at = head; (at = strcasestr(at, "\r\ncookie:")); at++)
            cookies++;
        ck_assert_uint_eq(cookies, 1);
    }
}
END_TEST

START_TEST(the_applications_own_authorization_passes) {
    struct http1_header own[] = {header("Authorization", "Basic dXNlcjpwdw=="), header("X-API-Key", KEY)};
    struct preview_request request = request_of(own, 2);
    cleanup_buffer struct buffer out = {0};
    ck_assert_ptr_nonnull(strstr(build(&request, &out), "\r\nAuthorization: Basic dXNlcjpwdw==\r\n"));
    request.auth_method = AUTH_BY_DEV;
    ck_assert_ptr_nonnull(strstr(build(&request, &out), "\r\nAuthorization: Basic dXNlcjpwdw==\r\n"));
    struct http1_header ours[] = {header("Authorization", "Bearer " KEY), header("X-API-Key", KEY)};
    request = request_of(ours, 2);
    ck_assert_ptr_null(strstr(build(&request, &out), "Authorization"));
}
END_TEST

START_TEST(hop_by_hop_headers_end_here) {
    struct http1_header headers[] = {
        header("Connection", "keep-alive, X-Forwarded-For, Authorization,Host , X-Named,,"),
        header("connection", "x-forwarded-prefix,Content-Length"),
        header("X-Named", "gone"),
        header("Keep-Alive", "gone"),
        header("TE", "trailers"),
        header("Trailer", "gone"),
        header("Transfer-Encoding", "chunked"),
        header("Upgrade", "gone"),
        header("HTTP2-Settings", "gone"),
        header("Expect", "100-continue"),
        header("Content-Length", "3"),
        header("Proxy", "gone"),
        header("X-Forwarded-For", "1.2.3.4"),
        header("X-Forwarded-Host", "evil"),
        header("X-Forwarded-Proto", "evil"),
        header("X-Forwarded-Prefix", "/evil"),
        header("X-Forwarded-Port", "evil"),
        header("Forwarded", "for=evil"),
        header("X-Real-IP", "evil"),
        header("True-Client-IP", "evil"),
        header("X-Original-URL", "/evil"),
        header("X-Request-ID", "evil"),
        header("Accept", "*/*"),
    };
    struct preview_request request = request_of(headers, sizeof headers / sizeof headers[0]);
    request.method = "POST";
    request.framing = HTTP1_BODY_LENGTH;
    request.content_length = 5;
    cleanup_buffer struct buffer out = {0};
    const char *head = build(&request, &out);
    ck_assert_ptr_nonnull(strstr(head,
                                 "\r\nHost: localhost:3000\r\nAccept: */*\r\nX-Forwarded-For: 203.0.113.7\r\n"
                                 "X-Forwarded-Host: router.example:8080\r\nX-Forwarded-Proto: http\r\n"
                                 "X-Forwarded-Prefix: /api/v1/sandboxes/demo/preview/3000\r\n"
                                 "X-Request-ID: req-1\r\nContent-Length: 5\r\n\r\n"));
}
END_TEST

START_TEST(bodies_are_framed_by_us) {
    cleanup_buffer struct buffer out = {0};
    struct preview_request request = request_of(NULL, 0);
    ck_assert_ptr_null(strstr(build(&request, &out), "Content-Length"));
    request.method = "POST";
    ck_assert_ptr_nonnull(strstr(build(&request, &out), "\r\nContent-Length: 0\r\n"));
    request.framing = HTTP1_BODY_CHUNKED;
    ck_assert_ptr_nonnull(strstr(build(&request, &out), "\r\nTransfer-Encoding: chunked\r\n"));
    ck_assert_ptr_null(strstr(out.data, "Content-Length"));
}
END_TEST

START_TEST(origin_and_referer_are_the_applications) {
    static const struct {
        const char *name, *value, *want; /* NULL = not sent */
    } cases[] = {
        {"Origin", "http://router.example:8080", "\r\nOrigin: http://localhost:3000\r\n"},
        {"Origin", "http://router.example:80801", "\r\nOrigin: http://router.example:80801\r\n"},
        {"Origin", "https://evil.example", "\r\nOrigin: https://evil.example\r\n"},
        {"Origin", "null", "\r\nOrigin: null\r\n"},
        {"Referer", "http://router.example:8080/api/v1/sandboxes/demo/preview/3000/a?b",
         "\r\nReferer: http://localhost:3000/a?b\r\n"},
        {"Referer", "http://router.example:8080/api/v1/sandboxes/demo/preview/30001/a", NULL},
        {"Referer", "http://router.example:8080/ui?token=x", NULL},
        {"Referer", "https://other.example/x", "\r\nReferer: https://other.example/x\r\n"},
    };
    cleanup_buffer struct buffer out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct http1_header h = header(cases[i].name, cases[i].value);
        struct preview_request request = request_of(&h, 1);
        const char *head = build(&request, &out);
        if (cases[i].want)
            ck_assert_msg(strstr(head, cases[i].want) != NULL, "%s: %s", cases[i].value, head);
        else
            ck_assert_ptr_null(strstr(head, cases[i].name));
    }
}
END_TEST

START_TEST(rules_know_every_spelling) {
    static const struct {
        const char *name;
        enum preview_rule request, answer;
    } cases[] = {
        {"ACCEPT", PREVIEW_PASS, PREVIEW_PASS},
        {"accept-charset", PREVIEW_PASS, PREVIEW_PASS},
        {"acc", PREVIEW_PASS, PREVIEW_PASS},
        {"x-rewrite-url", PREVIEW_OURS, PREVIEW_PASS},
        {"X-Api-Key", PREVIEW_OURS, PREVIEW_PASS},
        {"Cookie", PREVIEW_COOKIE, PREVIEW_PASS},
        {"SET-COOKIE", PREVIEW_PASS, PREVIEW_SET_COOKIE},
        {"Set-Cookie2", PREVIEW_PASS, PREVIEW_DROP},
        {"Location", PREVIEW_PASS, PREVIEW_LOCATION},
        {"Clear-Site-Data", PREVIEW_PASS, PREVIEW_DROP},
        {"Strict-Transport-Security", PREVIEW_PASS, PREVIEW_DROP},
        {"Service-Worker-Allowed", PREVIEW_PASS, PREVIEW_DROP},
        {"Public-Key-Pins", PREVIEW_PASS, PREVIEW_DROP},
        {"Alt-Svc", PREVIEW_PASS, PREVIEW_DROP},
        {"X-Accel-Redirect", PREVIEW_PASS, PREVIEW_DROP},
        {"X-Accel-Buffering", PREVIEW_PASS, PREVIEW_PASS},
        {"X-Request-Id", PREVIEW_OURS, PREVIEW_OURS},
        {"Proxy-Authenticate", PREVIEW_OURS, PREVIEW_DROP},
        {"Access-Control-Allow-Origin", PREVIEW_PASS, PREVIEW_PASS},
        {"HX-Request", PREVIEW_PASS, PREVIEW_PASS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_msg(preview_request_rule(slice_of(cases[i].name)) == cases[i].request, "%s", cases[i].name);
        ck_assert_msg(preview_answer_rule(slice_of(cases[i].name)) == cases[i].answer, "%s", cases[i].name);
    }
}
END_TEST

/* ---- Answers ---- */

START_TEST(location_stays_under_the_prefix) {
#define P "/api/v1/sandboxes/demo/preview/3000"
    static const char *const cases[][2] = {
        {"/login", P "/login"},
        {"/", P "/"},
        {"/a?b#c", P "/a?b#c"},
        {P "/x", P "/x"},
        {P, P},
        {P "0/x", P P "0/x"},
        {"login", "login"},
        {"?x=1", "?x=1"},
        {"", ""},
        {"http://localhost:3000/x", P "/x"},
        {"HTTP://LOCALHOST:3000/x", P "/x"},
        {"https://127.0.0.1:3000", P "/"},
        {"http://[::1]:3000?x", P "/?x"},
        {"//localhost:3000/x", P "/x"},
        {"http://localhost:30001/x", "http://localhost:30001/x"},
        {"http://localhost:3000.evil/", "http://localhost:3000.evil/"},
        {"http://localhost:3000@evil/", "http://localhost:3000@evil/"},
        {"http://router.example:8080/x", P "/x"},
        {"http://router.example:8080" P "/x", P "/x"},
        {"http://router.example:80801/x", "http://router.example:80801/x"},
        {"//evil.example/x", "//evil.example/x"},
        {"https://evil.example/", "https://evil.example/"},
        {"/\\evil", P "/\\evil"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cleanup_buffer struct buffer out = {0};
        ck_assert(preview_location(&place, slice_of(cases[i][0]), &out));
        ck_assert_str_eq(buffer_cstr(&out), cases[i][1]);
    }
}
END_TEST

START_TEST(cookies_stay_under_the_prefix) {
    static const char *const cases[][2] = {
        {"a=b", "a=b; Path=" P "/"},
        {"a=b; Path=/", "a=b; Path=" P "/"},
        {"a=b; path=/x; HttpOnly", "a=b; HttpOnly; Path=" P "/x"},
        {"a=b; Path=" P "/x", "a=b; Path=" P "/x"},
        {"a=b; Path=/x; Path=/y", "a=b; Path=" P "/y"},
        {"a=b; Path=; Secure", "a=b; Secure; Path=" P "/"},
        {"a=b; Path=relative", "a=b; Path=" P "/"},
        {"a=b; Domain=example.org; SameSite=Lax;;", "a=b; SameSite=Lax; Path=" P "/"},
        {"a=b;DOMAIN=x;Max-Age=3", "a=b; Max-Age=3; Path=" P "/"},
        {"a=; Domain", "a=; Path=" P "/"},
        {"agenttier_session=evil", NULL},
        {"AgentTier_session=evil; Path=/", NULL},
        {" __Host-agenttier =evil; Path=/; Secure", NULL},
        {"_oauth2_proxy=evil", NULL},
        {"__Host-id=app; Path=/; Secure", "__Host-id=app; Secure; Path=" P "/"},
        {"=agenttier_session=evil", NULL},
        {"agenttier_session", NULL},
        {"", NULL},
        {";", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cleanup_buffer struct buffer out = {0};
        bool kept = preview_set_cookie(&place, slice_of(cases[i][0]), &out);
        ck_assert_msg(kept == (cases[i][1] != NULL), "%s", cases[i][0]);
        if (kept) ck_assert_str_eq(buffer_cstr(&out), cases[i][1]);
    }
}
END_TEST

static void emit(void *ctx, const char *name, const char *value) {
    buffer_printf(ctx, "%s: %s\n", name, value);
}

START_TEST(answer_headers_are_cleaned) {
    static const char bytes[] =
        "HTTP/1.1 302 Found\r\n"
        "Connection: close, X-Named\r\nX-Named: gone\r\nKeep-Alive: timeout=5\r\n"
        "Transfer-Encoding: chunked\r\nTrailer: X\r\nUpgrade: h2c\r\n"
        "Content-Type: text/html\r\nLocation: /next\r\n"
        "Set-Cookie: a=1; Domain=x\r\nSet-Cookie: agenttier_s=1\r\nSet-Cookie: b=2\r\n"
        "Clear-Site-Data: \"*\"\r\nStrict-Transport-Security: max-age=1\r\n"
        "Service-Worker-Allowed: /\r\nX-Request-ID: theirs\r\n"
        "Content-Security-Policy: default-src 'self'\r\nX-Tab: a\tb\r\nX-Empty:\r\n\r\n";
    struct http1_head head;
    struct error err = {0};
    ck_assert_int_gt(http1_parse_response(slice_of(bytes), "GET", &head, &err), 0);
    cleanup_buffer struct buffer out = {0}, scratch = {0};
    preview_answer_headers(&place, &head, &scratch, emit, &out);
    ck_assert_str_eq(buffer_cstr(&out),
                     "Content-Type: text/html\nLocation: " P "/next\nSet-Cookie: a=1; Path=" P "/\n"
                     "Set-Cookie: b=2; Path=" P "/\nContent-Security-Policy: default-src 'self'\nX-Tab: a b\n"
                     "X-Empty: \n"
                     "Content-Security-Policy: sandbox allow-scripts allow-forms allow-popups allow-modals "
                     "allow-downloads\n");
}
END_TEST

START_TEST(prefix_is_bounded) {
    char out[PREVIEW_PREFIX_MAX], name[200];
    ck_assert(preview_prefix("demo", 3000, out));
    ck_assert_str_eq(out, P);
    memset(name, 'a', sizeof name);
    name[63] = '\0';
    ck_assert(preview_prefix(name, 65535, out));
    name[63] = 'a';
    name[199] = '\0';
    ck_assert(!preview_prefix(name, 1, out));
}
END_TEST

int main(void) {
    Suite *s = suite_create("preview_headers");
    TCase *c = tcase_create("all");
    tcase_add_test(c, request_is_built_from_checked_parts);
    tcase_add_test(c, target_is_origin_form);
    tcase_add_test(c, hostile_parts_are_refused);
    tcase_add_test(c, no_credential_of_ours_passes);
    tcase_add_test(c, the_applications_own_authorization_passes);
    tcase_add_test(c, hop_by_hop_headers_end_here);
    tcase_add_test(c, bodies_are_framed_by_us);
    tcase_add_test(c, origin_and_referer_are_the_applications);
    tcase_add_test(c, rules_know_every_spelling);
    tcase_add_test(c, location_stays_under_the_prefix);
    tcase_add_test(c, cookies_stay_under_the_prefix);
    tcase_add_test(c, answer_headers_are_cleaned);
    tcase_add_test(c, prefix_is_bounded);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
