"""OpenID Connect bearer tokens: http-api.md 3.4, W-23 to W-25; lessons S6 and S7."""

import base64
import concurrent.futures
import json
import subprocess
import threading
import time

import pytest

from harness import BINARY, WRAP, Raw, Router, clean_environment, error_of, wait_for
from issuer import AUDIENCE, Issuer, Key, b64, encode, hmac_token

API = "/api/v1"
ME = API + "/user/me"
KEYS = "/keys"
DISCOVERY = "/.well-known/openid-configuration"


def me(router, token, scheme="Bearer"):
    with router.anonymous() as client:
        return client.get(ME, headers={"Authorization": f"{scheme} {token}"})


def refused(router, token):
    body = error_of(me(router, token), 401)
    assert body["error"] == "invalid_token" and body["message"], body
    return body["message"]


def loaded(router):
    """Once the keys of all issuers are there."""
    with router.anonymous() as client:
        wait_for(lambda: client.get("/readyz").text == "ok", what="keys of the issuer")
    return router


def flags(issuer, *more):
    return [f"--oidc-issuer={issuer.url}", f"--oidc-client-id={AUDIENCE}", *more]


@pytest.fixture(scope="module")
def issuer():
    keys = [Key("RSA", "rsa-1"), Key("RSA", "rsa-ps", "PS256"), Key("P-256", "ec-1"), Key("Ed25519", "ed-1"), Key("RSA", "rsa-rs", "RS256")]
    with Issuer(keys) as made:
        yield made


@pytest.fixture(scope="module")
def router(issuer):
    with Router(*flags(issuer), keys=("u1", "admin")) as made:
        yield loaded(made)


# ---- tokens that are good ----

def test_3_4_identity(router, issuer):
    token = issuer.token("ana", groups=["data-team", 7, "ops"])
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = me(router, token, scheme)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"sub": "ana", "email": "ana@example.org", "name": "Ana", "groups": ["data-team", "ops"], "isAdmin": False}
    answer = me(router, issuer.token("bo", email=None, name=7, groups="ops"))
    assert answer.json() == {"sub": "bo", "email": "", "name": "", "groups": ["ops"], "isAdmin": False}
    assert me(router, issuer.token("cy", groups=None)).json()["groups"] == []


def test_3_7_admin_group(router, issuer):
    assert me(router, issuer.token("root", groups=["agenttier-admins"])).json()["isAdmin"] is True
    for groups in (["agenttier-admin"], ["Agenttier-Admins"], [["agenttier-admins"]], {"agenttier-admins": 1}):
        assert me(router, issuer.token("mallory", groups=groups)).json()["isAdmin"] is False


def test_3_4_every_algorithm_that_a_key_may_have(router, issuer):
    for key in issuer.keys:
        answer = me(router, issuer.token(f"user-{key.kid}", key=key))
        assert (answer.status_code, answer.json().get("sub")) == (200, f"user-{key.kid}"), (key.kid, answer.text)


def test_3_4_owns_what_it_makes(router, issuer):
    def client(sub, **claims):
        return router.anonymous(headers={"Authorization": "Bearer " + issuer.token(sub, **claims)})
    with client("owner") as owner, client("other") as other, client("root", groups=["agenttier-admins"]) as root:
        assert owner.post(API + "/sandboxes", json={"name": "oidc-box", "template": "no-such-template"}).status_code == 201
        assert owner.get(API + "/sandboxes/oidc-box").status_code == 200
        error_of(other.get(API + "/sandboxes/oidc-box"), 404)
        assert root.get(API + "/sandboxes/oidc-box").status_code == 200
        error_of(owner.get(API + "/templates/none"), 404)
        assert error_of(owner.put(API + "/templates/t", json={"spec": {}}), 403)["error"] == "admin_required"
        # A key that an administrator makes has no rights of an administrator (3.3).
        key = root.post(API + "/user/api-keys", json={"name": "mine"}).json()["key"]
        with router.client(key) as keyed:
            assert keyed.get(ME).json()["isAdmin"] is False
            error_of(keyed.get(API + "/sandboxes/oidc-box"), 404)
        assert owner.delete(API + "/sandboxes/oidc-box").status_code == 204


