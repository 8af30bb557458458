/* Gets a small document from an identity provider (lessons S7). Blocks: for the threads of
 * router/oidc.c only. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <stdatomic.h>

struct oidc_fetch {
    const char *ca_file;         /* PEM bundle, NULL or "" = the system's */
    const _Atomic bool *give_up; /* set by another thread: the transfer ends at once */
};

/* https, or http to a loopback address: the only places that keys are taken from. Pure. */
bool oidc_url_allowed(const char *url);

/* A 200 answer's body of at most `limit` bytes, appended to `out`. At most three redirects, to https
 * only; 10 s in all. 502 unavailable otherwise, with the reason. */
bool oidc_fetch(const struct oidc_fetch *how, const char *url, size_t limit, struct buffer *out,
                struct error *err);
