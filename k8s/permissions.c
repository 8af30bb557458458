#include "k8s/permissions.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define AGAIN_SECONDS 5  /* when there was no answer */
#define LATER_SECONDS 60 /* when something is missing */
#define PATH          "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

struct permission_check {
    struct k8s_client *client;
    const char *program;
    struct permission *list;
    char **missing; /* verbs, one text for each of the list, as it was logged; NULL: none */
    size_t count;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
};

enum result { COMPLETE, LACKING, NO_ANSWER, MAY_NOT_ASK };

/* 1: allowed, 0: not, -1: no answer. */
static int ask(struct permission_check *c, const struct permission *p, const char *verb, struct error *err) {
    cleanup_json json_t *attributes =
        json_pack("{s:s, s:s, s:s}", "group", p->group, "resource", p->resource, "verb", verb);
    if (p->subresource[0]) json_object_set_new(attributes, "subresource", json_string(p->subresource));
    if (p->namespace) json_object_set_new(attributes, "namespace", json_string(p->namespace));
    if (p->name) json_object_set_new(attributes, "name", json_string(p->name));
    cleanup_json json_t *body =
        json_pack("{s:s, s:s, s:{s:O}}", "apiVersion", "authorization.k8s.io/v1", "kind",
                  "SelfSubjectAccessReview", "spec", "resourceAttributes", attributes);
    cleanup_json json_t *answer = NULL;
    if (!k8s_call(c->client, "POST", PATH, NULL, body, &answer, err)) return -1;
    return json_is_true(json_at(answer, "status.allowed")) ? 1 : 0;
}

/* Which of its verbs are refused: `*missing`, NULL when none is. */
static enum result check_one(struct permission_check *c, const struct permission *p, char **missing) {
    cleanup_buffer struct buffer refused = {0};
    for (const char *verbs = p->verbs; *verbs;) {
        size_t n = strcspn(verbs, " ");
        cleanup_free char *verb = slice_dup(slice_make(verbs, n));
        verbs += n + (verbs[n] == ' ');
        cleanup_error struct error err = {0};
        int allowed = ask(c, p, verb, &err);
        if (allowed < 0 && err.status == 503) return NO_ANSWER;
        if (allowed < 0) {
            log_warn("the account's permissions are not known: it cannot ask", "error", err.message, NULL);
            return MAY_NOT_ASK;
        }
        if (allowed == 0) buffer_printf(&refused, "%s%s", refused.len ? " " : "", verb);
    }
    if (refused.len == 0) return COMPLETE;
    *missing = xstrdup(buffer_cstr(&refused));
    return LACKING;
}

static void report(struct permission_check *c, const struct permission *p, const char *missing) {
    cleanup_free char *resource = xasprintf("%s%s%s%s%s", p->resource, p->subresource[0] ? "/" : "",
                                            p->subresource, p->group[0] ? "." : "", p->group);
    log_write(p->optional ? LOG_LEVEL_INFO : LOG_LEVEL_WARN,
              p->optional ? "the account lacks a permission that one can do without"
                          : "the account lacks a permission",
              "resource", resource, "verbs", missing, "namespace", p->namespace ? p->namespace : "(all)",
              "for", p->use, "program", c->program, NULL);
}

static enum result check_all(struct permission_check *c) {
    enum result result = COMPLETE;
    bool doubtful = false;
    char **missing = xcalloc(c->count, sizeof *missing);
    for (size_t i = 0; i < c->count && result <= LACKING; i++) {
        enum result its = check_one(c, &c->list[i], &missing[i]);
        /* One that has just started allows nobody anything. */
        doubtful = doubtful || (its == LACKING && k8s_client_just_back(c->client));
        if (its > result && !(its == LACKING && c->list[i].optional)) result = its;
    }
    if (result <= LACKING && doubtful) result = NO_ANSWER;
    for (size_t i = 0; i < c->count; i++) {
        const char *old = c->missing[i];
        bool news = result <= LACKING && missing[i] && (!old || strcmp(old, missing[i]) != 0);
        if (news) report(c, &c->list[i], missing[i]);
        if (result > LACKING) {
            free(missing[i]);
            continue;
        }
        free(c->missing[i]);
        c->missing[i] = missing[i];
    }
    free(missing);
    if (result == COMPLETE)
        log_info("the account has all permissions that it needs", "program", c->program, NULL);
    return result;
}

static void *run(void *ctx) {
    struct permission_check *c = ctx;
    pthread_mutex_lock(&c->lock);
    while (!c->stopping) {
        pthread_mutex_unlock(&c->lock);
        enum result result = check_all(c);
        pthread_mutex_lock(&c->lock);
        if (result == COMPLETE || result == MAY_NOT_ASK) break;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += result == LACKING ? LATER_SECONDS : AGAIN_SECONDS;
        while (!c->stopping && pthread_cond_timedwait(&c->wake, &c->lock, &until) == 0) {
        }
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void free_check(struct permission_check *c) {
    for (size_t i = 0; i < c->count; i++) {
        free(c->missing[i]);
        free((char *)c->list[i].namespace);
    }
    free(c->missing);
    free(c->list);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

struct permission_check *permission_check_start(struct k8s_client *client, const char *program,
                                                const struct permission *list, size_t count,
                                                struct error *err) {
    struct permission_check *c = xcalloc(1, sizeof *c);
    *c = (struct permission_check){.client = client, .program = program, .count = count};
    c->list = xcalloc(count, sizeof *c->list);
    for (size_t i = 0; i < count; i++) {
        c->list[i] = list[i];
        c->list[i].namespace = list[i].namespace ? xstrdup(list[i].namespace) : NULL;
    }
    c->missing = xcalloc(count, sizeof *c->missing);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    int failed = pthread_create(&c->thread, NULL, run, c);
    if (!failed) return c;
    error_set_errno(err, failed, "the check of permissions cannot start");
    free_check(c);
    return NULL;
}

void permission_check_stop(struct permission_check *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    free_check(c);
}