def test_3_2_an_api_key_wins_over_a_token(router, issuer):
    with router.anonymous() as client:
        both = {"Authorization": "Bearer " + issuer.token(), "X-API-Key": router.keys["u1"]}
        assert client.get(ME, headers=both).json()["sub"] == "u1"
        assert error_of(client.get(ME, headers={**both, "X-API-Key": "bad"}), 401)["error"] == "invalid_api_key"  # vector 4


@pytest.mark.tsan
def test_3_4_a_body_waits_for_nothing_else(router, issuer):
    """With a token that nobody has seen, bodies of every framing arrive whole."""
    for body, options in ((b'{"name": "k"}', {}), (b"", {}), (iter([b'{"na', b'me": "k"}']), {}), (b'{"name": "k"}', {"headers": {"Expect": "100-continue"}})):
        headers = {"Authorization": "Bearer " + issuer.token("body"), **options.get("headers", {})}
        with router.anonymous() as client:
            answer = client.post(API + "/user/api-keys", content=body, headers=headers)
            assert answer.status_code == 201, answer.text
            assert answer.json()["name"] == ("k" if body != b"" else "")


# ---- S6: tokens that are not ----

def changed(token, part, change):
    parts = token.split(".")
    data = json.loads(base64.urlsafe_b64decode(parts[part] + "=="))
    parts[part] = b64(json.dumps({**data, **change}))
    return ".".join(parts)


def signed(issuer, claims):
    """A token of exactly these claims (a str is taken as it is)."""
    return encode({"alg": "RS256", "kid": "rsa-1"}, claims, lambda data: issuer.keys[0].sign("RS256", data))


