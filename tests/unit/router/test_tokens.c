/* Bearer tokens: taking them apart, their claims, signatures by keys of every kind, what is remembered of
 * them, and the cluster's word on service accounts. http-api.md 3.4; lessons S6, S7, S9, I34. */
#include "common/text.h"
#include "router/bearer.h"
#include "router/jwks.h"
#include "router/jwt.h"
#include "router/oidc_fetch.h"
#include "router/service_accounts.h"
#include "router/token_cache.h"
#include "tests/unit/router/fixture.h"

/* Four keys, and a token of each for the same claims (sub ana, until 2033). Single quotes stand for double.
 */
static const char keys_text[] =
    "{'keys':[{'kty':'RSA','n':'3lXs9tT4VEmITCLJOsVPfXZAwTm5lWpB19nBWaGubSuxJ0UHLLv0M9LWHfK52WM"
    "tXvZzBhay29v71OdgYRnr141tzfhQZMDEwMWswr2dtiy2jmC_omCpOZuy6yXN6XYkgRCAdudl3rMiV8jRWqHAE9VD-"
    "wFGROUTBxNdIYLydh3bE9O9JT4ooZS6DsuRqjhQyDNRviYYjYbYUxJGCKR91jcdIfDc44EkunRu-n0lfgLEAzTedUs"
    "zavO6Kn-A5w37cld0vXV8N3ssXU80EAXoHMrk8DKOYq_JItc_T3wMjUEyjjl12kXfgWAE3MKXMKCy5j09xf93UDOBn"
    "WNrryV_-Q','e':'AQAB','kid':'rsa-1'},{'kty':'RSA','n':'vsRcEXuTu6jlotCwU27lrTKc7pRMORzOrbm"
    "seRKQNzzJt2o9aj4SgFE1kVhP4eCt0mP5S3ton8mjfPaU3xSHpkT9l8TAuq7HdUEJ96IWdADP5AOQKkQgesuWanhjZ"
    "ST0C_nY30QxtKgpTnPsN1LMYoTvqojRXz5R86sGmIBp2ijpSs-O2FD3gSUEvgl9uZNpzprNpPFjhMFoA4dtRveDdlr"
    "ZYPgXLl0ovawzDmpLSi9zMShQVUIerzeY6e5rKAc3ocFNYianrIDREOWHdUm-tyYXzC08xYQvNJaTbRlaK_wlaDGxZ"
    "z-uaB82Rj5nzTnDxgYyWqtiFlTfTQJUFzb07w','e':'AQAB','kid':'rsa-ps','alg':'PS256'},{'kty':'EC"
    "','crv':'P-256','x':'SpskbVAclhDIRegHJ16mx9-E1ShdgggJpdVM6QcGg90','y':'wlDUGJj_6zCKOKvyfKc"
    "OLlFGzCoAKaF3_LFaImydfiY','kid':'ec-1'},{'kty':'OKP','crv':'Ed25519','x':'uIejRYmPpT_QYI9t"
    "y9DIGd2ZVwDqkTLWHs6iibwtlT4','kid':'ed-1'}]}";
