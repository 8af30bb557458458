/* Callers and what they may do to a sandbox: http-api.md 3.1, 3.5, 3.8. Pure. */
#include "router/identity.h"

#include "common/json.h"
#include "router/jwt.h"

#include <stdlib.h>
#include <string.h>

void identity_free(struct identity *id) {
    if (!id) return;
    free(id->sub);
    free(id->email);
    free(id->name);
    json_decref(id->groups);
    free(id->sandbox_id);
    free(id->sandbox_namespace);
    free(id->sandbox_uid);
    memset(id, 0, sizeof *id);
}

static char *dup_text(const char *s) {
    return s ? xstrdup(s) : NULL;
}

void identity_copy(const struct identity *from, struct identity *to) {
    *to = *from;
    to->sub = dup_text(from->sub);
    to->email = dup_text(from->email);
    to->name = dup_text(from->name);
    to->sandbox_id = dup_text(from->sandbox_id);
    to->sandbox_namespace = dup_text(from->sandbox_namespace);
    to->sandbox_uid = dup_text(from->sandbox_uid);
    to->groups = json_deep_copy(from->groups);
}

#define STREAM_GRACE_S (2 * 3600) /* as long as any stream of our own may take */

bool identity_outlived(const struct identity *id, bool upgraded, time_t now) {
    if (id->expires == 0) return false;
    return now > id->expires + JWT_LEEWAY_SECONDS + (upgraded ? 0 : STREAM_GRACE_S);
}

/* Equal and not empty: an empty text never identifies anybody. */
static bool same(const char *a, const char *b) {
    return a && b && a[0] && strcmp(a, b) == 0;
}

static enum access_level level_of(const json_t *grant) {
    /* Who is named with a level that we do not know gets the lowest. */
    return strcmp(json_str_at(grant, "level"), "collaborator") == 0 ? ACCESS_LEVEL_COLLABORATOR
                                                                    : ACCESS_LEVEL_VIEWER;
}

bool identity_in_group(const struct identity *id, const char *group) {
    size_t i;
    json_t *item;
    json_array_foreach(id->groups, i, item) {
        if (same(json_string_value(item), group)) return true;
    }
    return false;
}

static enum access_level shared_level(const struct identity *id, const json_t *sharing) {
    enum access_level best = ACCESS_LEVEL_NONE;
    size_t i;
    json_t *grant;
    json_array_foreach(json_object_get(sharing, "users"), i, grant) {
        const char *who = json_str_at(grant, "identity");
        bool by_email = !id->email_unverified && same(who, id->email);
        if ((same(who, id->sub) || by_email) && level_of(grant) > best) best = level_of(grant);
    }
    json_array_foreach(json_object_get(sharing, "groups"), i, grant) {
        if (identity_in_group(id, json_str_at(grant, "identity")) && level_of(grant) > best)
            best = level_of(grant);
    }
    return best;
}

enum access_level identity_access(const struct identity *id, const json_t *sandbox) {
    /* A key that was made for one sandbox never opens another one, also not one that got
     * the name later (W-74). */
    if (id->sandbox_id && !same(id->sandbox_id, json_str_at(sandbox, "metadata.name")))
        return ACCESS_LEVEL_NONE;
    if (id->sandbox_id && id->sandbox_namespace &&
        !same(id->sandbox_namespace, json_str_at(sandbox, "metadata.namespace")))
        return ACCESS_LEVEL_NONE;
    if (id->sandbox_id && id->sandbox_uid && !same(id->sandbox_uid, json_str_at(sandbox, "metadata.uid")))
        return ACCESS_LEVEL_NONE;
    if (id->is_admin || same(id->sub, json_str_at(sandbox, "spec.createdBy.sub"))) return ACCESS_LEVEL_OWNER;
    /* A scoped key is worth what its user owns (3.5). */
    if (id->sandbox_id) return ACCESS_LEVEL_NONE;
    return shared_level(id, json_at(sandbox, "spec.sharing"));
}

bool identity_scope_allows(const struct identity *id, const struct route *route, const char *sandbox_id,
                           struct error *err) {
    if (!id->sandbox_id) return true;
    if (route->group == GROUP_NONE || !sandbox_id) {
        error_set(err, 403, "scope_route_not_permitted", "scoped key not permitted for this route");
        return false;
    }
    if (!same(id->sandbox_id, sandbox_id)) {
        error_set(err, 403, "scope_wrong_sandbox", "scoped key is not bound to this sandbox");
        return false;
    }
    if (route->group != GROUP_ANY && !(id->action_groups & (1u << route->group))) {
        error_set(err, 403, "scope_missing_group", "scoped key lacks the \"%s\" action group",
                  action_group_names[route->group]);
        return false;
    }
    return true;
}
