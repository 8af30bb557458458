/* Links that give whoever holds their token access to one sandbox. See sharing.h. */
#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/units.h"
#include "router/sharing.h"

#include <string.h>

#define TOKEN_BYTES   32
#define LINK_USES_MAX INT32_MAX

bool share_link_parse(const json_t *body, struct share_link_request *out, struct error *err) {
    const char *expires = NULL;
    json_int_t uses = 0;
    *out = (struct share_link_request){0};
    if (!json_get_string(body, "level", &out->level, err) ||
        !json_get_string(body, "expiresIn", &expires, err) ||
        !json_get_int(body, "maxUses", 0, LINK_USES_MAX, &uses, err))
        return false;
    if (!out->level || !out->level[0]) out->level = "viewer";
    if (strcmp(out->level, "viewer") != 0 && strcmp(out->level, "collaborator") != 0) {
        error_set_field(err, "level", "must be viewer or collaborator");
        return false;
    }
    if (expires && expires[0] && (!duration_parse(expires, &out->expires_in_ns) || out->expires_in_ns <= 0)) {
        error_set_field(err, "expiresIn", "must be a duration above zero, such as 24h");
        return false;
    }
    out->max_uses = uses;
    return true;
}

json_t *share_link_new(const struct share_link_request *q, time_t now, char token[SHARE_TOKEN_LEN + 1]) {
    unsigned char random[TOKEN_BYTES];
    char id[SHARE_LINK_ID_LEN + 1], hash[SHA256_HEX_LEN + 1];
    cleanup_buffer struct buffer text = {0};
    random_bytes(random, sizeof random);
    base64url_encode(slice_make((const char *)random, sizeof random), &text);
    memcpy(token, buffer_cstr(&text), SHARE_TOKEN_LEN + 1);
    explicit_bzero(random, sizeof random);
    explicit_bzero(text.data, text.len);
    sha256_hex(slice_make(token, SHARE_TOKEN_LEN), hash);
    random_hex(id, SHARE_LINK_ID_LEN / 2);
    json_t *link = json_pack("{s:s, s:s, s:s, s:I, s:i}", "id", id, "tokenHash", hash, "level", q->level,
                             "maxUses", (json_int_t)q->max_uses, "usedCount", 0);
    if (q->expires_in_ns > 0) {
        /* Not a moment shorter than was asked for: the stored time has whole seconds. */
        char at[RFC3339_MAX];
        rfc3339_format(now + q->expires_in_ns / 1000000000 + (q->expires_in_ns % 1000000000 != 0), at);
        json_object_set_new(link, "expiresAt", json_string(at));
    }
    return link;
}

static json_t *expiry_json(const json_t *link) {
    const char *text = json_str_at(link, "expiresAt");
    time_t at;
    char canonical[RFC3339_MAX];
    if (!text[0]) return json_null();
    if (!rfc3339_parse(text, &at)) return json_string(text);
    rfc3339_format(at, canonical);
    return json_string(canonical);
}

json_t *share_link_created_json(const json_t *link, const char *token) {
    return json_pack("{s:s, s:s, s:s, s:o, s:O, s:s}", "id", json_str_at(link, "id"), "token", token, "level",
                     json_str_at(link, "level"), "expiresAt", expiry_json(link), "maxUses",
                     json_object_get(link, "maxUses"), "warning", "this token is shown only once");
}

/* From 0 to the greatest number of uses, whatever is stored. */
static json_int_t number_of(const json_t *link, const char *name) {
    json_int_t n = json_integer_value(json_object_get(link, name));
    return n < 0 ? 0 : n > LINK_USES_MAX ? LINK_USES_MAX : n;
}

/* A time that cannot be read has passed. */
static bool is_expired(const json_t *link, time_t now) {
    const json_t *text = json_object_get(link, "expiresAt");
    time_t at;
    if (!text || json_is_null(text)) return false;
    return !rfc3339_parse(json_str_at(link, "expiresAt"), &at) || at <= now;
}

static bool is_used_up(const json_t *link) {
    json_int_t most = number_of(link, "maxUses");
    return most > 0 && number_of(link, "usedCount") >= most;
}

static void drop_useless(json_t *links, time_t now) {
    for (size_t i = json_array_size(links); i-- > 0;) {
        const json_t *link = json_array_get(links, i);
        if (is_expired(link, now) || is_used_up(link)) json_array_remove(links, i);
    }
}

