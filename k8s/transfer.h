/* What all HTTP requests to an apiserver have in common: where, who, TLS, deadlines. For the files of
 * k8s/ only. */
#pragma once

#include "k8s/config.h"

#include <curl/curl.h>

#define K8S_CONNECT_TIMEOUT_MS 5000
#define K8S_CALL_TIMEOUT_MS    30000
#define K8S_IDLE_CONNECTION_S  60L /* an apiserver closes after 90 */

struct transfer {
    CURL *easy;
    struct curl_slist *headers, *connect_to;
    struct k8s_credentials *credentials;
    long status;     /* of the answer, as soon as its head begins; 0 = none yet */
    int retry_after; /* seconds, from the answer's header; 0 = none */
    char why[CURL_ERROR_SIZE];
};

/* Sets the handle up for a new request, keeping its connections. `path` begins with "/" and is
 * percent-encoded. `content_type` NULL: no body. */
void transfer_prepare(struct transfer *t, struct k8s_config *config, const char *method, const char *path,
                      const char *content_type);
/* Frees what a request needed, keeping the handle. */
void transfer_done(struct transfer *t);
/* After a failure: why, for a message. */
const char *transfer_why(const struct transfer *t, CURLcode code);
