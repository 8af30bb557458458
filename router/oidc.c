#include "router/oidc.h"

#include "common/lazy.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/units.h"
#include "router/jwks.h"
#include "router/oidc_fetch.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define ISSUERS_MAX       8
#define AUDIENCES_MAX     16
#define DISCOVERY_MAX     ((size_t)256 << 10)
#define REFRESH_MS        (5 * 60 * 1000)
#define RETRY_FIRST_MS    1000
#define RETRY_MAX_MS      30000
#define DEMAND_GAP_MS     10000 /* fetches that unknown keys ask for are this far apart */
#define DEMAND_TIMEOUT_MS 5000

struct issuer {
    struct oidc *oidc;
    char *url;
    char *sub_prefix;
    bool subjects_only; /* it is not asked what a caller may, only who it is */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* for all below */
    pthread_cond_t changed;
    struct jwks *keys;  /* NULL until the first success */
    bool wanted, busy;  /* somebody asks for a fetch; one is under way */
    uint64_t rounds;    /* fetches that ended */
    int64_t asked_ms;   /* when an unknown key last made us fetch */
    int64_t fresh_ms;   /* when the keys were last confirmed */
    unsigned failures;  /* since the last success */
    uint64_t good, bad; /* fetches by outcome */
};

struct oidc {
    struct issuer issuers[ISSUERS_MAX];
    size_t issuer_count;
    char *audiences[AUDIENCES_MAX + 1];
    char *group_claim, *admin_group, *ca_file;
    void (*keys_changed)(void *ctx);
    void *ctx;
    _Atomic bool stopping;
};

/* ---- fetching, on the issuer's thread ---- */

static char *discovery_url(const char *issuer) {
    size_t n = strlen(issuer);
    while (n > 0 && issuer[n - 1] == '/')
        n--;
    return xasprintf("%.*s/.well-known/openid-configuration", (int)n, issuer);
}

static bool same_but_for_slash(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > 0 && a[n - 1] == '/') n--;
    if (m > 0 && b[m - 1] == '/') m--;
    return n == m && memcmp(a, b, n) == 0;
}

static struct jwks *fetch_keys(struct issuer *issuer, struct error *err) {
    struct oidc_fetch how = {.ca_file = issuer->oidc->ca_file, .give_up = &issuer->oidc->stopping};
    cleanup_buffer struct buffer text = {0}, keys = {0};
    cleanup_free char *url = discovery_url(issuer->url);
    if (!oidc_fetch(&how, url, DISCOVERY_MAX, &text, err)) return NULL;
    cleanup_json json_t *document = json_parse_object(buffer_slice(&text), NULL);
    const char *jwks_uri = json_str_at(document, "jwks_uri");
    if (!jwks_uri[0]) {
        error_set(err, 502, ERR_UNAVAILABLE, "%.200s names no jwks_uri", url);
        return NULL;
    }
    /* An issuer that is reached safely must not send us elsewhere for its keys. */
    if (strncasecmp(issuer->url, "https://", 8) == 0 && strncasecmp(jwks_uri, "https://", 8) != 0) {
        error_set(err, 502, ERR_UNAVAILABLE, "the jwks_uri %.200s is not https", jwks_uri);
        return NULL;
    }
    const char *named = json_str_at(document, "issuer");
    if (issuer->good == 0 && !same_but_for_slash(named, issuer->url))
        log_warn("the provider calls itself by another name than --oidc-issuer; tokens must carry the latter",
                 "configured", issuer->url, "provider", named, NULL);
    if (!oidc_fetch(&how, jwks_uri, JWKS_MAX, &keys, err)) return NULL;
    struct jwks *set = jwks_parse(buffer_slice(&keys), err);
    if (!set) error_wrap(err, "%.200s", jwks_uri);
    return set;
}

static void take_keys(struct issuer *issuer, struct jwks *set) {
    struct jwks *old = issuer->keys;
    bool same = jwks_same(old, set);
    issuer->fresh_ms = monotonic_ms();
    issuer->failures = 0;
    issuer->good++;
    issuer->keys = set;
    if (!same)
        log_info("signing keys of the issuer loaded", "issuer", issuer->url, "keys",
                 log_int((int64_t)jwks_count(set)), NULL);
    if (!same && old && issuer->oidc->keys_changed) issuer->oidc->keys_changed(issuer->oidc->ctx);
    jwks_unref(old);
}

