"""What administrators see of the fleet (http-api.md 2.17; http-api-extended.md 13)."""

import pytest

from harness import Router, error_of, wait_for

API = "/api/v1"


@pytest.fixture(scope="module")
def own():
    with Router(keys=("u1", "u2", "admin")) as router:
        yield router


def make(client, name, **body):
    """A sandbox in Error: its template does not exist."""
    answer = client.post(API + "/sandboxes", json={"name": name, "template": "no-such-template", **body})
    assert answer.status_code == 201, answer.text
    path, params = f"{API}/sandboxes/{name}", {"namespace": body.get("namespace", "default")}
    wait_for(lambda: client.get(path, params=params).json()["status"] == "Error")
    return path


@pytest.fixture(autouse=True)
def nothing_left(own):
    """Each test counts all that is there."""
    yield
    own.delete_all()


def test_2_17_sandboxes_with_their_keys(own):
    with own.client("admin") as admin, own.client("u1") as u1, own.client("u2") as u2:
        assert admin.get(API + "/admin/sandboxes").json() == {"sandboxes": []}
        one, two = make(u1, "one"), make(u2, "two", namespace="team-b")
        key = u1.post(API + "/user/api-keys", json={"sandboxId": "one", "scopes": ["run-command"], "name": "ci"}).json()
        u1.post(API + "/user/api-keys", json={"name": "not scoped"})
        listed = admin.get(API + "/admin/sandboxes").json()["sandboxes"]
        assert [(s["namespace"], s["name"]) for s in listed] == [("default", "one"), ("team-b", "two")]
        keys = listed[0]["scopedApiKeys"]
        assert [(k["id"], k["userId"], k["name"], k["sandboxId"], k["actionGroups"]) for k in keys] == [
            (key["id"], "u1", "ci", "one", ["run-command"])]
        assert key["key"] not in str(listed) and "keyHash" not in str(listed)
        assert "scopedApiKeys" not in listed[1]
        assert listed[1] == admin.get(two).json()
        for params, names in (({"namespace": "team-b"}, ["two"]), ({"namespace": "nowhere"}, []), ({"status": "error"}, ["one", "two"]),
                              ({"template": "other"}, []), ({"namespace": ""}, ["one", "two"])):
            assert [s["name"] for s in admin.get(API + "/admin/sandboxes", params=params).json()["sandboxes"]] == names, params
        page = admin.get(API + "/admin/sandboxes", params={"limit": 1}).json()
        rest = admin.get(API + "/admin/sandboxes", params={"limit": 1, "continue": page["continue"]}).json()
        assert [s["name"] for s in page["sandboxes"] + rest["sandboxes"]] == ["one", "two"] and "continue" not in rest
        error_of(admin.get(API + "/admin/sandboxes", params={"limit": 0}), 400)
        u1.delete(one), u2.delete(two, params={"namespace": "team-b"})


def test_W91_keys_belong_to_one_of_two_sandboxes_of_a_name(own):
    with own.client("admin") as admin, own.client("u1") as u1:
        make(u1, "twin"), make(u1, "twin", namespace="team-b")
        u1.post(API + "/user/api-keys", json={"sandboxId": "twin"}, params={"namespace": "team-b"})
        listed = {s["namespace"]: s.get("scopedApiKeys", []) for s in admin.get(API + "/admin/sandboxes").json()["sandboxes"]}
        assert (len(listed["default"]), len(listed["team-b"])) == (0, 1)
        for namespace in ("default", "team-b"):
            u1.delete(API + "/sandboxes/twin", params={"namespace": namespace})


def test_2_17_sharing(own):
    with own.client("admin") as admin, own.client("u1") as u1:
        assert admin.get(API + "/admin/sharing").json() == {}
        one, two = make(u1, "shared-one"), make(u1, "shared-two", namespace="team-b")
        make(u1, "alone")
        u1.post(one + "/share", json={"identity": "u2", "level": "viewer"})
        link = u1.post(two + "/share-links", params={"namespace": "team-b"}).json()
        answer = admin.get(API + "/admin/sharing")
        assert answer.json() == {
            "default/shared-one": {"sandboxId": "shared-one", "namespace": "default", "owner": "u1", "groups": [], "shareLinks": [],
                                   "users": [{"identity": "u2", "level": "viewer"}]},
            "team-b/shared-two": {"sandboxId": "shared-two", "namespace": "team-b", "owner": "u1", "users": [], "groups": [],
                                  "shareLinks": [{"id": link["id"], "level": "viewer", "expiresAt": None, "maxUses": 0, "usedCount": 0}]}}
        assert link["token"] not in answer.text
        assert list(admin.get(API + "/admin/sharing", params={"namespace": "team-b"}).json()) == ["team-b/shared-two"]
        for name, namespace in (("shared-one", "default"), ("shared-two", "team-b"), ("alone", "default")):
            u1.delete(f"{API}/sandboxes/{name}", params={"namespace": namespace})


def test_3_7_not_for_others(own):
    with own.client("u1") as u1:
        for path in ("/admin/sandboxes", "/admin/sharing"):
            assert error_of(u1.get(API + path), 403)["error"] == "admin_required"
