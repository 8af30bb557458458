/* Forwarding headers: the first line is --trusted-proxies, then the peer, X-Forwarded-For and X-Real-IP. The
 * outcome is an address or the peer's text, and a stranger's headers change nothing. */
#include "common/bytes.h"
#include "router/forwarded.h"
#include "tests/fuzz/fuzz.h"

#include <arpa/inet.h>

static char *take_line(struct slice *rest) {
    const char *end = rest->len ? memchr(rest->ptr, '\n', rest->len) : NULL;
    size_t n = end ? (size_t)(end - rest->ptr) : rest->len;
    char *line = slice_dup(slice_make(rest->ptr, n));
    size_t used = n + (end ? 1 : 0);
    *rest = slice_make(rest->ptr + used, rest->len - used);
    return line;
}

static bool is_address(const char *text) {
    unsigned char ip[16];
    return inet_pton(AF_INET, text, ip) == 1 || inet_pton(AF_INET6, text, ip) == 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice rest = slice_make((const char *)data, size);
    cleanup_free char *trusted = take_line(&rest), *peer = take_line(&rest), *list = take_line(&rest),
                      *real = take_line(&rest);
    struct config config = {.trusted_proxies = trusted};
    char out[64];
    if (strlen(peer) >= sizeof out) peer[sizeof out - 1] = '\0';
    forwarded_networks_valid(trusted);
    forwarded_client_ip(&config, peer, list, real, out);
    MUST(strcmp(out, peer) == 0 || is_address(out));
    if (!forwarded_trusts(&config, peer)) MUST(strcmp(out, peer) == 0);
    struct config nobody = {.trusted_proxies = ""};
    forwarded_client_ip(&nobody, peer, list, real, out);
    MUST(strcmp(out, peer) == 0);
    if (forwarded_host_valid(list)) MUST(!strpbrk(list, " /@?#\r\t\\\"<>%"));
    return 0;
}
