#include "router/key_record.h"

#include "common/json.h"
#include "common/text.h"
#include "common/units.h"

#include <stdio.h>
#include <string.h>

/* ---- groups ---- */

bool action_groups_parse(const json_t *list, const char *field, unsigned *out, struct error *err) {
    size_t i;
    json_t *item;
    *out = 0;
    json_array_foreach(list, i, item) {
        const char *name = json_string_value(item);
        unsigned g = GROUP_RUN_COMMAND;
        if (!name) {
            error_set_field(err, field, "must be a list of strings");
            return false;
        }
        if (strcmp(name, "delete") == 0) {
            error_set_field(err, field, "cannot contain delete: no scoped key may delete its sandbox");
            return false;
        }
        while (g < GROUP_COUNT && strcmp(action_group_names[g], name) != 0)
            g++;
        if (g == GROUP_COUNT) {
            error_set_field(
                err, field,
                "contains \"%.60s\"; known are run-command, files:read, files:write, ports, agent:invoke, "
                "agent:configure, resume and stop",
                name);
            return false;
        }
        *out |= 1u << g;
    }
    return true;
}

json_t *action_groups_json(unsigned groups) {
    json_t *list = json_array();
    for (unsigned g = GROUP_RUN_COMMAND; g < GROUP_COUNT; g++) {
        if (groups & (1u << g)) json_array_append_new(list, json_string(action_group_names[g]));
    }
    return list;
}

/* Groups of a stored record: what this version does not know grants nothing. */
static unsigned known_groups(const json_t *list) {
    unsigned out = 0;
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *name = json_string_value(item);
        for (unsigned g = GROUP_RUN_COMMAND; name && g < GROUP_COUNT; g++) {
            if (strcmp(action_group_names[g], name) == 0) out |= 1u << g;
        }
    }
    return out;
}

/* ---- reading ---- */

static bool decode_data(const json_t *secret, const char *name, struct buffer *out) {
    const char *text = json_string_value(json_object_get(json_object_get(secret, "data"), name));
    return text && base64_decode(slice_of(text), out);
}

static bool is_hash(struct slice s) {
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= '0' && s.ptr[i] <= '9') || (s.ptr[i] >= 'a' && s.ptr[i] <= 'f'))) return false;
    return s.len == SHA256_HEX_LEN;
}

json_t *key_record_read(const json_t *secret) {
    const char *purpose = json_string_value(json_object_get(json_at(secret, "metadata.labels"), KEY_PURPOSE));
    const char *id = json_str_at(secret, "metadata.name");
    cleanup_buffer struct buffer hash = {0}, text = {0};
    if (!purpose || strcmp(purpose, "api-key") != 0) return NULL;
    if (!decode_data(secret, "keyHash", &hash) || !decode_data(secret, "record", &text)) return NULL;
    if (!is_hash(buffer_slice(&hash)) || strncmp(id, KEY_ID_PREFIX, strlen(KEY_ID_PREFIX)) != 0) return NULL;
    /* Keys are found by their id, so an id that is not the hash's would never be found. */
    id += strlen(KEY_ID_PREFIX);
    if (strlen(id) != KEY_ID_HEX || memcmp(id, hash.data, KEY_ID_HEX) != 0) return NULL;
    json_t *record = json_parse_object(buffer_slice(&text), NULL);
    if (!record) return NULL;
    /* The hash that counts is the one beside the record. */
    json_object_set_new(record, "keyHash", json_string_repaired(buffer_slice(&hash)));
    return record;
}

static char *dup_or_null(const char *s) {
    return s[0] ? xstrdup(s) : NULL;
}

void key_record_identity(const json_t *record, struct identity *out) {
    memset(out, 0, sizeof *out);
    out->is_key = true;
    out->sub = xstrdup(json_str_at(record, "userId"));
    out->email = xstrdup(json_str_at(record, "email"));
    out->name = xstrdup(json_str_at(record, "name"));
    out->sandbox_id = dup_or_null(json_str_at(record, "sandboxId"));
    if (out->sandbox_id) {
        out->sandbox_namespace = dup_or_null(json_str_at(record, "sandboxNamespace"));
        out->sandbox_uid = dup_or_null(json_str_at(record, "sandboxUid"));
        out->action_groups = known_groups(json_object_get(record, "actionGroups"));
        return;
    }
    /* Only keys of the create-key command carry these two: minted ones are never admin (3.7). */
    out->is_admin = json_is_true(json_object_get(record, "admin"));
    const json_t *groups = json_object_get(record, "groups");
    if (json_array_size(groups) > 0) out->groups = json_deep_copy(groups);
}

