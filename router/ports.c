/* Forwarding ports of a sandbox (http-api.md 2.10, 4.5; tutorial.md row 7). */
#include "router/ports.h"

#include "common/log.h"
#include "router/audit.h"
#include "router/handlers.h"
#include "router/router.h"
#include "router/sandbox_view.h"
#include "router/second_look.h"

#include <stdio.h>
#include <string.h>

#define ATTEMPTS_MAX 8

bool port_belongs_to(const struct object *forward, const struct object *sandbox) {
    size_t i;
    json_t *owner;
    json_array_foreach(json_at(forward->json, "metadata.ownerReferences"), i, owner) {
        if (strcmp(json_str_at(owner, "uid"), sandbox->uid) == 0) return true;
    }
    return false;
}

static struct object *get_service(struct store *store, const struct object *sandbox, int port) {
    char name[128];
    int len = snprintf(name, sizeof name, "pf-%s-%d", sandbox->name, port);
    if (len < 0 || (size_t)len >= sizeof name) return NULL;
    struct object *service = store->ops->get(store, KIND_SERVICE, sandbox->namespace, name);
    if (service && port_belongs_to(service, sandbox)) return service;
    object_unref(service);
    return NULL;
}

bool port_forward_find(struct store *store, const struct object *sandbox, int port) {
    cleanup_object struct object *service = get_service(store, sandbox, port);
    return service != NULL;
}

static int by_port(const void *a, const void *b) {
    int x = port_of((*(struct object *const *)a)->json), y = port_of((*(struct object *const *)b)->json);
    return (x > y) - (x < y);
}

/* The forwards of the sandbox, sorted by port. */
static struct object_list forwards_of(struct store *store, const struct object *sandbox) {
    struct object_list all = store->ops->list(store, KIND_SERVICE, sandbox->namespace);
    size_t kept = 0;
    for (size_t i = 0; i < all.count; i++) {
        struct object *service = all.items[i];
        const json_t *labels = json_at(service->json, "metadata.labels");
        const char *mark = json_string_value(json_object_get(labels, "agenttier.io/port-forward"));
        bool ours = mark && strcmp(mark, "true") == 0 && port_of(service->json) > 0 &&
                    port_belongs_to(service, sandbox);
        if (ours)
            all.items[kept++] = service;
        else
            object_unref(service);
    }
    all.count = kept;
    if (kept > 1) qsort(all.items, kept, sizeof all.items[0], by_port);
    return all;
}

static const char *preview_domain(const struct request *r) {
    const char *domain = r->router->config->preview_domain;
    return domain ? domain : "";
}

static struct port_publishing publishing(const struct request *r) {
    const struct config *c = r->router->config;
    return (struct port_publishing){preview_domain(r), c->ingress_class_name, c->preview_tls_secret};
}

static json_t *shown(struct request *r, const json_t *service) {
    cleanup_buffer struct buffer base = {0};
    request_base_url(r, &base);
    return port_json(service, r->sandbox->name, buffer_cstr(&base), preview_domain(r));
}

void ports_list(struct request *r) {
    cleanup_object_list struct object_list all = forwards_of(r->backend->store, r->sandbox);
    json_t *ports = json_array();
    for (size_t i = 0; i < all.count; i++)
        json_array_append_new(ports, shown(r, all.items[i]->json));
    reply_json(r, 200, json_pack("{s:o}", "ports", ports));
}

/* ---- status.forwardedPorts: what the forwards are, for whoever reads the Sandbox ---- */

static json_t *mirror_patch(struct request *r) {
    cleanup_object_list struct object_list all = forwards_of(r->backend->store, r->sandbox);
    json_t *list = json_array();
    for (size_t i = 0; i < all.count; i++) {
        cleanup_json json_t *api = port_json(all.items[i]->json, r->sandbox->name, "", preview_domain(r));
        const char *url = json_string_value(json_object_get(api, "ingressUrl"));
        json_array_append_new(list,
                              json_pack("{s:i, s:s, s:s}", "port", port_of(all.items[i]->json), "previewUrl",
                                        url ? url : "", "protocol", port_protocol(all.items[i]->json)));
    }
    return json_pack("{s:{s:o}}", "status", "forwardedPorts", list);
}

