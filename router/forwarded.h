/* Whom to believe about forwarded requests (lessons S20, S21). Pure but for the configuration. */
#pragma once

#include "router/config.h"

/* Whether X-Forwarded-* from this peer address are believed: it is in --trusted-proxies, or
 * --ratelimit-trust-forwarded-headers is on and it is loopback or private. */
bool forwarded_trusts(const struct config *config, const char *peer);
/* host or host:port or [v6]:port, of safe characters only. */
bool forwarded_host_valid(const char *host);
/* The client's address: the peer, or, when the peer is trusted, the right-most entry of X-Forwarded-For
 * that is not itself a trusted proxy (W-42), else X-Real-IP. Entries may carry a port. `x_forwarded_for` is
 * all lines of that header, joined by commas; both may be NULL. `out` always gets an address in its usual
 * spelling, or the peer's text. */
void forwarded_client_ip(const struct config *config, const char *peer, const char *x_forwarded_for,
                         const char *x_real_ip, char out[64]);
/* Whether a comma-separated list holds addresses and networks only. */
bool forwarded_networks_valid(const char *list);
