"""What the controller makes of sandboxes on real nodes, beyond the walk-through: obstacles and failures that only a
kubelet brings about, what is in a pod and what is not, and the runtime that is brought there."""

import base64
import json
import os

import httpx
import pytest
from harness import wait_for
from testbed import PATIENCE, SANDBOX_IMAGE, apply, get, in_pod, kubectl, matching, new_namespace, remove_sandboxes, run, wait_events

NS = os.environ.get("AGENTTIER_KUBE_TEST_NAMESPACE", "obstacles")
SMALL = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}


@pytest.fixture(scope="module", autouse=True)
def namespace(secured):
    new_namespace(NS)
    yield
    remove_sandboxes(NS)
    kubectl("delete", "namespace", NS, "--wait=false")


def template(name, **spec):
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "SandboxTemplate", "metadata": {"name": name, "namespace": NS},
           "spec": {"image": {"repository": SANDBOX_IMAGE}, "storage": {"size": "1Gi"}, "resources": SMALL, **spec}})


def create(name, of=None, **spec):
    if of:
        spec["templateRef"] = {"name": of, "kind": "SandboxTemplate"}
    else:
        spec = {"image": {"repository": SANDBOX_IMAGE}, "storage": {"size": "1Gi"}, "resources": SMALL, **spec}
    apply({"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": NS}, "spec": spec})


def status(name):
    return (get("sandboxes.agenttier.io", name, "-n", NS) or {}).get("status", {})


def reach(name, phase):
    return matching(lambda: status(name), lambda now: now.get("phase") == phase, PATIENCE, f"{name} {phase}")


def says(name, *words):
    return matching(lambda: status(name), lambda now: all(w in now.get("message", "") for w in words), PATIENCE, f"{words} said of {name}")


def pod(name):
    return get("pod", f"{name}-pod", "-n", NS)


def shell(name, script, check=True):
    return in_pod(f"{name}-pod", "sh", "-c", script, namespace=NS, check=check).stdout


def delete(*names):
    remove_sandboxes(NS, *names)


def test_W9_what_stands_in_the_way_is_said():
    create("no-image", image={"repository": "agenttier.local/does-not-exist:1"})
    create("too-big", resources={"requests": {"cpu": "1000"}})
    create("bad-name", image={"repository": "Not A Name"})
    assert reach("bad-name", "Error")["message"].startswith("Pod failed: InvalidImageName")
    assert says("no-image", "Err", "does-not-exist")["phase"] == "Creating" or says("no-image", "ImagePullBackOff")["phase"] == "Creating"
    assert says("too-big", "Unschedulable", "cpu")["phase"] == "Creating"
    delete("no-image", "too-big", "bad-name")


def test_9_failures_are_told_apart():
    template("fails", harness={"command": ["sh", "-c", "exit 3"]})
    template("eats", harness={"command": ["python3", "-c", "x = bytearray(10**9)"]})
    template("done", harness={"command": ["true"]})
    for name in ("fails", "eats", "done"):
        create(name, of=name)
    failed = says("eats", "OOMKilled", "before restart attempt 1/5")  # for as long as it waits to restart
    assert reach("fails", "Error")["message"] == "Pod failed: Error: exit code 3"
    wait_events(NS, "fails", "ApplicationError")
    assert failed["phase"] == "Error" and failed["restartCount"] == 1 and "podName" not in failed
    # Whether it was Running for a moment or not, a command that is done is no crash of the cluster.
    matching(lambda: status("done"), lambda now: now.get("phase") in ("Stopped", "Error"), PATIENCE, "done ended")
    wait_for(lambda: not pod("fails") and not pod("eats"), PATIENCE, 0.3, "dead pods removed (W7)")
    delete("fails", "eats", "done")