static const char *const tokens[] = {
    /* RS256 */
    "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYS0xIn0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIC"
    "JhdWQiOiAiYWdlbnR0aWVyIiwgInN1YiI6ICJhbmEiLCAiZXhwIjogMjAwMDAwMDAwMH0.RBw9y5_Pcsz_IART9Zop"
    "lFTjpYlSkLzm-OR5GOnawa43U4QtYfvbbZzxAEcZLyEc3q-rkyJ3anHbtfY8lE5aaq_9_h9xFnLc93gVQA1ianJDhd"
    "DwO7Wcx6sWK52xD1waa6RqQPoVAeI-anjPdoJT_DCL8XRnnoBXmJ9I7h75kzom_yTNV2BdA6OWAj1-vXs_hm3yN-Gp"
    "o0l4pydDeC5yqo11zsli_H2Ut4NiN4M6XzHzOUEQnXE9jn2Hc6qjTK0WnIdFG1apv4rgZ_0BueS1Cgjn87vST2ENCg"
    "2HFPgNhCv2lqRPkaipfRtLbARGH6su5Q6t9WrZf_QsoiltLXNTwA",
    /* PS256 */
    "eyJhbGciOiAiUFMyNTYiLCAia2lkIjogInJzYS1wcyJ9.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsI"
    "CJhdWQiOiAiYWdlbnR0aWVyIiwgInN1YiI6ICJhbmEiLCAiZXhwIjogMjAwMDAwMDAwMH0.JXKyVdqMhobF0cHnuKg"
    "WcRgKorYPFnu5FBwiAFF5BqLjvtPSy2JKzNVHncgDqAVQhiMVxpXCT1yRS9mzai2YgjGTLw-f0OlimX4LP5tY2iNvt"
    "tXFDfQKbet9710YMWNrfr1LG_W_KWHsaFneXIY09m5nQ8_dtIuqAhtbyyz8BkjrgZCzeTOxLUj47C1RIzOJGJDuMYD"
    "eOzYxcdfgrIFvsVO3s6x4XWNKQWOXVxLHQVwzxx0NLmlOSgPwv488MBm88TnITazD87TLA1-c65HCz1EF8Eyq3MVNW"
    "SSKjTEGKW5GzS2WEr2TrUlCDs4P1rbcCJoBnNWL-ZenXDSLrYwQsQ",
    /* ES256 */
    "eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImVjLTEifQ.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJ"
    "hdWQiOiAiYWdlbnR0aWVyIiwgInN1YiI6ICJhbmEiLCAiZXhwIjogMjAwMDAwMDAwMH0.PPoI1xzP1cGg6BjcoTAu_"
    "3hzjHiwkzRHKMg5tlC24ynKzvRUyvevz9MvV-tz7F4T0qoRQhRUD66pkSOO5tMwzg",
    /* EdDSA */
    "eyJhbGciOiAiRWREU0EiLCAia2lkIjogImVkLTEifQ.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJ"
    "hdWQiOiAiYWdlbnR0aWVyIiwgInN1YiI6ICJhbmEiLCAiZXhwIjogMjAwMDAwMDAwMH0.V4Hc0xs0wBL9BhkBk_Kvr"
    "eRjblF5BXaPUEQQknm74pU7JqiwDvJBIJF90OJxhxvo5UWKtu9Yd9uTE3mPhYsnDQ",
};
#define TOKENS (sizeof tokens / sizeof tokens[0])
static const char weak_rsa[] =
    "{'kty':'RSA','n':'sfE264xQZvtoWqy87X8ZdSaqy8-mcHC2t8eDd3C5Rnoi783szwDZ6jMBfeMHzjkUMy7opZ62"
    "ve8WLWf5wxLbbrmluBOyUiZttIRMCEj5bXcHarnQ83glrPmYjJQfuH8GK-zCneanIRipi34JpLsMEkgZcIIxnxrWAd"
    "G7fNcKFI0','e':'AQAB','kid':'rsa-small'}";
static const char other_curve[] =
    "{'kty':'EC','crv':'P-384','x':'WH9DYGFW8UlIeQpcjy8C18aNPX-hDITfr4DHshPLVpQPrbyW1NRNiXYYFvb"
    "0fYnV','y':'0qq2rVVQUW3hkVhkHeVfBHfZHIAEti_zbAINanwGSDa1uaNHCChuVCaWC7F11W96','kid':'ec-38"
    "4'}";

static struct jwks *parse_keys(const char *text, struct error *err) {
    cleanup_json json_t *document = json_of(text);
    cleanup_free char *plain = json_dumps(document, 0);
    return jwks_parse(slice_of(plain), err);
}

