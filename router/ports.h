/* Port forwards: Service objects "pf-<sandbox>-<port>" (http-api.md 2.10, 4.5). */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"

#define ANNOTATION_PORT_NAME     "agenttier.io/port-name"
#define ANNOTATION_PORT_PROTOCOL "agenttier.io/port-protocol"
#define PORT_NAME_MAX            63
#define PORT_PROTOCOL_MAX        32

/* Whether the port is forwarded for exactly this sandbox, not for an earlier one of its
 * name. From memory, never blocks. */
bool port_forward_find(struct store *store, const struct object *sandbox, int port);

/* What POST .../ports asks for. */
struct port_request {
    int port;
    const char *name;     /* NULL = not given; borrowed, as protocol */
    const char *protocol; /* NULL = not given */
};
/* 400 for a port outside 1 to 65535, a name that is not a DNS label or only digits, a protocol
 * that is not a token of at most 32 characters. Pure. */
bool port_request_parse(const json_t *body, struct port_request *out, struct error *err);

/* The {port} of a path: a number, or a name (`*port` = 0). 400 for neither. Pure. */
bool port_target_parse(const char *text, int *port, struct error *err);

/* The Service to store: a new reference, or NULL with 400 when the name would pass 63 characters. Pure. */
json_t *port_service(const struct object *sandbox, int port, const char *name, const char *protocol,
                     struct error *err);

/* One forward as the API shows it: a new reference. `base_url` ("http://host") and
 * `preview_domain` (may be "") are the caller's. Pure. */
json_t *port_json(const json_t *service, const char *sandbox, const char *base_url,
                  const char *preview_domain);
int port_of(const json_t *service); /* 0 when it has none */
const char *port_name(const json_t *service, char scratch[8]);
const char *port_protocol(const json_t *service);
