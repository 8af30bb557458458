"""Sharing, bulk, names of ports and preferences with several replicas, and with an apiserver that has a bad day
(http-api.md 2.7, 2.13, W-13, W-37, W-95; http-api-extended.md weakness 103; lessons S30, S31)."""

import concurrent.futures
import hashlib

import pytest
from cluster_router import CR, ClusterRouter
from fake_apiserver import status
from harness import error_of, wait_for

API = "/api/v1"
SANDBOX = API + "/sandboxes/demo"
CONFLICT = status(409, "Conflict", "the object has been modified")


@pytest.fixture
def pair(api):
    """Two replicas on one apiserver: owner and some guests with keys, a sandbox."""
    users = ["owner", "admin"] + [f"guest-{i}" for i in range(12)]
    with ClusterRouter(api, dev_auth=False, keys=users) as one, ClusterRouter(api, dev_auth=False) as two:
        two.keys = one.keys
        with one.client("owner") as client:
            assert client.post(API + "/sandboxes", json={"name": "demo", "template": "t"}).status_code == 201
        with two.client("owner") as client:
            wait_for(lambda: client.get(SANDBOX).status_code == 200)
        yield one, two


def sharing(api):
    return api.get("sandboxes", "demo", "default")["spec"].get("sharing", {})


def test_4_4_the_sharing_block_is_that_of_the_contract(api, pair):
    one, two = pair
    with one.client("owner") as owner, two.client("guest-0") as guest:
        owner.post(SANDBOX + "/share", json={"identity": "data-team", "level": "collaborator", "kind": "group"})
        owner.post(SANDBOX + "/share", json={"identity": "guest-0", "level": "viewer"})
        link = owner.post(SANDBOX + "/share-links", json={"expiresIn": "1h", "maxUses": 3}).json()
        assert sharing(api) == {
            "users": [{"identity": "guest-0", "level": "viewer"}], "groups": [{"identity": "data-team", "level": "collaborator"}],
            "shareLinks": [{"id": link["id"], "tokenHash": hashlib.sha256(link["token"].encode()).hexdigest(), "level": "viewer",
                            "expiresAt": link["expiresAt"], "maxUses": 3, "usedCount": 0}]}
        event = next(e for e in api.all("events") if e["reason"] == "ShareGranted" and e["message"] == "data-team")
        assert event["metadata"]["name"].startswith("demo.") and event["metadata"]["namespace"] == "default"
        assert event["involvedObject"]["kind"] == "Sandbox" and event["involvedObject"]["apiVersion"] == "agenttier.io/v1alpha1"
        # The other replica lets the guest in, and out, as soon as it hears of it.
        wait_for(lambda: guest.get(SANDBOX).status_code == 200)
        owner.delete(SANDBOX + "/share/guest-0")
        wait_for(lambda: guest.get(SANDBOX).status_code == 404)


def test_S31_link_uses_are_exact_on_two_replicas(api, pair):
    with pair[0].client("owner") as owner:
        token = owner.post(SANDBOX + "/share-links", json={"maxUses": 4}).json()["token"]

    def redeem(i):
        with pair[i % 2].client(f"guest-{i}") as client:
            def code():
                answer = client.post(API + "/share-links/redeem", json={"token": token})
                # 404: that replica has not heard of the link yet; 409: a crowd
                return answer.status_code if answer.status_code not in (404, 409) else None
            return wait_for(code, what="an answer")

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        codes = sorted(pool.map(redeem, range(12)))
    assert codes == [200] * 4 + [410] * 8
    assert len(sharing(api)["users"]) == 4 and sharing(api)["shareLinks"][0]["usedCount"] == 4


def test_W37_conflicts_are_retried_and_then_said(api, pair):
    with pair[0].client("owner") as owner:
        api.on("PUT", r"/sandboxes/demo", CONFLICT, times=3)
        assert owner.post(SANDBOX + "/share", json={"identity": "bo", "level": "viewer"}).status_code == 200
        api.on("PUT", r"/sandboxes/demo", CONFLICT)
        assert error_of(owner.post(SANDBOX + "/share", json={"identity": "cy", "level": "viewer"}), 409)["code"] == "conflict"
        api.clear()
        assert [u["identity"] for u in sharing(api)["users"]] == ["bo"]


