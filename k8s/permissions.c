#include "k8s/permissions.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/log.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define AGAIN_SECONDS 5
#define PATH          "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

enum where { EVERYWHERE, AT_HOME /* the install namespace */ };

struct permission {
    const char *group, *resource, *subresource; /* "" for none */
    enum where where;
    const char *verbs; /* separated by spaces */
    const char *use;   /* what does not work without it */
};

/* What the Router does with what (http-api.md 4.1). Since Kubernetes 1.35 an exec over WebSocket needs
 * create as well as get. */
static const struct permission permissions[] = {
    {"agenttier.io", "sandboxes", "", EVERYWHERE, "get list watch create patch update delete", "sandboxes"},
    {"agenttier.io", "sandboxes", "status", EVERYWHERE, "patch update", "activity, ports, resume"},
    {"agenttier.io", "sandboxtemplates", "", EVERYWHERE, "list watch", "templates"},
    {"agenttier.io", "clustersandboxtemplates", "", EVERYWHERE, "list watch create patch update delete",
     "templates"},
    {"", "pods", "", EVERYWHERE, "list watch", "commands and files"},
    {"", "pods", "exec", EVERYWHERE, "get create", "commands and files in pods without a runtime"},
    {"", "secrets", "", EVERYWHERE, "get", "commands and files by the runtime"},
    {"", "secrets", "", AT_HOME, "list watch create delete", "API keys"},
    {"", "configmaps", "", AT_HOME, "list watch create patch update delete", "policies and preferences"},
    {"", "services", "", EVERYWHERE, "list watch create patch delete", "port forwards"},
    {"", "events", "", EVERYWHERE, "list watch create", "events"},
    {"authentication.k8s.io", "tokenreviews", "", EVERYWHERE, "create", "logins of service accounts"},
};
static const struct permission ingress_permission = {
    "networking.k8s.io", "ingresses", "", EVERYWHERE, "list watch create patch delete", "preview addresses"};

struct permission_check {
    struct k8s_client *client;
    char *home;
    bool ingresses;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
};

/* 1: allowed, 0: not, -1: no answer. */
static int ask(struct permission_check *c, const struct permission *p, const char *verb, struct error *err) {
    cleanup_json json_t *attributes =
        json_pack("{s:s, s:s, s:s}", "group", p->group, "resource", p->resource, "verb", verb);
    if (p->subresource[0]) json_object_set_new(attributes, "subresource", json_string(p->subresource));
    if (p->where == AT_HOME) json_object_set_new(attributes, "namespace", json_string(c->home));
    cleanup_json json_t *body =
        json_pack("{s:s, s:s, s:{s:O}}", "apiVersion", "authorization.k8s.io/v1", "kind",
                  "SelfSubjectAccessReview", "spec", "resourceAttributes", attributes);
    cleanup_json json_t *answer = NULL;
    if (!k8s_call(c->client, "POST", PATH, NULL, body, &answer, err)) return -1;
    return json_is_true(json_at(answer, "status.allowed")) ? 1 : 0;
}

/* False: no answer, ask again later. */
static bool check_one(struct permission_check *c, const struct permission *p, int *lacking) {
    cleanup_buffer struct buffer missing = {0};
    for (const char *verbs = p->verbs; *verbs;) {
        size_t n = strcspn(verbs, " ");
        cleanup_free char *verb = slice_dup(slice_make(verbs, n));
        verbs += n + (verbs[n] == ' ');
        cleanup_error struct error err = {0};
        int allowed = ask(c, p, verb, &err);
        if (allowed < 0 && err.status == 503) return false;
        if (allowed < 0) {
            log_warn("the account's permissions are not known: it cannot ask", "error", err.message, NULL);
            *lacking = -1;
            return true;
        }
        if (allowed == 0) buffer_printf(&missing, "%s%s", missing.len ? " " : "", verb);
    }
    if (missing.len == 0) return true;
    ++*lacking;
    cleanup_free char *resource = xasprintf("%s%s%s%s%s", p->resource, p->subresource[0] ? "/" : "",
                                            p->subresource, p->group[0] ? "." : "", p->group);
    log_warn("the account lacks a permission", "resource", resource, "verbs", buffer_cstr(&missing),
             "namespace", p->where == AT_HOME ? c->home : "(all)", "for", p->use, NULL);
    return true;
}

static bool check_all(struct permission_check *c) {
    int lacking = 0;
    size_t count = sizeof permissions / sizeof permissions[0];
    for (size_t i = 0; i < count && lacking >= 0; i++)
        if (!check_one(c, &permissions[i], &lacking)) return false;
    if (c->ingresses && lacking >= 0 && !check_one(c, &ingress_permission, &lacking)) return false;
    if (lacking == 0) log_info("the account has all permissions that the Router needs", NULL);
    return true;
}

static void *run(void *ctx) {
    struct permission_check *c = ctx;
    bool done = false;
    pthread_mutex_lock(&c->lock);
    while (!c->stopping && !done) {
        pthread_mutex_unlock(&c->lock);
        done = check_all(c);
        pthread_mutex_lock(&c->lock);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += AGAIN_SECONDS;
        if (!done && !c->stopping) pthread_cond_timedwait(&c->wake, &c->lock, &until);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

struct permission_check *permission_check_start(struct k8s_client *client, const char *install_namespace,
                                                bool ingresses, struct error *err) {
    struct permission_check *c = xcalloc(1, sizeof *c);
    *c = (struct permission_check){
        .client = client, .home = xstrdup(install_namespace), .ingresses = ingresses};
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    int failed = pthread_create(&c->thread, NULL, run, c);
    if (!failed) return c;
    error_set_errno(err, failed, "the check of permissions cannot start");
    free(c->home);
    free(c);
    return NULL;
}

void permission_check_stop(struct permission_check *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c->home);
    free(c);
}