S6 = {
    "alg none": lambda i: encode({"alg": "none", "kid": "rsa-1"}, i.claims(), lambda _: b""),
    "alg None": lambda i: encode({"alg": "None", "kid": "rsa-1"}, i.claims(), lambda _: b""),
    "alg none with a signature": lambda i: i.token(header={"alg": "none"}),
    "HS256 with the RSA key's PEM": lambda i: hmac_token(i.claims(), i.keys[0].pem(), {"alg": "HS256", "kid": "rsa-1"}),
    "HS256 with an empty key": lambda i: hmac_token(i.claims(), b"", {"alg": "HS256", "kid": "rsa-1"}),
    "HS256 with the modulus": lambda i: hmac_token(i.claims(), i.keys[0].jwk()["n"].encode(), {"alg": "HS256", "kid": "rsa-1"}),
    "RS512": lambda i: i.token(alg="RS512"),
    "PS256 with an RS256 key": lambda i: i.token(alg="PS256"),
    "RS256 with a PS256 key": lambda i: i.token(key=i.keys[1], alg="RS256"),
    "ES256 said of an RSA key": lambda i: i.token(header={"alg": "ES256"}),
    "RS256 said of a curve's key": lambda i: i.token(key=i.keys[2], header={"alg": "RS256"}),
    "wrong curve": lambda i: i.token(key=Key("P-384", "ec-1"), header={"alg": "ES256"}),
    "another key of the same kid": lambda i: i.token(key=Key("RSA", "rsa-1")),
    "another curve key of the same kid": lambda i: i.token(key=Key("P-256", "ec-1")),
    "a kid of another key": lambda i: i.token(header={"kid": "rsa-rs"}),
    "no kid": lambda i: i.token(header={"kid": None}),
    "empty kid": lambda i: i.token(header={"kid": ""}),
    "kid is a number": lambda i: i.token(header={"kid": 1}),
    "no alg": lambda i: i.token(header={"alg": None}),
    "crit": lambda i: i.token(header={"crit": ["exp"]}),
    "crit empty": lambda i: i.token(header={"crit": []}),
    "a key in the header": lambda i: i.token(key=Key("RSA", "mine"), header={"jwk": Key("RSA", "mine").jwk()}),
    "typ of a logout token": lambda i: i.token(header={"typ": "logout+jwt"}),
    "duplicate claim": lambda i: signed(i, json.dumps(i.claims())[:-1] + ', "sub": "root"}'),
    "duplicate header member": lambda i: encode('{"alg": "RS256", "kid": "rsa-1", "alg": "RS256"}', i.claims(), lambda d: i.keys[0].sign("RS256", d)),
    "altered payload": lambda i: changed(i.token(), 1, {"sub": "root"}),
    "altered header": lambda i: changed(i.token(), 0, {"x": 1}),
    "no signature": lambda i: i.token().rpartition(".")[0] + ".",
    "half a signature": lambda i: i.token()[:-100],
    "padded": lambda i: i.token() + "==",
    "two parts": lambda i: i.token().rpartition(".")[0],
    "four parts": lambda i: i.token() + ".x",
    "standard base64": lambda i: i.token().replace("-", "+").replace("_", "/") + "+",
    "a line end inside": lambda i: "a.b\tc.d",
    "expired": lambda i: i.token(exp=int(time.time()) - 70),
    "no exp": lambda i: i.token(exp=None),
    "exp is a string": lambda i: i.token(exp=str(int(time.time()) + 600)),
    "exp is huge": lambda i: i.token(exp=1e300),
    "not yet": lambda i: i.token(nbf=int(time.time()) + 70),
    "nbf is a string": lambda i: i.token(nbf="now"),
    "from the future": lambda i: i.token(iat=int(time.time()) + 70),
    "another issuer": lambda i: i.token(iss="https://evil.example"),
    "issuer with a slash": lambda i: i.token(iss=i.url + "/"),
    "issuer in capitals": lambda i: i.token(iss=i.url.upper()),
    "no issuer": lambda i: i.token(iss=None),
    "issuer is a list": lambda i: i.token(iss=[i.url]),
    "another audience": lambda i: i.token(aud="other"),
    "no audience": lambda i: i.token(aud=None),
    "empty audience": lambda i: i.token(aud=""),
    "audiences without ours": lambda i: i.token(aud=["a", "b", 7, None]),
    "audience is an object": lambda i: i.token(aud={AUDIENCE: True}),
    "part of our audience": lambda i: i.token(aud=AUDIENCE[:-1]),
    "no sub": lambda i: signed(i, {k: v for k, v in i.claims().items() if k != "sub"}),
    "empty sub": lambda i: signed(i, i.claims() | {"sub": ""}),
    "sub is a number": lambda i: signed(i, i.claims() | {"sub": 7}),
    "very long sub": lambda i: i.token("x" * 600),
    "17 KiB": lambda i: i.token(filler="x" * 17000),
    "claims are a list": lambda i: signed(i, "[1]"),
    "claims are no JSON": lambda i: signed(i, "{"),
    "claims are not UTF-8": lambda i: ".".join([(t := i.token().split("."))[0], b64(b'{"sub": "\xff"}'), t[2]]),
    "empty": lambda i: ".",
    "dots": lambda i: "..",
}


@pytest.mark.parametrize("name", S6)
def test_S06_refused(router, issuer, name):
    token = S6[name](issuer)
    message = refused(router, token)
    assert len(token) < 8 or token not in message
    assert me(router, issuer.token()).status_code == 200


def test_S06_a_token_of_one_megabyte(router, issuer):
    answer = me(router, issuer.token(filler="x" * (1 << 20)))
    assert answer.status_code in (401, 431), answer.status_code


def test_S06_skew(router, issuer):
    """60 seconds of difference between clocks, both ways (W-25)."""
    now = int(time.time())
    for claims in ({"exp": now - 45}, {"nbf": now + 45}, {"iat": now + 45}, {"exp": now + 600.5}, {"iat": now - 1e6}):
        assert me(router, issuer.token("skew", **claims)).status_code == 200, claims


def test_S06_audience_may_be_a_list(router, issuer):
    assert me(router, issuer.token("aud", aud=["x", AUDIENCE])).status_code == 200


def test_S06_flood_of_unknown_kids_makes_no_flood_of_fetches(router, issuer):
    before, began = issuer.fetches(), time.monotonic()
    with router.anonymous() as client:
        for n in range(120):
            answer = client.get(ME, headers={"Authorization": "Bearer " + issuer.token(header={"kid": f"unknown-{n}"})})
            assert answer.status_code == 401, answer.text
    assert issuer.fetches() - before <= 2 + (time.monotonic() - began) // 10  # one in ten seconds, and the regular one
    assert me(router, issuer.token()).status_code == 200