/* The sandbox's network policy opens and closes with it (W-29), so it is a part of the work. Written against
 * the version that was read before the Services were, so that an older list never covers a newer one (W-95).
 */
static bool mirror(struct request *r, struct error *err) {
    struct store *store = r->backend->store;
    for (int i = 0; i < ATTEMPTS_MAX; i++) {
        error_clear(err);
        cleanup_object struct object *sandbox =
            store->ops->get(store, KIND_SANDBOX, r->sandbox->namespace, r->sandbox->name);
        if (!sandbox || strcmp(sandbox->uid, r->sandbox->uid) != 0) return true; /* it is gone */
        cleanup_json json_t *patch = mirror_patch(r);
        struct store_preconditions same = {.uid = sandbox->uid,
                                           .resource_version = sandbox->resource_version};
        if (store->ops->patch(store, KIND_SANDBOX, STORE_STATUS, sandbox->namespace, sandbox->name, patch,
                              &same, NULL, err))
            return true;
        if (strcmp(err->code, ERR_CONFLICT) != 0) break;
    }
    error_wrap(err, "the sandbox's list of forwarded ports was not written; try again");
    log_warn("status.forwardedPorts was not written", "sandbox", r->sandbox->name, "error", err->message,
             NULL);
    return false;
}

static bool is_mirrored(const struct request *r, int port) {
    const json_t *list = json_at(r->sandbox->json, "status.forwardedPorts");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_object_get(json_array_get(list, i), "port")) == port) return true;
    return false;
}

/* ---- create ---- */

/* Forwards that were named without a claim, by an older Router, have their names too. */
static bool name_is_free(struct request *r, const struct port_request *q, struct error *err) {
    if (!q->name) return true;
    cleanup_object_list struct object_list all = forwards_of(r->backend->store, r->sandbox);
    for (size_t i = 0; i < all.count; i++) {
        char scratch[8];
        const json_t *service = all.items[i]->json;
        if (port_of(service) == q->port || strcmp(port_name(service, scratch), q->name) != 0) continue;
        error_set(err, 409, ERR_ALREADY_EXISTS, "the name %s is taken by port %d", q->name, port_of(service));
        return false;
    }
    return true;
}

struct naming {
    struct store *store;
    const struct object *sandbox;
    const char *name;
    int port;
};

static bool is_named(void *ctx, int port, const char *name) {
    const struct naming *naming = ctx;
    char scratch[8];
    cleanup_object struct object *service = get_service(naming->store, naming->sandbox, port);
    return service && strcmp(port_name(service->json, scratch), name) == 0;
}

static bool is_same(const struct naming *naming, const json_t *sandbox, struct error *err) {
    if (strcmp(json_str_at(sandbox, "metadata.uid"), naming->sandbox->uid) == 0) return true;
    error_set(err, 404, ERR_NOT_FOUND, "the sandbox was deleted meanwhile");
    return false;
}

static bool claim(void *ctx, json_t *sandbox, struct error *err) {
    struct naming *naming = ctx;
    if (!is_same(naming, sandbox, err)) return false;
    int holder = port_name_claim(sandbox, naming->name, naming->port, time(NULL), is_named, naming);
    if (holder == 0) return true;
    error_set(err, 409, ERR_ALREADY_EXISTS, "the name %s is taken by port %d", naming->name, holder);
    return false;
}

static bool claim_name(struct request *r, const struct port_request *q, struct error *err) {
    if (!q->name) return true;
    struct naming naming = {r->backend->store, r->sandbox, q->name, q->port};
    return store_update(naming.store, KIND_SANDBOX, STORE_MAIN, r->sandbox->namespace, r->sandbox->name,
                        claim, &naming, NULL, err);
}

