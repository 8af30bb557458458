/* See sandbox_copy.h. */
#include "router/sandbox_copy.h"

#include "common/text.h"
#include "router/audit.h"
#include "router/router.h"
#include "router/sandbox_create.h"
#include "router/sandbox_spec.h"
#include "router/sandbox_view.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void sandbox_copy_clear(struct sandbox_copy *copy) {
    json_decref(copy->object);
    object_unref(copy->sandbox);
    copy->object = NULL;
    copy->sandbox = NULL;
}

bool copy_text(const json_t *body, const char *name, char *out, size_t size, struct error *err) {
    const char *text = NULL;
    *out = '\0';
    if (!json_get_string(body, name, &text, err)) return false;
    if (!text) return true;
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t\r\n\v\f", text[n - 1]))
        n--;
    while (n > 0 && strchr(" \t\r\n\v\f", *text)) {
        text++;
        n--;
    }
    if (n >= size) {
        error_set_field(err, name, "must have at most %zu characters", size - 1);
        return false;
    }
    memcpy(out, text, n);
    out[n] = '\0';
    return true;
}

static bool take_replay(struct sandbox_copy *copy, struct object *there) {
    copy->replayed = true;
    copy->sandbox = object_ref(there);
    return true;
}

/* Somebody has the name: an earlier attempt of this request, or a conflict. */
static bool is_replay(struct request *r, struct sandbox_copy *copy, struct error *err) {
    return sandbox_name_taken(r->backend->store, r->sandbox->namespace, copy->name,
                              copy->replayable ? &copy->replay : NULL, &copy->sandbox, err) &&
           (copy->replayed = true);
}

bool sandbox_copy_begin(struct request *r, const char *word, const char *origin, struct sandbox_copy *copy,
                        struct error *err) {
    struct store *store = r->backend->store;
    char wanted[256];
    if (!copy_text(r->body, "name", wanted, sizeof wanted, err)) return false;
    if (*wanted && !dns_label_valid(slice_of(wanted))) {
        error_set_field(err, "name",
                        "must match RFC 1123 label rules: lowercase alphanumeric or '-', start/end "
                        "alphanumeric, max 63 chars");
        return false;
    }
    if (!replay_read(r, &copy->replay, &copy->replayable, err)) return false;
    if (copy->replayable) replay_scope(&copy->replay, word, origin);
    cleanup_object struct object *before = copy->replayable ? replay_find(store, &copy->replay) : NULL;
    if (before && replay_match(before, &copy->replay) == REPLAY_SAME) return take_replay(copy, before);
    if (before) {
        replay_conflict(before, err);
        return false;
    }
    if (*wanted)
        snprintf(copy->name, sizeof copy->name, "%s", wanted);
    else
        snapshot_generate_name(r->sandbox->name, word, time(NULL), copy->replayable ? copy->replay.key : NULL,
                               copy->name);
    audit_name(r, r->sandbox->namespace, copy->name);
    cleanup_object struct object *there =
        store->ops->get(store, KIND_SANDBOX, r->sandbox->namespace, copy->name);
    return !there || is_replay(r, copy, err);
}

bool sandbox_copy_check(struct request *r, const struct object *source, const char *snapshot,
                        const char *label, struct sandbox_copy *copy, struct error *err) {
    if (!sandbox_create_permitted(r->router, &r->identity, source->namespace, err)) return false;
    json_t *spec = json_deep_copy(json_object_get(source->json, "spec"));
    if (!spec) spec = json_object();
    json_object_del(spec, "sharing");
    json_object_set_new(spec, "cloneFromSnapshot", json_string(snapshot));
    json_object_set_new(spec, "createdBy", sandbox_created_by(&r->identity));
    char origin[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(source->name, origin);
    json_t *annotations = copy->replayable ? replay_annotations(&copy->replay) : json_object();
    copy->object = json_pack(
        "{s:s, s:s, s:{s:s, s:s, s:{s:s}, s:o}, s:o}", "apiVersion", resource_kinds[KIND_SANDBOX].api_version,
        "kind", resource_kinds[KIND_SANDBOX].kind, "metadata", "name", copy->name, "namespace",
        source->namespace, "labels", label, origin, "annotations", annotations, "spec", spec);
    return sandbox_admissible(r->router, &r->identity, copy->object, err);
}

bool sandbox_copy_store(struct request *r, struct sandbox_copy *copy, bool *made_nothing, struct error *err) {
    cleanup_error struct error failed = {0};
    bool ok = sandbox_admit(r->router, &r->identity, copy->object, &copy->sandbox, &failed);
    if (made_nothing) *made_nothing = !ok && failed.status >= 400 && failed.status < 500;
    if (ok) return true;
    if (strcmp(failed.code, ERR_ALREADY_EXISTS) == 0) return is_replay(r, copy, err);
    error_move(err, &failed);
    return false;
}