def test_W25_unverified_email_opens_nothing(router, issuer):
    """An address that the issuer does not vouch for is shown, but is not minted into keys."""
    for verified, stored in ((True, True), (None, True), (False, False), ("false", False)):
        with router.anonymous(headers={"Authorization": "Bearer " + issuer.token("eve", email="ana@example.org", email_verified=verified)}) as client:
            assert client.get(ME).json()["email"] == "ana@example.org"
            made = client.post(API + "/user/api-keys", json={}).json()
            with router.client(made["key"]) as keyed:
                assert keyed.get(ME).json()["email"] == ("ana@example.org" if stored else "")


def test_3_4_token_ends_while_it_is_remembered(router, issuer):
    end = int(time.time()) + 6
    token = issuer.token("short", exp=end - 60)  # ends with the leeway, in six seconds
    for _ in range(2):
        assert me(router, token).status_code == 200
    wait_for(lambda: me(router, token).status_code == 401, 16, 0.2, "end of the token")
    assert time.time() > end


# ---- S7: keys ----

def raw(body, status=200, content_type="application/json", **headers):
    return lambda handler: handler.send(body, status, content_type, **headers)


def hang(handler):
    time.sleep(3)


def test_vector_66_W23_issuer_unreachable_at_start(issuer):
    with Issuer(issuer.keys, listening=False) as late, Router(*flags(late), keys=("u1",)) as router:
        with router.client("u1") as client:
            assert client.get(ME).status_code == 200
            ready = client.get("/readyz")
            assert ready.status_code == 200 and "no signing keys" in ready.text
            assert f'agenttier_oidc_keys{{issuer="{late.url}"}} 0' in client.get("/metrics").text
        token = late.token("ana")
        refused(router, token)
        late.serve()
        wait_for(lambda: me(router, token).status_code == 200, 90, 0.2, "recovery")  # 30 s between two attempts at most
        loaded(router)


