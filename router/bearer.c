#include "router/bearer.h"

#include "common/log.h"
#include "router/oidc.h"
#include "router/service_accounts.h"
#include "router/token_cache.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define ACCEPTED_MAX       8192 /* tokens remembered */
#define REFUSED_MAX        8192
#define ISSUED_MS          (5 * 60 * 1000) /* how long a verified JWT is not looked at again */
#define SERVICE_ACCOUNT_MS (60 * 1000)     /* and a reviewed one: the pod may be gone */
#define REFUSED_MS         (10 * 1000)
#define AUDIENCES_MAX      16

struct bearer {
    struct backend *backend;
    struct oidc *oidc; /* NULL = no issuer */
    struct service_accounts accounts;
    bool reviews; /* service accounts are on */
    struct token_cache *accepted, *refused;
    _Atomic uint64_t reviewed, review_failures;
};

static void forget_all(void *ctx) {
    token_cache_clear(((struct bearer *)ctx)->accepted);
}

/* "kubernetes" is not the name of an audience but stands for the API server's own, whatever that is called.
 */
static char **split_audiences(const char *list, bool *cluster_audience) {
    char **out = xcalloc(AUDIENCES_MAX + 1, sizeof *out);
    for (size_t count = 0; *list && count < AUDIENCES_MAX;) {
        size_t n = strcspn(list, ",");
        struct slice item = slice_trim(slice_make(list, n));
        if (slice_equal_str(item, "kubernetes"))
            *cluster_audience = true;
        else if (item.len > 0)
            out[count++] = slice_dup(item);
        list += n + (list[n] == ',');
    }
    return out;
}

struct bearer *bearer_new(const struct config *config, struct backend *backend, struct error *err) {
    struct bearer *b = xcalloc(1, sizeof *b);
    b->backend = backend;
    b->accepted = token_cache_new(ACCEPTED_MAX);
    b->refused = token_cache_new(REFUSED_MAX);
    b->accounts = (struct service_accounts){.namespaces = config->service_account_namespaces,
                                            .admin_group = config->admin_group};
    b->accounts.audiences = split_audiences(config->service_account_audience, &b->accounts.cluster_audience);
    b->reviews = b->accounts.audiences[0] || b->accounts.cluster_audience;
    if (b->reviews && !backend->review_token) {
        error_set(err, 400, ERR_BAD_REQUEST,
                  "--service-account-audience needs a cluster: this backend has no service accounts");
        bearer_free(b);
        return NULL;
    }
    if (!config->oidc_issuer[0] && config->oidc_subjects_only[0]) {
        error_set(err, 400, ERR_BAD_REQUEST, "--oidc-subjects-only needs --oidc-issuer");
        bearer_free(b);
        return NULL;
    }
    if (!config->oidc_issuer[0]) return b;
    if (config->oidc_ca_file[0] && access(config->oidc_ca_file, R_OK) != 0) {
        error_set(err, 400, ERR_BAD_REQUEST, "--oidc-ca-file=%s cannot be read: %s", config->oidc_ca_file,
                  strerror(errno));
        bearer_free(b);
        return NULL;
    }
    if (!config->oidc_client_id[0])
        log_warn("--oidc-issuer without --oidc-client-id: no token can be for us, all are refused", NULL);
    struct oidc_options options = {.issuers = config->oidc_issuer,
                                   .audiences = config->oidc_client_id,
                                   .subjects_only = config->oidc_subjects_only,
                                   .group_claim = config->group_claim,
                                   .admin_group = config->admin_group,
                                   .ca_file = config->oidc_ca_file,
                                   .keys_changed = forget_all,
                                   .ctx = b};
    b->oidc = oidc_new(&options, err);
    if (b->oidc) return b;
    bearer_free(b);
    return NULL;
}

void bearer_free(struct bearer *b) {
    if (!b) return;
    oidc_free(b->oidc);
    token_cache_free(b->accepted);
    token_cache_free(b->refused);
    for (size_t i = 0; b->accounts.audiences[i]; i++)
        free(b->accounts.audiences[i]);
    free(b->accounts.audiences);
    free(b);
}

static enum bearer_result refuse(struct error *err, const char *why) {
    error_set(err, 401, "invalid_token", "the bearer token was refused: %s", why);
    return BEARER_REFUSED;
}

/* A token is not remembered for longer than it lives. */
static int64_t lifetime_ms(int64_t most, time_t expiry) {
    int64_t left = ((int64_t)expiry + JWT_LEEWAY_SECONDS - (int64_t)time(NULL)) * 1000;
    return expiry == 0 || left > most ? most : left;
}

/* One token on its way through. */
struct attempt {
    struct token_digest digest;
    unsigned generation;
    struct jwt jwt;
};

static enum bearer_result by_issuer(struct bearer *b, struct attempt *a, struct identity *out,
                                    struct error *err) {
    time_t expiry = 0;
    switch (oidc_verify(b->oidc, &a->jwt, out, &expiry, err)) {
    case OIDC_OK:
        token_cache_put(b->accepted, &a->digest, a->generation, out, lifetime_ms(ISSUED_MS, expiry));
        return BEARER_OK;
    case OIDC_REFUSED: return BEARER_REFUSED;
    case OIDC_UNKNOWN_KEY: break;
    }
    return BEARER_MUST_WAIT;
}

