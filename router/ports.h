/* Port forwards: Service objects "pf-<sandbox>-<port>" (http-api.md 2.10, 4.5). */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"

#include <time.h>

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

/* Where previews are published by Ingresses. Texts may be "" but the domain. */
struct port_publishing {
    const char *domain, *class_name, *tls_secret;
};
/* The Ingress of a forward, or NULL with 400 when the host's first label would pass 63 characters. Pure. */
json_t *port_ingress(const struct object *sandbox, int port, const struct port_publishing *to,
                     struct error *err);
/* Makes, corrects or removes the Ingress of a forward. Without a domain there is none. Blocks. */
bool port_publish(struct store *store, const struct object *sandbox, int port,
                  const struct port_publishing *to, struct error *err);
bool port_unpublish(struct store *store, const struct object *sandbox, int port,
                    const struct port_publishing *to, struct error *err);
/* Whether a forward's object was made for exactly this sandbox, not for an earlier one of its name. */
bool port_belongs_to(const struct object *forward, const struct object *sandbox);

/* One forward as the API shows it: a new reference. `base_url` ("http://host") and
 * `preview_domain` (may be "") are the caller's. Pure. */
json_t *port_json(const json_t *service, const char *sandbox, const char *base_url,
                  const char *preview_domain);

/* ---- which port has a name: claims in an annotation of the Sandbox, written against its version, so that of
 * two requests for one name, also on two replicas, one gets it ---- */
#define ANNOTATION_PORT_NAMES "agenttier.io/port-names"
/* A claim counts for so long without a forward that bears it out: its request may be under way. */
#define PORT_CLAIM_FRESH_S 60

/* Whether the forward of that port is there and has the name. */
typedef bool port_is_named_fn(void *ctx, int port, const char *name);
/* Claims the name for the port in `sandbox`, a whole object that is changed in place; the port's other names,
 * and claims that nothing bears out, go. 0: done; else the port that has the name. */
int port_name_claim(json_t *sandbox, const char *name, int port, time_t now, port_is_named_fn *is_named,
                    void *ctx);
/* The port that the name is claimed for; 0: none. Pure. */
int port_name_claimed(const json_t *sandbox, const char *name);
/* Drops the claims of a port; false: it had none. */
bool port_name_release(json_t *sandbox, int port);

int port_of(const json_t *service); /* 0 when it has none */
const char *port_name(const json_t *service, char scratch[8]);
const char *port_protocol(const json_t *service);
