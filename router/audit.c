/* See audit.h. The history of requests. */
#include "router/audit.h"

#include "common/text.h"
#include "common/units.h"
#include "router/key_record.h"
#include "router/router.h"
#include "router/sharing.h"

#include <stdio.h>
#include <strings.h>

#define TEXT_MAX    512
#define DETAILS_MAX 16384 /* the names of a hundred sandboxes */

/* ---- text ---- */

static bool token_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '+' || c == '/' || c == '=' || c == '~';
}

/* Bytes of a word that is written like the token of a share link, which has no prefix to know it by: 43
 * characters of base64url, and not of one sort only as hashes and names are. Else 0. */
static size_t bare_token_at(const char *p, size_t len) {
    bool upper = false, lower = false, digit = false;
    size_t n = 0;
    for (; n < len && token_character(p[n]); n++) {
        if (n == SHARE_TOKEN_LEN || strchr(".+/=~", p[n])) break;
        upper = upper || (p[n] >= 'A' && p[n] <= 'Z');
        lower = lower || (p[n] >= 'a' && p[n] <= 'z');
        digit = digit || (p[n] >= '0' && p[n] <= '9');
    }
    bool ends = n == len || !token_character(p[n]) || p[n] == '/';
    return n == SHARE_TOKEN_LEN && ends && upper && lower && digit ? n : 0;
}

/* Bytes of a credential that begins at text[at], or 0: an API key, a JWT, what follows "Bearer ", the token
 * of a share link. */
static size_t credential_at(struct slice text, size_t at) {
    static const struct {
        const char *prefix;
        size_t least;  /* characters after it that make it one */
        bool anywhere; /* also within a word, where most of them are common: "task-..." has no "sk-" */
    } kinds[] = {{"atk_", 43, true},    {"atk_", 16, false}, {"ak_", 16, false},  {"eyJ", 20, false},
                 {"bearer ", 8, false}, {"asl_", 16, false}, {"ghp_", 16, false}, {"sk-", 16, false}};
    const char *p = text.ptr + at;
    size_t len = text.len - at;
    bool inside = at > 0 && token_character(p[-1]) && p[-1] != '/' && p[-1] != '=';
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t n = strlen(kinds[i].prefix);
        if (len <= n || (inside && !kinds[i].anywhere) || strncasecmp(p, kinds[i].prefix, n) != 0) continue;
        size_t end = n;
        while (end < len && token_character(p[end]))
            end++;
        if (end - n >= kinds[i].least) return end;
    }
    return inside ? 0 : bare_token_at(p, len);
}

/* Without credentials and control characters, of any bytes. */
static void cleaned(struct slice text, struct buffer *out) {
    for (size_t i = 0; i < text.len && out->len < TEXT_MAX;) {
        unsigned char c = (unsigned char)text.ptr[i];
        size_t secret = credential_at(text, i);
        if (secret) {
            buffer_append_str(out, "[redacted]");
            i += secret;
            continue;
        }
        if (c < 0x20 || c == 0x7f)
            buffer_printf(out, "\\x%02x", c);
        else
            buffer_append_char(out, (char)c);
        i++;
    }
}

void audit_text(struct slice text, struct buffer *out) {
    cleanup_buffer struct buffer clean = {0}, valid = {0};
    cleaned(text, &clean);
    utf8_repair(buffer_slice(&clean), &valid);
    size_t len = valid.len < TEXT_MAX ? valid.len : TEXT_MAX;
    len -= utf8_incomplete_tail(slice_make(valid.data, len));
    /* C1 controls and the separators that some readers take for line ends. */
    for (size_t i = 0; i < len;) {
        const unsigned char *p = (const unsigned char *)valid.data + i;
        if (p[0] == 0xc2 && p[1] < 0xa0) {
            buffer_printf(out, "\\x%02x", p[1]);
            i += 2;
        } else if (p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9)) {
            buffer_printf(out, "\\u20%02x", p[2] - 0x80);
            i += 3;
        } else {
            buffer_append_char(out, (char)p[0]);
            i++;
        }
    }
}

#define CREDENTIAL_LEAST 19 /* characters of the shortest word; what follows "Bearer " is shorter */

