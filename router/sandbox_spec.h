/* What a client asks for when it creates or changes a sandbox, as the members of a Sandbox
 * resource. Pure: what depends on stored objects is passed in. (http-api.md 2.4, 2.5, 4.2;
 * tutorial.md rows 3, 10) */
#pragma once

#include "router/identity.h"

/* The body of POST /sandboxes, checked. Texts are borrowed from the body. */
struct sandbox_request {
    const char *name;
    const char *namespace;     /* NULL = not given */
    const char *template_name; /* templateRef.name or template */
    const char *template_kind; /* NULL = not given */
    const char *template_namespace;
    json_t *spec; /* owned: timeout, idleTimeout, storage, resources, env, image, ... in canonical form */
};
void sandbox_request_free(struct sandbox_request *q);
#define cleanup_sandbox_request __attribute__((cleanup(sandbox_request_free)))

/* 400 that names the member for anything that is wrong. Members of `overrides` win over
 * those beside it. */
bool sandbox_request_parse(const json_t *body, struct sandbox_request *out, struct error *err);

/* The Sandbox to create: a new reference. `kind` is the template's kind as resolved (W-18), `mode` the
 * template's own mode ("" = none). */
json_t *sandbox_request_object(const struct sandbox_request *q, const char *namespace, const char *kind,
                               const char *mode, const struct identity *owner);

/* spec.createdBy of a caller: a new reference. */
json_t *sandbox_created_by(const struct identity *owner);

/* Lays what a sandbox sets of `resources` and `storage` over the values of its template (a
 * resolved spec, may be NULL), member by member. The resource replaces those objects as a whole, so
 * without this a sandbox that sets its cpu would lose the template's memory limit. Requests
 * are lowered to the limits. Changes spec. */
void sandbox_spec_inherit(json_t *spec, const json_t *template_spec);

/* Whether a caller may put sandboxes into a namespace, or take templates from there (W-06):
 * administrators anywhere; others not in kube-* and not in the install namespace. */
bool sandbox_namespace_allowed(const struct identity *caller, const char *namespace,
                               const char *install_namespace, const char *sandbox_namespace);

/* Whether one of `grants` ("NAMESPACE=GROUP", comma-separated; GROUP may be "*", everybody) lets the caller
 * put sandboxes there; administrators always may, and everybody when there are no grants (W-06). Pure. */
bool sandbox_namespace_granted(const struct identity *caller, const char *namespace, const char *grants);
/* Whether each of them has both parts. */
bool sandbox_grants_valid(const char *grants);

/* The merge patch of `metadata` and `spec` that a PATCH body asks for (http-api.md 2.5), a
 * new reference, or NULL with 400. `applied` (a new reference) is the answer's member. JSON
 * null removes (W-77). */
json_t *sandbox_patch_parse(const json_t *body, json_t **applied, struct error *err);