static enum jwks_result verify(const struct jwks *set, const char *token) {
    cleanup_error struct error err = {0};
    cleanup_jwt struct jwt jwt = {0};
    ck_assert_msg(jwt_parse(slice_of(token), &jwt, &err), "%s", err.message);
    return jwks_verify(set, jwt.kid, jwt.alg, jwt.signed_part, buffer_slice(&jwt.signature));
}

START_TEST(S06_signatures_of_every_kind) {
    cleanup_error struct error err = {0};
    struct jwks *set = parse_keys(keys_text, &err);
    ck_assert_msg(set != NULL, "%s", err.message);
    ck_assert_uint_eq(jwks_count(set), 4);
    for (size_t i = 0; i < TOKENS; i++) {
        ck_assert_int_eq(verify(set, tokens[i]), JWKS_OK);
        /* Any change of a byte that is signed, or of the signature, is noticed. */
        cleanup_free char *changed = xstrdup(tokens[i]);
        char *claims = strchr(changed, '.') + 1;
        claims[4] = claims[4] == 'A' ? 'B' : 'A';
        cleanup_jwt struct jwt jwt = {0};
        if (jwt_parse(slice_of(changed), &jwt, NULL))
            ck_assert_int_eq(
                jwks_verify(set, jwt.kid, jwt.alg, jwt.signed_part, buffer_slice(&jwt.signature)),
                JWKS_BAD_SIGNATURE);
        cleanup_free char *other = xstrdup(tokens[i]);
        char *signature = strrchr(other, '.') + 1;
        signature[10] = signature[10] == 'A' ? 'B' : 'A';
        ck_assert_int_eq(verify(set, other), JWKS_BAD_SIGNATURE);
        signature[10] = '\0';
        cleanup_jwt struct jwt cut = {0};
        if (jwt_parse(slice_of(other), &cut, NULL))
            ck_assert_int_eq(
                jwks_verify(set, cut.kid, cut.alg, cut.signed_part, buffer_slice(&cut.signature)),
                JWKS_BAD_SIGNATURE);
    }
    /* The key decides: whatever the token says of its algorithm. */
    static const char *const algs[] = {"none", "HS256", "RS512", "ES384", "rs256",
                                       "",     "RS256", "PS256", "ES256"};
    for (size_t i = 0; i < sizeof algs / sizeof algs[0]; i++)
        ck_assert_int_eq(jwks_verify(set, "ed-1", algs[i], slice_of("a.b"), slice_of("x")), JWKS_WRONG_ALG);
    ck_assert_int_eq(jwks_verify(set, "rsa-1", "PS256", slice_of("a.b"), slice_of("x")), JWKS_WRONG_ALG);
    ck_assert_int_eq(jwks_verify(set, "rsa-ps", "RS256", slice_of("a.b"), slice_of("x")), JWKS_WRONG_ALG);
    ck_assert_int_eq(jwks_verify(set, "rsa-1", "RS256", slice_of("a.b"), slice_of("")), JWKS_BAD_SIGNATURE);
    ck_assert_int_eq(jwks_verify(set, "nobody", "RS256", slice_of("a.b"), slice_of("x")), JWKS_UNKNOWN_KEY);
    jwks_unref(set);
}
END_TEST

