#include "router/service_accounts.h"

#include "common/json.h"

#include <string.h>

static const char prefix[] = "system:serviceaccount:";

static bool namespace_listed(struct slice namespace, const char *list) {
    while (*list) {
        size_t n = strcspn(list, ",");
        struct slice item = slice_trim(slice_make(list, n));
        if (slice_equal_str(item, "*") || (item.len > 0 && slice_equal(item, namespace))) return true;
        list += n + (list[n] == ',');
    }
    return false;
}

bool service_account_allowed(const char *username, const char *namespaces) {
    if (!username || strncmp(username, prefix, sizeof prefix - 1) != 0) return false;
    const char *namespace = username + sizeof prefix - 1;
    const char *colon = strchr(namespace, ':');
    if (!colon || colon == namespace || !colon[1] || strchr(colon + 1, ':')) return false;
    return namespace_listed(slice_make(namespace, (size_t)(colon - namespace)), namespaces);
}

bool service_account_claimed(const struct jwt *token) {
    return strncmp(json_str_at(token->claims, "sub"), prefix, sizeof prefix - 1) == 0;
}

bool service_account_plausible(const struct service_accounts *accounts, const struct jwt *token) {
    return service_account_allowed(json_str_at(token->claims, "sub"), accounts->namespaces);
}

static bool is_member(const json_t *groups, const char *group) {
    size_t i;
    json_t *item;
    json_array_foreach(groups, i, item) {
        const char *name = json_string_value(item);
        if (name && strcmp(name, group) == 0) return true;
    }
    return false;
}

/* Asks for the audiences that have names, then, where that is wanted, for the API server's own. */
static bool ask(const struct service_accounts *accounts, struct backend *backend, const char *token,
                struct token_review *out, struct error *err) {
    static const char *const own[] = {NULL};
    if (accounts->audiences[0] &&
        !backend->review_token(backend, token, (const char *const *)accounts->audiences, out, err))
        return false;
    if (out->authenticated || !accounts->cluster_audience) return true;
    token_review_free(out);
    *out = (struct token_review){0};
    return backend->review_token(backend, token, own, out, err);
}

enum service_account_result service_account_review(const struct service_accounts *accounts,
                                                   struct backend *backend, const char *token,
                                                   struct identity *out, struct error *err) {
    struct token_review review = {0};
    memset(out, 0, sizeof *out);
    if (!ask(accounts, backend, token, &review, err)) {
        error_wrap(err, "the bearer token could not be checked with the cluster");
        /* Whatever keeps us from knowing is no fault of the caller's: never 401 or 403 (S9). */
        err->status = 503;
        err->code = ERR_UNAVAILABLE;
        if (err->retry_after == 0) err->retry_after = 1;
        return SERVICE_ACCOUNT_UNAVAILABLE;
    }
    bool good = review.authenticated && service_account_allowed(review.username, accounts->namespaces);
    if (good) {
        out->auth_method = AUTH_BY_BEARER;
        out->sub = xstrdup(review.username);
        out->email = xstrdup("");
        out->name = xstrdup(strrchr(review.username, ':') + 1);
        out->groups = json_is_array(review.groups) ? json_incref(review.groups) : NULL;
        out->is_admin = accounts->admin_group[0] && is_member(review.groups, accounts->admin_group);
    } else {
        error_set(err, 401, "invalid_token", "the bearer token was refused: %s",
                  review.authenticated ? "its holder is not a service account of an accepted namespace"
                                       : "the cluster does not accept it for this audience");
    }
    token_review_free(&review);
    return good ? SERVICE_ACCOUNT_OK : SERVICE_ACCOUNT_REFUSED;
}
