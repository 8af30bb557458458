/* Templates: resolution along inheritsFrom and merging into what a sandbox runs with.
 * Pure, apart from reads of the store's memory. (controller.md 6) */
#pragma once

#include "backend/store.h"

/* The merged spec of the template that `sandbox` references with the sandbox's own spec
 * laid over it (controller.md 6.1 to 6.3, with W5 repaired: timeout and idleTimeout fall back to the
 * template). New reference:
 *   {templateName, templateResourceVersion,     "" without a templateRef
 *    storage: {mountPath, ...},                 mountPath always; size may be absent (= 10Gi)
 *    mode?, image?, resources?, network?, security?, timeout?, idleTimeout?, runtimeClass?,
 *    serviceAccount?, env?, credentials?, sidecars?, initContainers?, harness?, files?, initScripts?}
 * Members that are there are neither null, nor empty strings or lists, and of the schema's
 * type: one of another type, or null, counts as absent.
 * A timeout of the sandbox wins even when it says "0s", no limit.
 *
 * NULL with err, whose message begins with "Template resolution failed: ":
 *   404 template_not_found   it, or an ancestor, is missing or of an unknown kind
 *   400 template_circular    it inherits from itself
 *   400 template_too_deep    more than 10 levels */
json_t *template_resolve(struct store *store, const json_t *sandbox, struct error *err);

/* The templates that a local installation starts out with: JSON texts of
 * ClusterSandboxTemplates, ended by NULL. */
const char *const *builtin_templates(void);
