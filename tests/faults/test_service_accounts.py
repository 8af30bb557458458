"""Kubernetes service accounts as callers: http-api.md 3.4; lessons S9, I34, S34."""

import concurrent.futures
import time

import httpx
import pytest
from cluster_router import ClusterRouter, sandbox
from fake_apiserver import body
from fake_apiserver import status as scripted
from harness import error_of, wait_for
from issuer import AUDIENCE, Issuer, Key, b64, encode
from test_auth_table import BOX, METHODS, TABLE, call, expected

API = "/api/v1"
ME = API + "/user/me"
REVIEWS = "/tokenreviews"
FLAGS = ("--service-account-audience=agenttier", "--service-account-namespaces=ci,dev")


def account(api, namespace="ci", name="runner", audiences=("agenttier",), claimed=None, known=True, **claims):
    """A token that the apiserver knows (or not); `claimed`: the subject that it names itself."""
    username = f"system:serviceaccount:{namespace}:{name}"
    token = encode({"alg": "RS256", "kid": "k"}, {"iss": "https://kubernetes.default.svc", "sub": claimed or username, "exp": int(time.time()) + 600,
                                                  "jti": f"{time.monotonic_ns()}", **claims}, lambda _: b"signature")
    if known:
        api.reviewed_tokens[token] = {"username": username, "uid": "u", "audiences": list(audiences),
                                      "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]}
    return token


def me(router, token):
    return httpx.get(router.url + ME, headers={"Authorization": "Bearer " + token}, timeout=30)


@pytest.fixture
def guarded(api):
    with ClusterRouter(api, *FLAGS, dev_auth=False, keys=("admin",)) as router:
        yield router


def test_S09_a_token_is_reviewed_once_and_its_account_is_the_subject(api, guarded):
    token = account(api)
    answer = me(guarded, token)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"sub": "system:serviceaccount:ci:runner", "email": "", "name": "runner", "isAdmin": False,
                             "groups": ["system:serviceaccounts", "system:serviceaccounts:ci", "system:authenticated"]}
    with guarded.anonymous(headers={"Authorization": "Bearer " + token}) as client:
        for _ in range(50):
            assert client.get(ME).status_code == 200
    assert len(api.asked("POST", REVIEWS)) == 1
    review = api.asked("POST", REVIEWS)[0].json()["spec"]
    assert review == {"token": token, "audiences": ["agenttier"]}
    assert guarded.metric("agenttier_token_reviews_total") == 1


def test_S09_many_at_once_do_not_storm_the_apiserver(api, guarded):
    token = account(api)
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: me(guarded, token).status_code, range(40)))
    assert answers == [200] * 40
    assert len(api.asked("POST", REVIEWS)) <= 8


def test_I34_a_token_for_another_audience_is_refused(api, guarded):
    """Such as the one that every pod has."""
    error_of(me(guarded, account(api, audiences=["https://kubernetes.default.svc"])), 401)


def test_I34_an_apiserver_that_ignores_audiences_is_not_believed(api, guarded):
    for status in ({"authenticated": True, "user": {"username": "system:serviceaccount:ci:runner"}},
                   {"authenticated": True, "audiences": [], "user": {"username": "system:serviceaccount:ci:runner"}},
                   {"authenticated": True, "audiences": ["other"], "user": {"username": "system:serviceaccount:ci:runner"}},
                   {"authenticated": "true", "audiences": ["agenttier"], "user": {"username": "system:serviceaccount:ci:runner"}},
                   {"authenticated": True, "audiences": ["agenttier"], "user": {}},
                   {"authenticated": True, "audiences": ["agenttier"], "user": {"username": "kubernetes-admin"}},
                   {"authenticated": True, "audiences": ["agenttier"], "user": {"username": "system:serviceaccount:kube-system:x"}}, {}):
        token = account(api)  # one that has not been refused yet
        api.on("POST", REVIEWS, body({"kind": "TokenReview", "status": status}, 201), times=1)
        assert me(guarded, token).status_code == 401, status


def test_S09_refusals_are_remembered_for_a_moment(api, guarded):
    token, began = account(api, known=False), time.monotonic()
    with guarded.anonymous(headers={"Authorization": "Bearer " + token}) as client:
        for _ in range(30):
            assert error_of(client.get(ME), 401)["error"] == "invalid_token"
    assert len(api.asked("POST", REVIEWS)) <= 1 + (time.monotonic() - began) // 10  # that is the moment
    account_now = {"username": "system:serviceaccount:ci:runner", "uid": "u", "audiences": ["agenttier"], "groups": []}
    api.reviewed_tokens[token] = account_now
    wait_for(lambda: me(guarded, token).status_code == 200, 60, 0.5, "the refusal forgotten")


def test_S09_who_cannot_get_in_is_not_asked_about(api, guarded):
    for token in (account(api, namespace="kube-system"), account(api, claimed="ana"), account(api, claimed="system:node:x"), "a.b.c",
                  b64("x") * 3, "x" * 20000, f"{b64('{}')}.{b64('{}')}.{b64('x')}"):
        answer = me(guarded, token)
        assert answer.status_code in (401, 431), answer.text
    assert not api.asked("POST", REVIEWS)
    assert "namespace" in error_of(me(guarded, account(api, namespace="other")), 401)["message"]


