/* Upgrades: a request's wish and an application's grant. A grant is taken only for what was asked for. The
 * input is a request head and an answer head, one after the other. */
#include "router/preview_upgrade.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct http1_head request, answer;
    struct error err = {0};
    struct slice in = {(const char *)data, size};
    ssize_t n = http1_parse_request(in, &request, &err);
    error_clear(&err);
    if (n <= 0) return 0;
    cleanup_free char *method = slice_dup(request.method);
    struct preview_upgrade up;
    int64_t length = request.framing == HTTP1_BODY_CHUNKED ? -1 : (int64_t)request.content_length;
    bool ok = preview_upgrade_wanted(request.headers, request.header_count, method, request.minor == 0,
                                     length, &up, &err);
    if (!ok) MUST(err.status == 400);
    error_clear(&err);
    if (ok && up.protocol[0]) {
        MUST(strlen(up.protocol) < PREVIEW_PROTOCOL_MAX && length == 0 && request.minor == 1 &&
             request.upgrade);
        MUST(http1_value_valid(slice_of(up.protocol)) && !strpbrk(up.protocol, " ,;"));
        if (up.websocket) MUST(strlen(up.accept) == 28 && strcmp(method, "GET") == 0);
    }
    struct slice rest = {in.ptr + n, in.len - (size_t)n};
    n = http1_parse_response(rest, "GET", &answer, &err);
    error_clear(&err);
    if (n <= 0 || !ok) return 0;
    if (preview_upgrade_granted(&up, &answer, &err)) {
        MUST(up.protocol[0] && answer.status == 101 && answer.upgrade);
        MUST(slice_equal_nocase(http1_find(&answer, "upgrade")->value, up.protocol));
        if (up.websocket)
            MUST(slice_equal_str(http1_find(&answer, "sec-websocket-accept")->value, up.accept));
    } else {
        MUST(err.status == 502);
    }
    error_clear(&err);
    return 0;
}
