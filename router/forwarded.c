/* See forwarded.h. */
#include "router/forwarded.h"

#include "common/bytes.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>

/* An address as 16 bytes; IPv4 as ::ffff:a.b.c.d. */
static bool parse_ip(struct slice text, unsigned char out[16]) {
    char buf[64];
    if (text.len == 0 || text.len >= sizeof buf) return false;
    memcpy(buf, text.ptr, text.len);
    buf[text.len] = '\0';
    struct in_addr v4;
    if (inet_pton(AF_INET, buf, &v4) == 1) {
        memset(out, 0, 10);
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &v4, 4);
        return true;
    }
    return inet_pton(AF_INET6, buf, out) == 1;
}

static bool in_cidr(const unsigned char ip[16], struct slice cidr) {
    const char *slash = memchr(cidr.ptr, '/', cidr.len);
    size_t n = slash ? (size_t)(slash - cidr.ptr) : cidr.len;
    unsigned char net[16];
    uint64_t bits = 128;
    if (!parse_ip(slice_make(cidr.ptr, n), net)) return false;
    bool v4 = memchr(cidr.ptr, ':', n) == NULL;
    if (slash && !slice_parse_u64(slice_make(slash + 1, cidr.len - n - 1), v4 ? 32 : 128, &bits))
        return false;
    if (slash && v4) bits += 96;
    size_t whole = bits / 8;
    if (memcmp(ip, net, whole) != 0) return false;
    unsigned rest = (unsigned)(bits % 8);
    if (rest == 0) return true;
    unsigned mask = 0xffu << (8 - rest) & 0xffu;
    return (ip[whole] & mask) == (net[whole] & mask);
}

static bool in_list(const unsigned char ip[16], const char *list) {
    for (const char *at = list; *at;) {
        const char *comma = strchr(at, ',');
        size_t n = comma ? (size_t)(comma - at) : strlen(at);
        struct slice cidr = slice_trim(slice_make(at, n));
        if (cidr.len > 0 && in_cidr(ip, cidr)) return true;
        at += n + (comma ? 1 : 0);
    }
    return false;
}

bool forwarded_trusts(const struct config *config, const char *peer) {
    unsigned char ip[16];
    if (!config->trusted_proxies[0] && !config->ratelimit_trust_forwarded) return false;
    if (!parse_ip(slice_of(peer), ip)) return false;
    if (in_list(ip, config->trusted_proxies)) return true;
    return config->ratelimit_trust_forwarded &&
           in_list(ip, "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7");
}

bool forwarded_host_valid(const char *host) {
    size_t n = strlen(host);
    if (n == 0 || n > 255) return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr(".-_:[]", host[i])) return false;
    return true;
}

void forwarded_client_ip(const struct config *config, const char *peer, const char *x_forwarded_for,
                         char out[64]) {
    snprintf(out, 64, "%s", peer);
    if (!x_forwarded_for || !forwarded_trusts(config, peer)) return;
    size_t end = strlen(x_forwarded_for);
    while (end > 0) {
        size_t start = end;
        while (start > 0 && x_forwarded_for[start - 1] != ',')
            start--;
        struct slice entry = slice_trim(slice_make(x_forwarded_for + start, end - start));
        unsigned char ip[16];
        if (!parse_ip(entry, ip)) return;
        snprintf(out, 64, "%.*s", (int)entry.len, entry.ptr);
        if (!forwarded_trusts(config, out)) return;
        end = start > 0 ? start - 1 : 0;
    }
}
