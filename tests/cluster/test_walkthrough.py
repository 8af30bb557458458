"""controller.md 21.5: the controller alone, as kubectl sees it, step by step."""

import datetime
import json
import time

import pytest

import testbed
from harness import wait_for
from testbed import (PATIENCE, RESTRICTED, SANDBOX_IMAGE, apply, get, in_pod, kubectl, matching, new_namespace, remove_sandboxes, run,
                     wait_events)

NS = "walk"
TEMPLATE = "walk-template"
ACTION = "agenttier.io/action"
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture(scope="module", autouse=True)
def namespace(secured):
    new_namespace(NS, *RESTRICTED)  # where sandboxes must run as well
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "ClusterSandboxTemplate", "metadata": {"name": TEMPLATE},
           "spec": {"image": {"repository": SANDBOX_IMAGE}, "storage": {"size": "1Gi"}, "network": {"allowInternet": True},
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}, "harness": {"useHTTPExec": True}}})
    yield
    remove_sandboxes(NS)
    kubectl("delete", "namespace", NS, "--wait=false")
    kubectl("delete", "clustersandboxtemplates.agenttier.io", TEMPLATE, "--ignore-not-found")


def create(name, template=TEMPLATE, **spec):
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": NS},
           "spec": {"templateRef": {"name": template, "kind": "ClusterSandboxTemplate"}, **spec}})


def resource(name):
    return get("sandboxes.agenttier.io", name, "-n", NS)


def status(name):
    return (resource(name) or {}).get("status", {})


def reach(name, phase):
    return matching(lambda: status(name), lambda now: now.get("phase") == phase, PATIENCE, f"{name} {phase}")


def pods(name):
    return get("pods", "-n", NS, "-l", f"agenttier.io/sandbox={name}")


def annotate(name, action):
    kubectl("annotate", "sandboxes.agenttier.io", name, "-n", NS, f"{ACTION}={action}", "--overwrite")


def remains(name):
    """What of a sandbox is left in the cluster."""
    kinds = "pods,persistentvolumeclaims,networkpolicies,secrets,services"
    return [f"{o['kind']}/{o['metadata']['name']}" for o in get(kinds, "-n", NS, "-l", f"agenttier.io/sandbox={name}")]


@pytest.fixture(scope="module")
def scratch(namespace):
    create("scratch")
    reach("scratch", "Running")
    return "scratch"


def test_21_5_01_create(scratch):
    found = resource(scratch)
    assert found["metadata"]["finalizers"] == ["agenttier.io/sandbox-cleanup"]
    line = kubectl("get", "sandboxes.agenttier.io", scratch, "-n", NS, "--no-headers").split()
    assert line[1:3] == ["Running", TEMPLATE]
    wait_events(NS, scratch, "Creating", "Running")
    assert found["status"]["pvcName"] == "scratch-workspace" and found["status"]["startedAt"] and "message" not in found["status"]


def test_21_5_02_one_pod(scratch):
    (pod,) = pods(scratch)
    assert [c["name"] for c in pod["spec"]["containers"]] == ["sandbox"]
    assert all(c["ready"] for c in pod["status"]["containerStatuses"])
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Sandbox", scratch, resource(scratch)["metadata"]["uid"])
    assert pod["metadata"]["labels"]["agenttier.io/managed"] == "true" and pod["metadata"]["labels"]["agenttier.io/template"] == TEMPLATE


def test_21_5_03_inside(scratch):
    name = pods(scratch)[0]["metadata"]["name"]
    assert in_pod(name, "id", "-u", namespace=NS).stdout == "1000\n"
    in_pod(name, "touch", "/workspace/a", namespace=NS)
    in_pod(name, "touch", "/tmp/b", namespace=NS)
    assert "Read-only" in in_pod(name, "touch", "/etc/c", namespace=NS, check=False).stderr


