/* Comparing resourceVersions as Kubernetes allows it since 1.34: those of one kind of resource are
 * decimal numbers of any size, of which the greater is the newer. Anything else is opaque. Pure. */
#pragma once

#include <stdbool.h>

/* False: they cannot be compared. *order is below, at or above 0 as `a` is older, the same or newer. */
bool resource_version_compare(const char *a, const char *b, int *order);
