"""The warm pool on a real cluster (observed O8: it never fills without one StorageClass of a fixed name; controller.md 10, W11
to W16; http-api-extended.md 9)."""

import base64
import json
import re

import httpx
import pytest

from harness import wait_for
from testbed import SANDBOX_IMAGE, apply, get, kubectl

API = "/api/v1"
NS, INSTALL, TEMPLATE = "default", "agenttier", "warm-template"
POOLED = "agenttier.io/pooled=true"
READY = "agenttier.io/runtime-ready"


@pytest.fixture(scope="module")
def pool(api):
    """Sets how many pods are wanted, and waits until they are ready and have their runtime."""
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "ClusterSandboxTemplate", "metadata": {"name": TEMPLATE},
           "spec": {"image": {"repository": SANDBOX_IMAGE}, "storage": {"size": "1Gi"}, "network": {"allowInternet": True},
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
                    "env": [{"name": "KIND", "value": "warm"}], "harness": {"useHTTPExec": True}}})
    with api.client("admin") as admin:
        def configure(count):
            pools = [{"template": TEMPLATE, "desiredCount": count}] if count else []
            answer = admin.put(API + "/warmpool/config", json={"pools": pools})
            assert (answer.status_code, answer.json()) == (200, {"status": "updated", "pools": pools or None})
            wait_for(lambda: len([p for p in pooled() if READY in p["metadata"].get("annotations", {})]) == count == len(pooled()) == known(),
                     90, 0.2, f"{count} pods in the pool")
            return [p["metadata"]["name"] for p in pooled()]
        yield configure
        configure(0)
    kubectl("delete", "configmap", "agenttier-warmpool-config", "-n", INSTALL, "--ignore-not-found")
    kubectl("delete", "clustersandboxtemplates.agenttier.io", TEMPLATE, "--ignore-not-found")


def pooled():
    return [p for p in get("pods", "-n", NS, "-l", POOLED) if not p["metadata"].get("deletionTimestamp")]


def known():
    """How many the controller knows to be ready."""
    (pod,) = [p for p in get("pods", "-n", INSTALL, "-l", "app.kubernetes.io/component=controller") if not p["metadata"].get("deletionTimestamp")]
    text = httpx.get(f"http://{pod['status']['podIP']}:8081/metrics", timeout=10, trust_env=False).text
    return int(re.search(r"^agenttier_controller_warmpool_ready (\d+)$", text, re.M)[1])


def shows(secured, api, wanted):
    """Every replica says so, each when its watch has told it."""
    secured.on_every_replica({"X-API-Key": api.keys["u1"]}, lambda to: to.get(API + "/warmpool/status").json() == wanted, f"the status {wanted}", 30)


