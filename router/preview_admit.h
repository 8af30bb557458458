/* Whether a request may go to a previewed application, before anything of it does. */
#pragma once

#include "common/http1.h"
#include "router/preview_headers.h"
#include "router/preview_upgrade.h"
#include "router/request.h"

struct preview_headers {
    struct http1_header items[HTTP1_MAX_HEADERS];
    size_t count;
    bool overflow;
};

/* The request's headers, valid as long as the request; `overflow`: it has more than fit. */
void preview_collect_headers(struct request *r, struct preview_headers *out);

int preview_port(const struct request *r); /* of the path; 0: it is no port */

/* Finds out what the request asks to be upgraded to and whether it may, that the port is forwarded, and
 * counts it among the loop's proxied requests: true needs one upstream_pool_leave(). */
bool preview_admit(struct request *r, int port, char prefix[PREVIEW_PREFIX_MAX],
                   struct preview_upgrade *upgrade, struct error *err);