def test_S09_the_apiservers_word_counts_not_the_tokens(api, guarded):
    token = account(api, namespace="kube-system", claimed="system:serviceaccount:ci:runner")
    error_of(me(guarded, token), 401)
    assert len(api.asked("POST", REVIEWS)) == 1


def test_S09_apiserver_away_is_503_and_not_remembered(api, guarded):
    known, new = account(api), account(api)
    assert me(guarded, known).status_code == 200
    api.go_away()
    answer = me(guarded, new)
    assert error_of(answer, 503)["code"] == "unavailable" and int(answer.headers["Retry-After"]) >= 1
    assert me(guarded, known).status_code == 200
    with guarded.client("admin") as admin:
        assert admin.get(ME).status_code == 200  # keys are in memory
    api.come_back()
    wait_for(lambda: me(guarded, new).status_code == 200, 60, 0.2, "the apiserver's answer")


@pytest.mark.parametrize("status", [500, 403, 429, 404])
def test_S09_apiserver_that_does_not_tell_is_503(api, guarded, status):
    token = account(api)
    api.on("POST", REVIEWS, scripted(status))
    error_of(me(guarded, token), 503)
    api.clear()
    assert me(guarded, token).status_code == 200


def test_3_8_accounts_are_tenants_like_others(api, guarded):
    one, two = account(api, name="one"), account(api, name="two")
    with guarded.anonymous(headers={"Authorization": "Bearer " + one}) as a, guarded.anonymous(headers={"Authorization": "Bearer " + two}) as b:
        made = a.post(API + "/sandboxes", json={"name": "sa-box", "template": "t"})
        assert made.status_code == 201, made.text
        assert a.get(API + "/sandboxes/sa-box").status_code == 200
        error_of(b.get(API + "/sandboxes/sa-box"), 404)
        assert b.get(API + "/sandboxes").json()["sandboxes"] == []
        key = a.post(API + "/user/api-keys", json={"sandboxId": "sa-box"}).json()["key"]
        with guarded.client(key) as scoped:
            assert scoped.get(API + "/sandboxes/sa-box").status_code == 200


def test_S34_service_accounts_on_every_route(api, guarded):
    """The table of tests/api with accounts as owner, as somebody else, and as administrators by their group."""
    api.put("sandboxes", sandbox("table-target", owner="system:serviceaccount:ci:owner"))
    wait_for(lambda: guarded.client("admin").get(API + "/sandboxes/table-target").status_code == 200)
    kinds = {"owner": account(api, name="owner"), "other": account(api, name="other")}
    problems = []
    with guarded.anonymous() as client:
        for (method, path), (who, group) in TABLE.items():
            for m in METHODS if method == "*" else [method]:
                for kind, token in kinds.items():
                    gate = expected(who, group, kind)
                    if (m, path) == ("DELETE", BOX) and gate is None:
                        continue
                    answer = call(client, m, path, {"Authorization": "Bearer " + token}, "table-target")
                    inner = {404} if any(x in path for x in ("{name}", "{keyId}", "{execId}", "{linkId}", "{snapshotName}")) else set()
                    wrong = answer.status_code in {401, 403, 404, 405} - inner if gate is None else answer.status_code != gate
                    if wrong:
                        problems.append(f"{m} {path} by {kind}: {answer.status_code}, should be {gate or 'let in'}: {answer.text[:100]}")
    assert not problems, "\n".join(problems)


def test_the_sdk_inside_a_pod_logs_in_by_itself(api, tmp_path, monkeypatch):
    """What the published SDK finds there is the pod's own token: the value `kubernetes` takes it."""
    import agenttier
    import agenttier.auth
    flags = ("--service-account-audience=kubernetes,agenttier", "--service-account-namespaces=ci")
    token = account(api, audiences=["https://kubernetes.default.svc"])
    file = tmp_path / "token"
    file.write_text(token + "\n")
    monkeypatch.setattr(agenttier.auth, "_IN_CLUSTER_TOKEN_PATH", file)
    for variable in ("AGENTTIER_API_KEY", "AGENTTIER_TOKEN"):
        monkeypatch.delenv(variable, raising=False)

    def own_audience(_, request, connection):
        spec = request.json()["spec"]
        good = spec["token"] == token and not spec.get("audiences")
        user = {"username": "system:serviceaccount:ci:runner", "uid": "u", "groups": []}
        connection.answer(201, {"kind": "TokenReview", "status": {"authenticated": good, **({"user": user} if good else {})}})
        return True
    api.on("POST", REVIEWS, own_audience)
    with ClusterRouter(api, *flags, dev_auth=False, keys=("admin",)) as router:
        with agenttier.AgentTierClient(api_url=router.url) as client:
            created = client.create_sandbox(name="from-a-pod", template="t")
            assert created.name == "from-a-pod"
            assert [s.name for s in client.list_sandboxes()] == ["from-a-pod"]
        monkeypatch.setenv("AGENTTIER_TOKEN", account(api, audiences=["https://kubernetes.default.svc"], known=False))
        with agenttier.AgentTierClient(api_url=router.url) as client, pytest.raises(agenttier.AuthenticationError):
            client.list_sandboxes()


