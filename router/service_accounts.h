/* Kubernetes service accounts as callers (http-api.md 3.4, an opt-in; lessons S9, I34): the cluster is
 * asked who holds a token, for our audiences only, and a list of namespaces says whom we let in. */
#pragma once

#include "backend/backend.h"
#include "router/identity.h"
#include "router/jwt.h"

struct service_accounts {
    char **audiences;       /* NULL-terminated; owned */
    bool cluster_audience;  /* also tokens made for the API server itself, as pods find them */
    const char *namespaces; /* comma-separated; "*" = all; borrowed */
    const char *admin_group;
};

/* Whether a username is "system:serviceaccount:NS:NAME" of a namespace in the list. Pure. */
bool service_account_allowed(const char *username, const char *namespaces);

enum service_account_result {
    SERVICE_ACCOUNT_OK,          /* `out` is filled in; free with identity_free */
    SERVICE_ACCOUNT_REFUSED,     /* 401 invalid_token */
    SERVICE_ACCOUNT_UNAVAILABLE, /* 503: the cluster does not answer, nothing is known */
};
/* Whether a token says that it is a service account's, of whatever namespace. Pure. */
bool service_account_claimed(const struct jwt *token);
/* Whether it is worth asking: a token whose own claims name somebody that the list lets in. Claims
 * are not believed, they only spare the cluster a question. Pure. */
bool service_account_plausible(const struct service_accounts *accounts, const struct jwt *token);
/* Asks. Waits: worker threads only. */
enum service_account_result service_account_review(const struct service_accounts *accounts,
                                                   struct backend *backend, const char *token,
                                                   struct identity *out, struct error *err);