static bool release(void *ctx, json_t *sandbox, struct error *err) {
    struct naming *naming = ctx;
    if (!is_same(naming, sandbox, err)) return false;
    port_name_release(sandbox, naming->port);
    return true;
}

/* Best effort: a claim without a forward lapses by itself. */
static void release_name(struct request *r, int port) {
    struct naming naming = {r->backend->store, r->sandbox, NULL, port};
    cleanup_error struct error err = {0};
    if (!store_update(naming.store, KIND_SANDBOX, STORE_MAIN, r->sandbox->namespace, r->sandbox->name,
                      release, &naming, NULL, &err))
        log_warn("the name of a port was not released", "sandbox", r->sandbox->name, "error", err.message,
                 NULL);
}

/* Creates the Service, or changes the one that is there; what is not given stays as it is. */
static struct object *forward(struct request *r, const struct port_request *q, struct error *err) {
    struct store *store = r->backend->store;
    char number[8], scratch[8];
    snprintf(number, sizeof number, "%d", q->port);
    cleanup_object struct object *there = get_service(store, r->sandbox, q->port);
    const char *name = q->name ? q->name : there ? port_name(there->json, scratch) : number;
    const char *protocol = q->protocol ? q->protocol : there ? port_protocol(there->json) : "http";
    cleanup_json json_t *service = port_service(r->sandbox, q->port, name, protocol, err);
    if (!service) return NULL;
    struct object *out = NULL;
    if (!there) {
        if (!store->ops->create(store, KIND_SERVICE, service, &out, err)) return NULL;
        return out;
    }
    cleanup_json json_t *patch =
        json_pack("{s:{s:O}}", "metadata", "annotations", json_at(service, "metadata.annotations"));
    struct store_preconditions same = {.uid = there->uid};
    if (!store->ops->patch(store, KIND_SERVICE, STORE_MAIN, there->namespace, there->name, patch, &same, &out,
                           err))
        return NULL;
    return out;
}

/* A Service of that name that is left from an earlier sandbox of the same name: its owner is gone and
 * nobody else will remove it. */
static void remove_stale(struct request *r, int port) {
    struct store *store = r->backend->store;
    char name[128];
    snprintf(name, sizeof name, "pf-%s-%d", r->sandbox->name, port);
    cleanup_object struct object *service = store->ops->get(store, KIND_SERVICE, r->sandbox->namespace, name);
    if (!service || port_belongs_to(service, r->sandbox)) return;
    const json_t *labels = json_at(service->json, "metadata.labels");
    const char *sandbox = json_string_value(json_object_get(labels, "agenttier.io/sandbox"));
    if (!sandbox || strcmp(sandbox, r->sandbox->name) != 0) return;
    struct store_preconditions same = {.uid = service->uid};
    cleanup_error struct error err = {0};
    if (!store->ops->remove(store, KIND_SERVICE, service->namespace, service->name, &same, &err))
        log_warn("a port forward of an earlier sandbox was not removed", "service", name, "error",
                 err.message, NULL);
}

void ports_create(struct request *r) {
    cleanup_error struct error err = {0};
    struct port_request q;
    if (port_request_parse(r->body, &q, &err)) audit_detail(r, "port", json_integer(q.port));
    if (err.status || !name_is_free(r, &q, &err) || !claim_name(r, &q, &err)) {
        reply_error(r, &err);
        return;
    }
    cleanup_object struct object *service = forward(r, &q, &err);
    for (int i = 1; !service && i < ATTEMPTS_MAX && (err.status == 409 || err.status == 404); i++) {
        /* Somebody created or removed the same forward meanwhile. */
        error_clear(&err);
        remove_stale(r, q.port);
        service = forward(r, &q, &err);
    }
    if (!service) {
        if (q.name) release_name(r, q.port);
        reply_error(r, &err);
        return;
    }
    const struct port_publishing to = publishing(r);
    if (!port_publish(r->backend->store, r->sandbox, q.port, &to, &err)) {
        error_wrap(&err, "port %d is forwarded, but its preview address could not be made", q.port);
        cleanup_error struct error too = {0};
        mirror(r, &too);
        reply_error(r, &err);
        return;
    }
    if (mirror(r, &err))
        reply_json(r, 201, shown(r, service->json));
    else
        reply_error(r, &err);
}

