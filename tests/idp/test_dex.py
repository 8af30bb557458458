"""Logins of a real identity provider: http-api.md 3.4, W-23, W-24."""

import agenttier
import pytest
from dex import Dex
from harness import Router, error_of, wait_for

API = "/api/v1"
ME = API + "/user/me"


def flags(dex, *more):
    return [f"--oidc-issuer={dex.issuer}", "--oidc-client-id=agenttier", f"--oidc-ca-file={dex.ca}", *more]


def loaded(router):
    with router.anonymous() as client:
        wait_for(lambda: client.get("/readyz").text == "ok", 90, what="keys of the provider")  # it is asked every 30 s at least
    return router


def me(router, token):
    with router.anonymous() as client:
        return client.get(ME, headers={"Authorization": "Bearer " + token})


@pytest.fixture(scope="module")
def router(dex):
    with Router(*flags(dex), keys=("u1",)) as started:
        yield loaded(started)


def test_3_4_a_login_of_dex(router, dex):
    answer = me(router, dex.login("ana@example.org"))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["email"], found["name"], found["isAdmin"], found["groups"]) == ("ana@example.org", "ana", False, [])
    assert found["sub"] and found["sub"] != me(router, dex.login("bo@example.org")).json()["sub"]


def test_3_4_the_sdk_with_a_token_of_dex(router, dex, monkeypatch):
    monkeypatch.setenv("AGENTTIER_TOKEN", dex.login("ana@example.org"))
    monkeypatch.delenv("AGENTTIER_API_KEY", raising=False)
    with agenttier.AgentTierClient(api_url=router.url) as client:
        sandbox = client.create_sandbox(name="of-dex", template="general-coding")
        assert [s.name for s in client.list_sandboxes()] == ["of-dex"]
        with router.anonymous(headers={"Authorization": "Bearer " + dex.login("bo@example.org")}) as other:
            error_of(other.get(API + "/sandboxes/of-dex"), 404)
        sandbox.terminate()


def test_3_4_a_token_for_another_client_of_dex(router, dex):
    assert "aud" in error_of(me(router, dex.login("ana@example.org", client_id="other")), 401)["message"]


def test_3_4_an_altered_token_of_dex(router, dex):
    head, claims, signature = dex.login("ana@example.org").split(".")
    error_of(me(router, f"{head}.{claims}.{signature[:-8]}AAAAAAAA"), 401)


def test_S07_a_provider_whose_certificate_is_not_trusted(dex, folder):
    with Router(f"--oidc-issuer={dex.issuer}", "--oidc-client-id=agenttier", keys=("u1",)) as router:
        wait_for(lambda: "certificate" in router.tail(), what="the refusal in the log")
        error_of(me(router, dex.login("ana@example.org")), 401)
        with router.client("u1") as client:
            assert client.get(ME).status_code == 200


def test_W23_W24_dex_comes_late_and_changes_its_keys(folder):
    """Signing keys of 6 seconds: the Router sees new ones long before its next regular fetch, and no login fails."""
    (folder / "two").mkdir()
    dex = Dex(folder / "two", signing_keys="6s")
    with Router(*flags(dex), keys=("u1",)) as router:
        wait_for(lambda: "cannot be fetched" in router.tail(), what="the failure in the log")
        with dex:
            loaded(router)
            kids = set()

            def rotated():
                token = dex.login("ana@example.org")
                answer = me(router, token)
                assert answer.status_code == 200, answer.text
                kids.add(token.split(".")[0])
                return len(kids) >= 2
            wait_for(rotated, 150, 1, "another key")  # Dex looks every 30 s whether it is time for one
