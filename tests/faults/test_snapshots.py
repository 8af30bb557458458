"""Clones and backups on a scripted cluster: VolumeSnapshots as the contract has them, and clusters that have none
(http-api.md 2.6, 4.6; http-api-extended.md 5; O8; W-11, W-12, W-85; weaknesses 52 to 60)."""

import re

import pytest
from cluster_router import ClusterRouter
from fake_apiserver import status
from harness import error_of, wait_for

API = "/api/v1"


def snapshot_class(name="csi-snap", default=True):
    annotations = {"snapshot.storage.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "driver": "ebs.csi.aws.com", "deletionPolicy": "Delete"}


@pytest.fixture
def cluster(api):
    """A cluster that has snapshots, a Router on it, and a sandbox of the owner with a volume."""
    api.put("volumesnapshotclasses", snapshot_class())
    with ClusterRouter(api, dev_auth=False, keys=("owner", "admin", "stranger")) as router:
        sandbox(api, router, "demo")
        yield router


def sandbox(api, router, name, phase="Running", **body):
    with router.client("owner") as client:
        answer = client.post(API + "/sandboxes", json={"name": name, "template": "t", **body})
        assert answer.status_code == 201, answer.text
        api.set_status("sandboxes", name, "default", phase=phase, pvcName=name + "-workspace")
        wait_for(lambda: client.get(f"{API}/sandboxes/{name}").json().get("pvcName") == name + "-workspace")


@pytest.fixture
def owner(cluster):
    with cluster.client("owner") as client:
        yield client


def clone(client, expect=202, name="demo", headers=None, **body):
    answer = client.post(f"{API}/sandboxes/{name}/clone", json=body, headers=headers or {})
    assert answer.status_code == expect, answer.text
    return answer.json()


def test_4_6_the_objects_of_a_clone_are_those_of_the_contract(api, cluster, owner):
    owner.post(f"{API}/sandboxes/demo/share", json={"identity": "guest", "level": "viewer"})
    answer = clone(owner, name="demo")
    assert re.fullmatch(r"demo-clone-\d{10}-[0-9a-f]{6}", answer["name"]) and re.fullmatch(r"demo-snap-\d{10}-[0-9a-f]{6}", answer["snapshot"])
    assert (answer["namespace"], answer["clonedFrom"], answer["phase"]) == ("default", "demo", "Pending")
    (snapshot,) = api.all("volumesnapshots")
    source, made = api.get("sandboxes", "demo", "default"), api.get("sandboxes", answer["name"], "default")
    assert snapshot["metadata"]["name"] == answer["snapshot"] and "ownerReferences" not in snapshot["metadata"]
    assert snapshot["spec"] == {"source": {"persistentVolumeClaimName": "demo-workspace"}}
    assert snapshot["metadata"]["labels"] == {"agenttier.io/source-sandbox": "demo", "agenttier.io/clone-target": answer["name"],
                                              "agenttier.io/source-uid": source["metadata"]["uid"]}
    assert made["metadata"]["labels"] == {"agenttier.io/cloned-from": "demo"}
    expected = {k: v for k, v in source["spec"].items() if k != "sharing"} | {"cloneFromSnapshot": answer["snapshot"]}
    assert made["spec"] == expected and "sharing" in source["spec"]
    assert made["status"] == {"clonedFrom": "demo"}
    assert not any(e["reason"].startswith("Clone") for e in api.all("events"))


def test_2_6_a_class_can_be_named(api, owner):
    api.put("volumesnapshotclasses", snapshot_class("other", default=False))
    clone(owner, snapshotClass=" other ")
    assert api.all("volumesnapshots")[0]["spec"]["volumeSnapshotClassName"] == "other"
    body = clone(owner, expect=400, snapshotClass="none")
    assert body["code"] == "invalid_field" and "csi-snap, other" in body["error"]
    assert len(api.all("volumesnapshots")) == 1


def test_O8_without_the_api_it_is_501_until_it_is_installed(api):
    kinds = {k: api.kinds.pop(k) for k in ("volumesnapshots", "volumesnapshotclasses")}
    with ClusterRouter(api, dev_auth=False, keys=("owner",)) as router:
        assert router.readyz().status_code == 200
        sandbox(api, router, "demo")
        with router.client("owner") as client:
            body = clone(client, expect=501)
            assert body["code"] == "snapshots_not_supported" and "snapshot.storage.k8s.io/v1" in body["error"]
            assert [o["metadata"]["name"] for o in api.all("sandboxes")] == ["demo"]
            asked = len(api.asked("GET", r"/apis\Z"))
            clone(client, expect=501)
            assert len(api.asked("GET", r"/apis\Z")) == asked, "the answer is not remembered"
            api.kinds.update(kinds)
            wait_for(lambda: client.post(f"{API}/sandboxes/demo/clone").json().get("code") == "no_snapshot_class", what="the API is noticed")
            assert [o["metadata"]["name"] for o in api.all("sandboxes")] == ["demo"] and api.all("volumesnapshots") == []
            api.put("volumesnapshotclasses", snapshot_class(default=False))
            body = clone(client, expect=409)
            assert body["code"] == "no_default_snapshot_class" and "csi-snap" in body["error"]
            clone(client, snapshotClass="csi-snap")
            api.put("volumesnapshotclasses", snapshot_class())
            clone(client)


def test_an_account_that_may_not_see_classes_leaves_them_to_the_cluster(api, owner):
    api.forbidden.add(("list", "volumesnapshotclasses"))
    clone(owner, snapshotClass="whatever")
    api.on("GET", r"/apis\Z", status(403, "Forbidden", "forbidden: User cannot get path /apis"))
    clone(owner)


def test_an_account_that_may_not_make_snapshots_says_so(api, owner):
    api.forbidden.add(("create", "volumesnapshots"))
    body = clone(owner, expect=403)
    assert body["code"] == "kubernetes_forbidden" and "volumesnapshots" in body["error"]
    assert [o["metadata"]["name"] for o in api.all("sandboxes")] == ["demo"]


def test_I37_a_permission_that_one_can_do_without_is_no_warning(api):
    api.forbidden.add(("create", "volumesnapshots"))
    with ClusterRouter(api) as router:
        wait_for(lambda: "has all permissions" in router.tail())
        (line,) = [x for x in router.tail().splitlines() if "volumesnapshots" in x]
        assert '"level":"INFO"' in line and '"verbs":"create"' in line and "clones and backups" in line


@pytest.mark.parametrize("refusal, expected", [(status(403, "Forbidden", "denied by a webhook"), 403), (status(422, "Invalid", "no"), 400),
                                               (status(409, "AlreadyExists", "there already", {"name": "x"}), 409)])
def test_2_6_a_refused_sandbox_leaves_no_snapshot(api, owner, refusal, expected):
    api.on("POST", r"/sandboxes\Z", refusal)
    clone(owner, expect=expected, name="demo")
    assert len(api.asked("POST", "/volumesnapshots")) == 1
    wait_for(lambda: api.all("volumesnapshots") == [])


def test_what_may_have_been_made_keeps_its_snapshot(api, owner):
    # The sandbox was stored and the answer was lost: the retry finds it, by its key.
    def act(server, request, connection):
        server.work(request)
        connection.reset()
        return True

    api.on("POST", r"/sandboxes\Z", act, times=1)
    key = {"Idempotency-Key": "k1"}
    assert owner.post(f"{API}/sandboxes/demo/clone", headers=key).status_code in (202, 503)
    answer = clone(owner, headers=key)
    wait_for(lambda: [s["metadata"]["name"] for s in api.all("volumesnapshots")] == [answer["snapshot"]])
    assert len(api.all("sandboxes")) == 2 and api.get("sandboxes", answer["name"], "default")["spec"]["cloneFromSnapshot"] == answer["snapshot"]


def test_a_snapshot_that_cannot_be_made_is_no_clone(api, owner):
    for action in (status(503, "ServiceUnavailable", "no"), status(500, "InternalError", "no")):
        api.clear()
        api.on("POST", "/volumesnapshots", action)
        assert clone(owner, expect=503)["code"] == "unavailable"
    assert [o["metadata"]["name"] for o in api.all("sandboxes")] == ["demo"]


def test_W11_policies_and_quotas_hold(api, cluster, owner):
    with cluster.client("admin") as admin:
        assert admin.put(API + "/governance/policies", json={"maxSandboxesPerUser": 2}).status_code == 200
    clone(owner)
    body = clone(owner, expect=403)
    assert body["error"] == "policy_violation" and body["violations"][0]["code"] == "user_quota_exceeded"
    assert len(api.all("volumesnapshots")) == 1


def test_W06_not_in_a_reserved_namespace(api, cluster, owner):
    copy = api.get("sandboxes", "demo", "default")
    copy["metadata"] = {"name": "there", "namespace": "kube-system"}
    api.put("sandboxes", copy)
    answer = wait_for(lambda: (a := owner.post(f"{API}/sandboxes/there/clone", params={"namespace": "kube-system"})).status_code != 404 and a)
    assert error_of(answer, 403)["code"] == "namespace_not_allowed"
    assert api.all("volumesnapshots") == []


def test_3_8_only_the_owner(api, cluster):
    with cluster.client("stranger") as stranger:
        clone(stranger, expect=404)
    with cluster.client("admin") as admin:
        made = clone(admin)
    assert api.get("sandboxes", made["name"], "default")["spec"]["createdBy"]["sub"] == "admin"
