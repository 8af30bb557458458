/* Calls to a kube-apiserver that wait for their answer: JSON over libcurl with connections that
 * are kept and used again. For worker threads, never for a loop. There is no throttle of our own
 * (W-89): the apiserver's priority and fairness decides, and its 429 with Retry-After is obeyed. */
#pragma once

#include "common/error.h"
#include "k8s/config.h"

#include <jansson.h>

struct k8s_client;
/* Starts a thread that refreshes the credentials. `config` is borrowed. */
struct k8s_client *k8s_client_new(struct k8s_config *config, struct error *err);
void k8s_client_free(struct k8s_client *client);
/* The program ends: calls that are not answered within `ms` from now fail, whatever their deadline. */
void k8s_client_stop_in(struct k8s_client *client, int64_t ms);
struct k8s_config *k8s_client_config(struct k8s_client *client);
/* Somebody else's request was answered 401: the credentials are refreshed soon, on the client's thread. */
void k8s_client_refused(struct k8s_client *client);
/* Somebody else's request had no answer: the apiserver is away, or was. */
void k8s_client_unanswered(struct k8s_client *client);
/* Whether the apiserver was away a moment ago. One that has just started refuses everybody (403) until it has
 * read the roles: such a refusal says nothing of the account's permissions. */
bool k8s_client_just_back(struct k8s_client *client);
/* Makes a 403 for a lack of permissions a 503, when it says nothing. */
void k8s_client_doubt(struct k8s_client *client, struct error *err);
/* Calls so far, and those that had no answer or a 5xx. */
void k8s_client_counts(struct k8s_client *client, uint64_t *calls, uint64_t *failures);

/* One call. `path` is "/api/v1/namespaces/x/pods/y?query", already percent-encoded. `content_type`
 * NULL: application/json. `body` is borrowed, NULL for none. `*answer` (may be NULL) gets a new
 * reference. Thread-safe.
 *
 * A Status answer becomes an error with the apiserver's own message: 404 not_found, 409 already_exists
 * or conflict (by reason), 403 kubernetes_forbidden (says which verb and resource; 503 while k8s_client_doubt
 * says so), 400 or 422 as 400
 * admission_rejected, 403 quota as 403 quota_exceeded, 429 and 5xx and no answer at all as 503 unavailable
 * with retry_after. A 401 refreshes the credentials and tries once more. 403 of an admission plugin as 403
 * admission_rejected. Deadlines: 5 s to connect, 30 s in all; answers up to 16 MiB; a 429 with a
 * Retry-After of at most 2 s is waited for, twice. */
bool k8s_call(struct k8s_client *client, const char *method, const char *path, const char *content_type,
              const json_t *body, json_t **answer, struct error *err);
