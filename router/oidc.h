/* OpenID Connect issuers (http-api.md 3.4, W-23, W-24): their keys are fetched and kept current by
 * a thread for each issuer, and their tokens are checked with what is in memory. A failed fetch is
 * retried with backoff and never takes keys away (lessons S7). */
#pragma once

#include "common/bytes.h"
#include "router/jwt.h"

struct oidc_options {
    const char *issuers;       /* comma-separated URLs; the first one's subjects are taken as they are */
    const char *audiences;     /* comma-separated: client ids or audiences, any of which a token must name */
    const char *subjects_only; /* comma-separated: of the issuers, whose groups and addresses open nothing */
    const char *group_claim, *admin_group;
    const char *ca_file;
    void (*keys_changed)(void *ctx); /* on a thread of ours: what was verified before may not hold */
    void *ctx;
};

struct oidc;
/* NULL with 400 for a URL that cannot be an issuer's, and for subjects_only of an issuer that is none.
 * Starts the threads. */
struct oidc *oidc_new(const struct oidc_options *options, struct error *err);
void oidc_free(struct oidc *oidc); /* NULL is fine */

/* Whether the token says that it is from one of the issuers. */
bool oidc_knows(const struct oidc *oidc, const struct jwt *token);
/* And whether it is meant for us: by its audience, too. Neither says that it is good. */
bool oidc_is_for_us(const struct oidc *oidc, const struct jwt *token);

enum oidc_result {
    OIDC_OK,          /* `out` is filled in; free with identity_free */
    OIDC_REFUSED,     /* 401 invalid_token */
    OIDC_UNKNOWN_KEY, /* the issuer may have a new key: oidc_refresh, then once more */
};
/* From memory, never waits. `*expiry`: when the token ends, without leeway. */
enum oidc_result oidc_verify(struct oidc *oidc, const struct jwt *token, struct identity *out, time_t *expiry,
                             struct error *err);
/* Asks for the keys of the token's issuer and waits for them, at most 5 s. False at once when they were
 * asked for a moment ago (W-24: rate-limited). For worker threads. */
bool oidc_refresh(struct oidc *oidc, const struct jwt *token);

/* Prometheus series; and lines on issuers whose keys are not there, for /readyz. */
void oidc_render_metrics(struct oidc *oidc, struct buffer *out);
void oidc_render_state(struct oidc *oidc, struct buffer *out);
