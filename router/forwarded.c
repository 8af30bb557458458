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

bool forwarded_networks_valid(const char *list) {
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        struct slice cidr = slice_trim(slice_make(at, n));
        const char *slash = memchr(cidr.ptr, '/', cidr.len);
        unsigned char net[16];
        uint64_t bits;
        struct slice address = slice_make(cidr.ptr, slash ? (size_t)(slash - cidr.ptr) : cidr.len);
        struct slice length = slash ? slice_make(slash + 1, cidr.len - address.len - 1) : slice_make(NULL, 0);
        bool v4 = !memchr(address.ptr, ':', address.len);
        if (cidr.len > 0 &&
            (!parse_ip(address, net) || (slash && !slice_parse_u64(length, v4 ? 32 : 128, &bits))))
            return false;
        at += n + (at[n] == ',');
    }
    return true;
}

/* "1.2.3.4:567" and "[::1]:567" lose their port, "[::1]" its brackets. */
static struct slice without_port(struct slice entry) {
    if (entry.len > 0 && entry.ptr[0] == '[') {
        const char *end = memchr(entry.ptr, ']', entry.len);
        return end ? slice_make(entry.ptr + 1, (size_t)(end - entry.ptr) - 1) : entry;
    }
    const char *colon = memchr(entry.ptr, ':', entry.len);
    bool alone = colon && !memchr(colon + 1, ':', entry.len - (size_t)(colon - entry.ptr) - 1);
    return alone ? slice_make(entry.ptr, (size_t)(colon - entry.ptr)) : entry;
}

/* An entry in its usual spelling, so that one client has one name. */
static bool read_entry(struct slice entry, char out[64]) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    unsigned char ip[16];
    if (!parse_ip(without_port(slice_trim(entry)), ip)) return false;
    if (memcmp(ip, mapped, sizeof mapped) == 0) return inet_ntop(AF_INET, ip + 12, out, 64) != NULL;
    return inet_ntop(AF_INET6, ip, out, 64) != NULL;
}

void forwarded_client_ip(const struct config *config, const char *peer, const char *x_forwarded_for,
                         const char *x_real_ip, char out[64]) {
    snprintf(out, 64, "%s", peer);
    if (!forwarded_trusts(config, peer)) return;
    if (!x_forwarded_for || !x_forwarded_for[0]) {
        char real[64];
        if (x_real_ip && read_entry(slice_of(x_real_ip), real)) memcpy(out, real, sizeof real);
        return;
    }
    size_t end = strlen(x_forwarded_for);
    while (end > 0) {
        size_t start = end;
        while (start > 0 && x_forwarded_for[start - 1] != ',')
            start--;
        char entry[64];
        if (!read_entry(slice_make(x_forwarded_for + start, end - start), entry)) return;
        memcpy(out, entry, sizeof entry);
        if (!forwarded_trusts(config, out)) return;
        end = start > 0 ? start - 1 : 0;
    }
}