def sandbox(api, name, **body):
    return api.sandbox(name, key="u1", templateRef={"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}, **body)


def owners(obj):
    return [(r["kind"], r["name"]) for r in obj["metadata"].get("ownerReferences", [])]


def test_O8_it_fills_on_the_default_storage_class(api, secured, pool):
    (default,) = [c["metadata"]["name"] for c in get("storageclasses")
                  if c["metadata"].get("annotations", {}).get("storageclass.kubernetes.io/is-default-class") == "true"]
    shows(secured, api, {})
    names = pool(2)
    entry = {"template": TEMPLATE, "desiredCount": 2, "readyCount": 2, "pendingCount": 0}
    shows(secured, api, {"pools": [entry], "template": TEMPLATE, "desiredCount": 2, "readyCount": 2})
    for pod in pooled():
        name = pod["metadata"]["name"]
        claim = get("pvc", name + "-pvc", "-n", NS)
        assert claim["spec"]["storageClassName"] == default and claim["status"]["phase"] == "Bound"
        assert owners(claim) == owners(get("secret", name + "-runtime-token", "-n", NS)) == [("Pod", name)]
        (container,) = pod["spec"]["containers"]  # W14
        assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"] == {"cpu": "1", "memory": "256Mi"}
        assert pod["spec"]["automountServiceAccountToken"] is False
    policy = get("networkpolicy", "agenttier-warmpool", "-n", NS)["spec"]
    assert policy == {"podSelector": {"matchLabels": {"agenttier.io/pooled": "true"}}, "policyTypes": ["Egress", "Ingress"]}
    assert len(names) == 2


def test_O8_W11_W14_a_sandbox_takes_one_and_keeps_its_files(api, pool, fresh):
    names = pool(2)
    box = sandbox(api, fresh)
    try:
        pod, status = box.pod(), box.resource()["status"]
        name = pod["metadata"]["name"]
        assert name in names and status["podName"] == name and status["pvcName"] == name + "-pvc"
        assert owners(pod) == owners(get("pvc", name + "-pvc", "-n", NS)) == [("Sandbox", fresh)]
        event = wait_for(lambda: [e["message"] for e in get("events", "-n", NS, "--field-selector",
                                                            f"involvedObject.name={fresh},reason=Running")], 20)
        assert "from the warm pool" in event[0]
        assert box.run("echo $KIND; id -u; pwd") == "warm\n1000\n/workspace\n"
        box.write("/workspace/kept", b"mine")
        # The runtime in it takes the sandbox's token, and no other.
        token = base64.b64decode(get("secret", fresh + "-runtime-token", "-n", NS)["data"]["token"]).decode()
        url = f"http://{pod['status']['podIP']}:9000/exec"
        body = {"command": ["cat", "/workspace/kept"]}
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.post(url, json=body).status_code == 401
            assert client.post(url, json=body, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        wait_for(lambda: len(pooled()) == 2, 60, 0.2, "another one is made")

        assert box.post("/stop").status_code == 200
        box.wait("Stopped")
        wait_for(lambda: not get("pods", name, "-n", NS), 60, 0.2, "its pod is gone")
        assert box.post("/resume").status_code == 200
        box.wait("Running")
        status = box.resource()["status"]
        assert (status["podName"], status["pvcName"]) == (fresh + "-pod", name + "-pvc")
        assert box.read("/workspace/kept") == b"mine" and len(pooled()) == 2
        assert get("secret", fresh + "-runtime-token", "-n", NS)
    finally:
        box.remove()
    wait_for(lambda: not get("pvc", name + "-pvc", "-n", NS), 60, 0.2, "its volume is gone")


def test_W13_who_wants_something_else_starts_cold(api, pool, fresh):
    names = pool(1)
    box = sandbox(api, fresh, overrides={"env": {"KIND": "cold"}})
    try:
        assert box.resource()["status"]["podName"] == fresh + "-pod" and box.run("echo $KIND") == "cold\n"
        assert [p["metadata"]["name"] for p in pooled()] == names
    finally:
        box.remove()


def test_10_4_more_sandboxes_than_pods(api, pool, fresh):
    names = set(pool(2))
    with api.client("u1") as client:
        items = [{"name": f"{fresh}-{i}", "templateRef": {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}} for i in range(4)]
        answer = client.post(API + "/sandboxes/bulk", json={"items": items})
        assert [r["status"] for r in answer.json()["results"]] == ["created"] * 4, answer.text

        def running():
            found = [get("sandboxes.agenttier.io", item["name"], "-n", NS).get("status", {}) for item in items]
            return found if all(s.get("phase") == "Running" for s in found) else None
        try:
            used = [s["podName"] for s in wait_for(running, 90, 0.3, "all run")]
            assert len(set(used)) == 4 and names <= set(used)
        finally:
            client.post(API + "/sandboxes/bulk-action", json={"action": "delete", "ids": [item["name"] for item in items]})
        wait_for(lambda: not [s for s in get("sandboxes.agenttier.io", "-n", NS) if s["metadata"]["name"].startswith(fresh)], 90, 0.3, "all are gone")


def test_10_2_it_follows_its_template_and_goes(api, pool):
    old = pool(1)
    kubectl("patch", "clustersandboxtemplates.agenttier.io", TEMPLATE, "--type=merge", "-p",
            json.dumps({"spec": {"env": [{"name": "KIND", "value": "warmer"}]}}))
    wait_for(lambda: pooled() and not set(old) & {p["metadata"]["name"] for p in pooled()}, 60, 0.2, "a new one")
    assert pool(1) != old
    pool(0)
    wait_for(lambda: not [c for c in get("pvc,secrets", "-n", NS) if c["metadata"]["name"].startswith("pool-")], 60, 0.2, "nothing is left")
    wait_for(lambda: not get("networkpolicy", "agenttier-warmpool", "-n", NS), 30, 0.2, "the policy, too")
