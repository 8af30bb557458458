"""Who is let in: keys and service accounts, on a real cluster (http-api.md 3; lessons S9, I34)."""

import json

import httpx
import pytest

import testbed
from harness import error_of, wait_for
from testbed import BUILD, NAMESPACE, PATIENCE, get, kubectl, run

API = "/api/v1"


def me(api, **headers):
    with httpx.Client(base_url=api.url, headers=headers, timeout=90, trust_env=False) as client:
        return client.get(API + "/user/me")


def status_of_me(client):
    return client.get(API + "/user/me").status_code


def is_token(text):
    """What the API server says: it looks for the account in what a watch told it, and keeps a yes for 10 s."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text}}
    return json.loads(kubectl("create", "-f", "-", "-o", "json", data=json.dumps(review)))["status"].get("authenticated", False)


def token(account, namespace, *options):
    return kubectl("create", "token", account, "-n", namespace, *options).strip()


@pytest.fixture(scope="module")
def accounts(api):
    """A service account in a namespace that is let in, and one in a namespace that is not."""
    for namespace in ("default", "elsewhere"):
        if namespace != "default":
            testbed.new_namespace(namespace)
        kubectl("delete", "serviceaccount", "caller", "-n", namespace, "--ignore-not-found")
        kubectl("create", "serviceaccount", "caller", "-n", namespace)
    yield
    kubectl("delete", "namespace", "elsewhere", "--wait=false")
    kubectl("delete", "serviceaccount", "caller", "-n", "default", "--ignore-not-found")


def test_3_without_a_credential_or_with_a_wrong_one(api):
    for headers in ({}, {"X-API-Key": "atk_" + "x" * 43}, {"X-API-Key": "nonsense"}, {"Authorization": "Bearer nonsense"},
                    {"Authorization": "Bearer a.b.c"}):
        error_of(me(api, **headers), 401)


def test_3_keys_of_the_command_line(api):
    """In a pod of the Router, as NOTES say; as X-API-Key and as a bearer token."""
    assert me(api, **{"X-API-Key": api.keys["u1"]}).json()["sub"] == "u1"
    assert me(api, Authorization=f"Bearer {api.keys['admin']}").json()["isAdmin"] is True


def test_3_a_key_made_from_outside_with_a_kubeconfig(api, secured):
    made = run(BUILD / "agenttier-router", "create-key", "--backend=kubernetes", f"--kubeconfig={testbed.SETTINGS['KUBECONFIG_OUT']}",
               f"--namespace={NAMESPACE}", "--sub=outside")
    key = next(word for word in made.stdout.split() if word.startswith("atk_"))
    secured.on_every_replica({"X-API-Key": key}, lambda to: status_of_me(to) == 200, "the key known", 30)
    assert me(api, **{"X-API-Key": key}).json()["sub"] == "outside"
    secrets = get("secrets", "-n", NAMESPACE, "-l", "agenttier.io/secret-purpose=api-key")
    assert key not in json.dumps(secrets)


def test_3_a_revoked_key(api, secured):
    key = secured.create_key("short-lived")
    secured.on_every_replica({"X-API-Key": key}, lambda to: status_of_me(to) == 200, "the key known", 30)
    for secret in get("secrets", "-n", NAMESPACE, "-l", "agenttier.io/api-key-user=short-lived"):
        kubectl("delete", "secret", secret["metadata"]["name"], "-n", NAMESPACE)
    secured.on_every_replica({"X-API-Key": key}, lambda to: status_of_me(to) == 401, "the key refused", 30)
    for _ in range(6):  # and for good
        assert me(api, **{"X-API-Key": key}).status_code == 401


def test_3_4_a_service_account(api, accounts):
    answer = me(api, Authorization="Bearer " + token("caller", "default"))
    assert answer.status_code == 200 and answer.json()["sub"] == "system:serviceaccount:default:caller"
    assert answer.json()["isAdmin"] is False


def test_3_4_a_token_made_for_us(api, accounts):
    assert me(api, Authorization="Bearer " + token("caller", "default", "--audience=agenttier")).status_code == 200


def test_S9_a_token_made_for_somebody_else(api, accounts):
    error_of(me(api, Authorization="Bearer " + token("caller", "default", "--audience=vault")), 401)


def test_3_4_an_account_of_a_namespace_that_is_not_let_in(api, accounts):
    error_of(me(api, Authorization="Bearer " + token("caller", "elsewhere")), (401, 403))


def test_3_4_a_forged_token(api, accounts):
    head, body, signature = token("caller", "default").split(".")
    error_of(me(api, Authorization=f"Bearer {head}.{body}.{signature[:-6] + 'AAAAAA'}"), 401)
    error_of(me(api, Authorization=f"Bearer {head}.{body}."), 401)


def test_3_4_the_token_of_a_deleted_account(api, accounts):
    """One that was seen before is taken for up to a minute more: what is known of it is kept so long."""
    kubectl("create", "serviceaccount", "leaver", "-n", "default")
    held = token("leaver", "default")
    kubectl("delete", "serviceaccount", "leaver", "-n", "default")
    wait_for(lambda: not is_token(held), PATIENCE, 0.5, "the API server knowing of it")
    error_of(me(api, Authorization="Bearer " + held), 401)


def test_3_5_tenants_do_not_see_each_other(api, accounts, fresh):
    box = api.sandbox(fresh, key="u1")
    try:
        for headers in ({"X-API-Key": api.keys["u2"]}, {"Authorization": "Bearer " + token("caller", "default")}):
            with httpx.Client(base_url=api.url, headers=headers, timeout=90, trust_env=False) as other:
                assert fresh not in [s["name"] for s in other.get(API + "/sandboxes").json()["sandboxes"]]
                for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("GET", "/files/?path=/workspace")):
                    error_of(other.request(method, box.base + path), 404)
        with api.client("admin") as admin:
            assert admin.get(box.base).status_code == 200
    finally:
        box.remove()