def test_flags_that_cannot_work_are_refused():
    import subprocess
    from harness import BINARY, WRAP, clean_environment
    for flags, names in ((["--backend=local", "--state-dir=/tmp/at-never-sa", "--listen-addr=127.0.0.1:0", *FLAGS], "--service-account-audience"),
                         (["--backend=local", "--state-dir=/tmp/at-never-sa", "--service-account-audience=x"], "--service-account-namespaces")):
        done = subprocess.run([*WRAP, str(BINARY), *flags], capture_output=True, text=True, timeout=30, env=clean_environment(), check=False)
        assert done.returncode == 2 and names in done.stderr, (done.returncode, done.stderr)


def test_W56_who_shares_an_address_with_a_guesser_is_not_locked_out(api):
    """Behind a proxy that is not trusted all clients have one address. Nonsense from it keeps no token of others from being asked about;
    tokens that must be asked about, made up by the hundred, keep out new ones only."""
    with Issuer() as issuer, ClusterRouter(api, *FLAGS, f"--oidc-issuer={issuer.url}", f"--oidc-client-id={AUDIENCE}", "--trusted-proxies=127.0.0.1",
                                           "--ratelimit-auth-failures-rate=0.01", dev_auth=False, keys=("u1",)) as router, httpx.Client(timeout=30) as client:
        def tell(token, address="203.0.113.5", header="Authorization"):
            value = "Bearer " + token if header == "Authorization" else token
            return client.get(router.url + ME, headers={header: value, "X-Forwarded-For": address}).status_code

        wait_for(lambda: tell(issuer.token("ana"), "198.51.100.1") == 200, what="the issuer's keys")
        known = account(api, name="known")
        assert tell(known) == 200
        for n in range(120):
            assert tell("x", header="X-API-Key") == (401 if n < 100 else 429)
        assert tell(account(api, name="fresh")) == 200  # nonsense was not asked about
        made_up = [tell(account(api, known=False)) for _ in range(120)]
        assert made_up[:90] == [401] * 90 and made_up[-1] == 429, made_up
        assert tell(account(api, name="late")) == 429
        assert tell(account(api, name="late"), "203.0.113.6") == 200  # from elsewhere
        assert tell(known) == tell(issuer.token("ana")) == tell(router.keys["u1"], header="X-API-Key") == 200
        issuer.keys = [Key("RSA", "rsa-2")]  # makes the Router forget whom it let in
        assert tell(issuer.token("bo"), "198.51.100.2") == 200
        reviews = len(api.asked("POST", REVIEWS))
        assert tell(known) == 200 and len(api.asked("POST", REVIEWS)) == reviews + 1


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_W56_W90_a_key_of_another_router_works_before_the_watch_tells(api, guarded, header):
    """One look for what memory does not have, and few of them however many keys are guessed."""
    def use(key):
        return httpx.get(guarded.url + ME, headers={header: key if header == "X-API-Key" else "Bearer " + key}, timeout=30)
    api.silent = True
    key = guarded.create_key("late")
    assert use(key).status_code == 200
    assert use(key).json()["sub"] == "late"
    before, started = len(api.asked("GET", "/secrets/agenttier-apikey-")), time.monotonic()
    for n in range(90):
        answer = use(f"atk_{n:043d}")
        assert answer.status_code == 401 and error_of(answer)["error"] == ("invalid_api_key" if header == "X-API-Key" else "invalid_token")
    looks = len(api.asked("GET", "/secrets/agenttier-apikey-")) - before
    assert looks <= 20 * (time.monotonic() - started + 2), looks


def test_W22_S08_a_revoked_key_ends_on_every_replica_within_a_second(api):
    """Revoked over the API, and by whoever deletes the Secret."""
    with ClusterRouter(api, dev_auth=False, keys=("admin",)) as one, ClusterRouter(api, dev_auth=False) as two:
        key = one.create_key("ana")
        with one.client("admin") as admin:
            for revoke in ("over the API", "its Secret deleted"):
                made = one.client(key).post(API + "/user/api-keys", json={}).json()
                uses = [one.client(made["key"]), two.client(made["key"])]
                for client in uses:
                    wait_for(lambda client=client: client.get(ME).status_code == 200, what="the key known")
                if revoke == "over the API":
                    assert admin.delete(f"{API}/user/api-keys/{made['id']}").status_code == 200
                    assert uses[0].get(ME).status_code == 401  # at once where it was revoked
                else:
                    api.remove("secrets", made["id"], "agenttier")
                api.wait_told("secrets")
                started = time.monotonic()
                for client in uses:
                    while (asked := time.monotonic()) and client.get(ME).status_code != 401:
                        assert asked < started + 1, "the key is accepted"
                        time.sleep(0.01)
