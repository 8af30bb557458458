"""The warm pool on a scripted apiserver: what sandboxes get of it when things go wrong, and what it asks for (controller.md
10; W11 to W16, W29; O8; http-api-extended.md 9, weaknesses 75 to 82)."""

import json
import time

import pytest
from cluster_router import ClusterRouter
from fake_apiserver import status
from harness import error_of, wait_for
from test_controller import Controller, make, reach, state
from test_controller import controller, kubelet, pods_exec  # noqa: F401: fixtures

API = "/api/v1"
MAP = "agenttier-warmpool-config"
READY = "agenttier_controller_warmpool_ready"
POOLED, POOL = "agenttier.io/pooled", "agenttier.io/pool-template"


@pytest.fixture
def api(api):
    api.put("clustersandboxtemplates", {"metadata": {"name": "t"}, "spec": {"image": {"repository": "r:1"}}})
    return api


def configure(api, count, template="t"):
    api.put("configmaps", {"metadata": {"name": MAP, "namespace": "agenttier"},
                           "data": {"config": json.dumps({"pools": [{"template": template, "desiredCount": count}]})}})


def pooled(api):
    return [p for p in api.all("pods") if p["metadata"].get("labels", {}).get(POOLED) == "true"]


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def fill(controller, count, timeout=20):
    """Waits until the controller knows of so many pods that are ready."""
    api = controller.api
    configure(api, count)
    wait_for(lambda: len([p for p in pooled(api) if is_ready(p)]) == count == controller.metric(READY),
             timeout, 0.02, f"{count} pods that are ready")
    return [p["metadata"]["name"] for p in pooled(api)]


def rest(controller):
    """Waits for the end of what it asks of its own accord."""
    controller.settle()
    wait_for(lambda: time.monotonic() - [r for r in list(controller.api.requests) if "watch" not in r.target][-1].at > 1, what="rest")


def warm(api, name):
    return state(api, name).get("podName", "").startswith("pool-")


def owners(obj):
    return [(r["kind"], r["name"]) for r in obj["metadata"].get("ownerReferences", [])]


# ---- the ordinary ----


def test_O8_10_a_pool_is_filled_and_taken_from(api, controller):
    (name,) = fill(controller, 1)
    (policy,) = api.all("networkpolicies")
    assert policy["spec"] == {"podSelector": {"matchLabels": {POOLED: "true"}}, "policyTypes": ["Egress", "Ingress"]}
    (claim,) = api.all("persistentvolumeclaims")
    assert "storageClassName" not in claim["spec"] and owners(claim) == [("Pod", name)]
    make(api, "box")
    reach(api, "box", "Running")
    assert {"podName": name, "pvcName": name + "-pvc", "resolvedTemplate": "t"}.items() <= state(api, "box").items()
    pod = api.get("pods", name, "default")
    assert owners(pod) == owners(api.get("persistentvolumeclaims", name + "-pvc", "default")) == [("Sandbox", "box")]
    assert pod["metadata"]["labels"] == {"agenttier.io/managed": "true", "agenttier.io/sandbox": "box", "agenttier.io/template": "t"}
    wait_for(lambda: [e for e in api.all("events") if e["reason"] == "Running"], 5)
    (event,) = [e for e in api.all("events") if e["reason"] == "Running"]
    assert "from the warm pool" in event["message"]
    wait_for(lambda: [p for p in pooled(api) if is_ready(p)], 5, 0.02, "another one")
    assert controller.metric("agenttier_warmpool_claim_conflicts_total") == 0  # W29
    assert controller.metric("agenttier_controller_warmpool_claims_total") == 1
    # The policy of the sandbox was there before the pod was its own.
    order = [(plural, obj["metadata"]["name"]) for _, plural, kind, obj, _ in api.log
             if obj["metadata"]["name"] == "box-netpol" or (plural == "pods" and "agenttier.io/sandbox" in obj["metadata"].get("labels", {}))]
    assert order[0] == ("networkpolicies", "box-netpol") and ("pods", name) in order


def test_10_without_a_configuration_nothing_is_asked_for(api, controller):
    make(api, "box")
    reach(api, "box", "Running")
    wait_for(lambda: {"Creating", "Running"} <= {e["reason"] for e in api.all("events")}, what="events")
    rest(controller)
    before = len(api.requests)
    time.sleep(2)
    assert [r for r in api.requests[before:] if "watch" not in r.target] == []
    asked = [r for r in api.requests if "configmaps" in r.target]
    assert asked and all(MAP in r.target and "/namespaces/agenttier/" in r.target for r in asked), asked
    assert not warm(api, "box") and len(api.all("networkpolicies")) == 1


