"""The custom resources at a real API server: what it takes, fills in, refuses and shows (crds.md)."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

import testbed
from testbed import PATIENCE, apply, get, kubectl, new_namespace, run
from harness import wait_for

CRDS = testbed.CHART / "crds"
EXAMPLES = list(yaml.safe_load_all((pathlib.Path(__file__).parent / "examples" / "resources.yaml").read_text()))
NS = "crds"


@pytest.fixture(scope="module", autouse=True)
def namespace():
    testbed.install_crds()
    new_namespace(NS)
    scale_controller(0)  # what is stored here is looked at, not carried out
    yield
    kubectl("delete", "sandboxes.agenttier.io", "--all", "-n", NS, "--wait=false")
    scale_controller(1)
    kubectl("delete", "namespace", NS, "--wait=false")


def scale_controller(replicas):
    """Where an earlier test has installed one."""
    if get("deployment", "agenttier-controller", "-n", testbed.NAMESPACE):
        kubectl("scale", "deployment/agenttier-controller", "-n", testbed.NAMESPACE, f"--replicas={replicas}")
        kubectl("rollout", "status", "deployment/agenttier-controller", "-n", testbed.NAMESPACE, f"--timeout={PATIENCE}s")
        wait_for(lambda: replicas or not get("pods", "-n", testbed.NAMESPACE, "-l", "app.kubernetes.io/component=controller"), PATIENCE)


def example(name):
    (found,) = [copy.deepcopy(e) for e in EXAMPLES if e["metadata"]["name"] == name]
    if "namespace" in found["metadata"]:
        found["metadata"]["namespace"] = NS
    return found


def sandbox(name="probe", **spec):
    return {"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": NS}, "spec": spec}


def template(**spec):
    return {"apiVersion": "agenttier.io/v1alpha1", "kind": "SandboxTemplate", "metadata": {"name": "probe", "namespace": NS}, "spec": spec}


def accepted(manifest):
    """What the API server would store."""
    done = apply(manifest, "--dry-run=server", "--validate=strict", "-o", "json")
    return json.loads(done.stdout)


def refused(manifest, *words):
    done = apply(manifest, "--dry-run=server", "--validate=strict", check=False)
    assert done.returncode != 0, "accepted: " + json.dumps(manifest)
    assert all(word in done.stderr for word in words), done.stderr


def test_manifests_are_what_the_generator_writes(tmp_path):
    document = kubectl("get", "--raw", "/openapi/v3/api/v1")
    subprocess.run([sys.executable, str(testbed.ROOT / "deploy/render-crds"), str(tmp_path)], input=document, text=True, check=True)
    names = sorted(file.name for file in CRDS.iterdir())
    assert names == sorted(file.name for file in tmp_path.iterdir())
    for name in names:
        assert (CRDS / name).read_text() == (tmp_path / name).read_text(), f"{name}: run deploy/render-crds"


def test_crds_1_names_scopes_and_columns():
    crds = {c["spec"]["names"]["kind"]: c for c in get("crd") if c["spec"]["group"] == "agenttier.io"}
    assert {k: (c["spec"]["scope"], c["spec"]["names"]["plural"], c["spec"]["names"]["listKind"]) for k, c in crds.items()} == {
        "Sandbox": ("Namespaced", "sandboxes", "SandboxList"),
        "SandboxTemplate": ("Namespaced", "sandboxtemplates", "SandboxTemplateList"),
        "ClusterSandboxTemplate": ("Cluster", "clustersandboxtemplates", "ClusterSandboxTemplateList")}
    (version,) = crds["Sandbox"]["spec"]["versions"]
    assert [(c["name"], c["type"], c["jsonPath"]) for c in version["additionalPrinterColumns"]] == [
        ("Status", "string", ".status.phase"), ("Template", "string", ".status.resolvedTemplate"),
        ("Age", "date", ".metadata.creationTimestamp")]
    assert version["subresources"] == {"status": {}}
    for kind, crd in crds.items():
        (version,) = crd["spec"]["versions"]
        assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
        assert kind == "Sandbox" or not version.get("subresources")
        problems = [c for c in crd["status"]["conditions"] if c["type"] == "NonStructuralSchema"]
        assert not problems, problems


@pytest.mark.parametrize("name", [e["metadata"]["name"] for e in EXAMPLES])
def test_crds_10_examples_are_stored_whole(name):
    given = example(name)
    stored = accepted(given)
    assert contains(stored["spec"], given["spec"]), (given["spec"], stored["spec"])


def contains(stored, given):
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(key in stored and contains(stored[key], value) for key, value in given.items())
    if isinstance(given, list):
        return isinstance(stored, list) and len(stored) == len(given) and all(map(contains, stored, given))
    return stored == given


def test_crds_4_status_through_its_own_path_only():
    whole = example("orders-bot")
    whole["metadata"]["name"] = "with-status"
    whole["metadata"].pop("finalizers")
    apply(whole)
    assert "status" not in get("sandboxes.agenttier.io", "with-status", "-n", NS)
    run("kubectl", "patch", "sandboxes.agenttier.io", "with-status", "-n", NS, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": whole["status"]}))
    stored = get("sandboxes.agenttier.io", "with-status", "-n", NS)
    assert contains(stored["status"], whole["status"])
    columns = kubectl("get", "sandboxes.agenttier.io", "with-status", "-n", NS).splitlines()
    assert columns[0].split() == ["NAME", "STATUS", "TEMPLATE", "AGE"] and columns[1].split()[1:3] == ["Running", "shop-agent"]
    kubectl("delete", "sandboxes.agenttier.io", "with-status", "-n", NS)


def test_crds_12_4_defaults():
    spec = accepted(sandbox(templateRef={"name": "x"}, storage={}, credentials=[{"secretName": "s"}],
                            network={"egressRules": [{"ports": [{"port": 1}]}]}))["spec"]
    assert spec["mode"] == "code" and spec["templateRef"]["kind"] == "SandboxTemplate"
    assert spec["storage"] == {"size": "10Gi", "mountPath": "/workspace"}
    assert spec["credentials"] == [{"secretName": "s", "mountAs": "env"}]
    assert spec["network"]["egressRules"] == [{"ports": [{"port": 1, "protocol": "TCP"}]}]
    spec = accepted(template(inheritsFrom={"name": "x"}, harness={}, files=[{"path": "/a"}]))["spec"]
    assert spec["inheritsFrom"]["kind"] == "SandboxTemplate" and spec["mode"] == "code"
    assert spec["harness"] == {"shell": "/bin/bash"}  # useHTTPExec has none
    assert spec["files"] == [{"path": "/a", "mode": 420}]
    assert "storage" not in accepted(sandbox(templateRef={"name": "x"}))["spec"]
    assert "maxConcurrentInvokes" not in accepted(template(harness={"agent": {}}))["spec"]["harness"]["agent"]


def test_crds_1_an_empty_object_is_one():
    for manifest in (sandbox(), template()):
        accepted(manifest)
        manifest.pop("spec")
        accepted(manifest)


@pytest.mark.parametrize("manifest,word", [
    (sandbox(mode="both"), "mode"),
    (sandbox(image={"repository": "x", "pullPolicy": "Sometimes"}), "pullPolicy"),
    (sandbox(credentials=[{"secretName": "s", "mountAs": "disk"}]), "mountAs"),
    (sandbox(sharing={"users": [{"identity": "a", "level": "owner"}]}), "level"),
    (sandbox(sharing={"groups": [{"identity": "a", "level": "owner"}]}), "level"),
    (sandbox(sharing={"shareLinks": [{"level": "owner"}]}), "level"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_crds_12_5_enums(manifest, word):
    refused(manifest, word, "Unsupported value")


@pytest.mark.parametrize("manifest,word", [
    (sandbox(templateRef={}), "templateRef.name"),
    (template(inheritsFrom={}), "inheritsFrom.name"),
    (sandbox(image={}), "image.repository"),
    (sandbox(credentials=[{}]), "secretName"),
    (sandbox(createdBy={}), "createdBy.sub"),
    (sandbox(network={"egressRules": [{"ports": [{}]}]}), "port"),
    (sandbox(network={"egressRules": [{"serviceRef": {}}]}), "serviceRef.name"),
    (sandbox(sharing={"users": [{"level": "viewer"}]}), "identity"),
    (sandbox(sharing={"shareLinks": [{}]}), "level"),
    (template(files=[{}]), "path"),
    (template(harness={"tools": [{}]}), "name"),
    (template(harness={"skills": [{}]}), "name"),
    (template(files=[{"path": "/x", "configMapRef": {"name": "c"}}]), "key"),
    (sandbox(sidecars=[{"image": "x"}]), "name"),
    (sandbox(env=[{"value": "x"}]), "name"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_crds_12_6_required(manifest, word):
    refused(manifest, word, "Required value")


@pytest.mark.parametrize("text", ["30m", "8h", "1h30m", "90s", "1.5h", "0", "0s", "12h0m0s", "300ms", "10us", "10µs", "1ns", "-5m", "+1h", ".5s", "1.s"])
def test_crds_2_durations(text):
    assert accepted(sandbox(timeout=text, idleTimeout=text))["spec"]["timeout"] == text


@pytest.mark.parametrize("text", ["1d", "soon", "5", "1h 30m", "h", "1h;", "٣s", "1e3s", "-", "9" * 65 + "s"])
def test_crds_2_what_is_not_a_duration_is_refused(text):
    refused(sandbox(timeout=text), "timeout")
    refused(template(idleTimeout=text), "idleTimeout")
    refused(template(harness={"agent": {"defaultInvokeTimeout": text}}), "defaultInvokeTimeout")


def test_crds_2_quantities():
    for size in ("10Gi", "1", 5, "500m", "1e3", "0"):
        accepted(sandbox(storage={"size": size}))
    refused(sandbox(storage={"size": "big"}), "size")
    refused(sandbox(resources={"limits": {"cpu": "many"}}), "cpu")


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_crds_port_numbers(port):
    refused(sandbox(network={"ingressRules": [{"ports": [{"port": port}]}]}), "port")


def test_crds_embedded_containers_are_checked_whole():
    container = {"name": "c", "image": "x", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                 "securityContext": {"capabilities": {"drop": ["ALL"]}}, "resources": {"limits": {"memory": "1Gi"}}}
    stored = accepted(sandbox(sidecars=[container]))["spec"]["sidecars"][0]
    assert stored["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    refused(sandbox(sidecars=[{**container, "imgae": "y"}]), "imgae")
    refused(sandbox(initContainers=[{**container, "readinessProbe": {"httpGet": {"path": "/"}}}]), "port")


def test_crds_1_unknown_fields_are_pruned():
    manifest = sandbox("pruned", templateRef={"name": "x", "colour": "red"}, flavour="sweet")
    refused(manifest, "flavour")
    apply(manifest, "--validate=ignore")
    spec = get("sandboxes.agenttier.io", "pruned", "-n", NS)["spec"]
    assert spec == {"mode": "code", "templateRef": {"name": "x", "kind": "SandboxTemplate"}}
    kubectl("delete", "sandboxes.agenttier.io", "pruned", "-n", NS)


OWNED = dict(mode="agent", templateRef={"name": "t"}, createdBy={"sub": "ana"}, cloneFromSnapshot="snap")


@pytest.mark.parametrize("change,word", [
    ({"mode": "code"}, "mode"), ({"mode": None}, "mode"),
    ({"templateRef": {"name": "other"}}, "templateRef.name"), ({"templateRef": None}, "templateRef.name"),
    ({"createdBy": {"sub": "eve"}}, "createdBy.sub"), ({"createdBy": None}, "createdBy.sub"),
    ({"cloneFromSnapshot": "other"}, "cloneFromSnapshot"), ({"cloneFromSnapshot": None}, "cloneFromSnapshot"),
], ids=str)
def test_controller_13_what_a_sandbox_is_cannot_be_changed(change, word):
    apply(sandbox("kept", **OWNED))
    done = run("kubectl", "patch", "sandboxes.agenttier.io", "kept", "-n", NS, "--type=merge", "-p", json.dumps({"spec": change}), check=False)
    assert done.returncode != 0 and f"{word} cannot be changed" in done.stderr, done.stderr


def test_controller_13_what_was_empty_can_be_set_and_the_rest_changed():
    apply(sandbox("open"))
    for change in ({"templateRef": {"name": "t"}}, {"createdBy": {"sub": "ana"}}, {"cloneFromSnapshot": "s"}, {"idleTimeout": "5m"},
                   {"createdBy": {"email": "a@example.org"}}, {"sharing": {"users": [{"identity": "b", "level": "viewer"}]}},
                   {"templateRef": {"kind": "ClusterSandboxTemplate"}}, {"storage": {"size": "20Gi"}}, {"idleTimeout": None}):
        kubectl("patch", "sandboxes.agenttier.io", "open", "-n", NS, "--type=merge", "-p", json.dumps({"spec": change}))


def test_a_value_that_an_older_schema_let_in_does_not_block_updates():
    """Sandboxes of the reference may hold what our rules refuse: the rest of them can still be changed."""
    crd = yaml.safe_load((CRDS / "sandboxes.yaml").read_text())
    timeout = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["timeout"]
    rules, length = timeout.pop("x-kubernetes-validations"), timeout.pop("maxLength")
    apply(crd, "--server-side", "--force-conflicts")
    wait_for(lambda: apply(sandbox("old", timeout="soon"), check=False).returncode == 0, PATIENCE)
    timeout.update({"x-kubernetes-validations": rules, "maxLength": length})
    apply(crd, "--server-side", "--force-conflicts")
    wait_for(lambda: apply(sandbox("newer", timeout="soon"), "--dry-run=server", check=False).returncode != 0, PATIENCE)
    patch = lambda spec: run("kubectl", "patch", "sandboxes.agenttier.io", "old", "-n", NS, "--type=merge", "-p", json.dumps(spec), check=False)  # noqa: E731
    assert patch({"spec": {"idleTimeout": "5m"}}).returncode == 0
    assert patch({"metadata": {"labels": {"a": "b"}}}).returncode == 0
    assert patch({"spec": {"timeout": "later"}}).returncode != 0
    assert patch({"spec": {"timeout": "5m"}}).returncode == 0