ANSWERS = {
    "500": raw({"keys": []}, 500), "404": raw({}, 404), "empty set": raw({"keys": []}), "no set": raw({}), "html": raw(b"<html>", content_type="text/html"),
    "null": raw({"keys": None}), "list": raw([1, 2]), "10 MB": raw(b'{"keys": [' + b" " * 10_000_000 + b"]}"), "truncated": raw(b'{"keys": [{"kty"'),
    "204": raw(b"", 204), "encryption key": raw({"keys": [Key("RSA", "rsa-1", use="enc").jwk()]}),
    "weak RSA": raw({"keys": [Key("RSA", "rsa-1", bits=1024).jwk()]}), "symmetric": raw({"keys": [{"kty": "oct", "k": b64("secret"), "kid": "rsa-1", "alg": "HS256"}]}),
    "other curve": raw({"keys": [Key("P-384", "rsa-1").jwk()]}), "not on the curve": raw({"keys": [{"kty": "EC", "crv": "P-256", "kid": "rsa-1", "x": b64(b"\1" * 32), "y": b64(b"\2" * 32)}]}),
    "garbage keys": raw({"keys": [1, None, "x", {}, {"kty": "RSA"}, {"kty": "RSA", "kid": "rsa-1", "n": "!", "e": "AQAB"}, {"kty": "RSA", "kid": "rsa-1", "n": "AQAB", "e": "AQAB"}]}),
    "500 with a good set": None, "redirect": None,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_S07_old_keys_survive_a_failed_refresh(name):
    with Issuer([Key("RSA", "rsa-1"), Key("RSA", "other")]) as issuer, Router(*flags(issuer), keys=("u1",)) as router:
        loaded(router)
        evil = Key("RSA", "evil")
        special = {"500 with a good set": raw({"keys": [evil.jwk()]}, 500), "redirect": raw(b"", 302, Location=issuer.base + "/elsewhere")}
        issuer.mode[KEYS] = special.get(name) or ANSWERS[name]
        issuer.mode["/elsewhere"] = raw({"keys": [evil.jwk()]})
        before = issuer.fetches()
        refused(router, issuer.token(key=evil))  # an unknown kid makes it look
        wait_for(lambda: issuer.fetches() > before, what="refresh")
        refused(router, issuer.token(key=evil))
        assert me(router, issuer.token("ana")).status_code == 200
        with router.anonymous() as client:
            wait_for(lambda: "could not be confirmed" in client.get("/readyz").text, what="readiness detail")
            metrics = client.get("/metrics").text
            assert 'agenttier_oidc_refresh_failures_total{issuer="%s"} ' % issuer.url in metrics
            assert 'agenttier_oidc_refresh_failures_total{issuer="%s"} 0' % issuer.url not in metrics


@pytest.mark.tsan
def test_W24_a_new_key_is_taken_at_once_and_an_old_one_dropped():
    old, new = Key("RSA", "old"), Key("P-256", "new")
    with Issuer([old]) as issuer, Router(*flags(issuer), keys=("u1",)) as router:
        loaded(router)
        token = issuer.token("ana", key=old)
        assert me(router, token).status_code == 200
        issuer.keys = [new]
        assert me(router, issuer.token("bo", key=new)).json()["sub"] == "bo"
        refused(router, token)  # also what was remembered of it


def test_W24_a_key_that_came_while_the_keys_were_fetched():
    """The answer that is on its way does not have it: the login waits for the next one."""
    old, new, go_on = Key("RSA", "old"), Key("P-256", "new"), threading.Event()
    with Issuer([old]) as issuer, Router(*flags(issuer), keys=("u1",)) as router, concurrent.futures.ThreadPoolExecutor(1) as pool:
        loaded(router)
        issuer.mode[KEYS] = raw({}, 500)
        refused(router, issuer.token(key=new))  # makes it look; that fails, and from now on it tries by itself
        time.sleep(10)  # until an unknown key may make it look again

        def late(handler):
            del issuer.mode[KEYS]
            body = {"keys": [old.jwk()]}
            issuer.keys = [new]
            go_on.wait(60)
            handler.send(body)
        issuer.mode[KEYS] = late
        wait_for(lambda: KEYS not in issuer.mode, what="a fetch that nobody asked for")
        login = pool.submit(me, router, issuer.token("bo", key=new))
        time.sleep(0.5)  # it waits for keys by now
        go_on.set()
        assert login.result(60).json()["sub"] == "bo"


@pytest.mark.tsan
def test_S07_a_slow_issuer_delays_nobody_else():
    with Issuer() as issuer, Router(*flags(issuer), "--threads=1", keys=("u1",)) as router, router.client("u1") as client:
        loaded(router)
        before, go_on = issuer.fetches(), threading.Event()
        issuer.mode[KEYS] = lambda handler: go_on.wait(60)
        answers = []
        threads = [threading.Thread(target=lambda n=n: answers.append(me(router, issuer.token(header={"kid": f"x{n}"})).status_code)) for n in range(20)]
        for thread in threads:
            thread.start()
        wait_for(lambda: issuer.fetches() > before, interval=0.005, what="the question for keys")
        # They wait for five seconds; who waited with them would have one answer in that time.
        served = 0
        while served < 20 and not answers:
            assert client.get(ME).status_code == 200
            assert client.post(API + "/user/api-keys", json={}).status_code == 201  # a worker is free too
            served += 1
        assert served > 2
        go_on.set()
        for thread in threads:
            thread.join()
        assert set(answers) == {401}


@pytest.mark.tsan
def test_S07_client_goes_away_while_its_token_is_checked():
    """And the Router ends cleanly with such checks under way."""
    with Issuer() as issuer, Router(*flags(issuer), keys=("u1",)) as router:
        loaded(router)
        issuer.mode[KEYS] = hang
        raws = []
        for n in range(6):
            raw_ = Raw(router)
            raw_.send(f"POST {API}/user/api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer {issuer.token(header={'kid': f'gone-{n}'})}\r\n\r\n" + "{" * (n % 2))
            raws.append(raw_)
        time.sleep(0.3)
        for raw_ in raws[:4]:
            raw_.socket.close()
        time.sleep(0.2)
        with router.client("u1") as client:
            assert client.get(ME).status_code == 200
        assert router.terminate() == 0
        assert not router.alarms()


def test_3_4_several_issuers_and_audiences():
    with Issuer() as one, Issuer(slash=True) as two, Issuer() as stranger:
        with Router(f"--oidc-issuer={one.url}", f"--oidc-issuer={two.url}", "--oidc-client-id=web, cli", "--oidc-client-id=ci", keys=("u1",)) as router:
            loaded(router)
            for audience in ("web", "cli", "ci", ["x", "cli"]):
                assert me(router, one.token("ana", aud=audience)).json()["sub"] == "ana"
            refused(router, one.token(aud=AUDIENCE))
            # Two issuers may know two people as "ana".
            assert me(router, two.token("ana", aud="ci")).json()["sub"] == f"{two.url}#ana"
            refused(router, two.token("ana", aud="ci", iss=two.base))
            refused(router, stranger.token("ana", aud="ci"))
            refused(router, one.token("ana", aud="ci", iss=two.url))


def test_3_4_an_issuer_that_only_says_who_a_caller_is():
    """Groups, administrators and addresses for sharing are the word of the other issuers alone."""
    claims = {"groups": ["agenttier-admins", "team"], "email": "ana@example.org"}
    with Issuer() as company, Issuer(slash=True) as partner:
        only = flags(company, f"--oidc-issuer={partner.url}", f"--oidc-subjects-only={partner.url}")
        with Router(*only, keys=("u1",)) as router:
            loaded(router)
            assert me(router, company.token("ana", **claims)).json() == {
                "sub": "ana", "name": "Ana", "email": "ana@example.org", "groups": ["agenttier-admins", "team"], "isAdmin": True}
            assert me(router, partner.token("ana", **claims)).json() == {
                "sub": f"{partner.url}#ana", "name": "Ana", "email": "ana@example.org", "groups": [], "isAdmin": False}
            with router.client("u1") as owner:
                assert owner.post(API + "/sandboxes", json={"name": "shared", "template": "no-such-template"}).status_code == 201
                path = API + "/sandboxes/shared"
                for identity, kind in (("ana@example.org", "user"), ("team", "group")):
                    answer = owner.post(path + "/share", json={"identity": identity, "kind": kind, "level": "viewer"})
                    assert answer.status_code == 200, answer.text
            for made_by, status in ((company, 200), (partner, 404)):
                for guest in ({"groups": ["team"]}, {"email": "ana@example.org"}, {"groups": ["agenttier-admins"]}):
                    with router.anonymous(headers={"Authorization": "Bearer " + made_by.token("guest", **guest)}) as client:
                        assert client.get(path).status_code == status, (made_by.url, guest)


def test_W06_namespaces_of_groups(issuer):
    with Router(*flags(issuer, "--namespace-groups=team=devs,free=*", "--namespace-groups=ops=admins"), keys=("u1",)) as router:
        loaded(router)

        def create(namespace, groups, **more):
            body = {"name": f"box-{time.monotonic_ns()}", "template": "no-such-template", "namespace": namespace, **more}
            with router.anonymous(headers={"Authorization": "Bearer " + issuer.token("ana", groups=groups)}) as client:
                answer = client.post(API + "/sandboxes", json=body)
                if answer.status_code != 201:
                    assert error_of(answer, 403)["code"] == "namespace_not_allowed"
                return answer.status_code
        assert create("team", ["x", "devs"]) == create("free", []) == create("ops", ["agenttier-admins"]) == 201
        assert create("team", ["dev", "devs2", "team"]) == create("ops", ["devs"]) == create("elsewhere", ["devs"]) == create("default", ["devs"]) == 403
        template = {"name": "no-such-template", "kind": "SandboxTemplate"}
        assert create("team", ["devs"], templateRef={**template, "namespace": "team"}, template=None) == 201
        assert create("team", ["devs"], templateRef={**template, "namespace": "ops"}, template=None) == 403


def test_3_4_group_claim_paths():
    with Issuer() as issuer:
        with Router(*flags(issuer, "--group-claim=realm_access.roles", "--admin-group=ops"), keys=("u1",)) as router:
            loaded(router)
            assert me(router, issuer.token("a", realm_access={"roles": ["ops"]})).json() | {"email": ""} == {
                "sub": "a", "name": "A", "email": "", "groups": ["ops"], "isAdmin": True}
            # A claim of that very name comes first.
            assert me(router, issuer.token("b", **{"realm_access.roles": ["dev"]}, realm_access={"roles": ["ops"]})).json()["groups"] == ["dev"]
            assert me(router, issuer.token("c", groups=["ops"])).json()["isAdmin"] is False
        with Router(*flags(issuer, "--group-claim=https://x.example/roles", "--admin-group="), keys=("u1",)) as router:
            loaded(router)
            answer = me(router, issuer.token("a", **{"https://x.example/roles": ["agenttier-admins"]})).json()
            assert (answer["groups"], answer["isAdmin"]) == (["agenttier-admins"], False)


def test_3_4_no_client_id_accepts_nothing(issuer):
    with Router(f"--oidc-issuer={issuer.url}", "--oidc-client-id=", keys=("u1",)) as router:
        loaded(router)
        refused(router, issuer.token(aud=""))
        refused(router, issuer.token())


@pytest.mark.parametrize("url", ["http://issuer.example", "ftp://127.0.0.1", "issuer", "https://", "http://127.0.0.1.evil.example/", "http://user@evil.example",
                                 "http://localhost.evil.example", "https://x.example/?a=b"])
def test_S07_keys_come_over_https_or_from_this_machine(url):
    done = subprocess.run([*WRAP, str(BINARY), "--backend=local", "--state-dir=/tmp/at-oidc-never", f"--oidc-issuer={url}", "--oidc-client-id=x",
                           "--listen-addr=127.0.0.1:0"], capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
    assert done.returncode == 2 and "--oidc-issuer" in done.stderr, (done.returncode, done.stderr)


@pytest.mark.parametrize("more", [["--oidc-issuer=https://a.example", "--oidc-subjects-only=https://a.example/"],
                                  ["--oidc-issuer=https://a.example,https://b.example", "--oidc-subjects-only=https://b.example,https://c.example"],
                                  ["--oidc-subjects-only=https://a.example"]])
def test_3_4_only_an_issuer_can_be_limited(more):
    """A slip of the pen would leave the issuer that was meant with all of its rights."""
    done = subprocess.run([*WRAP, str(BINARY), "--backend=local", "--state-dir=/tmp/at-oidc-never", *more, "--oidc-client-id=x",
                           "--listen-addr=127.0.0.1:0"], capture_output=True, text=True, timeout=30, env=clean_environment(), check=False)
    assert done.returncode == 2 and "--oidc-subjects-only" in done.stderr, (done.returncode, done.stderr)


def test_S07_certificates_that_cannot_be_read(issuer):
    done = subprocess.run([*WRAP, str(BINARY), "--backend=local", "--state-dir=/tmp/at-oidc-never", *flags(issuer, "--oidc-ca-file=/no/such/file"),
                           "--listen-addr=127.0.0.1:0"], capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
    assert done.returncode == 2 and "--oidc-ca-file" in done.stderr, (done.returncode, done.stderr)


def test_S07_jwks_uri_elsewhere_over_http_is_not_followed():
    with Issuer() as issuer:
        issuer.mode[DISCOVERY] = raw({"issuer": issuer.url, "jwks_uri": "http://keys.evil.example/keys"})
        with Router(*flags(issuer), keys=("u1",)) as router:
            wait_for(lambda: "is not an https URL" in router.tail(), what="refusal")
            refused(router, issuer.token())


def test_S28_no_secret_in_logs_at_debug_level():
    with Issuer() as issuer, Router(*flags(issuer), "--log-level=debug", keys=("u1", "admin")) as router:
        loaded(router)
        good, bad = issuer.token("ana"), issuer.token("ana", aud="other")
        unknown = issuer.token("ana", header={"kid": "unknown"})
        secrets = [good, bad, unknown, good.split(".")[2], router.keys["u1"], router.keys["admin"], "atk_" + "Z" * 43]
        with router.anonymous() as client:
            for token in (good, bad, unknown, router.keys["u1"], "atk_" + "Z" * 43):
                client.get(ME, headers={"Authorization": "Bearer " + token})
                client.get(ME, headers={"X-API-Key": token})
                client.get(ME, params={"token": token, "api_key": token})
                client.get(f"/ws/terminal/none?token={token}")
        with router.client("u1") as client:
            minted = client.post(API + "/user/api-keys", json={"name": "x"}).json()
            secrets.append(minted["key"])
            with router.client(minted["key"]) as other:
                other.get(ME)
            client.delete(f"{API}/user/api-keys/{minted['id']}")
        log = router.log.read_text(errors="replace")
        assert log.count("/user/me") > 10
        for secret in secrets:
            assert secret not in log, log[max(0, log.find(secret) - 300):log.find(secret) + 40]


# ---- W-53: what was open when a credential ended ----

ECHO = r"""
import socket, threading, time
GRANT = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
def work(c):
    data = b""
    while b"\r\n\r\n" not in data:
        more = c.recv(65536)
        if not more: return
        data += more
    c.sendall(GRANT)
    while True:
        more = c.recv(65536)
        if not more: return
        c.sendall(more)
server = socket.create_server(("127.0.0.1", 8078))
while True:
    threading.Thread(target=work, args=(server.accept()[0],), daemon=True).start()
"""


@pytest.mark.parametrize("kind", ["revoked key", "expired key", "token"])
def test_W53_open_connections_end_with_their_credential(router, issuer, kind):
    box = router.sandbox("w53-" + kind.replace(" ", "-"), key="u1")
    app = box.server(ECHO, 8078)
    with router.client("u1") as u1:
        revoke = lambda: None  # noqa: E731
        if kind == "token":
            header = "Authorization: Bearer " + issuer.token("u1", exp=int(time.time()) - 50)  # ten seconds, with the leeway
        else:
            made = u1.post(API + "/user/api-keys", json={"expiresIn": "10s"} if kind == "expired key" else {}).json()
            header = "X-API-Key: " + made["key"]
            if kind == "revoked key":
                revoke = lambda: u1.delete(f"{API}/user/api-keys/{made['id']}")  # noqa: E731
        with Raw(router) as ours, Raw(router) as other:
            for raw_, line in ((ours, header), (other, "X-API-Key: " + router.keys["u1"])):
                raw_.send(f"GET {app}/ HTTP/1.1\r\nHost: x\r\n{line}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                assert raw_.response()[0] == 101
                raw_.send(b"ping")
                assert raw_._receive() == b"ping"
            revoke()
            assert ours.closed(12 if kind == "revoked key" else 17)  # seven seconds after its end
            other.send(b"still here")
            assert other._receive() == b"still here"
    box.remove()


def test_W53_a_command_outlives_the_token_that_began_it(router, issuer):
    box = router.sandbox("w53-command", key="u1")
    end = int(time.time()) + 6
    token = issuer.token("u1", exp=end - 60)
    with router.anonymous(headers={"Authorization": "Bearer " + token}) as client:
        answer = client.post(box.base + "/exec", json={"command": "sleep 9; echo done"})
        assert time.time() > end + 1 and (answer.status_code, answer.json()["stdout"]) == (200, "done\n")
        error_of(client.get(box.base), 401)
    box.remove()


# ---- previews ----

def test_W08_S25_a_token_beside_an_api_key_does_not_reach_the_app(router, issuer):
    """The key says who calls, so Authorization could be the application's: not when it would log in here. A proxy in front adds such ones."""
    box = router.sandbox("w08", key="u1")
    app = box.server("""
import http.server
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers.get_all("Authorization")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8310), App).serve_forever()
""", 8310)

    def seen(*values):
        answer = box.client.get(app + "/", headers=[("Authorization", value) for value in values])
        assert answer.status_code == 200, answer.text
        return answer.text

    ours = issuer.token("ana")
    for value in (f"Bearer {ours}", f"bearer  {ours}"):
        assert seen(value) == "None"
    two = box.client.get(app + "/", headers=[("Authorization", "Basic YXBwOmFwcA=="), ("Authorization", f"Bearer {ours}")])
    assert error_of(two, 400)["code"] == "bad_header"
    for own in ("Basic YXBwOmFwcA==", "Bearer opaque", f"Bearer {issuer.token('ana', aud='the-app')}"):
        assert seen(own) == str([own])
    box.remove()
