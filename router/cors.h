/* Cross-origin requests (http-api.md 1.10; lessons S33). */
#pragma once

#include "router/request.h"

struct MHD_Response;

/* Answers an OPTIONS request and returns true; other requests, and OPTIONS to a previewed
 * application that no configured origin asks for, are left alone. */
bool cors_handle(struct request *r);
/* Whether a browser sends this for a page that is not ours: its Origin is neither the host that the request
 * is addressed to, nor this machine, nor configured; or it says "cross-site" (lessons S3). */
bool cors_foreign_page(struct request *r);
/* Whether the request is addressed to a name that somebody else may have made lead here (DNS rebinding): no
 * address, not this machine's own, and not the host of a configured origin. */
bool cors_foreign_host(struct request *r);
/* The headers for a configured origin; nothing for any other. */
void cors_add_headers(struct request *r, struct MHD_Response *response);
/* Whether the request comes from a page of a configured origin. */
bool cors_allows_origin(struct request *r);