static void count_failure(struct issuer *issuer, const struct error *err) {
    issuer->bad++;
    issuer->failures++;
    if (atomic_load(&issuer->oidc->stopping)) return;
    /* Each of the first ones, then once in ten. */
    if (issuer->failures <= 3 || issuer->failures % 10 == 0)
        log_warn("signing keys of the issuer cannot be fetched; retrying", "issuer", issuer->url, "error",
                 err->message, "failures", log_int(issuer->failures), "keys",
                 issuer->keys ? "the old ones stay" : "none yet: its tokens are refused", NULL);
}

/* Until the next fetch: five minutes when all is well, else longer and longer; never in step with others. */
static int64_t pause_ms(const struct issuer *issuer) {
    int64_t pause = REFRESH_MS;
    if (issuer->failures > 0) {
        unsigned doublings = issuer->failures - 1 < 6 ? issuer->failures - 1 : 6;
        pause = (int64_t)RETRY_FIRST_MS << doublings;
        if (pause > RETRY_MAX_MS) pause = RETRY_MAX_MS;
    }
    unsigned char jitter;
    random_bytes(&jitter, 1);
    return pause - pause * jitter / 1024;
}

static struct timespec deadline_in(int64_t ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)(ms / 1000);
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

static void *keep_current(void *arg) {
    struct issuer *issuer = arg;
    pthread_mutex_lock(&issuer->lock);
    while (!atomic_load(&issuer->oidc->stopping)) {
        issuer->busy = true;
        issuer->wanted = false;
        pthread_mutex_unlock(&issuer->lock);
        cleanup_error struct error err = {0};
        struct jwks *set = fetch_keys(issuer, &err);
        pthread_mutex_lock(&issuer->lock);
        if (set)
            take_keys(issuer, set);
        else
            count_failure(issuer, &err);
        issuer->busy = false;
        issuer->rounds++;
        pthread_cond_broadcast(&issuer->changed);
        struct timespec next = deadline_in(pause_ms(issuer));
        while (!issuer->wanted && !atomic_load(&issuer->oidc->stopping) &&
               pthread_cond_timedwait(&issuer->changed, &issuer->lock, &next) != ETIMEDOUT) {
        }
    }
    pthread_mutex_unlock(&issuer->lock);
    return NULL;
}

/* ---- life ---- */

/* The trimmed parts of a comma-separated list; how many there are, or limit + 1. */
static size_t split(const char *list, char **out, size_t limit) {
    size_t count = 0;
    while (list && *list) {
        size_t n = strcspn(list, ",");
        struct slice part = slice_trim(slice_make(list, n));
        if (part.len > 0 && count == limit) return limit + 1;
        if (part.len > 0) out[count++] = slice_dup(part);
        list += n + (list[n] == ',');
    }
    return count;
}

static bool add_issuer(struct oidc *oidc, const char *url, struct error *err) {
    if (!oidc_url_allowed(url) || strpbrk(url, "?#")) {
        error_set(
            err, 400, ERR_BAD_REQUEST,
            "--oidc-issuer takes https URLs without query (http only on a loopback address), not \"%s\"",
            url);
        return false;
    }
    struct issuer *issuer = &oidc->issuers[oidc->issuer_count];
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&issuer->lock, NULL);
    pthread_cond_init(&issuer->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    issuer->oidc = oidc;
    issuer->url = xstrdup(url);
    /* Two issuers may call two people by one subject. */
    issuer->sub_prefix = oidc->issuer_count == 0 ? xstrdup("") : xasprintf("%s#", url);
    issuer->asked_ms = INT64_MIN / 2;
    oidc->issuer_count++;
    return true;
}

/* A name that fits no issuer would silently leave the one that was meant with all of its word. */
static bool limit_to_subjects(struct oidc *oidc, const char *list, struct error *err) {
    char *urls[ISSUERS_MAX + 1] = {0};
    bool good = split(list, urls, ISSUERS_MAX) <= ISSUERS_MAX;
    for (size_t i = 0; i < ISSUERS_MAX && urls[i]; i++) {
        bool known = false;
        for (size_t k = 0; k < oidc->issuer_count; k++) {
            if (strcmp(oidc->issuers[k].url, urls[i]) != 0) continue;
            oidc->issuers[k].subjects_only = known = true;
        }
        good = good && known;
        free(urls[i]);
    }
    if (!good)
        error_set(err, 400, ERR_BAD_REQUEST, "--oidc-subjects-only names an issuer that is no --oidc-issuer");
    return good;
}

