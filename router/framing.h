/* What libmicrohttpd lets pass and a careful server must not (lessons M4, S18): checked
 * once for each request, before anything else looks at it. */
#pragma once

#include "common/error.h"

#include <microhttpd.h>
#include <stdint.h>

struct framing {
    int64_t body_length; /* 0 none, -1 chunked */
    bool expect_continue;
};

/* False: 400 (501 for a transfer coding that we do not have, 431 for too many header bytes),
 * after which the connection must be closed. */
bool framing_check(struct MHD_Connection *connection, const char *version, struct framing *out,
                   struct error *err);