static bool is_issuers(struct bearer *b, const struct attempt *a) {
    return b->oidc && oidc_knows(b->oidc, &a->jwt);
}

/* What memory and the keys in it can say. */
static enum bearer_result check(struct bearer *b, struct slice token, struct attempt *a, struct identity *out,
                                struct error *err) {
    memset(out, 0, sizeof *out);
    if (!b->oidc && !b->reviews) return refuse(err, "it is not a valid API key of this server");
    a->generation = token_cache_generation(b->accepted);
    if (token_cache_get(b->accepted, &a->digest, out) == TOKEN_ACCEPTED) return BEARER_OK;
    if (token.len > JWT_MAX || !jwt_shaped(token)) {
        jwt_parse(token, &a->jwt, err);
        return BEARER_REFUSED;
    }
    if (token_cache_get(b->refused, &a->digest, out) == TOKEN_REFUSED)
        return refuse(err, "it was refused a moment ago");
    if (!jwt_parse(token, &a->jwt, err)) return BEARER_REFUSED;
    if (is_issuers(b, a)) return by_issuer(b, a, out, err);
    if (b->reviews && service_account_plausible(&b->accounts, &a->jwt)) return BEARER_MUST_WAIT;
    if (b->reviews && service_account_claimed(&a->jwt))
        return refuse(err, "service accounts of its namespace are not let in");
    return refuse(err, "it is from another issuer (iss)");
}

enum bearer_result bearer_check(struct bearer *b, struct slice token, const struct token_digest *digest,
                                struct identity *out, struct error *err) {
    struct attempt a = {.digest = *digest};
    enum bearer_result result = check(b, token, &a, out, err);
    jwt_free(&a.jwt);
    return result;
}

static enum bearer_result by_cluster(struct bearer *b, struct attempt *a, struct slice token,
                                     struct identity *out, struct error *err) {
    cleanup_free char *text = slice_dup(token);
    atomic_fetch_add(&b->reviewed, 1);
    switch (service_account_review(&b->accounts, b->backend, text, out, err)) {
    case SERVICE_ACCOUNT_OK:
        out->expires = jwt_expiry(a->jwt.claims);
        token_cache_put(b->accepted, &a->digest, a->generation, out,
                        lifetime_ms(SERVICE_ACCOUNT_MS, jwt_expiry(a->jwt.claims)));
        explicit_bzero(text, token.len);
        return BEARER_OK;
    case SERVICE_ACCOUNT_REFUSED:
        token_cache_put(b->refused, &a->digest, token_cache_generation(b->refused), NULL, REFUSED_MS);
        break;
    case SERVICE_ACCOUNT_UNAVAILABLE: atomic_fetch_add(&b->review_failures, 1); break;
    }
    explicit_bzero(text, token.len);
    return BEARER_REFUSED;
}

enum bearer_result bearer_verify(struct bearer *b, struct slice token, struct identity *out,
                                 struct error *err) {
    struct attempt a = {.digest = token_digest_of(token)};
    enum bearer_result result = check(b, token, &a, out, err);
    if (result == BEARER_MUST_WAIT && is_issuers(b, &a)) {
        /* A kid that is not there yet: ask its issuer once. The refusal is in err already. */
        result = BEARER_REFUSED;
        if (oidc_refresh(b->oidc, &a.jwt)) {
            error_clear(err);
            a.generation = token_cache_generation(b->accepted);
            result = by_issuer(b, &a, out, err);
            if (result == BEARER_MUST_WAIT) result = BEARER_REFUSED;
        }
    } else if (result == BEARER_MUST_WAIT) {
        result = by_cluster(b, &a, token, out, err);
    }
    jwt_free(&a.jwt);
    return result;
}

bool bearer_knew(struct bearer *b, const struct token_digest *digest) {
    return token_cache_knew(b->accepted, digest);
}

bool bearer_is_ours(struct bearer *b, struct slice token) {
    struct jwt jwt;
    bool ours = jwt_parse(token, &jwt, NULL) &&
                ((b->oidc && oidc_is_for_us(b->oidc, &jwt)) || (b->reviews && service_account_claimed(&jwt)));
    jwt_free(&jwt);
    return ours;
}

void bearer_render_metrics(struct bearer *b, struct buffer *out) {
    if (b->oidc) oidc_render_metrics(b->oidc, out);
    if (!b->reviews) return;
    buffer_printf(out,
                  "# HELP agenttier_token_reviews_total Questions to the cluster about bearer tokens.\n"
                  "# TYPE agenttier_token_reviews_total counter\n"
                  "agenttier_token_reviews_total %llu\n"
                  "# HELP agenttier_token_review_failures_total Those that were not answered.\n"
                  "# TYPE agenttier_token_review_failures_total counter\n"
                  "agenttier_token_review_failures_total %llu\n",
                  (unsigned long long)atomic_load(&b->reviewed),
                  (unsigned long long)atomic_load(&b->review_failures));
}

void bearer_render_state(struct bearer *b, struct buffer *out) {
    if (b->oidc) oidc_render_state(b->oidc, out);
}
