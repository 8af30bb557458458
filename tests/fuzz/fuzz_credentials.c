/* What a client sends to log in and to make keys, and what stands in the store as a key. The first line is a
 * header, the rest a JSON document. */
#include "common/json.h"
#include "router/auth.h"
#include "router/jwt.h"
#include "router/key_record.h"
#include "router/service_accounts.h"
#include "tests/fuzz/fuzz.h"

static void header(const char *text) {
    struct slice token = {0};
    if (auth_bearer_token(text, &token)) {
        MUST(token.ptr >= text && token.ptr + token.len <= text + strlen(text));
        MUST(token.len == 0 || (token.ptr[0] != ' ' && token.ptr[token.len - 1] != ' '));
        jwt_shaped(token);
    }
    char label[64];
    key_user_label(text, label);
    MUST(label[0] && strlen(label) < sizeof label && !strchr("-_.", label[0]) &&
         !strchr("-_.", label[strlen(label) - 1]));
    if (service_account_allowed(text, "ci"))
        MUST(strncmp(text, "system:serviceaccount:ci:", 25) == 0 && text[25]);
    MUST(!service_account_allowed(text, ""));
}

static void secret(const json_t *value) {
    cleanup_json json_t *record = key_record_read(value);
    if (!record) return;
    struct identity id;
    key_record_identity(record, &id);
    MUST(id.sub && id.email && id.name && id.is_key);
    /* A scoped key is never an administrator's, whatever its record says. */
    MUST(!id.sandbox_id || (!id.is_admin && !id.groups));
    identity_free(&id);
    MUST(key_record_expiry(record) >= 0 && key_record_last_used(record) < INT64_MAX);
    cleanup_json json_t *shown = key_record_public(record);
    MUST(shown && !json_object_get(shown, "keyHash") && !json_object_get(shown, "email"));
    cleanup_json json_t *patch = key_record_used_patch(value, (struct timespec){.tv_sec = 1});
    cleanup_json json_t *used = json_merge_patch(value, patch);
    cleanup_json json_t *after = key_record_read(used);
    MUST(after && key_record_last_used(after) == 1 && key_record_expiry(after) == key_record_expiry(record));
}

static void body(const json_t *value) {
    struct key_body out;
    cleanup_error struct error err = {0};
    if (!key_body_parse(value, 3600000000000, &out, &err)) {
        MUST(err.status == 400 && err.message[0]);
        return;
    }
    MUST(out.expires_in_ns > 0 && out.expires_in_ns <= 3600000000000 && out.name);
    MUST((out.sandbox_id != NULL) == (out.groups != 0) && (out.groups & ~ACTION_GROUPS_ALL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *end = size ? memchr(data, '\n', size) : NULL;
    size_t n = end ? (size_t)(end - (const char *)data) : size;
    cleanup_free char *line = slice_dup(slice_make((const char *)data, n));
    header(line);
    if (!end) return 0;
    cleanup_json json_t *value = json_parse_object(slice_make(end + 1, size - n - 1), NULL);
    if (!value) return 0;
    secret(value);
    body(value);
    return 0;
}