/* ---- delete ---- */

static int port_by_name(struct request *r, const char *name) {
    cleanup_object_list struct object_list all = forwards_of(r->backend->store, r->sandbox);
    for (size_t i = 0; i < all.count; i++) {
        char scratch[8];
        if (strcmp(port_name(all.items[i]->json, scratch), name) == 0) return port_of(all.items[i]->json);
    }
    return 0;
}

/* Reads the object into memory, unless it is there. False: 503. */
static bool look(struct request *r, enum kind kind, const char *name, bool again, struct error *err) {
    struct second_look found = {0};
    enum second_look_need need =
        second_look_need(r->router, r->identity.sub, kind, r->sandbox->namespace, name, again, &found);
    if (need == LOOK_REFUSED) {
        error_set(err, 503, "busy",
                  "too many ports that this server does not know are asked for; retry in a second");
        err->retry_after = 1;
    }
    bool ok = need == LOOK_NEEDLESS || (need == LOOK_WANTED && second_look_run(&found, err));
    second_look_free(&found);
    return ok;
}

/* Another Router may have made the forward a moment ago: it is not said to be removed while it is only not
 * known here yet. */
static bool look_for_forward(struct request *r, int port, struct error *err) {
    cleanup_free char *name = xasprintf("pf-%s-%d", r->sandbox->name, port);
    return look(r, KIND_SERVICE, name, false, err) &&
           (!preview_domain(r)[0] || look(r, KIND_INGRESS, name, false, err));
}

/* The same for a name, by who has claimed it: the port; 0: no forward has it, or (err is set) nobody knows.
 */
static int look_for_name(struct request *r, const char *name, struct error *err) {
    struct store *store = r->backend->store;
    if (!look(r, KIND_SANDBOX, r->sandbox->name, true, err)) return 0;
    cleanup_object struct object *sandbox =
        store->ops->get(store, KIND_SANDBOX, r->sandbox->namespace, r->sandbox->name);
    int claimed = sandbox ? port_name_claimed(sandbox->json, name) : 0;
    return claimed != 0 && look_for_forward(r, claimed, err) ? port_by_name(r, name) : 0;
}

void ports_delete(struct request *r) {
    cleanup_error struct error err = {0};
    struct store *store = r->backend->store;
    const char *target = request_param(r, "port");
    int port = 0;
    if (!port_target_parse(target, &port, &err)) {
        reply_error(r, &err);
        return;
    }
    if (port == 0) port = port_by_name(r, target);
    if (port == 0)
        port = look_for_name(r, target, &err);
    else
        look_for_forward(r, port, &err);
    if (err.status) {
        reply_error(r, &err);
        return;
    }
    if (port == 0) {
        error_set(&err, 404, ERR_NOT_FOUND, "sandbox %s has no port forward named %s", r->sandbox->name,
                  target);
        reply_error(r, &err);
        return;
    }
    const struct port_publishing to = publishing(r);
    if (!port_unpublish(store, r->sandbox, port, &to, &err)) {
        reply_error(r, &err);
        return;
    }
    cleanup_object struct object *service = get_service(store, r->sandbox, port);
    if (service) {
        struct store_preconditions same = {.uid = service->uid};
        if (!store->ops->remove(store, KIND_SERVICE, service->namespace, service->name, &same, &err) &&
            err.status != 404 && err.status != 409) {
            reply_error(r, &err);
            return;
        }
        if (sandbox_annotation(r->sandbox->json, ANNOTATION_PORT_NAMES)[0]) release_name(r, port);
    }
    if ((service || is_mirrored(r, port)) && !mirror(r, &err)) {
        reply_error(r, &err);
        return;
    }
    reply_empty(r, 204); /* also when nothing was forwarded: http-api.md 2.10 */
}