def test_21_5_04_the_runtime_and_its_token(scratch):
    address = pods(scratch)[0]["status"]["podIP"]
    token = get("secret", f"{scratch}-runtime-token", "-n", NS)["data"]["token"]
    import base64
    import httpx
    token = base64.b64decode(token).decode()
    assert len(token) == 43
    with httpx.Client(base_url=f"http://{address}:9000", timeout=90, trust_env=False) as runtime:
        wait_for(lambda: answers(runtime), PATIENCE, what="the runtime")
        assert runtime.get("/healthz").status_code == 200
        body = {"command": ["echo", "hi"]}
        assert runtime.post("/exec", json=body, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert runtime.post("/exec", json=body).status_code == 401
        assert runtime.post("/exec", json=body, headers={"Authorization": f"Bearer {token[:-1]}"}).status_code == 401


def answers(client):
    import httpx
    try:
        return client.get("/healthz").status_code
    except httpx.HTTPError:
        return None


def test_21_5_05_network_policy_and_forwarded_ports(scratch):
    policy = get("networkpolicy", f"{scratch}-netpol", "-n", NS)
    assert policy["spec"]["podSelector"]["matchLabels"] == {"agenttier.io/sandbox": scratch}
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    sources = [peer for rule in policy["spec"]["ingress"] for peer in rule.get("from", [])]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": testbed.NAMESPACE}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "router"}}} in sources
    # W19: a forwarded port with a public URL is admitted from any source, while the sandbox runs.
    run("kubectl", "patch", "sandboxes.agenttier.io", scratch, "-n", NS, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": {"forwardedPorts": [{"port": 3000, "previewUrl": "https://x.test/", "protocol": "http"}]}}))

    def admitted():
        rules = get("networkpolicy", f"{scratch}-netpol", "-n", NS)["spec"]["ingress"]
        return any(not rule.get("from") and {"protocol": "TCP", "port": 3000} in rule.get("ports", []) for rule in rules)
    wait_for(admitted, PATIENCE, 0.3, "port 3000 admitted")
    run("kubectl", "patch", "sandboxes.agenttier.io", scratch, "-n", NS, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": {"forwardedPorts": []}}))
    wait_for(lambda: not admitted(), PATIENCE, 0.3, "port 3000 closed again")


def test_21_5_06_stop(scratch):
    annotate(scratch, "stop")
    stopped = reach(scratch, "Stopped")
    assert stopped["message"] == "User requested stop" and stopped["pvcName"] == "scratch-workspace"
    assert "podName" not in stopped and "startedAt" not in stopped
    wait_for(lambda: ACTION not in resource(scratch)["metadata"].get("annotations", {}), PATIENCE)
    wait_for(lambda: not pods(scratch), PATIENCE, 0.3, "the pod gone")
    assert get("pvc", "scratch-workspace", "-n", NS)
    wait_events(NS, scratch, "Stopped")


def test_21_5_07_resume_keeps_the_files(scratch):
    token = get("secret", f"{scratch}-runtime-token", "-n", NS)["data"]
    claim = get("pvc", "scratch-workspace", "-n", NS)["metadata"]["uid"]
    annotate(scratch, "resume")
    reach(scratch, "Running")
    assert in_pod(pods(scratch)[0]["metadata"]["name"], "ls", "/workspace/a", namespace=NS).stdout == "/workspace/a\n"
    assert get("secret", f"{scratch}-runtime-token", "-n", NS)["data"] == token
    assert get("pvc", "scratch-workspace", "-n", NS)["metadata"]["uid"] == claim
    assert ACTION not in resource(scratch)["metadata"].get("annotations", {})


def test_21_5_07_W3_stop_and_resume_at_once(scratch):
    """O6: resume while the old pod still goes away: never Running on the dying pod, never Error."""
    before = pods(scratch)[0]["metadata"]["uid"]
    annotate(scratch, "stop")
    reach(scratch, "Stopped")
    # As the Router resumes: a stop that is still written there would be carried out after it.
    kubectl("annotate", "sandboxes.agenttier.io", scratch, "-n", NS, ACTION + "-")
    run("kubectl", "patch", "sandboxes.agenttier.io", scratch, "-n", NS, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": {"phase": "Creating", "message": "Resuming"}}))
    seen = set()

    def running():
        phase = status(scratch).get("phase")
        seen.add(phase)
        return phase == "Running"
    wait_for(running, PATIENCE, 0.1, "Running again")
    assert "Error" not in seen
    (pod,) = [p for p in pods(scratch) if not p["metadata"].get("deletionTimestamp")]
    assert pod["metadata"]["uid"] != before
    assert in_pod(pod["metadata"]["name"], "ls", "/workspace/a", namespace=NS).returncode == 0


def test_21_5_08_a_lost_pod_comes_back(scratch):
    name = pods(scratch)[0]["metadata"]["name"]
    kubectl("delete", "pod", name, "-n", NS, "--grace-period=1", "--wait=false")
    seen = []

    def restarted():
        now = status(scratch)
        if now.get("phase") == "Error":
            seen.append(now.get("message", ""))
        return now.get("phase") == "Running" and now.get("restartCount") == 1
    wait_for(restarted, PATIENCE, 0.1, f"{scratch} running again")
    wait_events(NS, scratch, "AutoRestarted")
    assert all("before restart attempt 1/5" in message for message in seen)
    assert in_pod(pods(scratch)[0]["metadata"]["name"], "ls", "/workspace/a", namespace=NS).returncode == 0


def event_time(name, reason):
    wait_events(NS, name, reason)
    (event,) = [e for e in get("events", "-n", NS, "--field-selector", f"involvedObject.kind=Sandbox,involvedObject.name={name}") if e["reason"] == reason]
    return datetime.datetime.fromisoformat(event["firstTimestamp"].replace("Z", "+00:00"))


def test_21_5_09_limits():
    create("limited", timeout="5s")
    assert reach("limited", "Stopped")["message"] == "Max runtime exceeded"
    assert event_time("limited", "MaxRuntimeReached") - event_time("limited", "Running") < datetime.timedelta(seconds=12)
    create("idle", idleTimeout="5s")
    assert reach("idle", "Stopped")["message"] == "Idle timeout exceeded"
    wait_events(NS, "idle", "Running", "IdleTimeout")


def test_21_5_10_a_missing_template():
    kubectl("delete", "clustersandboxtemplates.agenttier.io", "later", "--ignore-not-found")
    create("waits", template="later")
    failed = reach("waits", "Error")
    assert failed["message"].startswith("Template resolution failed:") and "later" in failed["message"]
    source = get("clustersandboxtemplates.agenttier.io", TEMPLATE)
    apply({"apiVersion": source["apiVersion"], "kind": source["kind"], "metadata": {"name": "later"}, "spec": source["spec"]})
    try:
        annotate("waits", "resume")
        reach("waits", "Running")
    finally:
        kubectl("delete", "clustersandboxtemplates.agenttier.io", "later")


def test_21_5_11_delete_in_every_phase(scratch):
    create("rested", timeout="1s")
    reach("rested", "Stopped")
    create("broken", template="never-there")
    reach("broken", "Error")
    create("unborn", image={"repository": "agenttier.local/does-not-exist:1"})
    wait_for(lambda: status("unborn").get("phase") == "Creating" and pods("unborn"), PATIENCE, 0.2, "unborn Creating")
    names = [scratch, "rested", "broken", "unborn"]
    assert [status(n)["phase"] for n in names] == ["Running", "Stopped", "Error", "Creating"]
    remove_sandboxes(NS, *names)
    for name in names:
        assert resource(name) is None
        matching(lambda n=name: remains(n), lambda left: not left, PATIENCE, f"nothing left of {name}")


def test_O9_creation_costs_what_a_bare_pod_costs():
    """create -> Running beside a bare pod with the same volume, image and security context."""
    pairs = []
    for i in range(3):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"bare-{i}", "namespace": NS}, "spec": {
            "terminationGracePeriodSeconds": 1, "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": SANDBOX_IMAGE, "command": ["sleep", "infinity"], "securityContext": LOCKED, "volumeMounts": [{"name": "w", "mountPath": "/workspace"}]}],
            "volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": f"bare-{i}"}}]}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": f"bare-{i}", "namespace": NS},
                 "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
        began = time.monotonic()
        apply({"apiVersion": "v1", "kind": "List", "items": [claim, pod]})
        kubectl("wait", "--for=condition=Ready", f"pod/bare-{i}", "-n", NS, f"--timeout={PATIENCE}s")
        bare = time.monotonic() - began
        began = time.monotonic()
        create(f"timed-{i}")
        kubectl("wait", "--for=jsonpath={.status.phase}=Running", f"sandboxes.agenttier.io/timed-{i}", "-n", NS, f"--timeout={PATIENCE}s")
        pairs.append((round(bare, 2), round(time.monotonic() - began, 2)))
        kubectl("delete", "pod", f"bare-{i}", "-n", NS, "--wait=false")
        kubectl("delete", "pvc", f"bare-{i}", "-n", NS, "--wait=false")
    print("bare pod, sandbox (s):", pairs)
    # The goal is 0.1 s more than a bare pod; with room for a busy machine, where it may take more pairs to see one.
    assert min(ours - bare for bare, ours in pairs) < 1.0, pairs
