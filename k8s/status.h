/* What an apiserver answers when it does not do what was asked (meta/v1 Status), as an error for the
 * Router's clients (http-api.md 1.7, W-37). Pure. */
#pragma once

#include "common/error.h"

#include <jansson.h>

#define ERR_KUBERNETES_FORBIDDEN "kubernetes_forbidden" /* 403: the account lacks a permission */

/* `http_status` is 300 or above; `body` the answer, or NULL when it was no JSON; `what` names the call in
 * messages ("create sandboxes"); `retry_after` comes from the header, 0 = none. See k8s_call for the mapping.
 */
void k8s_status_error(long http_status, const json_t *body, const char *what, int retry_after,
                      struct error *err);
/* For an apiserver that gave no answer, or none that can be read. */
void k8s_no_answer(const char *what, const char *why, struct error *err);
