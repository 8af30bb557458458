/* Use of a sandbox keeps its idle timeout from running out (http-api.md 4.3, W-19). */
#pragma once

#include "router/request.h"

/* Notes that r->sandbox is used now. Writes status.lastActivityTimestamp at most once in
 * min(60 s, idleTimeout/4), on a worker thread, best effort. Call on the loop. */
void router_touch(struct request *r);
/* How often something that goes on for long must say so again. */
uint64_t router_touch_interval_ms(const struct request *r);
