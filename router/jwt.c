#include "router/jwt.h"

#include "common/text.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define SUB_MAX 512 /* bytes */

static bool refuse(struct error *err, const char *why) {
    error_set(err, 401, "invalid_token", "the bearer token was refused: %s", why);
    return false;
}

void jwt_free(struct jwt *token) {
    json_decref(token->header);
    json_decref(token->claims);
    buffer_free(&token->signature);
    memset(token, 0, sizeof *token);
}

bool jwt_shaped(struct slice text) {
    size_t dots = 0;
    for (size_t i = 0; i < text.len; i++)
        dots += text.ptr[i] == '.';
    return dots == 2;
}

/* Up to the next dot, or the end. */
static struct slice take_part(struct slice *rest) {
    const char *dot = memchr(rest->ptr, '.', rest->len);
    struct slice part = slice_make(rest->ptr, dot ? (size_t)(dot - rest->ptr) : rest->len);
    size_t used = part.len + (dot ? 1 : 0);
    *rest = slice_make(rest->ptr + used, rest->len - used);
    return part;
}

static json_t *decode_object(struct slice part) {
    cleanup_buffer struct buffer text = {0};
    if (!base64url_decode(part, &text)) return NULL;
    return json_parse_object(buffer_slice(&text), NULL);
}

/* Other things that are signed by the same keys and must not pass for a login: logout tokens, security
 * events, proofs of possession. Access and id tokens say JWT, at+jwt or nothing. */
static bool is_other_type(const json_t *header) {
    const json_t *typ = json_object_get(header, "typ");
    if (!typ) return false;
    const char *text = json_string_value(typ);
    if (!text) return true;
    if (strncasecmp(text, "application/", 12) == 0) text += 12;
    const char *plus = strrchr(text, '+');
    return plus && strcasecmp(plus, "+jwt") == 0 && strcasecmp(text, "at+jwt") != 0;
}

bool jwt_parse(struct slice text, struct jwt *out, struct error *err) {
    memset(out, 0, sizeof *out);
    if (text.len > JWT_MAX) return refuse(err, "it is larger than 16 KiB");
    if (!jwt_shaped(text)) return refuse(err, "it is neither an API key nor a JSON Web Token");
    struct slice rest = text;
    struct slice header = take_part(&rest), claims = take_part(&rest), signature = take_part(&rest);
    out->signed_part = slice_make(text.ptr, header.len + 1 + claims.len);
    if (!(out->header = decode_object(header))) return refuse(err, "its header cannot be read");
    if (!(out->claims = decode_object(claims))) return refuse(err, "its claims cannot be read");
    if (!base64url_decode(signature, &out->signature)) return refuse(err, "its signature cannot be read");
    out->alg = json_string_value(json_object_get(out->header, "alg"));
    out->kid = json_string_value(json_object_get(out->header, "kid"));
    if (!out->alg) return refuse(err, "its header has no alg");
    if (!out->kid || !out->kid[0]) return refuse(err, "its header has no kid");
    if (json_object_get(out->header, "crit"))
        return refuse(err, "its header asks for extensions that are not supported (crit)");
    if (is_other_type(out->header)) return refuse(err, "it is a token for another purpose (typ)");
    return true;
}

/* A NumericDate, which may have a fraction. */
static bool read_time(const json_t *value, double *out) {
    if (!json_is_number(value)) return false;
    *out = json_number_value(value);
    return isfinite(*out) && fabs(*out) < 1e15;
}

time_t jwt_expiry(const json_t *claims) {
    double at = 0;
    return read_time(json_object_get(claims, "exp"), &at) && at > 0 ? (time_t)at : 0;
}

static bool times_valid(const json_t *claims, double now, struct error *err) {
    const json_t *not_before = json_object_get(claims, "nbf"), *issued = json_object_get(claims, "iat");
    double at = 0;
    if (!read_time(json_object_get(claims, "exp"), &at)) return refuse(err, "it has no expiry (exp)");
    if (now > at + JWT_LEEWAY_SECONDS) return refuse(err, "it has expired (exp)");
    if (not_before && !read_time(not_before, &at)) return refuse(err, "its nbf is not a time");
    if (not_before && now + JWT_LEEWAY_SECONDS < at) return refuse(err, "it is not valid yet (nbf)");
    if (issued && !read_time(issued, &at)) return refuse(err, "its iat is not a time");
    if (issued && now + JWT_LEEWAY_SECONDS < at) return refuse(err, "it was issued in the future (iat)");
    return true;
}

static bool is_one_of(const char *text, const char *const *list) {
    for (; text && list && *list; list++)
        if ((*list)[0] && strcmp(text, *list) == 0) return true;
    return false;
}

bool jwt_audience_valid(const json_t *claims, const char *const *audiences) {
    const json_t *claim = json_object_get(claims, "aud");
    size_t i;
    json_t *item;
    if (json_is_string(claim)) return is_one_of(json_string_value(claim), audiences);
    json_array_foreach(claim, i, item) {
        if (is_one_of(json_string_value(item), audiences)) return true;
    }
    return false;
}

bool jwt_claims_valid(const json_t *claims, const struct jwt_rules *rules, time_t now, struct error *err) {
    if (!times_valid(claims, (double)now, err)) return false;
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    if (!issuer || strcmp(issuer, rules->issuer) != 0) return refuse(err, "it is from another issuer (iss)");
    if (!jwt_audience_valid(claims, rules->audiences)) return refuse(err, "it is for another audience (aud)");
    const char *sub = json_string_value(json_object_get(claims, "sub"));
    if (!sub || !sub[0]) return refuse(err, "it names no subject (sub)");
    if (strlen(sub) > SUB_MAX) return refuse(err, "its subject is too long (sub)");
    return true;
}

/* The claim of that very name, else the one at the path. */
static const json_t *find_claim(const json_t *claims, const char *path) {
    const json_t *direct = json_object_get(claims, path);
    return direct ? direct : json_at(claims, path);
}

static json_t *read_groups(const json_t *claim) {
    json_t *groups = json_array();
    size_t i;
    json_t *item;
    if (json_is_string(claim)) json_array_append(groups, (json_t *)(uintptr_t)claim);
    json_array_foreach(claim, i, item) {
        if (json_is_string(item)) json_array_append(groups, item);
    }
    return groups;
}

static bool in_list(const json_t *groups, const char *group) {
    size_t i;
    json_t *item;
    json_array_foreach(groups, i, item) {
        if (strcmp(json_string_value(item), group) == 0) return true;
    }
    return false;
}

static bool says_false(const json_t *value) {
    const char *text = json_string_value(value); /* some issuers send texts */
    return json_is_false(value) || (text && strcasecmp(text, "false") == 0);
}

void jwt_identity(const json_t *claims, const char *group_claim, const char *admin_group,
                  const char *sub_prefix, struct identity *out) {
    memset(out, 0, sizeof *out);
    out->auth_method = AUTH_BY_BEARER;
    out->expires = jwt_expiry(claims);
    out->sub = xasprintf("%s%s", sub_prefix, json_str_at(claims, "sub"));
    out->email = xstrdup(json_str_at(claims, "email"));
    out->name = xstrdup(json_str_at(claims, "name"));
    out->email_unverified = says_false(json_object_get(claims, "email_verified"));
    out->groups = read_groups(find_claim(claims, group_claim));
    out->is_admin = admin_group[0] && in_list(out->groups, admin_group);
}
