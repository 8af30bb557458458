/* Label and field selectors, as far as watches of this program use them: an apiserver evaluates them for
 * lists, we for objects that we wrote ourselves. Pure. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

/* Whether a selector can be evaluated here: "key=value", "key!=value" and "key", comma-separated. */
bool selector_supported(const char *selector);
/* NULL or "" selects everything. */
bool selector_labels(const char *selector, const json_t *object);
/* As selector_labels, where a key is a dotted path such as "metadata.name". */
bool selector_fields(const char *selector, const json_t *object);