int64_t key_record_expiry(const json_t *record) {
    const json_t *value = json_object_get(record, "expiresAt");
    int64_t at = 0;
    if (!value || json_is_null(value)) return 0;
    if (!json_is_string(value) || !rfc3339_parse_ms(json_string_value(value), &at) || at < 1) return 1;
    return at;
}

time_t key_record_last_used(const json_t *record) {
    time_t at = 0;
    return rfc3339_parse(json_str_at(record, "lastUsedAt"), &at) ? at : 0;
}

json_t *key_record_used_patch(const json_t *secret, struct timespec at) {
    cleanup_json json_t *record = key_record_read(secret);
    if (!record) return NULL;
    char text[RFC3339_MAX];
    rfc3339_format(at.tv_sec, text);
    json_object_set_new(record, "lastUsedAt", json_string(text));
    cleanup_free char *dumped = json_dumps(record, JSON_COMPACT);
    cleanup_buffer struct buffer data = {0};
    base64_encode(slice_of(dumped), &data);
    return json_pack("{s:{s:s}}", "data", "record", buffer_cstr(&data));
}

static void copy_text(json_t *to, const json_t *from, const char *name) {
    const char *text = json_str_at(from, name);
    if (text[0]) json_object_set_new(to, name, json_string(text));
}

json_t *key_record_public(const json_t *record) {
    json_t *out = json_object();
    char id[sizeof KEY_ID_PREFIX + KEY_ID_HEX];
    snprintf(id, sizeof id, "%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX, json_str_at(record, "keyHash"));
    json_object_set_new(out, "id", json_string(id));
    json_object_set_new(out, "userId", json_string(json_str_at(record, "userId")));
    json_object_set_new(out, "name", json_string(json_str_at(record, "name")));
    if (json_str_at(record, "sandboxId")[0]) {
        copy_text(out, record, "sandboxId");
        json_object_set_new(out, "actionGroups",
                            action_groups_json(known_groups(json_object_get(record, "actionGroups"))));
    }
    copy_text(out, record, "createdAt");
    copy_text(out, record, "expiresAt");
    copy_text(out, record, "lastUsedAt");
    return out;
}

/* ---- writing ---- */

void key_user_label(const char *user_id, char out[64]) {
    size_t n = 0, start = 0;
    if (!user_id[0]) {
        memcpy(out, "unknown", sizeof "unknown");
        return;
    }
    for (const char *p = user_id; *p && n < 63; p++) {
        bool alnum = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');
        /* One "-" for a character, however many bytes it has. */
        if (((unsigned char)*p & 0xc0) == 0x80) continue;
        out[n++] = alnum || *p == '-' || *p == '_' || *p == '.' ? *p : '-';
    }
    while (n > 0 && strchr("-_.", out[n - 1]))
        n--;
    while (start < n && strchr("-_.", out[start]))
        start++;
    memmove(out, out + start, n - start);
    out[n - start] = '\0';
    if (n == start) memcpy(out, "user", sizeof "user");
}

static struct timespec after(struct timespec t, int64_t ns) {
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec += (long)(ns % 1000000000);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

static json_t *new_record(const struct key_request *q, const char *hash, struct timespec now) {
    char text[RFC3339_MAX];
    json_t *record = json_object();
    json_object_set_new(record, "keyHash", json_string(hash));
    json_object_set_new(record, "userId", json_string_repaired(slice_of(q->user_id)));
    json_object_set_new(record, "email", json_string_repaired(slice_of(q->email ? q->email : "")));
    json_object_set_new(record, "name", json_string_repaired(slice_of(q->name ? q->name : "")));
    /* Members of old that readers expect to see; nobody enforces them. */
    json_object_set_new(record, "scopes", json_null());
    json_object_set_new(record, "allowedNamespaces", json_null());
    if (q->sandbox_id) {
        json_object_set_new(record, "sandboxId", json_string(q->sandbox_id));
        json_object_set_new(record, "actionGroups", action_groups_json(q->action_groups));
        if (q->sandbox_namespace)
            json_object_set_new(record, "sandboxNamespace", json_string(q->sandbox_namespace));
        if (q->sandbox_uid) json_object_set_new(record, "sandboxUid", json_string(q->sandbox_uid));
    }
    if (q->admin) json_object_set_new(record, "admin", json_true());
    if (json_array_size(q->groups) > 0) json_object_set_new(record, "groups", json_deep_copy(q->groups));
    rfc3339_format_nanos(now, text);
    json_object_set_new(record, "createdAt", json_string(text));
    if (q->expires_in_ns > 0) {
        rfc3339_format_nanos(after(now, q->expires_in_ns), text);
        json_object_set_new(record, "expiresAt", json_string(text));
    }
    return record;
}

json_t *key_secret_new(const char *namespace, const struct key_request *request, struct slice key,
                       struct timespec now) {
    char hash[SHA256_HEX_LEN + 1], label[64], id[sizeof KEY_ID_PREFIX + KEY_ID_HEX];
    sha256_hex(key, hash);
    key_user_label(request->user_id, label);
    snprintf(id, sizeof id, "%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX, hash);
    cleanup_json json_t *record = new_record(request, hash, now);
    cleanup_free char *text = json_dumps(record, JSON_COMPACT);
    cleanup_buffer struct buffer data = {0}, hash64 = {0};
    base64_encode(slice_of(text), &data);
    base64_encode(slice_of(hash), &hash64);
    const struct resource_kind *kind = &resource_kinds[KIND_SECRET];
    return json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:{s:s, s:s}}, s:{s:s, s:s}}", "apiVersion",
                     kind->api_version, "kind", kind->kind, "type", "Opaque", "metadata", "name", id,
                     "namespace", namespace, "labels", KEY_PURPOSE, "api-key", KEY_USER_LABEL, label, "data",
                     "keyHash", buffer_cstr(&hash64), "record", buffer_cstr(&data));
}

