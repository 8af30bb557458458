/* Finding the sandbox that an id means (http-api.md 2.3, W-46), from memory. */
#pragma once

#include "router/config.h"
#include "router/identity.h"

/* The namespaces of the configuration, with their defaults. */
static inline const char *install_namespace(const struct config *c) {
    return c->namespace && c->namespace[0] ? c->namespace : "agenttier";
}
static inline const char *sandbox_namespace(const struct config *c) {
    return c->sandbox_namespace && c->sandbox_namespace[0] ? c->sandbox_namespace : "default";
}

/* With `namespace` (NULL or "" = not given), or a scoped key bound to one, only there. Else, among all of
 * that name, the one that the caller owns, first in the default namespace; else the one in the default
 * namespace; else the only one that the caller may reach. 404 otherwise, with the same text whether it does
 * not exist or belongs to somebody else; share_level_too_low for a guest with a lower level than `least`,
 * what the caller must be at least. Returns a reference. */
struct object *sandbox_lookup(struct store *store, const struct identity *caller,
                              const char *default_namespace, const char *namespace, const char *name,
                              enum access_level least, struct error *err);