/* Whether there is a word of so many characters: asked for every line of the access log, so quickly. */
static bool has_long_word(struct slice text) {
    static const char breaks[] = " /()[]{}<>,;:!?*&'\"";
    if (text.len < CREDENTIAL_LEAST) return false;
    for (size_t from = 0; from + CREDENTIAL_LEAST <= text.len;) {
        /* From the end of the shortest that could begin here: mostly the first look finds a break. */
        size_t at = from + CREDENTIAL_LEAST;
        while (at > from && !memchr(breaks, text.ptr[at - 1], sizeof breaks - 1))
            at--;
        if (at == from) return true;
        from = at;
    }
    return false;
}

bool audit_holds_credential(struct slice text) {
    if (!has_long_word(text)) return false;
    for (size_t i = 0; i < text.len; i++)
        if (credential_at(text, i)) return true;
    return false;
}

char *audit_log_text(struct slice text) {
    cleanup_buffer struct buffer decoded = {0};
    struct slice plain = text;
    if (text.ptr && memchr(text.ptr, '%', text.len) && percent_decode(text, &decoded))
        plain = buffer_slice(&decoded);
    if (!audit_holds_credential(plain)) return slice_dup(text);
    struct buffer out = {0};
    audit_text(plain, &out);
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

static char *text_of(const char *text) {
    struct buffer out = {0};
    audit_text(slice_of(text), &out);
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

json_t *audit_string(const char *text) {
    cleanup_free char *clean = text_of(text ? text : "");
    return json_string(clean);
}

const char *audit_outcome(int status, bool aborted) {
    if (aborted || status == 0) return "aborted";
    if (status < 400) return "success";
    if (status == 401 || status == 403) return "denied";
    if (status == 404) return "not_found";
    return status < 500 ? "refused" : "failed";
}

const char *audit_resource(const char *action) {
    static const char *const others[] = {"webhook",     "key",      "template", "policy",
                                         "preferences", "warmpool", "headroom"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        size_t n = strlen(others[i]);
        if (strncmp(action, others[i], n) == 0 && (action[n] == '.' || action[n] == '\0')) return others[i];
    }
    return "sandbox";
}

/* ---- notes of handlers ---- */

void audit_name(struct request *r, const char *namespace, const char *name) {
    free(r->audit.name);
    free(r->audit.namespace);
    r->audit.name = xstrdup(name);
    r->audit.namespace = namespace ? xstrdup(namespace) : NULL;
}

void audit_action(struct request *r, const char *action) {
    r->audit.action = action;
}

void audit_detail(struct request *r, const char *key, json_t *value) {
    if (!r->audit.details) r->audit.details = json_object();
    json_object_set_new(r->audit.details, key, value);
}

void audit_error(struct request *r, const struct error *err) {
    r->audit.code = err->code;
    json_t *codes = json_array();
    size_t i;
    json_t *violation;
    json_array_foreach(json_object_get(err->details, "violations"), i, violation) {
        json_array_append_new(codes, audit_string(json_str_at(violation, "code")));
    }
    if (json_array_size(codes) > 0)
        audit_detail(r, "violations", codes);
    else
        json_decref(codes);
}

void audit_note_free(struct audit_note *note) {
    free(note->name);
    free(note->namespace);
    json_decref(note->details);
    *note = (struct audit_note){0};
}

/* ---- the record of a request ---- */

/* There is such a sandbox, but not for this caller: the answer hides it, the history does not. */
static bool was_hidden(struct request *r, int status) {
    if (status != 404 || r->sandbox || r->route->auth < AUTH_SANDBOX_READ) return false;
    struct store *store = r->backend->store;
    cleanup_object_list struct object_list all =
        store->ops->find(store, KIND_SANDBOX, request_param(r, "id"));
    return all.count > 0;
}

static void set_text(json_t *details, const char *name, const char *value) {
    if (!value || !value[0]) return;
    cleanup_free char *clean = text_of(value);
    json_object_set_new(details, name, json_string(clean));
}

/* What became of it is worth an entry? */
static bool worth(const struct request *r, int status, bool hidden) {
    const struct route *route = r->route;
    bool denied = status == 401 || status == 403 || hidden;
    if (strcmp(route->method, "*") == 0) return denied;
    if (route->audit) return true;
    /* Somebody who is known and went where they may not; of strangers only those at administrators' doors. */
    return denied && (r->identity.sub || route->auth == AUTH_ADMIN);
}

/* Parameters of paths that say what was meant; any other may be a secret. */
static char *details_of(struct request *r) {
    static const char *const params[] = {"path",   "port",   "execId",      "keyId",
                                         "linkId", "userId", "snapshotName"};
    static const char *const credentials[] = {"none", "api-key", "bearer", "dev-auth"};
    cleanup_json json_t *details = r->audit.details ? json_deep_copy(r->audit.details) : json_object();
    const char *key;
    json_t *value;
    json_object_foreach(details, key, value) {
        if (json_is_string(value)) set_text(details, key, json_string_value(value));
    }
    for (size_t i = 0; i < sizeof params / sizeof params[0]; i++)
        set_text(details, params[i], request_param(r, params[i]));
    set_text(details, "operation", r->route->operation_id);
    set_text(details, "code", r->audit.code);
    size_t method = (size_t)r->identity.auth_method;
    if (r->identity.sub && method < 4) set_text(details, "credential", credentials[method]);
    if (r->identity.is_key) {
        /* Which of the caller's keys: its id says nothing that opens anything. */
        char hash[SHA256_HEX_LEN + 1], id[sizeof KEY_ID_PREFIX + KEY_ID_HEX];
        hex_encode(r->key_digest, SHA256_BYTES, hash);
        snprintf(id, sizeof id, "%s%.*s", KEY_ID_PREFIX, KEY_ID_HEX, hash);
        json_object_set_new(details, "credentialId", json_string(id));
    }
    if (r->identity.sandbox_id) set_text(details, "keyOfSandbox", r->identity.sandbox_id);
    char *text = json_dumps(details, JSON_COMPACT | JSON_SORT_KEYS);
    if (text && strlen(text) <= DETAILS_MAX) return text;
    free(text);
    cleanup_json json_t *little =
        json_pack("{s:s, s:s}", "operation", r->route->operation_id, "note", "details were too long");
    return json_dumps(little, JSON_COMPACT);
}

static const char *name_of(const struct request *r) {
    if (r->audit.name) return r->audit.name;
    if (r->sandbox) return r->sandbox->name;
    static const char *const params[] = {"id", "name", "namespace", "keyId"};
    for (size_t i = 0; i < sizeof params / sizeof params[0]; i++)
        if (request_param(r, params[i])[0]) return request_param(r, params[i]);
    return "";
}

void audit_request(struct request *r, int status, bool aborted) {
    struct history *history = r->router ? r->router->history : NULL;
    if (!history || r->audit.recorded || !r->route) return;
    bool hidden = (r->route->audit || r->identity.sub) && was_hidden(r, status);
    if (!worth(r, status, hidden)) return;
    r->audit.recorded = true;
    const char *action = r->audit.action   ? r->audit.action
                         : r->route->audit ? r->route->audit
                                           : r->route->operation_id;
    const char *namespace = r->audit.namespace ? r->audit.namespace : r->sandbox ? r->sandbox->namespace : "";
    cleanup_free char *name = text_of(name_of(r));
    cleanup_free char *actor = text_of(r->identity.sub ? r->identity.sub : "");
    cleanup_free char *email = text_of(r->identity.email ? r->identity.email : "");
    cleanup_free char *where = text_of(namespace);
    cleanup_free char *details = details_of(r);
    struct history_entry e = {.sandbox = name,
                              .namespace = where,
                              .actor = actor,
                              .email = email,
                              .action = action,
                              .resource = audit_resource(action),
                              .outcome = hidden ? "denied" : audit_outcome(status, aborted),
                              .request_id = r->request_id,
                              .source = r->client_ip,
                              .details = details,
                              .status = status};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    rfc3339_format_nanos(now, e.ts);
    /* Strangers must not be able to push out what users do. */
    history_add(history, &e, r->identity.sub ? HISTORY_FULL : HISTORY_LIGHT);
}
