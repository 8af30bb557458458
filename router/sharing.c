/* Grants to users and groups. See sharing.h; links are in share_link.c. */
#include "router/sharing.h"

#include "common/json.h"

#include <string.h>

const char *access_level_name(enum access_level level) {
    switch (level) {
    case ACCESS_LEVEL_OWNER: return "owner";
    case ACCESS_LEVEL_COLLABORATOR: return "collaborator";
    case ACCESS_LEVEL_VIEWER: return "viewer";
    case ACCESS_LEVEL_NONE: break;
    }
    return "none";
}

bool share_identity_valid(const char *identity, const char **why) {
    size_t len = strlen(identity);
    if (len == 0) return *why = "is required", false;
    if (len > SHARE_IDENTITY_MAX) return *why = "is longer than 512 bytes", false;
    if (identity[0] == ' ' || identity[len - 1] == ' ')
        return *why = "must not begin or end with a blank", false;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)identity[i] < ' ' || identity[i] == 0x7f)
            return *why = "must not hold control characters", false;
    }
    return true;
}

bool share_lists_parse(const char *kind, unsigned *lists, struct error *err) {
    *lists = SHARE_USERS | SHARE_GROUPS;
    if (!kind || !kind[0]) return true;
    if (strcmp(kind, "user") == 0) return *lists = SHARE_USERS, true;
    if (strcmp(kind, "group") == 0) return *lists = SHARE_GROUPS, true;
    error_set_field(err, "kind", "must be user or group");
    return false;
}

bool share_grant_parse(const json_t *body, struct share_grant *out, struct error *err) {
    const char *kind = NULL, *why = NULL;
    *out = (struct share_grant){0};
    if (!json_get_string(body, "identity", &out->identity, err) ||
        !json_get_string(body, "level", &out->level, err) || !json_get_string(body, "kind", &kind, err))
        return false;
    if (!share_identity_valid(out->identity ? out->identity : "", &why)) {
        error_set_field(err, "identity", "%s", why);
        return false;
    }
    if (!out->level || (strcmp(out->level, "viewer") != 0 && strcmp(out->level, "collaborator") != 0)) {
        error_set_field(err, "level", "must be viewer or collaborator");
        return false;
    }
    if (!share_lists_parse(kind ? kind : "user", &out->list, err)) return false;
    if (out->list == (SHARE_USERS | SHARE_GROUPS)) out->list = SHARE_USERS; /* "" is as good as absent */
    return true;
}

static const char *list_name(unsigned list) {
    return list == SHARE_GROUPS ? "groups" : "users";
}

/* The list of spec.sharing, made when it is missing or no list. Borrowed. */
static json_t *list_of(json_t *spec, const char *name) {
    json_t *sharing = json_object_get(spec, "sharing");
    if (!json_is_object(sharing)) json_object_set_new(spec, "sharing", sharing = json_object());
    json_t *list = json_object_get(sharing, name);
    if (!json_is_array(list)) json_object_set_new(sharing, name, list = json_array());
    return list;
}

/* Removes the identity wherever it stands in the list; the place of the first, or SIZE_MAX. */
static size_t take_out(json_t *list, const char *identity) {
    size_t first = SIZE_MAX;
    for (size_t i = json_array_size(list); i-- > 0;) {
        if (strcmp(json_str_at(json_array_get(list, i), "identity"), identity) != 0) continue;
        json_array_remove(list, i);
        first = i;
    }
    return first;
}

bool share_add(json_t *spec, const struct share_grant *grant, struct error *err) {
    json_t *list = list_of(spec, list_name(grant->list));
    json_t *item = json_pack("{s:s, s:s}", "identity", grant->identity, "level", grant->level);
    size_t at = take_out(list, grant->identity);
    if (at == SIZE_MAX && json_array_size(list) >= SHARE_GRANTS_MAX) {
        json_decref(item);
        error_set(err, 409, "share_limit_reached",
                  "the sandbox is shared with %d %s, the most there can be; revoke one first",
                  SHARE_GRANTS_MAX, list_name(grant->list));
        return false;
    }
    if (at == SIZE_MAX)
        json_array_append_new(list, item);
    else
        json_array_insert_new(list, at, item);
    return true;
}

bool share_remove(json_t *spec, const char *identity, unsigned lists) {
    json_t *sharing = json_object_get(spec, "sharing");
    bool found = false;
    for (unsigned list = SHARE_USERS; list <= SHARE_GROUPS; list <<= 1) {
        if (!(lists & list)) continue;
        found |= take_out(json_object_get(sharing, list_name(list)), identity) != SIZE_MAX;
    }
    return found;
}

static json_t *grants_json(const json_t *list) {
    json_t *out = json_array();
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *identity = json_str_at(item, "identity");
        if (!identity[0]) continue; /* names nobody */
        json_array_append_new(
            out, json_pack("{s:s, s:s}", "identity", identity, "level", json_str_at(item, "level")));
    }
    return out;
}

json_t *share_json(const json_t *spec) {
    return json_pack("{s:o, s:o, s:o}", "users", grants_json(json_at(spec, "sharing.users")), "groups",
                     grants_json(json_at(spec, "sharing.groups")), "shareLinks", share_links_json(spec));
}
