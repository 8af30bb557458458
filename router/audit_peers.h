/* The histories of the other replicas: each Router keeps its own file, a question is answered from all of
 * them. They are asked with the caller's own credential, over HTTP, at addresses that only the configuration
 * names. */
#pragma once

#include "router/request.h"

/* Asks every other Router that --history-peers names what this request asks, for its own actions. Their
 * entries are appended to `events`, which is then put in order and cut to `limit`; `*cursor` (malloc'ed or
 * NULL, of this Router's own page) becomes that of the next page. `missing` gets the addresses of those that
 * did not answer in time. Waits: worker threads only. */
void audit_ask_peers(struct request *r, json_t *events, int limit, char **cursor, json_t *missing);

/* Sorts entries by their cursors, the first on a page first, and cuts; true when something was cut. Pure. */
bool audit_merge(json_t *events, int limit);