struct oidc *oidc_new(const struct oidc_options *o, struct error *err) {
    struct oidc *oidc = xcalloc(1, sizeof *oidc);
    char *urls[ISSUERS_MAX + 1] = {0};
    oidc->group_claim = xstrdup(o->group_claim);
    oidc->admin_group = xstrdup(o->admin_group);
    oidc->ca_file = xstrdup(o->ca_file ? o->ca_file : "");
    oidc->keys_changed = o->keys_changed;
    oidc->ctx = o->ctx;
    size_t count = split(o->issuers, urls, ISSUERS_MAX);
    bool good = count <= ISSUERS_MAX && split(o->audiences, oidc->audiences, AUDIENCES_MAX) <= AUDIENCES_MAX;
    if (!good)
        error_set(err, 400, ERR_BAD_REQUEST, "at most %d issuers and %d audiences are taken", ISSUERS_MAX,
                  AUDIENCES_MAX);
    good = good && lazy_open(&lazy_curl, err); /* oidc_fetch.c */
    for (size_t i = 0; i < ISSUERS_MAX; i++) {
        if (good && urls[i]) good = add_issuer(oidc, urls[i], err);
        free(urls[i]);
    }
    good = good && limit_to_subjects(oidc, o->subjects_only, err);
    for (size_t i = 0; good && i < oidc->issuer_count; i++) {
        struct issuer *issuer = &oidc->issuers[i];
        issuer->started = pthread_create(&issuer->thread, NULL, keep_current, issuer) == 0;
        good = issuer->started;
        if (!good) error_set(err, 500, ERR_INTERNAL, "no thread could be started for %s", issuer->url);
    }
    if (good) return oidc;
    oidc_free(oidc);
    return NULL;
}

void oidc_free(struct oidc *oidc) {
    if (!oidc) return;
    atomic_store(&oidc->stopping, true);
    for (size_t i = 0; i < oidc->issuer_count; i++) {
        struct issuer *issuer = &oidc->issuers[i];
        pthread_mutex_lock(&issuer->lock);
        pthread_cond_broadcast(&issuer->changed);
        pthread_mutex_unlock(&issuer->lock);
        if (issuer->started) pthread_join(issuer->thread, NULL);
        pthread_cond_destroy(&issuer->changed);
        pthread_mutex_destroy(&issuer->lock);
        jwks_unref(issuer->keys);
        free(issuer->url);
        free(issuer->sub_prefix);
    }
    for (size_t i = 0; oidc->audiences[i]; i++)
        free(oidc->audiences[i]);
    free(oidc->group_claim);
    free(oidc->admin_group);
    free(oidc->ca_file);
    free(oidc);
}

/* ---- tokens ---- */

static struct issuer *issuer_of(struct oidc *oidc, const struct jwt *token) {
    const char *named = json_string_value(json_object_get(token->claims, "iss"));
    for (size_t i = 0; named && i < oidc->issuer_count; i++)
        if (strcmp(oidc->issuers[i].url, named) == 0) return &oidc->issuers[i];
    return NULL;
}

bool oidc_knows(const struct oidc *oidc, const struct jwt *token) {
    return issuer_of((struct oidc *)(uintptr_t)oidc, token) != NULL;
}

bool oidc_is_for_us(const struct oidc *oidc, const struct jwt *token) {
    return oidc_knows(oidc, token) && jwt_audience_valid(token->claims, (const char *const *)oidc->audiences);
}

static enum oidc_result refuse(struct error *err, const char *why) {
    error_set(err, 401, "invalid_token", "the bearer token was refused: %s", why);
    return OIDC_REFUSED;
}

/* Whether a fetch is under way, or may be asked for again. With the lock. */
static bool may_ask(const struct issuer *issuer) {
    return issuer->busy || issuer->wanted || monotonic_ms() - issuer->asked_ms >= DEMAND_GAP_MS;
}

