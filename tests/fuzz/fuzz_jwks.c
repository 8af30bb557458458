/* A key set from an identity provider: what is taken is a set of at least one key, each with a name and
 * good for something; whatever it is, no signature of zeros passes. */
#include "router/jwks.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const algs[] = {"RS256", "PS256", "ES256", "EdDSA", "none", "HS256"};
    static const char zeros[256];
    cleanup_error struct error err = {0};
    struct jwks *set = jwks_parse(slice_make((const char *)data, size), &err);
    if (!set) {
        MUST(err.status == 502 && err.message[0]);
        return 0;
    }
    MUST(jwks_count(set) >= 1 && jwks_count(set) <= JWKS_KEYS_MAX && jwks_same(set, set));
    MUST(jwks_verify(set, "", "RS256", slice_of("a.b"), slice_of("x")) == JWKS_UNKNOWN_KEY);
    for (size_t i = 0; i < sizeof algs / sizeof algs[0]; i++) {
        enum jwks_result got =
            jwks_verify(set, "k", algs[i], slice_of("a.b"), slice_make(zeros, i == 2 ? 64 : 256));
        MUST(got != JWKS_OK && (i < 4 || got == JWKS_WRONG_ALG || got == JWKS_UNKNOWN_KEY));
    }
    jwks_unref(jwks_ref(set));
    jwks_unref(set);
    return 0;
}
