/* Asks the apiserver once whether the account may do what the Router does (SelfSubjectAccessReview) and
 * names in the log what is missing (lessons I15, I37). */
#pragma once

#include "k8s/client.h"

struct permission_check;
/* Asks on a thread of its own, again and again until the apiserver has answered everything. `client` is
 * borrowed. `ingresses`: whether previews have a domain. */
struct permission_check *permission_check_start(struct k8s_client *client, const char *install_namespace,
                                                bool ingresses, struct error *err);
void permission_check_stop(struct permission_check *check); /* NULL is fine */
