/* A bearer token from anywhere: taken apart, judged, turned into an identity. No token passes whose
 * signature was not made by the one key that is known, and nothing of it ends up in the error. */
#include "router/jwks.h"
#include "router/jwt.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const char keys[] = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"e\",\"x\":"
                           "\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}";

static void judge(const struct jwt *token) {
    static const char *const audiences[] = {"agenttier", NULL};
    struct jwt_rules rules = {.issuer = "https://issuer.example", .audiences = audiences};
    cleanup_error struct error err = {0};
    struct jwks *set = jwks_parse(slice_of(keys), NULL);
    MUST(set != NULL);
    /* Nobody has the private key of the standard's example and signs for us. */
    MUST(jwks_verify(set, token->kid, token->alg, token->signed_part, buffer_slice(&token->signature)) !=
             JWKS_OK ||
         memcmp(token->signed_part.ptr, "eyJhbGciOiJFZERTQSJ9.", 21) == 0);
    jwks_unref(set);
    MUST(jwt_expiry(token->claims) >= 0);
    if (!jwt_claims_valid(token->claims, &rules, 1000000000, &err)) {
        MUST(err.status == 401 && err.message[0] && strcmp(err.code, "invalid_token") == 0);
        return;
    }
    struct identity id;
    jwt_identity(token->claims, "groups", "admins", "p#", &id);
    MUST(id.sub && strlen(id.sub) > 2 && id.email && id.name && json_is_array(id.groups) && !id.sandbox_id);
    size_t i;
    json_t *group;
    bool found = false;
    json_array_foreach(id.groups, i, group) {
        MUST(json_is_string(group));
        found = found || strcmp(json_string_value(group), "admins") == 0;
    }
    MUST(id.is_admin == found);
    identity_free(&id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice text = slice_make((const char *)data, size);
    cleanup_error struct error err = {0};
    cleanup_jwt struct jwt token = {0};
    if (jwt_parse(text, &token, &err)) {
        MUST(jwt_shaped(text) && size <= JWT_MAX && token.alg && token.kid && token.kid[0]);
        MUST(json_is_object(token.header) && json_is_object(token.claims));
        MUST(token.signed_part.ptr == text.ptr && token.signed_part.len < size);
        judge(&token);
    } else {
        MUST(err.status == 401 && strcmp(err.code, "invalid_token") == 0);
    }
    return 0;
}
