/* The names of a sandbox's objects, and the metadata that all of them carry (crds.md 8, 9). Pure. */
#pragma once

#include "backend/store.h"

#define LABEL_SANDBOX    "agenttier.io/sandbox"
#define LABEL_MANAGED    "agenttier.io/managed"
#define LABEL_TEMPLATE   "agenttier.io/template"
#define LABEL_SNAPSHOT   "agenttier.io/cloned-from-snapshot"
#define LABEL_PURPOSE    "agenttier.io/secret-purpose"
#define ANNOTATION_EMAIL "agenttier.io/created-by"
/* On pods that get the runtime from us: "exec"; and the id of the container in which it runs. */
#define ANNOTATION_DELIVERY      "agenttier.io/runtime-delivery"
#define ANNOTATION_RUNTIME_READY "agenttier.io/runtime-ready"

#define MAIN_CONTAINER "sandbox"

/* malloc'ed. */
char *name_of_pod(const struct object *sandbox);
char *name_of_claim(const struct object *sandbox);
char *name_of_policy(const struct object *sandbox);
char *name_of_token(const struct object *sandbox);
char *name_of_scoped_key(const struct object *sandbox);

/* {name, namespace, labels: {sandbox, managed}, ownerReferences: [the sandbox]}: a new reference. */
json_t *metadata_of(const struct object *sandbox, const char *name);
void metadata_label(json_t *metadata, const char *key,
                    const char *value); /* left out when not a label value */

/* The uid of the Sandbox that controls `object`, "" when none does. */
const char *owner_uid(const struct object *object);
/* The name of that Sandbox, NULL when none does. */
const char *owner_name(const struct object *object);
bool is_owned_by(const struct object *object, const struct object *sandbox);
/* Whether the object of that uid, of whatever kind, controls it. */
bool is_controlled_by(const struct object *object, const char *uid);
