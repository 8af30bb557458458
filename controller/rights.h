/* What the controller must be allowed to do, and whether it is (lessons I15, I37). */
#pragma once

#include "controller/options.h"
#include "k8s/permissions.h"

/* Asks in the background (k8s/permissions.h), for `namespaces` (a list that ends with NULL), or for all when
 * there are none. */
struct permission_check *rights_check(struct k8s_client *client, const struct options *options,
                                      const char *const *namespaces, struct error *err);
