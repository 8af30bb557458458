"""Clones and backups on a real cluster: first without the VolumeSnapshot API (observed O8), then with it. What a CSI driver
and its snapshot controller do is done by the test: copies of the directories that the cluster's volumes are."""

import datetime
import json
import os
import shutil

import pytest

import testbed
from harness import error_of, wait_for
from testbed import PATIENCE, Sandbox, apply, get, kubectl, wait_events

API = "/api/v1"
EXAMPLES = testbed.ROOT / "tests" / "cluster" / "examples"
VOLUMES = testbed.STATE / "pv"
CRDS = ("volumesnapshots.snapshot.storage.k8s.io", "volumesnapshotclasses.snapshot.storage.k8s.io")
CLASS = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "driver": "agenttier.local", "deletionPolicy": "Delete",
         "metadata": {"name": "directory"}}


def sandboxes():
    return {s["metadata"]["name"] for s in get("sandboxes.agenttier.io", "-A")}


def test_O8_without_snapshots_clone_and_backups_are_501_and_leave_nothing(box):
    before = sandboxes()
    for method, path in (("POST", "/clone"), ("GET", "/backups"), ("POST", "/backups"), ("POST", "/backups/x/restore"), ("DELETE", "/backups/x")):
        body = error_of(box.request(method, path), 501)
        assert body["code"] == "snapshots_not_supported" and "no VolumeSnapshot API" in body["error"], body
    assert sandboxes() <= before  # what other tests left may end meanwhile
    box.wait("Running")
    with testbed.httpx.Client(base_url=box.client.base_url, trust_env=False) as anonymous:
        assert anonymous.get("/readyz").status_code == 200  # one can do without


@pytest.fixture(scope="module")
def snapshots(api, box, secured):
    """The API, installed while the Router runs, and a class that is not the default one. Each replica looks for itself."""
    def refused(path, status, code, *before):
        def is_refused(client):
            answer = client.post(box.base + path)
            if error_of(answer)["code"] in before:
                return False
            assert error_of(answer, status)["code"] == code
            return True
        secured.on_every_replica(api.headers, is_refused, code)
    apply((EXAMPLES / "volumesnapshots.yaml").read_text())
    testbed.wait_established(*CRDS)
    refused("/clone", 501, "no_snapshot_class", "snapshots_not_supported")
    apply(CLASS)
    refused("/backups", 409, "no_default_snapshot_class", "snapshots_not_supported", "no_snapshot_class")
    apply({**CLASS, "metadata": {"name": "directory", "annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}}})
    yield
    for crd in CRDS:
        kubectl("delete", "crd", crd, f"--timeout={PATIENCE}s")
    for left in VOLUMES.glob("snapshot-*"):
        shutil.rmtree(left)


def fulfil(namespace, name):
    """What the driver does: a copy of the volume, and then it is ready."""
    snapshot = get("volumesnapshots.snapshot.storage.k8s.io", name, "-n", namespace)
    claim = get("pvc", snapshot["spec"]["source"]["persistentVolumeClaimName"], "-n", namespace)
    whole = VOLUMES / f"snapshot-{namespace}-{name}"
    shutil.copytree(VOLUMES / claim["metadata"]["uid"], VOLUMES / f"half-{whole.name}", symlinks=True)
    os.rename(VOLUMES / f"half-{whole.name}", whole)  # a claim may wait for it already, and is not to get a half
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    kubectl("patch", "volumesnapshots.snapshot.storage.k8s.io", name, "-n", namespace, "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": {"readyToUse": True, "creationTime": now, "restoreSize": claim["spec"]["resources"]["requests"]["storage"]}}))
    return snapshot


def poke(name, namespace):
    """Has the provisioner look at a claim again, that waited for its snapshot."""
    wait_for(lambda: get("pvc", name + "-workspace", "-n", namespace), PATIENCE, what="the clone's claim")
    kubectl("annotate", "pvc", name + "-workspace", "-n", namespace, "test/poked=yes", "--overwrite")


def test_2_6_4_6_a_clone_on_a_cluster_that_has_snapshots(api, box, snapshots, fresh):
    box.run("echo original > /workspace/a")
    answer = box.post("/clone", json={"name": fresh})
    assert answer.status_code == 202, answer.text
    made = answer.json()
    snapshot = fulfil(box.where, made["snapshot"])
    # Stored as it was sent: the API server left nothing out.
    assert snapshot["spec"] == {"source": {"persistentVolumeClaimName": box.name + "-workspace"}}
    assert snapshot["metadata"]["labels"] == {"agenttier.io/source-sandbox": box.name, "agenttier.io/clone-target": fresh,
                                              "agenttier.io/source-uid": box.resource()["metadata"]["uid"]}
    box.run("echo changed > /workspace/a")
    copy = Sandbox(api, box.client, fresh)
    poke(fresh, copy.where)
    copy.wait("Running", PATIENCE)
    assert copy.read("/workspace/a") == b"original\n" and box.read("/workspace/a") == b"changed\n"
    claim = get("pvc", fresh + "-workspace", "-n", copy.where)
    assert claim["spec"]["dataSource"] == {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": made["snapshot"]}
    assert claim["metadata"]["labels"]["agenttier.io/cloned-from-snapshot"] == made["snapshot"]
    resource = copy.resource()
    assert resource["status"]["clonedFrom"] == box.name and resource["metadata"]["labels"]["agenttier.io/cloned-from"] == box.name
    copy.remove()
    assert [b["kind"] for b in box.get("/backups").json()["backups"]] == ["clone"]
    assert box.delete("/backups/" + made["snapshot"]).status_code == 200
    assert get("volumesnapshots.snapshot.storage.k8s.io", "-A") == []


def test_5_backups_on_a_cluster_that_has_snapshots(api, box, snapshots, fresh):
    box.run("echo kept > /workspace/b")
    answer = box.post("/backups")
    assert answer.status_code == 201, answer.text
    name = answer.json()["name"]
    assert answer.json()["readyToUse"] is False
    snapshot = fulfil(box.where, name)
    assert snapshot["metadata"]["labels"]["agenttier.io/source-pvc"] == box.name + "-workspace"
    (entry,) = box.get("/backups").json()["backups"]
    assert (entry["name"], entry["readyToUse"], entry["kind"]) == (name, True, "scheduled-backup") and entry["restoreSize"]
    restored = box.post(f"/backups/{name}/restore", json={"name": fresh})
    assert restored.status_code == 202, restored.text
    poke(fresh, box.where)
    copy = Sandbox(api, box.client, fresh)
    copy.wait("Running", PATIENCE)
    assert copy.read("/workspace/b") == b"kept\n"
    wait_events(box.where, box.name, "BackupCreated")
    assert box.delete("/backups/" + name).status_code == 200
    wait_events(box.where, box.name, "BackupPruned")
    copy.remove()
