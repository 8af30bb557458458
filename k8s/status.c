#include "k8s/status.h"

#include "common/json.h"

#define RETRY_SECONDS     5
#define RETRY_SECONDS_MAX 300

static bool says(const char *message, const char *part) {
    return strstr(message, part) != NULL;
}

static bool has_cause(const json_t *body, const char *member, const char *value) {
    size_t i;
    json_t *cause;
    json_array_foreach(json_at(body, "details.causes"), i, cause) {
        if (strcmp(json_str_at(cause, member), value) == 0) return true;
    }
    return false;
}

static void unavailable(int retry_after, const char *what, const char *message, struct error *err) {
    error_set(err, 503, ERR_UNAVAILABLE, "the Kubernetes API cannot %s now: %s", what, message);
    if (!err) return;
    err->retry_after = retry_after > 0 ? retry_after : RETRY_SECONDS;
    if (err->retry_after > RETRY_SECONDS_MAX) err->retry_after = RETRY_SECONDS_MAX;
}

static void missing(const json_t *body, const char *what, const char *message, struct error *err) {
    /* No such object, or no such kind of object: only the first is the client's business. */
    if (json_str_at(body, "details.name")[0] != '\0')
        error_set(err, 404, ERR_NOT_FOUND, "%s", message);
    else
        unavailable(30, what, "it does not know this resource; are the AgentTier CRDs installed?", err);
}

static void forbidden(const json_t *body, const char *message, struct error *err) {
    if (says(message, "exceeded quota"))
        error_set(err, 403, "quota_exceeded", "%s", message);
    else if (has_cause(body, "reason", "NamespaceTerminating"))
        error_set(err, 409, "namespace_terminating", "%s", message);
    else if (says(message, " cannot ") && says(message, " resource "))
        error_set(err, 403, ERR_KUBERNETES_FORBIDDEN, "the service account lacks a permission: %s", message);
    else
        error_set(err, 403, "admission_rejected", "%s", message);
}

void k8s_status_error(long http_status, const json_t *body, const char *what, int retry_after,
                      struct error *err) {
    const char *reason = json_str_at(body, "reason"), *message = json_str_at(body, "message");
    char plain[64];
    if (!message[0]) {
        snprintf(plain, sizeof plain, "HTTP status %ld", http_status);
        message = plain;
    }
    const json_t *seconds = json_at(body, "details.retryAfterSeconds");
    if (retry_after == 0 && json_is_integer(seconds) && json_integer_value(seconds) > 0)
        retry_after = json_integer_value(seconds) < RETRY_SECONDS_MAX ? (int)json_integer_value(seconds)
                                                                      : RETRY_SECONDS_MAX;
    switch (http_status) {
    case 400: error_set(err, 400, "admission_rejected", "%s", message); return;
    case 401: unavailable(30, what, "it does not accept the Router's credentials", err); return;
    case 403: forbidden(body, message, err); return;
    case 404: missing(body, what, message, err); return;
    case 409:
        error_set(err, 409, strcmp(reason, "AlreadyExists") == 0 ? ERR_ALREADY_EXISTS : ERR_CONFLICT, "%s",
                  message);
        return;
    case 410: error_set(err, 409, ERR_CONFLICT, "%s", message); return;
    case 413: error_set(err, 413, "too_large", "%s", message); return;
    case 422:
        /* A merge patch that states the uid of an object that is gone (client-go reads it so, too). */
        if (has_cause(body, "field", "metadata.uid"))
            error_set(err, 409, ERR_CONFLICT, "it is another object of the same name now: %s", message);
        else
            error_set(err, 400, "admission_rejected", "%s", message);
        return;
    default:
        if (http_status == 429 || http_status >= 500)
            unavailable(retry_after, what, message, err);
        else
            error_set(err, 502, "bad_answer", "the Kubernetes API answered \"%s\" to %s", message, what);
    }
}

void k8s_no_answer(const char *what, const char *why, struct error *err) {
    unavailable(0, what, why, err);
}
