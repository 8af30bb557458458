#include "controller/token_secret.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "controller/names.h"

#include <stdio.h>

void token_generate(char out[TOKEN_LEN + 1]) {
    unsigned char bytes[32];
    cleanup_buffer struct buffer text = {0};
    random_bytes(bytes, sizeof bytes);
    base64url_encode(slice_make((const char *)bytes, sizeof bytes), &text);
    snprintf(out, TOKEN_LEN + 1, "%s", buffer_cstr(&text));
    explicit_bzero(bytes, sizeof bytes);
    explicit_bzero(text.data, text.len);
}

json_t *token_secret_with(json_t *metadata, const char *token) {
    char fresh[TOKEN_LEN + 1] = "";
    cleanup_buffer struct buffer encoded = {0};
    if (!token) token_generate(fresh);
    base64_encode(slice_of(token ? token : fresh), &encoded);
    metadata_label(metadata, LABEL_PURPOSE, "runtime-token");
    json_t *secret =
        json_pack("{s:s, s:s, s:o, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "Secret", "metadata", metadata,
                  "type", "Opaque", "data", "token", buffer_cstr(&encoded));
    explicit_bzero(fresh, sizeof fresh);
    explicit_bzero(encoded.data, encoded.len);
    return secret;
}

json_t *token_secret_build(const struct object *sandbox, const char *token) {
    cleanup_free char *name = name_of_token(sandbox);
    return token_secret_with(metadata_of(sandbox, name), token);
}

char *token_secret_read(const struct object *secret) {
    cleanup_buffer struct buffer token = {0};
    if (!base64_decode(slice_of(json_str_at(secret->json, "data.token")), &token) || token.len == 0)
        return NULL;
    /* It becomes a line of text for the runtime. */
    for (size_t i = 0; i < token.len; i++)
        if (token.data[i] <= ' ' || token.data[i] > '~') return NULL;
    return buffer_steal(&token, NULL);
}
