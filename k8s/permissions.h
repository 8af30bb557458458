/* Asks the apiserver whether the account may do what a program does (SelfSubjectAccessReview) and names in
 * the log what is missing (lessons I15, I37): at the start, and as long as something is missing every minute,
 * so that the log says when it was mended. */
#pragma once

#include "k8s/client.h"

struct permission {
    const char *group, *resource, *subresource; /* "" for none */
    const char *namespace;                      /* NULL: in all */
    const char *verbs;                          /* separated by spaces */
    const char *use;                            /* what does not work without it */
    bool optional;                              /* one can do without: said once, and no warning */
    const char *name;                           /* of the one object; NULL: of any */
};

struct permission_check;
/* Asks on a thread of its own, again and again until the apiserver has answered everything. `client` is
 * borrowed, and so are the texts but for namespaces; `program` is its name in the log. */
struct permission_check *permission_check_start(struct k8s_client *client, const char *program,
                                                const struct permission *list, size_t count,
                                                struct error *err);
void permission_check_stop(struct permission_check *check); /* NULL is fine */