enum oidc_result oidc_verify(struct oidc *oidc, const struct jwt *token, struct identity *out, time_t *expiry,
                             struct error *err) {
    struct issuer *issuer = issuer_of(oidc, token);
    memset(out, 0, sizeof *out);
    if (!issuer) return refuse(err, "it is from another issuer (iss)");
    pthread_mutex_lock(&issuer->lock);
    struct jwks *keys = issuer->keys ? jwks_ref(issuer->keys) : NULL;
    bool hope = may_ask(issuer);
    pthread_mutex_unlock(&issuer->lock);
    if (!keys) return refuse(err, "the keys of its issuer are not known yet");
    enum jwks_result signature =
        jwks_verify(keys, token->kid, token->alg, token->signed_part, buffer_slice(&token->signature));
    jwks_unref(keys);
    switch (signature) {
    case JWKS_OK: break;
    case JWKS_UNKNOWN_KEY:
        refuse(err, "its issuer has no key of its kid");
        return hope ? OIDC_UNKNOWN_KEY : OIDC_REFUSED;
    case JWKS_WRONG_ALG: return refuse(err, "its alg is not that of the key");
    case JWKS_BAD_SIGNATURE: return refuse(err, "its signature is wrong");
    }
    struct jwt_rules rules = {.issuer = issuer->url, .audiences = (const char *const *)oidc->audiences};
    if (!jwt_claims_valid(token->claims, &rules, time(NULL), err)) return OIDC_REFUSED;
    *expiry = jwt_expiry(token->claims);
    jwt_identity(token->claims, oidc->group_claim, oidc->admin_group, issuer->sub_prefix, out);
    if (issuer->subjects_only) {
        out->is_admin = false;
        out->email_unverified = true;
        json_array_clear(out->groups);
    }
    return OIDC_OK;
}

bool oidc_refresh(struct oidc *oidc, const struct jwt *token) {
    struct issuer *issuer = issuer_of(oidc, token);
    if (!issuer) return false;
    pthread_mutex_lock(&issuer->lock);
    if (!may_ask(issuer)) {
        pthread_mutex_unlock(&issuer->lock);
        return false;
    }
    if (!issuer->wanted && monotonic_ms() - issuer->asked_ms >= DEMAND_GAP_MS) {
        issuer->asked_ms = monotonic_ms();
        issuer->wanted = true;
        pthread_cond_broadcast(&issuer->changed);
    }
    /* The answer of a regular fetch that is under way may be older than the token's key. */
    uint64_t enough = issuer->rounds + (issuer->busy && issuer->wanted ? 2 : 1);
    struct timespec until = deadline_in(DEMAND_TIMEOUT_MS);
    while (issuer->rounds < enough && !atomic_load(&oidc->stopping) &&
           pthread_cond_timedwait(&issuer->changed, &issuer->lock, &until) != ETIMEDOUT) {
    }
    bool fetched = issuer->rounds >= enough;
    pthread_mutex_unlock(&issuer->lock);
    return fetched;
}

/* ---- what is going on ---- */

/* A URL as a label's value. */
static void append_label(struct buffer *out, const char *url) {
    for (; *url; url++) {
        if (*url == '"' || *url == '\\') buffer_append_char(out, '\\');
        buffer_append_char(out, *url);
    }
}

void oidc_render_metrics(struct oidc *oidc, struct buffer *out) {
    static const char *const names[] = {"agenttier_oidc_keys", "agenttier_oidc_refreshes_total",
                                        "agenttier_oidc_refresh_failures_total",
                                        "agenttier_oidc_keys_age_seconds"};
    static const char *const helps[] = {"Signing keys of the issuer in use.",
                                        "Fetches of the issuer's keys that succeeded.",
                                        "Fetches of the issuer's keys that failed.",
                                        "Since the keys were last confirmed; -1 before the first time."};
    for (size_t m = 0; m < sizeof names / sizeof names[0]; m++) {
        buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", names[m], helps[m], names[m],
                      m == 1 || m == 2 ? "counter" : "gauge");
        for (size_t i = 0; i < oidc->issuer_count; i++) {
            struct issuer *issuer = &oidc->issuers[i];
            pthread_mutex_lock(&issuer->lock);
            int64_t age = issuer->keys ? (monotonic_ms() - issuer->fresh_ms) / 1000 : -1;
            int64_t values[] = {issuer->keys ? (int64_t)jwks_count(issuer->keys) : 0, (int64_t)issuer->good,
                                (int64_t)issuer->bad, age};
            pthread_mutex_unlock(&issuer->lock);
            buffer_printf(out, "%s{issuer=\"", names[m]);
            append_label(out, issuer->url);
            buffer_printf(out, "\"} %lld\n", (long long)values[m]);
        }
    }
}

void oidc_render_state(struct oidc *oidc, struct buffer *out) {
    for (size_t i = 0; i < oidc->issuer_count; i++) {
        struct issuer *issuer = &oidc->issuers[i];
        pthread_mutex_lock(&issuer->lock);
        bool has = issuer->keys != NULL;
        unsigned failures = issuer->failures;
        pthread_mutex_unlock(&issuer->lock);
        if (!has)
            buffer_printf(out, "oidc: no signing keys of %s yet; its tokens are refused\n", issuer->url);
        else if (failures > 0)
            buffer_printf(out, "oidc: the keys of %s could not be confirmed; the old ones stay\n",
                          issuer->url);
    }
}