bool share_link_add(json_t *spec, json_t *link, time_t now, struct error *err) {
    json_t *sharing = json_object_get(spec, "sharing");
    if (!json_is_object(sharing)) json_object_set_new(spec, "sharing", sharing = json_object());
    json_t *links = json_object_get(sharing, "shareLinks");
    if (!json_is_array(links)) json_object_set_new(sharing, "shareLinks", links = json_array());
    if (json_array_size(links) >= SHARE_LINKS_MAX) drop_useless(links, now);
    if (json_array_size(links) >= SHARE_LINKS_MAX) {
        error_set(err, 409, "share_limit_reached",
                  "the sandbox has %d share links, the most there can be; revoke one first", SHARE_LINKS_MAX);
        return false;
    }
    json_array_append(links, link);
    return true;
}

bool share_link_remove(json_t *spec, const char *id) {
    json_t *links = json_at(spec, "sharing.shareLinks");
    bool found = false;
    for (size_t i = json_array_size(links); i-- > 0;) {
        if (!id[0] || strcmp(json_str_at(json_array_get(links, i), "id"), id) != 0) continue;
        json_array_remove(links, i);
        found = true;
    }
    return found;
}

json_t *share_links_json(const json_t *spec) {
    json_t *out = json_array();
    size_t i;
    json_t *link;
    json_array_foreach(json_at(spec, "sharing.shareLinks"), i, link) {
        if (!json_is_object(link)) continue;
        json_array_append_new(out, json_pack("{s:s, s:s, s:o, s:I, s:I}", "id", json_str_at(link, "id"),
                                             "level", json_str_at(link, "level"), "expiresAt",
                                             expiry_json(link), "maxUses", number_of(link, "maxUses"),
                                             "usedCount", number_of(link, "usedCount")));
    }
    return out;
}

/* ---- redemption ---- */

/* The hash that a link answers to: the stored one, or that of an old link's plain token. */
static void hash_of(const json_t *link, char out[SHA256_HEX_LEN + 1]) {
    const char *hash = json_str_at(link, "tokenHash");
    const char *plain = json_str_at(link, "token");
    out[0] = '\0';
    if (hash[0]) {
        if (strlen(hash) == SHA256_HEX_LEN) memcpy(out, hash, SHA256_HEX_LEN + 1);
    } else if (plain[0]) {
        sha256_hex(slice_of(plain), out);
    }
}

json_t *share_link_find(const json_t *spec, const char *token) {
    char asked[SHA256_HEX_LEN + 1], stored[SHA256_HEX_LEN + 1];
    json_t *link, *found = NULL;
    size_t i;
    if (!token[0]) return NULL;
    sha256_hex(slice_of(token), asked);
    json_array_foreach(json_at(spec, "sharing.shareLinks"), i, link) {
        hash_of(link, stored);
        if (secret_equal(slice_of(stored), slice_of(asked)) && !found) found = link;
    }
    return found;
}

bool share_link_redeem(json_t *sandbox, const char *token, const struct identity *who, time_t now,
                       enum access_level *granted, struct error *err) {
    json_t *spec = json_object_get(sandbox, "spec");
    json_t *link = share_link_find(spec, token);
    if (!link) {
        error_set(err, 404, "share_link_not_found", "this share link does not exist or was revoked");
        return false;
    }
    bool collaborator = strcmp(json_str_at(link, "level"), "collaborator") == 0;
    enum access_level level = collaborator ? ACCESS_LEVEL_COLLABORATOR : ACCESS_LEVEL_VIEWER;
    *granted = identity_access(who, sandbox);
    if (*granted >= level) return true;
    if (is_expired(link, now)) {
        error_set(err, 410, "share_link_expired", "this share link has expired; ask for a new one");
        return false;
    }
    if (is_used_up(link)) {
        error_set(err, 410, "share_link_used_up",
                  "this share link was used as often as it may be; ask for a new one");
        return false;
    }
    struct share_grant grant = {
        .identity = who->sub, .level = collaborator ? "collaborator" : "viewer", .list = SHARE_USERS};
    if (!share_add(spec, &grant, err)) return false;
    json_object_set_new(link, "usedCount", json_integer(number_of(link, "usedCount") + 1));
    *granted = level;
    return true;
}