def test_10_without_the_right_to_read_it_sandboxes_start_all_the_same(api, kubelet):
    for verb in ("list", "watch", "get"):
        api.forbidden.add((verb, "configmaps"))
    with Controller(api) as started:
        make(api, "box")
        reach(api, "box", "Running")
        wait_for(lambda: "that one can do without" in started.log.read_text(), 20, what="the check of permissions")


def test_10_a_full_pool_asks_for_nothing(api, controller):
    fill(controller, 3)
    rest(controller)
    before = len(api.requests)
    time.sleep(2)
    assert [r for r in api.requests[before:] if "watch" not in r.target] == []


def test_W11_W12_stop_and_resume_keep_the_workspace(api, controller):
    (name,) = fill(controller, 1)
    make(api, "box")
    reach(api, "box", "Running")
    fill(controller, 1)
    found = api.get("sandboxes", "box", "default")
    api.put("sandboxes", {"metadata": {"name": "box", "namespace": "default", "annotations": {"agenttier.io/action": "stop"}},
                          "spec": found["spec"], "status": state(api, "box")})
    reach(api, "box", "Stopped")
    wait_for(lambda: not api.get("pods", name, "default"), 5)
    api.set_status("sandboxes", "box", "default", phase="Creating", message="Resuming")
    reach(api, "box", "Running")
    assert {"podName": "box-pod", "pvcName": name + "-pvc"}.items() <= state(api, "box").items()
    assert [v["persistentVolumeClaim"]["claimName"] for v in api.get("pods", "box-pod", "default")["spec"]["volumes"]
            if "persistentVolumeClaim" in v] == [name + "-pvc"]
    assert len(pooled(api)) == 1


def test_10_2_it_follows_template_and_configuration(api, controller):
    old = set(fill(controller, 3))
    configure(api, 1)
    wait_for(lambda: len(pooled(api)) == 1, 5, 0.02)
    api.put("clustersandboxtemplates", {"metadata": {"name": "t"}, "spec": {"image": {"repository": "r:2"}}})
    wait_for(lambda: len(pooled(api)) == 1 and not old & {p["metadata"]["name"] for p in pooled(api)}, 5, 0.02, "a new one")
    assert pooled(api)[0]["spec"]["containers"][0]["image"] == "r:2"
    api.remove("configmaps", MAP, "agenttier")
    wait_for(lambda: not pooled(api) and not api.all("persistentvolumeclaims") and not api.all("networkpolicies"), 5, 0.02, "nothing")


