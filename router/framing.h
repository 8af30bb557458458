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

/* The request line's parts as libmicrohttpd gave them; `target` is only an address, where it stood when it
 * was read, `target_len` its length up to a NUL. False: 400, more than single spaces between the parts, or a
 * NUL in the target. */
bool framing_request_line(const char *method, uintptr_t target, size_t target_len, const char *version,
                          struct error *err);

/* False: 400 (501 for a transfer coding that we do not have, 431 for too many header bytes),
 * after which the connection must be closed. */
bool framing_check(struct MHD_Connection *connection, const char *version, struct framing *out,
                   struct error *err);