/* ---- the body of POST /user/api-keys ---- */

static bool only_known(const json_t *body, struct error *err) {
    static const char *const known[] = {"name", "expiresIn", "sandboxId", "scopes", "actionGroups"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            found = found || strcmp(known[i], name) == 0;
        if (found) continue;
        /* A misspelt member would make a stronger key than was meant. */
        error_set(err, 400, ERR_INVALID_FIELD, "unknown member \"%.64s\"", name);
        if (err) err->details = json_pack("{s:s}", "field", name);
        return false;
    }
    return true;
}

static bool read_groups(const json_t *body, struct key_body *out, struct error *err) {
    json_t *scopes = NULL, *alias = NULL;
    unsigned from_scopes = 0, from_alias = 0;
    if (!json_get_array(body, "scopes", &scopes, err) || !json_get_array(body, "actionGroups", &alias, err))
        return false;
    if (!action_groups_parse(scopes, "scopes", &from_scopes, err) ||
        !action_groups_parse(alias, "actionGroups", &from_alias, err))
        return false;
    if (scopes && alias && from_scopes != from_alias) {
        error_set_field(err, "actionGroups", "differs from scopes, which means the same; send one of them");
        return false;
    }
    out->groups = from_scopes | from_alias;
    if (out->groups && !out->sandbox_id) {
        error_set_field(err, scopes ? "scopes" : "actionGroups", "needs a sandboxId");
        return false;
    }
    if (out->sandbox_id && !out->groups) out->groups = ACTION_GROUPS_ALL;
    return true;
}

static size_t characters(const char *s) {
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

/* Those of ASCII, and those of Latin-1, which take two bytes: a terminal that shows a list of keys obeys
 * both. */
static bool has_controls(const char *s) {
    for (const unsigned char *p = (const unsigned char *)s; *p; p++)
        if (*p < ' ' || *p == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0)) return true;
    return false;
}

bool key_body_parse(const json_t *body, int64_t max_lifetime_ns, struct key_body *out, struct error *err) {
    const char *name = NULL, *sandbox = NULL, *expires = NULL;
    memset(out, 0, sizeof *out);
    if (!only_known(body, err) || !json_get_string(body, "name", &name, err) ||
        !json_get_string(body, "sandboxId", &sandbox, err) ||
        !json_get_string(body, "expiresIn", &expires, err))
        return false;
    out->name = name ? name : "";
    out->sandbox_id = sandbox && sandbox[0] ? sandbox : NULL;
    if (characters(out->name) > KEY_LABEL_MAX) {
        error_set_field(err, "name", "must have at most %d characters", KEY_LABEL_MAX);
        return false;
    }
    if (has_controls(out->name)) {
        error_set_field(err, "name", "must not hold control characters");
        return false;
    }
    if (expires && expires[0] && (!duration_parse(expires, &out->expires_in_ns) || out->expires_in_ns <= 0)) {
        error_set_field(err, "expiresIn", "must be a duration above zero such as \"720h\"");
        return false;
    }
    if (max_lifetime_ns > 0 && out->expires_in_ns > max_lifetime_ns) {
        char most[DURATION_TEXT_MAX];
        duration_format(max_lifetime_ns, most);
        error_set_field(err, "expiresIn", "must be at most %s", most);
        return false;
    }
    if (max_lifetime_ns > 0 && out->expires_in_ns == 0) out->expires_in_ns = max_lifetime_ns;
    return read_groups(body, out, err);
}