def test_10_2_what_the_reference_left_is_replaced(api, controller):
    """Its pods are soft (W14), and nothing says what they were made of."""
    api.put("pods", {"metadata": {"name": "pool-t-0011", "namespace": "default", "labels": {
        POOLED: "true", POOL: "t", "agenttier.io/managed": "true"}}, "spec": {"containers": [{"name": "sandbox"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    wait_for(lambda: not pooled(api), 5, 0.02, "no pool is configured")
    assert "pool-t-0011" not in fill(controller, 1)


# ---- things at once ----


def test_10_4_many_sandboxes_and_a_few_pods(api, controller):
    names = set(fill(controller, 4))
    for i in range(16):
        make(api, f"s{i}")
    for i in range(16):
        reach(api, f"s{i}", "Running", 40)
    used = [state(api, f"s{i}")["podName"] for i in range(16)]
    assert len(set(used)) == 16 and names <= set(used)
    for i in range(16):
        pod = api.get("pods", used[i], "default")
        assert owners(pod) == [("Sandbox", f"s{i}")]
        assert owners(api.get("persistentvolumeclaims", state(api, f"s{i}")["pvcName"], "default")) == [("Sandbox", f"s{i}")]
    wait_for(lambda: len([p for p in pooled(api) if is_ready(p)]) == 4, 10, 0.05, "it is full again")
    assert not [e for e in api.all("events") if e["reason"] in ("Error", "AutoRestarted")]


def test_W29_conflicts_are_counted_and_cost_nobody_a_sandbox(api, controller):
    fill(controller, 2)
    api.on("PATCH", r"/pods/pool-", status(409, "Conflict", "changed since"), times=3)
    make(api, "box")
    reach(api, "box", "Running")
    assert warm(api, "box") and controller.metric("agenttier_warmpool_claim_conflicts_total") == 3
    fill(controller, 2)
    api.on("PATCH", r"/pods/pool-", status(409, "Conflict", "changed since"), times=None)
    make(api, "cold")
    reach(api, "cold", "Running")
    assert not warm(api, "cold") and controller.metric("agenttier_warmpool_claim_conflicts_total") == 9
    api.clear()


def taken_by_another(api, name):
    """As by a controller that led a moment ago."""
    pod = api.get("pods", name, "default")
    pod["metadata"]["labels"] = {"agenttier.io/managed": "true", "agenttier.io/sandbox": "another"}
    pod["metadata"]["ownerReferences"] = [{"apiVersion": "agenttier.io/v1alpha1", "kind": "Sandbox", "name": "another", "uid": "another",
                                           "controller": True}]
    with api.changed:
        api._store("pods", ("default", name), pod, "MODIFIED")


def test_10_2_a_pod_that_was_taken_unseen_is_not_removed(api, controller):
    (name,) = fill(controller, 1)
    api.silent = True
    taken_by_another(api, name)
    configure(api, 0)
    api.say("configmaps", {"type": "MODIFIED", "object": api.get("configmaps", MAP, "agenttier")})
    wait_for(lambda: len(api.asked("DELETE", f"/pods/{name}")) > 1, 10, 0.02, "attempts to remove it")
    assert owners(api.get("pods", name, "default")) == [("Sandbox", "another")]


def test_10_4_a_pod_that_changed_unseen_is_not_taken_twice(api, controller, kubelet):
    """A cache that is behind: the version decides."""
    (name,) = fill(controller, 1)
    api.silent = kubelet.paused = True
    taken_by_another(api, name)
    made = make(api, "box")
    api.say("sandboxes", {"type": "ADDED", "object": made})
    wait_for(lambda: api.get("pods", "box-pod", "default"), 10, 0.02, "a pod of its own")
    assert owners(api.get("pods", name, "default")) == [("Sandbox", "another")]
    api.silent = kubelet.paused = False
    reach(api, "box", "Running")
    assert controller.metric("agenttier_warmpool_claim_conflicts_total") == 1


@pytest.mark.parametrize("point", ["/secrets/pool-", "POST /secrets", "/persistentvolumeclaims/pool-", "/sandboxes/box/status"])
def test_W15_a_controller_that_is_killed_between_claim_and_handover(api, kubelet, pods_exec, point):  # noqa: F811
    method, _, path = point.rpartition(" ")
    flags = ("--runtime-delivery=image",)
    api.put("clustersandboxtemplates", {"metadata": {"name": "t"}, "spec": {"harness": {"useHTTPExec": True}}})
    with Controller(api, *flags) as first:
        (name,) = fill(first, 1)
        wait_for(lambda: api.get("secrets", name + "-runtime-token", "default"), 5)
        api.on(method or "PATCH", path, status(503), times=None)
        make(api, "box")
        wait_for(lambda: owners(api.get("pods", name, "default")) == [("Sandbox", "box")], 10, 0.02, "the claim")
        first.kill()
    assert state(api, "box").get("phase") != "Running"
    api.clear()
    with Controller(api, *flags):
        reach(api, "box", "Running")
        assert {"podName": name, "pvcName": name + "-pvc"}.items() <= state(api, "box").items()
        assert owners(api.get("persistentvolumeclaims", name + "-pvc", "default")) == [("Sandbox", "box")]
        assert not api.get("pods", "box-pod", "default")
        its, pools = (api.get("secrets", n, "default") for n in ("box-runtime-token", name + "-runtime-token"))
        assert its["data"]["token"] == pools["data"]["token"] and owners(its) == [("Sandbox", "box")]


def test_W16_pods_that_fail_are_replaced_with_pauses(api, kubelet):
    kubelet.paused = True
    with Controller(api) as controller:
        configure(api, 3)
        wait_for(lambda: len(pooled(api)) == 3, 10, 0.02)
        for pod in pooled(api):
            api.set_status("pods", pod["metadata"]["name"], "default", phase="Failed", reason="Evicted", message="no space")
        wait_for(lambda: not pooled(api), 10, 0.02, "they go")
        time.sleep(2)
        assert not pooled(api) and not api.all("persistentvolumeclaims")
        assert controller.metric("agenttier_controller_warmpool_pods_failed_total") == 3
        make(api, "box")
        kubelet.paused = False
        reach(api, "box", "Running")
        assert not warm(api, "box")


def test_W16_a_pool_that_cannot_be_filled_leaves_nothing_behind(api, controller):
    api.on("POST", r"/pods$", status(403, "Forbidden", "exceeded quota: pods"), times=4)
    configure(api, 1)
    wait_for(lambda: [p for p in pooled(api) if is_ready(p)], 30, 0.05, "it is filled once there is room")
    assert len(api.all("persistentvolumeclaims")) == 1


def test_10_2_another_leader_takes_the_pool_over(api, kubelet):
    with Controller(api, "--leader-elect") as first:
        wait_for(first.leads, 10)
        names = fill(first, 2)
        with Controller(api, "--leader-elect") as second:
            first.stop()
            wait_for(second.leads, 10)
            wait_for(lambda: second.metric(READY) == 2, 10, 0.02, "it knows of both")
            make(api, "box")
            reach(api, "box", "Running")
            assert state(api, "box")["podName"] in names
            wait_for(lambda: len([p for p in pooled(api) if is_ready(p)]) == 2, 10, 0.05)


# ---- the Router ----


@pytest.fixture
def keyed(api):
    with ClusterRouter(api, dev_auth=False, keys=("user", "admin")) as router:
        yield router


def test_9_the_routes(api, keyed, kubelet):
    with keyed.client("user") as user, keyed.client("admin") as admin:
        assert user.get(API + "/warmpool/status").json() == {}
        error_of(user.put(API + "/warmpool/config", json={"pools": []}), 403)
        body = {"pools": [{"template": "t", "desiredCount": 2}, {"template": "later", "desiredCount": 0}]}
        answer = admin.put(API + "/warmpool/config", json=body)
        assert (answer.status_code, answer.json()) == (200, {"status": "updated", **body})
        assert json.loads(api.get("configmaps", MAP, "agenttier")["data"]["config"]) == body
        assert user.get(API + "/warmpool/status").json() == {"pools": [
            {"template": "t", "desiredCount": 2, "readyCount": 0, "pendingCount": 0},
            {"template": "later", "desiredCount": 0, "readyCount": 0, "pendingCount": 0}]}
        answer = admin.put(API + "/warmpool/config", json={"template": "t", "desiredCount": 2})
        assert answer.json() == {"status": "updated", "pools": [{"template": "t", "desiredCount": 2}]}
        with Controller(api) as started:
            wait_for(lambda: started.metric(READY) == 2, 20, 0.05, "the controller knows of both")
            entry = {"template": "t", "desiredCount": 2, "readyCount": 2, "pendingCount": 0}
            shown = {**{k: v for k, v in entry.items() if v}, "pools": [entry]}
            wait_for(lambda: user.get(API + "/warmpool/status").json() == shown, 10, 0.05, "both are ready")
            kubelet.paused = True
            make(api, "box")
            reach(api, "box", "Running")
            wait_for(lambda: user.get(API + "/warmpool/status").json()["pools"][0] == {**entry, "readyCount": 1, "pendingCount": 1}, 10, 0.05)
            answer = admin.put(API + "/warmpool/config", json={"pools": []})
            assert answer.json() == {"status": "updated", "pools": None} and user.get(API + "/warmpool/status").json() == {}
            wait_for(lambda: not pooled(api), 10, 0.05, "no pod")


def test_9_2_what_is_no_configuration_is_none(api, keyed):
    with keyed.client("user") as user, keyed.client("admin") as admin:
        for text in ("not JSON", "[]", '{"pools": 7}', ""):
            api.put("configmaps", {"metadata": {"name": MAP, "namespace": "agenttier"}, "data": {"config": text}})
            assert user.get(API + "/warmpool/status").json() == {}
        assert admin.put(API + "/warmpool/config", json={"template": "t", "desiredCount": 1}).status_code == 200


def test_9_an_apiserver_that_is_away_is_said_and_the_status_goes_on(api, keyed):
    with keyed.client("user") as user, keyed.client("admin") as admin:
        assert admin.put(API + "/warmpool/config", json={"template": "t", "desiredCount": 1}).status_code == 200
        api.on("*", MAP, status(503), times=None)
        asked = len(api.asked("*", MAP))
        assert user.get(API + "/warmpool/status").json()["desiredCount"] == 1
        assert len(api.asked("*", MAP)) == asked  # a read costs the API server nothing
        assert "failed to save config" in error_of(admin.put(API + "/warmpool/config", json={"pools": []}), 503)["error"]


def test_9_3_two_that_make_the_first_one(api, keyed):
    with keyed.client("admin") as admin:
        api.on("POST", "/configmaps", status(409, "AlreadyExists", "already exists"), times=1)
        assert admin.put(API + "/warmpool/config", json={"template": "t", "desiredCount": 1}).status_code == 200
        assert api.get("configmaps", MAP, "agenttier")
