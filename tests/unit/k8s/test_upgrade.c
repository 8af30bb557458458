/* The upgrade to a WebSocket: what is asked, and which answers count (lessons S2, I14). */
#include "k8s/upgrade.h"

#include <check.h>
#include <stdio.h>

#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" /* RFC 6455 1.3 */
#define UP     "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"

static const char *const protocols[] = {"v5.channel.k8s.io", "v4.channel.k8s.io", NULL};

static int check_answer(const char *text) {
    struct http1_head head;
    struct error err = {0};
    ssize_t len = http1_parse_response(slice_of(text), "GET", &head, &err);
    if (len <= 0) return -2;
    int chosen = upgrade_check(&head, KEY, protocols, &err);
    if (chosen < 0) ck_assert(err.status == 502 && err.code);
    return chosen;
}

START_TEST(the_request_is_exact) {
    cleanup_buffer struct buffer out = {0};
    ck_assert(
        upgrade_request("fd00::1", 6443, slice_of("/api/x?a=b"), "Bearer t", protocols, KEY, &out, NULL));
    ck_assert_str_eq(buffer_cstr(&out),
                     "GET /api/x?a=b HTTP/1.1\r\nHost: [fd00::1]:6443\r\nConnection: Upgrade\r\n"
                     "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY
                     "\r\nUser-Agent: agenttier/" AGENTTIER_VERSION
                     "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n"
                     "Authorization: Bearer t\r\n\r\n");
    ck_assert(!upgrade_request("h", 1, slice_of("/a\r\nX: y"), NULL, protocols, KEY, &out, NULL));
    ck_assert(!upgrade_request("h", 1, slice_of("/a b"), NULL, protocols, KEY, &out, NULL));
    ck_assert(!upgrade_request("h", 1, slice_of("/a"), "Bearer a\r\nX: y", protocols, KEY, &out, NULL));
}
END_TEST

START_TEST(S2_only_a_correct_101_counts) {
    ck_assert_int_eq(check_answer(UP "Upgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
                                     "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"),
                     0);
    ck_assert_int_eq(check_answer(UP "upgrade: WebSocket\r\nsec-websocket-accept: " ACCEPT
                                     "\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n"),
                     1);
    static const char *const bad[] = {
        UP "Upgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        UP "Upgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\nSec-WebSocket-Protocol: "
           "v5.channel.k8s.io\r\n\r\n",
        UP "Upgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
        UP "Upgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
           "\r\nSec-WebSocket-Protocol: channel.k8s.io\r\n\r\n",
        UP "Upgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
           "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Extensions: "
           "permessage-deflate\r\n\r\n",
        UP "Upgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT "\r\nSec-WebSocket-Accept: " ACCEPT
           "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        UP "Upgrade: SPDY/3.1\r\nSec-WebSocket-Accept: " ACCEPT
           "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
        "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " ACCEPT
        "\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(check_answer(bad[i]) < 0, "%zu", i);
}
END_TEST

static void expect(int status, const char *body, int as, const char *code, const char *part) {
    struct error err = {0};
    upgrade_refusal(status, slice_of(body), "p1", &err);
    ck_assert_msg(err.status == as && strcmp(err.code, code) == 0 && strstr(err.message, part), "%d %s %s",
                  err.status, err.code, err.message);
}

START_TEST(I14_refusals_are_named) {
    expect(404, "{\"kind\":\"Status\",\"reason\":\"NotFound\",\"message\":\"pods \\\"p1\\\" not found\"}",
           404, "sandbox_not_found", "pods \"p1\" not found");
    expect(403, "{\"kind\":\"Status\",\"reason\":\"Forbidden\",\"message\":\"cannot create pods/exec\"}", 403,
           "kubernetes_forbidden", "cannot create pods/exec");
    expect(401, "Unauthorized", 503, "kubernetes_unauthorized", "credentials");
    expect(503, "", 503, "unavailable", "busy");
    expect(500, "{\"kind\":\"Status\",\"message\":\"container not\\nrunning\"}", 502, "sandbox_unreachable",
           "container not running");
    expect(400, "<html>\xff\x1b[31m", 502, "sandbox_unreachable", "<html>");
    ck_assert(upgrade_refuses_protocol(400, slice_of("unable to upgrade: unrecognised protocol")));
    ck_assert(upgrade_refuses_protocol(403, slice_of("unsupported")));
    ck_assert(!upgrade_refuses_protocol(403, slice_of("{\"kind\":\"Status\",\"reason\":\"Forbidden\"}")));
    ck_assert(!upgrade_refuses_protocol(404, slice_of("")));
}
END_TEST

int main(void) {
    Suite *s = suite_create("upgrade");
    TCase *t = tcase_create("upgrade");
    tcase_add_test(t, the_request_is_exact);
    tcase_add_test(t, S2_only_a_correct_101_counts);
    tcase_add_test(t, I14_refusals_are_named);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
