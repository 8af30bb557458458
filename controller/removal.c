#include "controller/inside.h"

#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "controller/names.h"

struct object *look_up(struct pass *p, enum kind kind, const char *name) {
    cleanup_json json_t *nothing = json_object();
    struct object *o = NULL;
    cleanup_error struct error err = {0};
    if (p->c->store->ops->patch(p->c->store, kind, STORE_MAIN, p->who.namespace, name, nothing, NULL, &o,
                                &err))
        return o;
    return NULL;
}

struct object *own_pod(struct pass *p) {
    struct store *store = p->c->store;
    cleanup_free char *usual = name_of_pod(p->sandbox);
    const char *named = json_str_at(p->sandbox->json, "status.podName");
    const char *names[] = {*named ? named : usual, usual};
    for (size_t i = 0; i < 2; i++) {
        if (i == 1 && strcmp(names[0], names[1]) == 0) break;
        cleanup_object struct object *pod = store->ops->get(store, KIND_POD, p->who.namespace, names[i]);
        if (pod && is_owned_by(pod, p->sandbox)) return steal_ptr(pod);
    }
    return NULL;
}

bool remove_exactly(struct controller *c, const struct object *object) {
    cleanup_error struct error err = {0};
    struct store_preconditions same = {.uid = object->uid};
    if (c->store->ops->remove(c->store, object->kind, object->namespace, object->name, &same, &err))
        return true;
    /* It is gone, or another one has its name: either way not there any more. */
    if (err.status == 404 || err.status == 409) return true;
    log_warn("an object of a sandbox cannot be removed", "kind", resource_kinds[object->kind].kind,
             "namespace", object->namespace, "name", object->name, "why", err.message, NULL);
    return false;
}

static bool going(const struct object *object) {
    return *json_str_at(object->json, "metadata.deletionTimestamp") != '\0';
}

bool remove_pods(struct pass *p, bool thorough) {
    struct store *store = p->c->store;
    if (!thorough) {
        cleanup_object struct object *pod = own_pod(p);
        return !pod || going(pod) || remove_exactly(p->c, pod);
    }
    bool all = true;
    cleanup_object_list struct object_list pods = store->ops->list(store, KIND_POD, p->who.namespace);
    for (size_t i = 0; i < pods.count; i++)
        if (is_owned_by(pods.items[i], p->sandbox) && !going(pods.items[i]))
            all = remove_exactly(p->c, pods.items[i]) && all;
    return all;
}

bool sweep(struct pass *p) {
    if (p->memory->swept) return remove_pods(p, false);
    p->memory->swept = remove_pods(p, true);
    return p->memory->swept;
}

struct object *look_for_pod(struct pass *p, bool *known) {
    struct store *store = p->c->store;
    cleanup_free char *usual = name_of_pod(p->sandbox);
    const char *named = json_str_at(p->sandbox->json, "status.podName");
    cleanup_error struct error err = {0};
    *known = !store->ops->look ||
             store->ops->look(store, KIND_POD, p->who.namespace, *named ? named : usual, &err);
    if (!*known)
        log_warn("whether the pod of a sandbox is there is not known", "namespace", p->who.namespace,
                 "sandbox", p->who.name, "why", err.message, NULL);
    return *known ? own_pod(p) : NULL;
}

/* ---- deletion ---------------------------------------------------------------------------------- */

/* If it is this sandbox's: its own, or labelled for it without an owner (adopted from a pool). */
static bool remove_named(struct pass *p, enum kind kind, const char *name) {
    cleanup_object struct object *o = p->c->store->ops->get(p->c->store, kind, p->who.namespace, name);
    if (!o || going(o)) return true;
    const char *label =
        json_string_value(json_object_get(json_at(o->json, "metadata.labels"), LABEL_SANDBOX));
    bool ours = is_owned_by(o, p->sandbox) || (!*owner_uid(o) && label && strcmp(label, p->who.name) == 0);
    return !ours || remove_exactly(p->c, o);
}

/* The record that lets the router of the reference know a scoped key (controller.md 5.7); it has no owner
 * in its namespace, so nobody else collects it. */
static bool remove_key_record(struct pass *p) {
    cleanup_free char *name = name_of_scoped_key(p->sandbox);
    struct store *store = p->c->store;
    cleanup_object struct object *secret = NULL;
    cleanup_json json_t *nothing = json_object();
    cleanup_error struct error err = {0};
    if (!store->ops->patch(store, KIND_SECRET, STORE_MAIN, p->who.namespace, name, nothing, NULL, &secret,
                           &err) &&
        err.status != 404) {
        log_warn("whether a sandbox has a scoped key is not known", "namespace", p->who.namespace, "sandbox",
                 p->who.name, "why", err.message, NULL);
        /* Who may not look will not be able to later: the sandbox goes, its record may stay. */
        return err.status == 403;
    }
    error_clear(&err);
    cleanup_buffer struct buffer key = {0};
    if (!secret || !is_owned_by(secret, p->sandbox) ||
        !base64_decode(slice_of(json_str_at(secret->json, "data.key")), &key) || key.len == 0)
        return true;
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(buffer_slice(&key), hex);
    explicit_bzero(key.data, key.len);
    cleanup_free char *record = xasprintf("agenttier-apikey-%.40s", hex);
    if (store->ops->remove(store, KIND_SECRET, p->c->settings.install_namespace, record, NULL, &err) ||
        err.status == 404)
        return true;
    log_warn("the record of a scoped key cannot be removed", "sandbox", p->who.name, "why", err.message,
             NULL);
    return false;
}

int64_t phase_deleting(struct pass *p) {
    if (!sandbox_has_finalizer(p->sandbox)) return PASS_NONE;
    const char *claim = json_str_at(p->sandbox->json, "status.pvcName");
    cleanup_free char *usual_claim = name_of_claim(p->sandbox), *policy = name_of_policy(p->sandbox);
    bool all = remove_pods(p, true);
    if (*claim) all = remove_named(p, KIND_PERSISTENT_VOLUME_CLAIM, claim) && all;
    all = remove_named(p, KIND_PERSISTENT_VOLUME_CLAIM, usual_claim) && all;
    all = remove_named(p, KIND_NETWORK_POLICY, policy) && all;
    all = remove_key_record(p) && all;
    if (!all) return PASS_FAILED;
    enum write_result r = sandbox_remove_finalizer(p->c->store, p->who);
    if (r == WRITE_DONE) {
        events_emit(p->c->events, p->sandbox, "Normal", "Deleted",
                    "the sandbox and its workspace are removed");
        log_info("sandbox deleted", "namespace", p->who.namespace, "sandbox", p->who.name, NULL);
    }
    return after_write(r);
}
