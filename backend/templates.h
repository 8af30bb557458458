/* Templates: resolution along inheritsFrom and merging into what a sandbox runs with.
 * Pure, apart from reads of the store's memory. (controller.md 6) */
#pragma once

#include "backend/store.h"

/* The merged spec of the template that `sandbox` references with the sandbox's own spec
 * laid over it (controller.md 6.1 to 6.3, with W5 repaired: timeout and idleTimeout fall back to the
 * template). New reference: {templateName, templateResourceVersion, image, resources,
 * storage, env, timeout?, idleTimeout?, harness?, files?, initScripts?, network?, ...} or NULL with
 * err: template_not_found, circular, deeper than 10. */
json_t *template_resolve(struct store *store, const json_t *sandbox, struct error *err);