/* Vectors of RFC 7515 A.3 and RFC 8037 A.4, with a kid added to the keys. */
START_TEST(S06_vectors_of_the_standards) {
    struct jwks *set = parse_keys(
        "{'keys':[{'kty':'EC','crv':'P-256','kid':'p','x':'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU',"
        "'y':'x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0'},{'kty':'OKP','crv':'Ed25519','kid':'e',"
        "'x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        NULL);
    ck_assert_uint_eq(jwks_count(set), 2);
    cleanup_buffer struct buffer p = {0}, e = {0};
    ck_assert(base64url_decode(
        slice_of("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
        &p));
    ck_assert(base64url_decode(
        slice_of("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"),
        &e));
    ck_assert_int_eq(
        jwks_verify(
            set, "p", "ES256",
            slice_of("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9l"
                     "eGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"),
            buffer_slice(&p)),
        JWKS_OK);
    ck_assert_int_eq(jwks_verify(set, "e", "EdDSA",
                                 slice_of("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"),
                                 buffer_slice(&e)),
                     JWKS_OK);
    jwks_unref(set);
}
END_TEST

START_TEST(S07_keys_that_cannot_be_used) {
    cleanup_error struct error err = {0};
    static const char *const texts[] = {
        "{}",
        "{'keys':null}",
        "{'keys':[]}",
        "{'keys':{}}",
        "{'keys':[1,null,[],{}]}",
        "{'keys':[{'kty':'oct','kid':'a','k':'AAAA','alg':'HS256'}]}",
        "{'keys':[{'kty':'RSA','kid':'a'}]}",
        "{'keys':[{'kty':'RSA','kid':'a','n':'AQAB','e':'AQAB'}]}",
        "{'keys':[{'kty':'EC','crv':'P-256','kid':'a','x':'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU',"
        "'y':'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed25519','kid':'a','x':'AAAA'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed448','kid':'a','x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed25519','x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed25519','kid':'a','use':'enc',"
        "'x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed25519','kid':'a','key_ops':['sign'],"
        "'x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        "{'keys':[{'kty':'OKP','crv':'Ed25519','kid':'a','alg':'HS256',"
        "'x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ck_assert_msg(parse_keys(texts[i], &err) == NULL, "%s", texts[i]);
        ck_assert_int_eq(err.status, 502);
        error_clear(&err);
    }
    cleanup_free char *weak = xasprintf("{'keys':[%s,%s]}", weak_rsa, other_curve);
    ck_assert_ptr_null(parse_keys(weak, NULL));
    ck_assert_ptr_null(jwks_parse(slice_of("<html>"), NULL));
    /* One that can be used is enough; of two with one name the first counts. */
    cleanup_free char *mixed = xasprintf(
        "{'keys':[%s,{'kty':'OKP','crv':'Ed25519','kid':'a','key_ops':['verify'],'use':'sig',"
        "'alg':'EdDSA','x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'},"
        "{'kty':'OKP','crv':'Ed25519','kid':'a','x':'11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'}]}",
        weak_rsa);
    struct jwks *one = parse_keys(mixed, NULL), *all = parse_keys(keys_text, NULL),
                *again = parse_keys(keys_text, NULL);
    ck_assert_uint_eq(jwks_count(one), 1);
    ck_assert(jwks_same(all, again) && !jwks_same(one, all) && !jwks_same(NULL, all));
    jwks_unref(one);
    jwks_unref(all);
    jwks_unref(again);
}
END_TEST

static char *make_token(const char *header, const char *claims) {
    cleanup_buffer struct buffer out = {0};
    cleanup_json json_t *h = json_of(header), *c = json_of(claims);
    cleanup_free char *header_text = json_dumps(h, JSON_ENCODE_ANY),
                      *claims_text = json_dumps(c, JSON_ENCODE_ANY);
    base64url_encode(slice_of(header_text), &out);
    buffer_append_char(&out, '.');
    base64url_encode(slice_of(claims_text), &out);
    buffer_append_str(&out, ".AAAA");
    return buffer_steal(&out, NULL);
}

START_TEST(S06_headers) {
    static const struct {
        const char *header;
        bool good;
    } rows[] = {
        {"{'alg':'RS256','kid':'a'}", true},
        {"{'alg':'RS256','kid':'a','typ':'JWT'}", true},
        {"{'alg':'RS256','kid':'a','typ':'at+jwt'}", true},
        {"{'alg':'RS256','kid':'a','typ':'application/AT+JWT'}", true},
        {"{'alg':'none','kid':'a'}", true}, /* the key refuses it */
        {"{'alg':'RS256','kid':'a','typ':'logout+jwt'}", false},
        {"{'alg':'RS256','kid':'a','typ':'application/dpop+jwt'}", false},
        {"{'alg':'RS256','kid':'a','typ':7}", false},
        {"{'alg':'RS256','kid':'a','crit':['b64'],'b64':false}", false},
        {"{'alg':'RS256','kid':'a','crit':null}", false},
        {"{'alg':'RS256'}", false},
        {"{'alg':'RS256','kid':''}", false},
        {"{'alg':'RS256','kid':['a']}", false},
        {"{'kid':'a'}", false},
        {"{'alg':null,'kid':'a'}", false},
        {"[]", false},
        {"'x'", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_free char *token = make_token(rows[i].header, "{}");
        cleanup_error struct error err = {0};
        cleanup_jwt struct jwt jwt = {0};
        ck_assert_msg(jwt_parse(slice_of(token), &jwt, &err) == rows[i].good, "%s", rows[i].header);
        if (!rows[i].good) ck_assert_str_eq(err.code, "invalid_token");
    }
    static const char *const broken[] = {"",    ".",     "..",      "...",       "a",
                                         "a.b", "a.b.c", "a.b.c.d", "e30.e30.!", "e30=.e30.AA"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        cleanup_jwt struct jwt jwt = {0};
        ck_assert_msg(!jwt_parse(slice_of(broken[i]), &jwt, NULL), "%s", broken[i]);
    }
    cleanup_free char *large = xcalloc(JWT_MAX + 2, 1);
    memset(large, 'a', JWT_MAX + 1);
    cleanup_jwt struct jwt jwt = {0};
    ck_assert(!jwt_parse(slice_of(large), &jwt, NULL));
}
END_TEST

START_TEST(W25_claims) {
    static const char *const audiences[] = {"agenttier", "cli", NULL}, *const nothing[] = {NULL};
    struct jwt_rules rules = {.issuer = "https://i.example", .audiences = audiences};
    static const struct {
        const char *claims, *why; /* NULL = good */
    } rows[] = {
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':1000}", NULL},
        {"{'iss':'https://i.example','aud':['x',7,'agenttier'],'sub':'a','exp':1000.5,'iat':1,'nbf':1}",
         NULL},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':940}", NULL},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':939}", "exp"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':2000,'nbf':1060}", NULL},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':2000,'nbf':1061}", "nbf"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':2000,'iat':1060}", NULL},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':2000,'iat':1061}", "iat"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':2000,'nbf':null}", "nbf"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':'2000'}", "exp"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a','exp':1e99}", "exp"},
        {"{'iss':'https://i.example','aud':'cli','sub':'a'}", "exp"},
        {"{'iss':'https://i.example/','aud':'cli','sub':'a','exp':2000}", "iss"},
        {"{'iss':'','aud':'cli','sub':'a','exp':2000}", "iss"},
        {"{'aud':'cli','sub':'a','exp':2000}", "iss"},
        {"{'iss':'https://i.example','aud':'','sub':'a','exp':2000}", "aud"},
        {"{'iss':'https://i.example','aud':[],'sub':'a','exp':2000}", "aud"},
        {"{'iss':'https://i.example','aud':{'cli':'cli'},'sub':'a','exp':2000}", "aud"},
        {"{'iss':'https://i.example','sub':'a','exp':2000}", "aud"},
        {"{'iss':'https://i.example','aud':'cli','sub':'','exp':2000}", "sub"},
        {"{'iss':'https://i.example','aud':'cli','sub':5,'exp':2000}", "sub"},
        {"{'iss':'https://i.example','aud':'cli','exp':2000}", "sub"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_json json_t *claims = json_of(rows[i].claims);
        cleanup_error struct error err = {0};
        bool good = jwt_claims_valid(claims, &rules, 1000, &err);
        ck_assert_msg(good == (rows[i].why == NULL), "row %zu: %s", i, err.message);
        if (!good) ck_assert_msg(strstr(err.message, rows[i].why) != NULL, "row %zu: %s", i, err.message);
    }
    rules.audiences = nothing;
    cleanup_json json_t *any = json_of("{'iss':'https://i.example','aud':'','sub':'a','exp':2000}");
    ck_assert(!jwt_claims_valid(any, &rules, 1000, NULL));
}
END_TEST

static void assert_identity(const char *claims_text, const char *path, const char *admin, const char *want,
                            bool is_admin) {
    cleanup_json json_t *claims = json_of(claims_text);
    struct identity id;
    jwt_identity(claims, path, admin, "", &id);
    assert_json(id.groups, want);
    ck_assert_msg(id.is_admin == is_admin, "%s", claims_text);
    identity_free(&id);
}

START_TEST(identities_from_claims) {
    assert_identity("{'sub':'a','groups':['x','y']}", "groups", "y", "['x','y']", true);
    assert_identity("{'sub':'a','groups':'y'}", "groups", "y", "['y']", true);
    assert_identity("{'sub':'a','groups':[['y'],{'y':1},null,7]}", "groups", "y", "[]", false);
    assert_identity("{'sub':'a','groups':['']}", "groups", "", "['']", false);
    assert_identity("{'sub':'a'}", "groups", "y", "[]", false);
    assert_identity("{'sub':'a','r':{'s':{'t':['y']}}}", "r.s.t", "y", "['y']", true);
    assert_identity("{'sub':'a','r.s':['x'],'r':{'s':['y']}}", "r.s", "y", "['x']", false);
    assert_identity("{'sub':'a','r':['y']}", "r.s.t", "y", "[]", false);
    static const char *const unverified[] = {"false", "'false'", "'FALSE'"}, *const verified[] = {
                                                                                 "true", "null", "'true'",
                                                                                 "0"};
    for (size_t i = 0; i < 7; i++) {
        cleanup_free char *text = xasprintf("{'sub':'a','email':'a@x','email_verified':%s}",
                                            i < 3 ? unverified[i] : verified[i - 3]);
        cleanup_json json_t *claims = json_of(text);
        struct identity id;
        jwt_identity(claims, "groups", "", "https://i#", &id);
        ck_assert_str_eq(id.sub, "https://i#a");
        ck_assert_str_eq(id.email, "a@x");
        ck_assert_msg(id.email_unverified == (i < 3), "%s", text);
        identity_free(&id);
    }
}
END_TEST

START_TEST(S07_urls) {
    static const char *const good[] = {"https://i.example",         "https://i.example:8443/realms/x",
                                       "http://127.0.0.1:5556/dex", "http://localhost",
                                       "http://[::1]:80/x",         "HTTPS://i.example/"};
    static const char *const bad[] = {"",
                                      "https://",
                                      "https:///x",
                                      "http://i.example",
                                      "http://127.0.0.1.evil",
                                      "http://localhost.evil",
                                      "http://127.0.0.1@evil",
                                      "http://evil/127.0.0.1",
                                      "ftp://localhost",
                                      "file:///etc/passwd",
                                      "https://a b",
                                      "https://a\nb",
                                      "http://[::1].evil",
                                      "http://[::2]",
                                      "//x"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        ck_assert_msg(oidc_url_allowed(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(!oidc_url_allowed(bad[i]), "%s", bad[i]);
}
END_TEST

/* ---- what is remembered ---- */

START_TEST(S09_tokens_are_remembered_for_a_while) {
    struct token_cache *cache = token_cache_new(16);
    struct token_digest a = token_digest_of(slice_of("a")), b = token_digest_of(slice_of("b"));
    char sub[] = "ana";
    struct identity ana = {.sub = sub}, out;
    ck_assert_int_eq(token_cache_get(cache, &a, &out), TOKEN_MISSED);
    token_cache_put(cache, &a, token_cache_generation(cache), &ana, 60000);
    token_cache_put(cache, &b, token_cache_generation(cache), NULL, 60000);
    ck_assert_int_eq(token_cache_get(cache, &a, &out), TOKEN_ACCEPTED);
    ck_assert_str_eq(out.sub, "ana");
    identity_free(&out);
    ck_assert_int_eq(token_cache_get(cache, &b, &out), TOKEN_REFUSED);
    token_cache_put(cache, &b, token_cache_generation(cache), NULL, 1);
    usleep(5000);
    ck_assert_int_eq(token_cache_get(cache, &b, &out), TOKEN_MISSED);
    token_cache_put(cache, &b, token_cache_generation(cache), &ana, 0);
    ck_assert_int_eq(token_cache_get(cache, &b, &out), TOKEN_MISSED);
    /* Keys changed while one was judged by the old ones. */
    unsigned before = token_cache_generation(cache);
    token_cache_clear(cache);
    ck_assert_int_eq(token_cache_get(cache, &a, &out), TOKEN_MISSED);
    /* What was good is known to have been, what was refused is not. */
    ck_assert(token_cache_knew(cache, &a) && !token_cache_knew(cache, &b));
    token_cache_put(cache, &b, before, &ana, 60000);
    ck_assert_int_eq(token_cache_get(cache, &b, &out), TOKEN_MISSED);
    /* A flood is bounded; what came last is there. */
    for (int i = 0; i < 1000; i++) {
        cleanup_free char *text = xasprintf("t%d", i);
        struct token_digest d = token_digest_of(slice_of(text));
        token_cache_put(cache, &d, token_cache_generation(cache), &ana, 60000 + i);
        ck_assert_int_eq(token_cache_get(cache, &d, &out), TOKEN_ACCEPTED);
        identity_free(&out);
    }
    token_cache_free(cache);
}
END_TEST

/* ---- service accounts ---- */

START_TEST(service_account_names) {
    static const struct {
        const char *username, *list;
        bool good;
    } rows[] = {
        {"system:serviceaccount:ci:runner", "ci", true},
        {"system:serviceaccount:ci:runner", "dev, ci", true},
        {"system:serviceaccount:ci:runner", "*", true},
        {"system:serviceaccount:ci:runner", "", false},
        {"system:serviceaccount:ci:runner", "c,cii,i", false},
        {"system:serviceaccount:ci:runner", "ci:runner", false},
        {"system:serviceaccount:ci:", "*", false},
        {"system:serviceaccount::x", "*", false},
        {"system:serviceaccount:ci", "*", false},
        {"system:serviceaccount:ci:a:b", "*", false},
        {"system:node:ci", "*", false},
        {"ana", "*", false},
        {"", "*", false},
        {NULL, "*", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_msg(service_account_allowed(rows[i].username, rows[i].list) == rows[i].good, "row %zu", i);
}
END_TEST

/* A cluster of one service account, that counts what it is asked. */
struct cluster {
    struct backend backend;
    int asked;
    bool away, forbidden;
    const char *username;
};

static bool review(struct backend *backend, const char *token, const char *const *audiences,
                   struct token_review *out, struct error *err) {
    struct cluster *c = (struct cluster *)(void *)backend;
    c->asked++;
    ck_assert_str_eq(audiences[0], "agenttier");
    ck_assert_ptr_null(audiences[1]);
    if (c->away || c->forbidden) {
        error_set(err, c->away ? 503 : 403, c->away ? ERR_UNAVAILABLE : "kubernetes_forbidden", "no");
        return false;
    }
    out->authenticated = strstr(token, ".GOOD") != NULL;
    if (out->authenticated) {
        out->username = xstrdup(c->username);
        out->uid = xstrdup("u");
        out->groups = json_pack("[s]", "system:serviceaccounts:ci");
    }
    return true;
}

static char *account_token(const char *sub, const char *signature) {
    cleanup_free char *claims = xasprintf("{'iss':'https://kubernetes','sub':'%s','exp':4000000000}", sub);
    char *token = make_token("{'alg':'RS256','kid':'k'}", claims);
    strcpy(strrchr(token, '.') + 1, signature); /* NOLINT: as long as what was there */
    return token;
}

static enum bearer_result check(struct bearer *b, const char *token, struct identity *out,
                                struct error *err) {
    struct token_digest digest = token_digest_of(slice_of(token));
    return bearer_check(b, slice_of(token), &digest, out, err);
}

START_TEST(S09_the_cluster_is_asked_once) {
    cleanup_error struct error err = {0};
    struct cluster c = {.backend.review_token = review, .username = "system:serviceaccount:ci:runner"};
    struct config config = {.oidc_issuer = "",
                            .oidc_client_id = "",
                            .oidc_subjects_only = "",
                            .oidc_ca_file = "",
                            .group_claim = "groups",
                            .admin_group = "system:serviceaccounts:ci",
                            .service_account_audience = "agenttier",
                            .service_account_namespaces = "ci,dev"};
    struct bearer *b = bearer_new(&config, &c.backend, &err);
    ck_assert_msg(b != NULL, "%s", err.message);
    cleanup_free char *good = account_token("system:serviceaccount:ci:runner", "GOOD"),
                      *bad = account_token("system:serviceaccount:ci:runner", "BAAD"),
                      *elsewhere = account_token("system:serviceaccount:kube-system:x", "GOOD"),
                      *lying = account_token("system:serviceaccount:dev:x", "GOOD");
    struct identity out;
    /* On the loop nothing waits; who cannot get in is not asked about. */
    ck_assert_int_eq(check(b, good, &out, &err), BEARER_MUST_WAIT);
    ck_assert_int_eq(bearer_verify(b, slice_of(elsewhere), &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(err.status, 401);
    ck_assert_int_eq(c.asked, 0);
    /* A cluster that is away, or does not let us ask, is no reason to call the token bad: and not remembered.
     */
    c.away = true;
    ck_assert_int_eq(bearer_verify(b, slice_of(good), &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(err.status, 503);
    ck_assert_int_gt(err.retry_after, 0);
    error_clear(&err);
    c.away = false;
    c.forbidden = true;
    ck_assert_int_eq(bearer_verify(b, slice_of(good), &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(err.status, 503);
    error_clear(&err);
    c.forbidden = false;
    ck_assert_int_eq(bearer_verify(b, slice_of(good), &out, &err), BEARER_OK);
    ck_assert_str_eq(out.sub, "system:serviceaccount:ci:runner");
    ck_assert_str_eq(out.name, "runner");
    ck_assert(out.is_admin); /* by its group, as anybody */
    identity_free(&out);
    int asked = c.asked;
    ck_assert_int_eq(check(b, good, &out, &err), BEARER_OK);
    identity_free(&out);
    ck_assert_int_eq(bearer_verify(b, slice_of(bad), &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(err.status, 401);
    error_clear(&err);
    ck_assert_int_eq(check(b, bad, &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(c.asked, asked + 1);
    error_clear(&err);
    /* What counts is the cluster's word, not the token's. */
    c.username = "system:serviceaccount:kube-system:x";
    ck_assert_int_eq(bearer_verify(b, slice_of(lying), &out, &err), BEARER_REFUSED);
    ck_assert_int_eq(err.status, 401);
    bearer_free(b);
    /* Without a cluster it is a mistake to ask for it. */
    error_clear(&err);
    c.backend.review_token = NULL;
    ck_assert_ptr_null(bearer_new(&config, &c.backend, &err));
    ck_assert_int_eq(err.status, 400);
}
END_TEST

RUN_TESTS("tokens", S06_signatures_of_every_kind, S06_vectors_of_the_standards, S07_keys_that_cannot_be_used,
          S06_headers, W25_claims, identities_from_claims, S07_urls, S09_tokens_are_remembered_for_a_while,
          service_account_names, S09_the_cluster_is_asked_once)