def test_4_7_an_event_that_cannot_be_written_takes_nothing_back(api, pair):
    api.on("POST", r"/events", status(403, "Forbidden"))
    with pair[0].client("owner") as owner:
        assert owner.post(SANDBOX + "/share", json={"identity": "bo", "level": "viewer"}).status_code == 200
        assert owner.delete(SANDBOX + "/share/bo").status_code == 200
    assert sharing(api)["users"] == []
    assert "event not written" in pair[0].tail()


def test_O3_no_404_and_no_403_from_ignorance(api, pair):
    one, _ = pair
    with one.client("owner") as owner:
        api.go_away()
        try:
            wait_for(lambda: one.metric("agenttier_store_age_seconds") >= 2)
            for answer in (owner.get(API + "/sandboxes/nobody-knows/share"), owner.post(API + "/share-links/redeem", json={"token": "x"}),
                           owner.get(API + "/user/preferences")):
                assert error_of(answer, 503)["code"] == "unavailable" and answer.headers["Retry-After"]
            results = owner.post(API + "/sandboxes/bulk-action", json={"action": "stop", "ids": ["nobody-knows"]}).json()["results"]
            assert results[0]["code"] == "unavailable"
            assert owner.get(SANDBOX + "/share").status_code == 200  # from memory
        finally:
            api.come_back()


def test_2_7_each_item_fails_for_its_own_reason(api, pair):
    """Half-way through a batch the apiserver refuses: what was created stays, the rest says why, a retry completes it."""
    body = {"items": [{"name": f"b-{i}", "template": "t"} for i in range(4)]}
    headers = {"Idempotency-Key": "batch-1"}
    with pair[0].client("owner") as owner:
        def second_and_third_fail(server, request, connection):
            if request.json()["metadata"]["name"] in ("b-1", "b-2"):
                return status(500, "InternalError", "etcd: request timed out")(server, request, connection)
            return None
        api.on("POST", rf"{CR}/namespaces/default/sandboxes", second_and_third_fail)
        results = owner.post(API + "/sandboxes/bulk", json=body, headers=headers).json()["results"]
        api.clear()
        assert [r["status"] for r in results] == ["created", "error", "error", "created"], results
        assert "code" in results[1] and "sandboxId" not in results[1]
        results = owner.post(API + "/sandboxes/bulk", json=body, headers=headers).json()["results"]
        assert [(r["status"], r.get("replayed")) for r in results] == [("created", True), ("created", None), ("created", None), ("created", True)]


def test_tutorial_7_one_name_for_two_ports_on_two_replicas(api, pair):
    def forward(i):
        with pair[i % 2].client("owner") as client:
            return client.post(SANDBOX + "/ports", json={"port": 8000 + i, "name": "web"}).status_code

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        codes = sorted(pool.map(forward, range(10)))
    assert codes == [201] + [409] * 9
    assert [s["metadata"]["annotations"]["agenttier.io/port-name"] for s in api.all("services")] == ["web"]


def test_W103_preferences_of_one_user_on_two_replicas(api, pair):
    def patch(i):
        with pair[i % 2].client("owner") as client:
            return client.patch(API + "/user/preferences", json={f"k{i}": i}).status_code

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(patch, range(6)))
    assert codes == [200] * 6
    name = "agenttier-prefs-" + hashlib.sha256(b"owner").hexdigest()[:16]
    stored = api.get("configmaps", name, "agenttier")
    assert stored["metadata"]["labels"]["agenttier.io/component"] == "user-preferences"
    with pair[0].client("owner") as one, pair[1].client("owner") as two:
        wait_for(lambda: one.get(API + "/user/preferences").json() == two.get(API + "/user/preferences").json() == {f"k{i}": i for i in range(6)})


def test_W103_a_write_that_fails_is_an_error_and_not_a_success(api, pair):
    with pair[0].client("owner") as owner:
        assert owner.put(API + "/user/preferences", json={"kept": 1}).status_code == 200
        api.on("PATCH", r"/configmaps/", status(500, "InternalError"))
        assert owner.put(API + "/user/preferences", json={"lost": 1}).status_code >= 500
        api.clear()
        assert owner.get(API + "/user/preferences").json() == {"kept": 1}
