/* What a head says of the request's framing, and the rules of its headers that router/inbound.c, which saw it
 * first, does not know: Host, Expect, and credentials that come twice. */
#pragma once

#include "common/error.h"

#include <microhttpd.h>
#include <stdint.h>

struct framing {
    int64_t body_length; /* 0 none, -1 chunked */
    bool expect_continue;
};

/* False: 400, or 417 for an expectation that nobody has, after which the connection must be closed. */
bool framing_check(struct MHD_Connection *connection, const char *version, struct framing *out,
                   struct error *err);
