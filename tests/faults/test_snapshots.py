"""Clones and backups on a scripted cluster: VolumeSnapshots as the contract has them, and clusters that have none
(http-api.md 2.6, 4.6; http-api-extended.md 5; O8; W-11, W-12, W-85; weaknesses 52 to 60)."""

import re
import time

import pytest
from cluster_router import ClusterRouter
from fake_apiserver import status
from harness import error_of, wait_for
from test_controller import Controller

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
            for _ in range(20):
                clone(client, expect=501)
            asked = [r.at for r in api.asked("GET", r"/apis\Z")]
            assert all(later - earlier >= 2 for earlier, later in zip(asked, asked[1:])), "the answer is not remembered"
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
        router.settle()
        (line,) = router.records("volumesnapshots")
        assert line["level"] == "INFO" and line["verbs"] == "create" and "clones and backups" in line["for"]


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


# ---- backups ----

def ready(api, name, **status):
    api.set_status("volumesnapshots", name, "default", **{"readyToUse": True, "creationTime": "2026-03-04T05:00:03Z", "restoreSize": "10Gi", **status})


def test_5_1_the_objects_of_a_backup_and_a_restore(api, owner):
    answer = owner.post(API + "/sandboxes/demo/backups", json={"snapshotClass": "csi-snap"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert re.fullmatch(r"demo-workspace-backup-\d{10}-[0-9a-f]{6}", made["name"])
    assert (made["kind"], made["readyToUse"]) == ("scheduled-backup", False) and "restoreSize" not in made and made["createdAt"]
    (snapshot,) = api.all("volumesnapshots")
    source = api.get("sandboxes", "demo", "default")
    assert snapshot["metadata"]["labels"] == {
        "agenttier.io/snapshot-kind": "scheduled-backup", "agenttier.io/source-pvc": "demo-workspace", "agenttier.io/managed": "true",
        "agenttier.io/source-uid": source["metadata"]["uid"]}
    assert snapshot["spec"] == {"source": {"persistentVolumeClaimName": "demo-workspace"}, "volumeSnapshotClassName": "csi-snap"}
    event = next(e for e in api.all("events") if e["reason"] == "BackupCreated")
    assert (event["message"], event["involvedObject"]["name"], event["type"]) == (made["name"], "demo", "Normal")
    ready(api, made["name"])
    entry = {"name": made["name"], "createdAt": "2026-03-04T05:00:03Z", "kind": "scheduled-backup", "readyToUse": True, "restoreSize": "10Gi"}
    assert owner.get(API + "/sandboxes/demo/backups").json() == {"backups": [entry]}
    restored = owner.post(f"{API}/sandboxes/demo/backups/{made['name']}/restore")
    assert restored.status_code == 202, restored.text
    body = restored.json()
    assert (body["restoredFrom"], body["snapshot"], body["phase"], body["namespace"]) == ("demo", made["name"], "Pending", "default")
    copy = api.get("sandboxes", body["name"], "default")
    assert copy["metadata"]["labels"] == {"agenttier.io/restored-from": "demo"}
    assert copy["spec"] == source["spec"] | {"cloneFromSnapshot": made["name"]} and "status" not in copy
    # Whatever still waits for it keeps it.
    assert error_of(owner.delete(f"{API}/sandboxes/demo/backups/{made['name']}"), 409)["code"] == "snapshot_in_use"
    api.set_status("sandboxes", body["name"], "default", phase="Creating", pvcName="x-workspace")
    wait_for(lambda: owner.delete(f"{API}/sandboxes/demo/backups/{made['name']}").status_code == 200)
    assert api.all("volumesnapshots") == [] and [e["message"] for e in api.all("events") if e["reason"] == "BackupPruned"] == [made["name"]]


def test_5_3_backups_of_the_reference_are_listed_by_their_labels(api, owner):
    def put(name, **labels):
        api.put("volumesnapshots", {"metadata": {"name": name, "namespace": "default", "labels": {"agenttier.io/" + k.replace("_", "-"): v for k, v in labels.items()}},
                                    "spec": {"source": {"persistentVolumeClaimName": "demo-workspace"}}})
    put("demo-workspace-backup-1", snapshot_kind="scheduled-backup", source_pvc="demo-workspace", managed="true")
    put("demo-snap-2", source_sandbox="demo", clone_target="x")
    put("demo-stopsnap-3", sandbox="demo", snapshot_kind="on-stop")
    put("other-workspace-backup-4", snapshot_kind="scheduled-backup", source_pvc="other-workspace", managed="true")
    put("other-stopsnap-5", sandbox="other", snapshot_kind="on-stop")
    listed = owner.get(API + "/sandboxes/demo/backups").json()["backups"]
    assert [(b["name"], b["kind"]) for b in listed] == [
        ("demo-workspace-backup-1", "scheduled-backup"), ("demo-snap-2", "clone"), ("demo-stopsnap-3", "on-stop")]
    for foreign in ("other-stopsnap-5", "other-workspace-backup-4", "none"):
        for call in (owner.post(f"{API}/sandboxes/demo/backups/{foreign}/restore"), owner.delete(f"{API}/sandboxes/demo/backups/{foreign}")):
            assert error_of(call, 404)["code"] == "snapshot_not_found"
    old = api.get("volumesnapshots", "demo-snap-2", "default")  # of somebody who had the name before
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    api.put("volumesnapshots", old)
    assert len(owner.get(API + "/sandboxes/demo/backups").json()["backups"]) == 2
    error_of(owner.post(API + "/sandboxes/demo/backups/demo-snap-2/restore"), 404)


def test_weakness_64_what_was_kept_on_stop_is_listed_restored_and_deleted(api, cluster, owner):
    found = api.get("sandboxes", "demo", "default")
    api.put("sandboxes", {**found, "spec": {**found["spec"], "storage": {"snapshotOnStop": True}},
                          "metadata": {**found["metadata"], "annotations": {"agenttier.io/action": "stop"}},
                          "status": {**found["status"], "startedAt": "2026-03-04T05:00:00Z"}})
    with Controller(api):
        wait_for(lambda: api.get("sandboxes", "demo", "default")["status"]["phase"] == "Stopped", 20, what="stopped")
    (snapshot,) = api.all("volumesnapshots")
    name = snapshot["metadata"]["name"]
    assert re.fullmatch(r"demo-stopsnap-\d{10}", name) and "ownerReferences" not in snapshot["metadata"]
    assert snapshot["metadata"]["labels"] == {"agenttier.io/sandbox": "demo", "agenttier.io/snapshot-kind": "on-stop",
                                              "agenttier.io/source-uid": found["metadata"]["uid"]}
    assert snapshot["metadata"]["annotations"] == {"agenttier.io/owner": "owner"}
    assert snapshot["spec"] == {"source": {"persistentVolumeClaimName": "demo-workspace"}}
    ready(api, name)
    assert owner.get(API + "/sandboxes/demo/backups").json()["backups"] == [
        {"name": name, "createdAt": "2026-03-04T05:00:03Z", "kind": "on-stop", "readyToUse": True, "restoreSize": "10Gi"}]
    restored = owner.post(f"{API}/sandboxes/demo/backups/{name}/restore", json={"name": "again"})
    assert restored.status_code == 202, restored.text
    assert api.get("sandboxes", "again", "default")["spec"]["cloneFromSnapshot"] == name
    api.set_status("sandboxes", "again", "default", phase="Running", pvcName="again-workspace")
    wait_for(lambda: owner.delete(f"{API}/sandboxes/demo/backups/{name}").status_code == 200)
    assert api.all("volumesnapshots") == []


def test_weakness_55_a_snapshot_on_its_way_out(api, owner):
    name = owner.post(API + "/sandboxes/demo/backups").json()["name"]
    snapshot = api.get("volumesnapshots", name, "default")
    snapshot["metadata"]["finalizers"] = ["snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"]
    api.put("volumesnapshots", snapshot)
    assert owner.delete(f"{API}/sandboxes/demo/backups/{name}").status_code == 200
    assert api.get("volumesnapshots", name, "default")["metadata"]["deletionTimestamp"]
    assert owner.get(API + "/sandboxes/demo/backups").json()["backups"] == []
    assert error_of(owner.post(f"{API}/sandboxes/demo/backups/{name}/restore"), 409)["error"] == "snapshot is being deleted"


def test_a_failed_backup_says_why_and_is_not_restored(api, owner):
    name = owner.post(API + "/sandboxes/demo/backups").json()["name"]
    api.set_status("volumesnapshots", name, "default", readyToUse=False, error={"message": "driver has no snapshots", "time": "2026-03-04T05:00:03Z"})
    (entry,) = owner.get(API + "/sandboxes/demo/backups").json()["backups"]
    assert entry["error"] == "driver has no snapshots" and entry["readyToUse"] is False
    body = error_of(owner.post(f"{API}/sandboxes/demo/backups/{name}/restore"), 409)
    assert body["code"] == "snapshot_failed" and "driver has no snapshots" in body["error"]


def test_weakness_60_long_names_have_valid_labels(api, cluster, owner):
    name = "a" * 63
    sandbox(api, cluster, name)
    backup = owner.post(f"{API}/sandboxes/{name}/backups").json()["name"]
    made = clone(owner, name=name)
    assert max(map(len, (backup, made["name"], made["snapshot"]))) <= 63
    for snapshot in api.all("volumesnapshots"):
        assert all(len(value) <= 63 for value in snapshot["metadata"]["labels"].values())
    assert [b["name"] for b in owner.get(f"{API}/sandboxes/{name}/backups").json()["backups"]] == [backup, made["snapshot"]]


def test_O8_backups_without_the_api_are_501(api):
    for plural in ("volumesnapshots", "volumesnapshotclasses"):
        api.kinds.pop(plural)
    with ClusterRouter(api, dev_auth=False, keys=("owner",)) as router:
        sandbox(api, router, "demo")
        with router.client("owner") as client:
            for method, path in (("GET", ""), ("POST", ""), ("POST", "/x/restore"), ("DELETE", "/x")):
                body = error_of(client.request(method, f"{API}/sandboxes/demo/backups{path}"), 501)
                assert body["code"] == "snapshots_not_supported" and "VolumeSnapshot" in body["error"]


def test_I8_a_retried_backup_is_one(api, owner):
    key = {"Idempotency-Key": "b1"}
    first = owner.post(API + "/sandboxes/demo/backups", headers=key)
    again = owner.post(API + "/sandboxes/demo/backups", headers=key)
    assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true" and len(api.all("volumesnapshots")) == 1
    error_of(owner.post(API + "/sandboxes/demo/backups", headers=key, json={"snapshotClass": "csi-snap"}), 409)


def test_O3_backups_need_the_apiserver_and_never_say_404_without_it(api, owner):
    name = owner.post(API + "/sandboxes/demo/backups").json()["name"]
    api.go_away()
    for method, path in (("GET", ""), ("POST", ""), ("POST", f"/{name}/restore"), ("DELETE", f"/{name}")):
        assert error_of(owner.request(method, f"{API}/sandboxes/demo/backups{path}"), 503)["code"] == "unavailable"
    api.come_back()
    wait_for(lambda: owner.get(API + "/sandboxes/demo/backups").status_code == 200)


# ---- the claim of a clone, or of a restored backup: weakness 56 ----

def copy_of(api, name, snapshot, size="5Gi"):
    api.put("clustersandboxtemplates", {"metadata": {"name": "t"}, "spec": {"image": {"repository": "r:1"}}})
    api.put("sandboxes", {"metadata": {"name": name, "namespace": "default"},
                          "spec": {"templateRef": {"name": "t", "kind": "ClusterSandboxTemplate"}, "cloneFromSnapshot": snapshot,
                                   "storage": {"size": size}}})


def size_of(api, name):
    found = api.get("persistentvolumeclaims", name + "-workspace", "default")
    return found and found["spec"]["resources"]["requests"]["storage"]


def told(api, name):
    found = api.get("sandboxes", name, "default").get("status", {})
    return found.get("phase"), found.get("message", "")


def snapshot(api, name, **status):
    api.put("volumesnapshots", {"metadata": {"name": name, "namespace": "default"}, "spec": {}, "status": status})


def test_weakness_56_a_claim_is_not_smaller_than_its_snapshot(api):
    snapshot(api, "large", readyToUse=True, restoreSize="8Gi")
    snapshot(api, "small", readyToUse=False, restoreSize="1Gi")
    snapshot(api, "unsaid", readyToUse=True)
    snapshot(api, "slow", readyToUse=False)
    for name in ("large", "small", "unsaid", "slow"):
        copy_of(api, "of-" + name, name)
    with Controller(api):
        for name, size in (("large", "8Gi"), ("small", "5Gi"), ("unsaid", "5Gi")):
            assert wait_for(lambda: size_of(api, "of-" + name), 20) == size
            source = api.get("persistentvolumeclaims", f"of-{name}-workspace", "default")["spec"]["dataSource"]
            assert source == {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}
        # Before the driver knows the size there is no claim: one that is not bound cannot grow.
        wait_for(lambda: told(api, "of-slow") == ("Creating", 'Waiting for the snapshot "slow" to be ready'), 20)
        api.set_status("volumesnapshots", "slow", "default", error={"message": "the driver is busy"})
        wait_for(lambda: told(api, "of-slow")[1].endswith("to be ready: the driver is busy"), 20)
        assert size_of(api, "of-slow") is None
        api.set_status("volumesnapshots", "slow", "default", readyToUse=True, restoreSize="6Gi", error=None)
        assert wait_for(lambda: size_of(api, "of-slow"), 20) == "6Gi"
        wait_for(lambda: api.get("pods", "of-slow-pod", "default"), 20)


def test_weakness_56_a_snapshot_that_is_gone_is_said(api):
    copy_of(api, "late", "pruned")
    with Controller(api):
        wait_for(lambda: told(api, "late")[0] == "Error", 20)
        assert told(api, "late")[1].startswith("PVC creation failed: ") and "pruned" in told(api, "late")[1]
        assert size_of(api, "late") is None


def test_weakness_56_without_the_api_it_is_said(api):
    for plural in ("volumesnapshots", "volumesnapshotclasses"):
        api.kinds.pop(plural)
    copy_of(api, "lost", "x")
    with Controller(api):
        wait_for(lambda: told(api, "lost")[0] == "Error", 20)
        assert "this cluster has no VolumeSnapshot API" in told(api, "lost")[1]


def test_weakness_56_an_account_that_may_not_look_makes_the_claim_as_it_was_asked_for(api):
    snapshot(api, "hidden", readyToUse=True, restoreSize="8Gi")
    api.forbidden.add(("get", "volumesnapshots"))
    copy_of(api, "blind", "hidden")
    with Controller(api):
        assert wait_for(lambda: size_of(api, "blind"), 20) == "5Gi"


def test_weakness_56_an_apiserver_that_does_not_answer_is_waited_for(api):
    snapshot(api, "there", readyToUse=True, restoreSize="8Gi")
    api.on("GET", r"/volumesnapshots/there\Z", status(503, "ServiceUnavailable", "no"), times=2)
    copy_of(api, "patient", "there")
    with Controller(api):
        assert wait_for(lambda: size_of(api, "patient"), 20) == "8Gi"


# ---- scheduled backups: controller.md 11.3, http-api-extended.md 5.7 ----

def claim(api, name, age=3600, namespace="default", phase="Bound", owner=None, **labels):
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
    owners = [{"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}] if owner else []
    api.put("persistentvolumeclaims", {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": made, "ownerReferences": owners,
                     "labels": {"agenttier.io/managed": "true"} | {"agenttier.io/" + k: v for k, v in labels.items()}},
        "spec": {}, "status": {"phase": phase}})


def snapshots_of(api, pvc):
    return [s for s in api.all("volumesnapshots") if s["metadata"]["labels"].get("agenttier.io/source-pvc") == pvc]


def test_11_3_every_workspace_is_backed_up_in_its_turn(api):
    api.put("sandboxes", {"metadata": {"name": "box", "namespace": "default", "finalizers": ["agenttier.io/sandbox-cleanup"]},
                          "spec": {"createdBy": {"sub": "ana"}}, "status": {"phase": "Stopped", "pvcName": "box-workspace"}})
    owner = api.get("sandboxes", "box", "default")
    long = "x" * 63 + "-workspace"
    claim(api, "box-workspace", owner=owner)
    claim(api, long)
    claim(api, "young-workspace", age=0)
    claim(api, "pool-workspace", pooled="true")
    claim(api, "unbound-workspace", phase="Pending")
    claim(api, "elsewhere-workspace", namespace="other")
    flags = ("--backup-snapshots=true", "--backup-interval=10m", "--backup-retention=1h", "--backup-snapshot-class=fast")
    with Controller(api, *flags) as controller:
        wait_for(lambda: len(api.all("volumesnapshots")) == 2, what="a backup of each")
        (made,) = snapshots_of(api, "box-workspace")
        assert re.fullmatch(r"box-workspace-backup-\d{10}-[0-9a-f]{6}", made["metadata"]["name"])
        assert made["metadata"]["labels"] == {
            "agenttier.io/snapshot-kind": "scheduled-backup", "agenttier.io/source-pvc": "box-workspace", "agenttier.io/managed": "true",
            "agenttier.io/source-uid": owner["metadata"]["uid"]}
        assert made["metadata"]["annotations"] == {"agenttier.io/owner": "ana"}
        assert made["spec"] == {"source": {"persistentVolumeClaimName": "box-workspace"}, "volumeSnapshotClassName": "fast"}
        controller.kill()
        # Weakness 59: neither a restart nor another leader makes a round of its own.
        asked = len(api.asked("GET", "/volumesnapshots"))
        controller.start().serves()
        wait_for(lambda: len(api.asked("GET", "/volumesnapshots")) > asked, what="another look")
        assert len(api.all("volumesnapshots")) == 2
    (other,) = [s for s in api.all("volumesnapshots") if s != made]
    assert len(other["metadata"]["labels"]["agenttier.io/source-pvc"]) == 63 and len(other["metadata"]["name"]) <= 63


def test_11_3_old_backups_are_pruned_and_nothing_else(api):
    def put(name, age, kind="scheduled-backup"):
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
        api.put("volumesnapshots", {"metadata": {"name": name, "namespace": "default", "creationTimestamp": made,
                                                 "labels": {"agenttier.io/snapshot-kind": kind, "agenttier.io/source-pvc": "box-workspace"}}, "spec": {}})
    claim(api, "box-workspace", age=10 ** 7)
    put("old", 7201)
    put("young", 3000)
    put("of-a-stop", 10 ** 6, kind="on-stop")
    with Controller(api, "--backup-snapshots=true", "--backup-interval=1h", "--backup-retention=2h"):
        wait_for(lambda: {s["metadata"]["name"] for s in api.all("volumesnapshots")} == {"young", "of-a-stop"}, what="the old one gone")


def test_weakness_58_what_clones_were_made_from_is_pruned_when_nobody_waits_for_it(api):
    def put(name, age, **labels):
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
        api.put("volumesnapshots", {"metadata": {"name": name, "namespace": "default", "creationTimestamp": made,
                                                 "labels": {"agenttier.io/" + k.replace("_", "-"): v for k, v in labels.items()}}, "spec": {}})

    def clone_from(snapshot, name, claim_phase, phase="Creating"):
        made = api.put("sandboxes", {"metadata": {"name": name, "namespace": "default", "finalizers": ["agenttier.io/sandbox-cleanup"]},
                                     "spec": {"cloneFromSnapshot": snapshot, "templateRef": {"name": "none"}},
                                     "status": {"phase": phase, "pvcName": name + "-workspace"}})
        claim(api, name + "-workspace", age=0, phase=claim_phase, owner=made)

    for name in ("filled", "unused", "waiting", "young"):
        put(name, 60 if name == "young" else 7201, source_sandbox="box", clone_target="copy")
    put("awaited-backup", 7201, snapshot_kind="scheduled-backup", source_pvc="box-workspace")
    put("anothers", 10 ** 6, app="database")
    clone_from("filled", "one", "Bound")
    clone_from("waiting", "two", "Pending")
    clone_from("awaited-backup", "three", "Pending", phase="Error")
    left = {"waiting", "young", "awaited-backup", "anothers"}
    with Controller(api, "--backup-snapshots=true", "--backup-interval=2s", "--backup-retention=2h"):
        names = lambda: {s["metadata"]["name"] for s in api.all("volumesnapshots") if "-workspace-backup-" not in s["metadata"]["name"]}
        wait_for(lambda: names() == left, 20, what="those that nobody needs are gone")
        looks = len(api.asked("GET", "/volumesnapshots"))
        wait_for(lambda: len(api.asked("GET", "/volumesnapshots")) >= looks + 4, 20, what="another whole look")
        assert names() == left
        api.set_status("persistentvolumeclaims", "two-workspace", "default", phase="Bound")
        api.set_status("persistentvolumeclaims", "three-workspace", "default", phase="Bound")
        wait_for(lambda: names() == {"young", "anothers"}, 20, what="those that were waited for gone, too")


def test_11_3_only_the_leader_and_only_when_asked_to(api):
    claim(api, "box-workspace")
    with Controller(api) as off:
        wait_for(lambda: api.watchers("persistentvolumeclaims") and off.leads(), what="the start")
        assert not api.asked("GET", "/volumesnapshots")
    with Controller(api, "--backup-snapshots=true", "--backup-interval=10m", "--leader-elect") as one:
        wait_for(lambda: one.leads() and len(api.all("volumesnapshots")) == 1, what="a backup by the leader")
        asked = len(api.asked("POST", "/volumesnapshots"))
        with Controller(api, "--backup-snapshots=true", "--backup-interval=10m", "--leader-elect") as two:
            assert not two.leads()
        assert len(api.asked("POST", "/volumesnapshots")) == asked


def test_11_3_without_the_api_it_is_said_once(api):
    kinds = {k: api.kinds.pop(k) for k in ("volumesnapshots", "volumesnapshotclasses")}
    claim(api, "box-workspace")
    with Controller(api, "--backup-snapshots=true", "--backup-interval=2s") as controller:
        wait_for(lambda: "workspaces cannot be backed up" in controller.text())
        api.kinds.update(kinds)
        wait_for(lambda: len(api.all("volumesnapshots")) >= 1, what="a backup after the API was installed")
        assert controller.log.read_text().count("workspaces cannot be backed up") == 1
