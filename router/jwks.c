#include "router/jwks.h"

#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <stdatomic.h>
#include <string.h>

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 8192
#define KID_MAX      256

enum algorithm { RS256, PS256, ES256, EDDSA, ALGORITHM_COUNT };
static const char *const algorithm_names[ALGORITHM_COUNT] = {"RS256", "PS256", "ES256", "EdDSA"};

struct key {
    char *kid;
    enum algorithm algorithm;
    EVP_PKEY *public;
};

struct jwks {
    _Atomic int refs;
    size_t count;
    char digest[SHA256_HEX_LEN + 1]; /* of what the usable keys say, in their order */
    struct key keys[JWKS_KEYS_MAX];
};

/* ---- one key ---- */

static bool decode_member(const json_t *jwk, const char *name, struct buffer *out) {
    const char *text = json_string_value(json_object_get(jwk, name));
    return text && text[0] && base64url_decode(slice_of(text), out);
}

static EVP_PKEY *pkey_from(const char *type, OSSL_PARAM_BLD *build) {
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;
    if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    return key;
}

/* The numbers make a key of their kind: a point on its curve, a modulus that is no even number. */
static EVP_PKEY *checked(EVP_PKEY *key) {
    if (!key) return NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
    bool good = ctx && EVP_PKEY_public_check(ctx) == 1;
    EVP_PKEY_CTX_free(ctx);
    if (good) return key;
    EVP_PKEY_free(key);
    return NULL;
}

static EVP_PKEY *rsa_key(const json_t *jwk) {
    cleanup_buffer struct buffer modulus = {0}, exponent = {0};
    if (!decode_member(jwk, "n", &modulus) || !decode_member(jwk, "e", &exponent)) return NULL;
    if (modulus.len > RSA_BITS_MAX / 8 + 1 || exponent.len > 8) return NULL;
    BIGNUM *n = BN_bin2bn((const unsigned char *)modulus.data, (int)modulus.len, NULL);
    BIGNUM *e = BN_bin2bn((const unsigned char *)exponent.data, (int)exponent.len, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    bool good = n && e && build && BN_num_bits(n) >= RSA_BITS_MIN && BN_num_bits(n) <= RSA_BITS_MAX &&
                BN_is_odd(e) && BN_num_bits(e) >= 2;
    if (good && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e))
        key = checked(pkey_from("RSA", build));
    OSSL_PARAM_BLD_free(build);
    BN_free(n);
    BN_free(e);
    return key;
}

static EVP_PKEY *p256_key(const json_t *jwk) {
    cleanup_buffer struct buffer x = {0}, y = {0};
    if (strcmp(json_str_at(jwk, "crv"), "P-256") != 0) return NULL;
    if (!decode_member(jwk, "x", &x) || !decode_member(jwk, "y", &y) || x.len != 32 || y.len != 32)
        return NULL;
    unsigned char point[65] = {4}; /* uncompressed */
    memcpy(point + 1, x.data, 32);
    memcpy(point + 33, y.data, 32);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    if (build && OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) &&
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point))
        key = checked(pkey_from("EC", build));
    OSSL_PARAM_BLD_free(build);
    return key;
}

static EVP_PKEY *ed25519_key(const json_t *jwk) {
    cleanup_buffer struct buffer x = {0};
    if (strcmp(json_str_at(jwk, "crv"), "Ed25519") != 0) return NULL;
    if (!decode_member(jwk, "x", &x) || x.len != 32) return NULL;
    return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, (const unsigned char *)x.data, x.len);
}

/* `use` and `key_ops`, when they are there, must allow checking signatures. */
static bool is_for_signatures(const json_t *jwk) {
    const json_t *use = json_object_get(jwk, "use"), *operations = json_object_get(jwk, "key_ops");
    size_t i;
    json_t *item;
    if (use && (!json_is_string(use) || strcmp(json_string_value(use), "sig") != 0)) return false;
    if (!operations) return true;
    json_array_foreach(operations, i, item) {
        if (json_is_string(item) && strcmp(json_string_value(item), "verify") == 0) return true;
    }
    return false;
}

/* What the key is for: its `alg` when it has one, else the usual one of its kind. */
static bool choose_algorithm(const json_t *jwk, enum algorithm usual, enum algorithm other,
                             enum algorithm *out) {
    const json_t *alg = json_object_get(jwk, "alg");
    const char *text = json_string_value(alg);
    *out = usual;
    if (!alg) return true;
    if (!text) return false;
    if (strcmp(text, algorithm_names[usual]) == 0) return true;
    *out = other;
    return strcmp(text, algorithm_names[other]) == 0;
}

static bool read_key(const json_t *jwk, struct key *out) {
    const char *kty = json_str_at(jwk, "kty"), *kid = json_str_at(jwk, "kid");
    memset(out, 0, sizeof *out);
    if (!kid[0] || strlen(kid) > KID_MAX || !is_for_signatures(jwk)) return false;
    if (strcmp(kty, "RSA") == 0 && choose_algorithm(jwk, RS256, PS256, &out->algorithm))
        out->public = rsa_key(jwk);
    else if (strcmp(kty, "EC") == 0 && choose_algorithm(jwk, ES256, ES256, &out->algorithm))
        out->public = p256_key(jwk);
    else if (strcmp(kty, "OKP") == 0 && choose_algorithm(jwk, EDDSA, EDDSA, &out->algorithm))
        out->public = ed25519_key(jwk);
    if (!out->public) return false;
    out->kid = xstrdup(kid);
    return true;
}