def test_5_5_files_scripts_and_init_containers_run_before_the_sandbox():
    template("prepared", files=[{"path": "/workspace/conf/a b.txt", "content": "x=$HOME \"'\\\n", "mode": 0o600},
                                {"path": "/workspace/big", "content": "0123456789" * 20000}],
             initScripts=["echo $$ > pid; echo \"$(id -u) $PWD $MARK\" > script", "test -f conf/a\\ b.txt"],
             initContainers=[{"name": "mine", "image": SANDBOX_IMAGE, "command": ["sh", "-c", "id -u > /workspace/init"],
                              "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}]}],
             env=[{"name": "MARK", "value": "here"}])
    create("prepared", of="prepared")
    reach("prepared", "Running")
    assert shell("prepared", "cat 'conf/a b.txt'") == "x=$HOME \"'\\\n"
    assert shell("prepared", "stat -c %a 'conf/a b.txt'; wc -c < big").split() == ["600", "200000"]
    assert shell("prepared", "cat script").split() == ["1000", "/workspace", "here"]
    assert shell("prepared", "cat pid").strip().isdigit() and shell("prepared", "cat init").strip() == "1000"
    delete("prepared")


def test_W18_O7_what_is_in_a_pod_and_what_is_not():
    for name in ("db.creds", "tls.creds"):
        apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NS}, "stringData": {"USER": "u", "key.pem": "k"}})
    create("inside", credentials=[{"secretName": "db.creds", "envPrefix": "DB_"},
                                  {"secretName": "tls.creds", "mountAs": "file", "mountPath": "/etc/creds"},
                                  {"secretName": "tls.creds", "mountAs": "file", "mountPath": "/etc/again"}])
    reach("inside", "Running")
    assert shell("inside", "cat /etc/creds/key.pem /etc/again/USER; echo $DB_USER $HOME $AGENTTIER_SANDBOX") == "kuu /workspace inside\n"
    assert "gone" in shell("inside", "ls /var/run/secrets/kubernetes.io 2>/dev/null || echo gone")
    token = base64.b64decode(get("secret", "inside-runtime-token", "-n", NS)["data"]["token"]).decode()
    seen = shell("inside", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'")
    assert "AGENTTIER_RUNTIME_TOKEN=" in seen and token not in seen
    for path in ("/etc/x", "/usr/x", "/x"):
        assert "no" in shell("inside", f"touch {path} 2>/dev/null || echo no")
    assert shell("inside", "touch /tmp/x /workspace/x && grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status").split() == [
        "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]
    delete("inside")


def healthy(address):
    try:
        return httpx.get(f"http://{address}:9000/healthz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_runtime_is_brought_marked_and_replaced_when_it_is_killed():
    create("runtime")
    reach("runtime", "Running")
    wait_for(lambda: "agenttier.io/runtime-ready" in pod("runtime")["metadata"]["annotations"], PATIENCE, 0.1, "marked")
    found = pod("runtime")
    assert found["metadata"]["annotations"]["agenttier.io/runtime-delivery"] == "exec"
    assert found["metadata"]["annotations"]["agenttier.io/runtime-ready"] == found["status"]["containerStatuses"][0]["containerID"]
    address = found["status"]["podIP"]
    wait_for(lambda: healthy(address), PATIENCE, 0.2, "the runtime answers")
    shell("runtime", "for p in /proc/[0-9]*; do n=; read -r n < $p/comm; [ \"$n\" != agenttier-runti ] || echo ${p#/proc/}; done | sort -n | tail -n +2 | xargs kill -9")
    wait_for(lambda: healthy(address), PATIENCE, 0.2, "another one answers (W39)")
    # A template that says no has neither a token nor a port.
    template("plain", harness={"useHTTPExec": False})
    create("plain", of="plain")
    reach("plain", "Running")
    assert get("secret", "plain-runtime-token", "-n", NS) is None
    assert not healthy(pod("plain")["status"]["podIP"]) and "agenttier.io/runtime-delivery" not in pod("plain")["metadata"].get("annotations", {})
    delete("runtime", "plain")


def test_O5_the_same_name_again_starts_from_nothing():
    create("again")
    reach("again", "Running")
    shell("again", "echo secret > /workspace/old")
    before = (pod("again")["metadata"]["uid"], get("pvc", "again-workspace", "-n", NS)["metadata"]["uid"],
              get("secret", "again-runtime-token", "-n", NS)["data"]["token"])
    delete("again")
    create("again")
    reach("again", "Running")
    after = (pod("again")["metadata"]["uid"], get("pvc", "again-workspace", "-n", NS)["metadata"]["uid"],
             get("secret", "again-runtime-token", "-n", NS)["data"]["token"])
    assert not set(before) & set(after)
    assert shell("again", "ls -A /workspace") == ""
    delete("again")


def test_limits_and_policy_are_kept_while_running():
    create("kept")
    reach("kept", "Running")
    kubectl("delete", "networkpolicy", "kept-netpol", "-n", NS)
    wait_for(lambda: get("networkpolicy", "kept-netpol", "-n", NS), PATIENCE, 0.2, "the policy is back")
    run("kubectl", "patch", "sandboxes.agenttier.io", "kept", "-n", NS, "--type=merge", "-p", json.dumps({"spec": {"idleTimeout": "1s"}}))
    assert reach("kept", "Stopped")["message"] == "Idle timeout exceeded"
    delete("kept")
