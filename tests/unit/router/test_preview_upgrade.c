/* Which upgrades are asked for and granted (http-api.md 2.11; lessons S2, S3, S20). */
#include "router/preview_upgrade.h"

#include <check.h>

#define KEY    "dGhlIHNhbXBsZSBub25jZQ==" /* RFC 6455 1.3 */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

static struct http1_header header(const char *name, const char *value) {
    return (struct http1_header){slice_of(name), slice_of(value)};
}

/* -1: refused; 0: nothing is asked for; 1: `protocol` is. */
static int wanted(struct http1_header *headers, size_t count, const char *method,
                  struct preview_upgrade *out) {
    struct error err = {0};
    if (!preview_upgrade_wanted(headers, count, method, false, 0, out, &err)) {
        ck_assert_int_eq(err.status, 400);
        return -1;
    }
    return out->protocol[0] != 0;
}

START_TEST(websocket_of_the_rfc) {
    struct http1_header headers[] = {header("connection", "keep-alive, Upgrade"),
                                     header("UPGRADE", "WebSocket"), header("Sec-WebSocket-Key", KEY),
                                     header("Sec-WebSocket-Version", "13")};
    struct preview_upgrade up;
    ck_assert_int_eq(wanted(headers, 4, "GET", &up), 1);
    ck_assert(up.websocket);
    ck_assert_str_eq(up.accept, ACCEPT);
}
END_TEST

START_TEST(handshakes_that_no_server_should_accept) {
    struct preview_upgrade up;
    struct http1_header base[8] = {header("Connection", "Upgrade"), header("Upgrade", "websocket"),
                                   header("Sec-WebSocket-Version", "13"), header("Sec-WebSocket-Key", KEY)};
    ck_assert_int_eq(wanted(base, 4, "GET", &up), 1);
    ck_assert_int_eq(wanted(base, 4, "POST", &up), -1);
    ck_assert_int_eq(wanted(base, 3, "GET", &up), -1);
    static const char *const keys[] = {"",
                                       "short",
                                       "dGhlIHNhbXBsZSBub25jZQ",
                                       "dGhlIHNhbXBsZSBub25jZR==",
                                       "dGhlIHNhbXBsZSBub25jZSE=",
                                       "!!!!!!!!!!!!!!!!!!!!!!=="};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        base[3] = header("Sec-WebSocket-Key", keys[i]);
        ck_assert_msg(wanted(base, 4, "GET", &up) == -1, "key %s", keys[i]);
    }
    base[3] = header("Sec-WebSocket-Key", KEY);
    base[4] = header("Sec-WebSocket-Key", KEY);
    ck_assert_int_eq(wanted(base, 5, "GET", &up), -1);
    base[4] = header("Sec-WebSocket-Version", "8");
    ck_assert_int_eq(wanted(base, 5, "GET", &up), -1);
    base[4] = header("Upgrade", "websocket");
    ck_assert_int_eq(wanted(base, 5, "GET", &up), -1);
    struct error err = {0};
    ck_assert(!preview_upgrade_wanted(base, 4, "GET", false, 5, &up, &err));
    error_clear(&err);
    ck_assert(!preview_upgrade_wanted(base, 4, "GET", false, -1, &up, &err));
    error_clear(&err);
}
END_TEST

START_TEST(what_may_be_ignored_is) {
    static const struct {
        const char *connection, *upgrade;
        int want;
    } cases[] = {
        {"Upgrade", "h2c", 0},    {"keep-alive", "echo", 0},    {"Upgrade", "a, b", 0},
        {"Upgrade", "echo", 1},   {"upgrade,x", "echo/1.0", 1}, {"Upgrade", "", -1},
        {"Upgrade", "e cho", -1}, {"Upgrade", "/1", -1},        {"Upgrade", "a/b/c", -1},
        {"xupgrade", "echo", 0},
    };
    struct preview_upgrade up;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http1_header headers[] = {header("Connection", cases[i].connection),
                                         header("Upgrade", cases[i].upgrade)};
        ck_assert_msg(wanted(headers, 2, "POST", &up) == cases[i].want, "%s: %s", cases[i].connection,
                      cases[i].upgrade);
    }
    struct http1_header headers[] = {header("Connection", "Upgrade"), header("Upgrade", "echo")};
    struct error err = {0};
    ck_assert(preview_upgrade_wanted(headers, 2, "GET", true, 0, &up, &err));
    ck_assert_str_eq(up.protocol, "");
}
END_TEST

START_TEST(only_what_was_asked_for_is_granted) {
    static const struct {
        const char *answer;
        bool granted;
    } cases[] = {
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
         "\r\n\r\n",
         true},
        {"HTTP/1.1 101 S\r\nConnection: x, Upgrade\r\nupgrade: WEBSOCKET\r\nSec-WebSocket-Accept: " ACCEPT
         "\r\n\r\n",
         true},
        {"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n", false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n", false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
         false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
         "s3pPLMBiTxaQ9kYGzzhZRbK+xOA=\r\n\r\n",
         false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: "
         "websocket\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
         false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: "
         "5\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
         false},
        {"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: "
         "chunked\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
         false},
        {"HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
         "\r\n\r\n",
         false},
    };
    struct preview_upgrade up = {.protocol = "websocket", .websocket = true, .accept = ACCEPT};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http1_head head;
        struct error err = {0};
        ck_assert_int_gt(http1_parse_response(slice_of(cases[i].answer), "GET", &head, &err), 0);
        ck_assert_msg(preview_upgrade_granted(&up, &head, &err) == cases[i].granted, "%s", cases[i].answer);
        if (!cases[i].granted) ck_assert_str_eq(err.code, "upstream_bad_answer");
        error_clear(&err);
    }
    struct preview_upgrade none = {0};
    struct http1_head head;
    struct error err = {0};
    http1_parse_response(slice_of(cases[0].answer), "GET", &head, &err);
    ck_assert(!preview_upgrade_granted(&none, &head, &err));
    error_clear(&err);
}
END_TEST

START_TEST(origins) {
    struct slice base = slice_of("http://localhost:8081");
    ck_assert(preview_upgrade_origin(NULL, base));
    ck_assert(preview_upgrade_origin("null", base));
    ck_assert(preview_upgrade_origin("http://localhost:8081", base));
    ck_assert(!preview_upgrade_origin("http://localhost:8081.evil.example", base));
    ck_assert(!preview_upgrade_origin("http://localhost:808", base));
    ck_assert(!preview_upgrade_origin("https://evil.example", base));
    ck_assert(!preview_upgrade_origin("", base));
}
END_TEST

int main(void) {
    Suite *s = suite_create("preview-upgrade");
    TCase *c = tcase_create("all");
    tcase_add_test(c, websocket_of_the_rfc);
    tcase_add_test(c, handshakes_that_no_server_should_accept);
    tcase_add_test(c, what_may_be_ignored_is);
    tcase_add_test(c, only_what_was_asked_for_is_granted);
    tcase_add_test(c, origins);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