/* ---- the set ---- */

static const struct key *find(const struct jwks *set, const char *kid) {
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->keys[i].kid, kid) == 0) return &set->keys[i];
    return NULL;
}

struct jwks *jwks_parse(struct slice text, struct error *err) {
    if (text.len > JWKS_MAX) {
        error_set(err, 502, ERR_UNAVAILABLE, "the key set is larger than 1 MiB");
        return NULL;
    }
    cleanup_json json_t *document = json_parse_object(text, NULL);
    const json_t *list = json_object_get(document, "keys");
    size_t i;
    json_t *jwk;
    struct jwks *set = xcalloc(1, sizeof *set);
    cleanup_buffer struct buffer said = {0};
    set->refs = 1;
    json_array_foreach(list, i, jwk) {
        if (set->count == JWKS_KEYS_MAX) break;
        struct key *key = &set->keys[set->count];
        if (!read_key(jwk, key)) continue;
        if (find(set, key->kid)) { /* the first of a name counts */
            EVP_PKEY_free(key->public);
            free(key->kid);
            continue;
        }
        set->count++;
        cleanup_free char *line = json_dumps(jwk, JSON_COMPACT | JSON_SORT_KEYS);
        buffer_append_str(&said, line ? line : "");
    }
    if (set->count == 0) {
        jwks_unref(set);
        error_set(err, 502, ERR_UNAVAILABLE, "%s",
                  !json_is_array(list) ? "the answer is not a key set"
                                       : "the key set holds no key that can be used");
        return NULL;
    }
    sha256_hex(buffer_slice(&said), set->digest);
    return set;
}

struct jwks *jwks_ref(struct jwks *set) {
    atomic_fetch_add(&set->refs, 1);
    return set;
}

void jwks_unref(struct jwks *set) {
    if (!set || atomic_fetch_sub(&set->refs, 1) != 1) return;
    for (size_t i = 0; i < set->count; i++) {
        free(set->keys[i].kid);
        EVP_PKEY_free(set->keys[i].public);
    }
    free(set);
}

size_t jwks_count(const struct jwks *set) {
    return set->count;
}

bool jwks_same(const struct jwks *a, const struct jwks *b) {
    return a && b && memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

/* ---- signatures ---- */

/* The two numbers of an ECDSA signature side by side, as OpenSSL wants them: in DER. */
static bool ecdsa_to_der(struct slice raw, unsigned char **der, size_t *len) {
    if (raw.len != 64) return false;
    const unsigned char *bytes = (const unsigned char *)raw.ptr;
    ECDSA_SIG *numbers = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(bytes, 32, NULL), *s = BN_bin2bn(bytes + 32, 32, NULL);
    if (!numbers || !r || !s || ECDSA_SIG_set0(numbers, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(numbers);
        return false;
    }
    *der = NULL;
    int n = i2d_ECDSA_SIG(numbers, der);
    ECDSA_SIG_free(numbers);
    *len = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static bool set_padding(EVP_PKEY_CTX *ctx, enum algorithm algorithm) {
    if (algorithm == RS256) return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) == 1;
    if (algorithm != PS256) return true;
    return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1 &&
           EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) == 1;
}

static bool signature_good(const struct key *key, struct slice signed_part, const unsigned char *signature,
                           size_t signature_len) {
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    EVP_PKEY_CTX *ctx = NULL;
    const EVP_MD *hash = key->algorithm == EDDSA ? NULL : EVP_sha256();
    bool good = md && EVP_DigestVerifyInit(md, &ctx, hash, NULL, key->public) == 1 &&
                set_padding(ctx, key->algorithm) &&
                EVP_DigestVerify(md, signature, signature_len, (const unsigned char *)signed_part.ptr,
                                 signed_part.len) == 1;
    EVP_MD_CTX_free(md);
    return good;
}

enum jwks_result jwks_verify(const struct jwks *set, const char *kid, const char *alg,
                             struct slice signed_part, struct slice signature) {
    const struct key *key = find(set, kid);
    if (!key) return JWKS_UNKNOWN_KEY;
    if (strcmp(alg, algorithm_names[key->algorithm]) != 0) return JWKS_WRONG_ALG;
    if (signature.len == 0) return JWKS_BAD_SIGNATURE;
    if (key->algorithm != ES256)
        return signature_good(key, signed_part, (const unsigned char *)signature.ptr, signature.len)
                   ? JWKS_OK
                   : JWKS_BAD_SIGNATURE;
    unsigned char *der;
    size_t len;
    if (!ecdsa_to_der(signature, &der, &len)) return JWKS_BAD_SIGNATURE;
    bool good = signature_good(key, signed_part, der, len);
    OPENSSL_free(der);
    return good ? JWKS_OK : JWKS_BAD_SIGNATURE;
}
