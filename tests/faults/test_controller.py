"""The real agenttier-controller on a scripted apiserver: what it must not lose, and what it must not make twice
(controller.md 1.1, 20, 21)."""

import base64
import contextlib
import datetime
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import httpx
import pytest
from cluster_router import records
from fake_apiserver import FakeApiserver, Gone, body, cut, delay, hang, status
from fake_exec import FakeExec
from harness import ALARMS, BUILD, WRAP, clean_environment, free_port, get, wait_for

PROGRAM = BUILD / "agenttier-controller"
CRDS = ("sandboxes.agenttier.io", "sandboxtemplates.agenttier.io", "clustersandboxtemplates.agenttier.io")
LEASE = "agenttier-controller-leader"


class Controller:
    def __init__(self, api, *flags, crds=False, env=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="at-controller-", dir="/tmp"))
        self.api, self.env = api, env or {}
        self.log = self.folder / "log"
        self.flags = [f"--kubeconfig={api.kubeconfig(str(self.folder / 'kubeconfig'))}", "--runtime-delivery=none",
                      f"--manage-crds={'true' if crds else 'false'}", *flags]
        self.process = None

    def start(self):
        self.health, self.metrics = free_port(), free_port()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*WRAP, str(PROGRAM), *self.flags, f"--health-probe-bind-address=127.0.0.1:{self.health}",
                 f"--metrics-bind-address=127.0.0.1:{self.metrics}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(**self.env))
        return self

    def serves(self):
        def answers():
            assert self.process.poll() is None, f"the controller ended with {self.process.returncode}: {self.text()}"
            with contextlib.suppress(httpx.HTTPError):
                return self.get(self.metrics, "/metrics")
        wait_for(answers, 60, 0.05, "metrics")
        return self

    @staticmethod
    def get(port, path):
        return get(f"http://127.0.0.1:{port}{path}", 20)

    def metric(self, name):
        text = self.get(self.metrics, "/metrics").text
        return float(re.search(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.M)[1])

    def leads(self):
        return self.metric("agenttier_controller_leader") == 1

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def records(self, text):
        """The lines of the log with `text` that are there whole."""
        return records(self.log, text)

    def settle(self):
        """Waits for the end of what it asks of its own accord when it has started."""
        wait_for(lambda: self.records("has all permissions that it needs"), 60, what="the check of permissions")

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        return self.process.returncode

    def __enter__(self):
        try:
            return self.start().serves()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_):
        try:
            code = self.stop()
            assert code in (0, -signal.SIGKILL), self.text()[-3000:]
            assert not ALARMS.search(self.log.read_bytes()), self.text()[-6000:]
        finally:
            if self.process.poll() is None:
                self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)


def ended_after(controller, began):
    """By its own clock: a sanitizer then looks for leaks for as long as a loaded machine needs."""
    (last,) = controller.records("stopped; sandboxes go on running")
    return (datetime.datetime.fromisoformat(last["time"][:26] + "+00:00") - began).total_seconds()


class Kubelet:
    """Starts the pods that there are: ready a moment later."""

    def __init__(self, api):
        self.api, self.ending, self.turn, self._paused = api, threading.Event(), threading.Lock(), False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def paused(self):
        return self._paused

    @paused.setter
    def paused(self, paused):
        with self.turn:  # none of its rounds is under way then
            self._paused = paused

    def can_start(self, pod):
        """Not before the claims that it mounts are there."""
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod.get("spec", {}).get("volumes", []) if "persistentVolumeClaim" in v]
        return all(self.api.get("persistentvolumeclaims", claim, pod["metadata"]["namespace"]) for claim in claims)

    def run(self):
        while not self.ending.wait(0.05):
            with self.turn:
                self.round()

    def round(self):
        for pod in self.api.all("pods") if not self.paused else []:
            if not pod.get("status") and self.can_start(pod):
                with contextlib.suppress(KeyError):  # it is gone
                    self.api.set_status("pods", pod["metadata"]["name"], pod["metadata"]["namespace"], phase="Running",
                                        conditions=[{"type": "Ready", "status": "True"}])

    def stop(self):
        self.ending.set()
        self.thread.join()


@pytest.fixture
def api():
    with FakeApiserver() as server:
        server.kinds["customresourcedefinitions"] = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", False, True)
        server.objects["customresourcedefinitions"] = {}
        server.put("clustersandboxtemplates", {"metadata": {"name": "t"}, "spec": {"image": {"repository": "r:1"}}})
        yield server


@pytest.fixture
def kubelet(api):
    made = Kubelet(api)
    yield made
    made.stop()


@pytest.fixture
def controller(api, kubelet):
    with Controller(api) as started:
        yield started


def make(api, name, **spec):
    return api.put("sandboxes", {"metadata": {"name": name, "namespace": "default"},
                                 "spec": {"templateRef": {"name": "t", "kind": "ClusterSandboxTemplate"}, **spec}})


def state(api, name):
    return (api.get("sandboxes", name, "default") or {}).get("status", {})


def reach(api, name, phase, timeout=60):
    wait_for(lambda: state(api, name).get("phase") == phase, timeout, 0.02, f"{name} {phase}")


def reasons(api, name):
    return [e["reason"] for e in api.all("events") if e["involvedObject"]["name"] == name]


def made_once(api, name):
    """Exactly one of each object, and each was asked for successfully once."""
    for plural in ("pods", "persistentvolumeclaims", "networkpolicies"):
        assert len([o for o in api.all(plural) if o["metadata"]["labels"]["agenttier.io/sandbox"] == name]) == 1, plural
        added = [entry for entry in api.log if entry[1] == plural and entry[2] == "ADDED" and
                 entry[3]["metadata"]["labels"]["agenttier.io/sandbox"] == name]
        assert len(added) == 1, plural


# ---- the ordinary ----


def test_21_2_create_to_running_stop_resume_delete(api, controller):
    make(api, "box")
    reach(api, "box", "Running")
    found = api.get("sandboxes", "box", "default")
    assert found["metadata"]["finalizers"] == ["agenttier.io/sandbox-cleanup"]
    assert {"podName": "box-pod", "pvcName": "box-workspace", "resolvedTemplate": "t"}.items() <= found["status"].items()
    made_once(api, "box")
    api.put("sandboxes", {"metadata": {"name": "box", "namespace": "default", "annotations": {"agenttier.io/action": "stop"}},
                          "spec": found["spec"], "status": state(api, "box")})
    reach(api, "box", "Stopped")
    wait_for(lambda: not api.all("pods"))
    wait_for(lambda: "agenttier.io/action" not in (api.get("sandboxes", "box", "default")["metadata"].get("annotations") or {}))
    api.set_status("sandboxes", "box", "default", phase="Creating", message="Resuming")
    reach(api, "box", "Running")
    httpx.delete(f"{api.url}/apis/agenttier.io/v1alpha1/namespaces/default/sandboxes/box")
    wait_for(lambda: not api.get("sandboxes", "box", "default"))
    for plural in ("pods", "persistentvolumeclaims", "networkpolicies"):
        wait_for(lambda p=plural: not api.all(p), what=plural)
    wait_for(lambda: "Deleted" in reasons(api, "box"))
    assert [r for r in reasons(api, "box") if r in ("Error", "AutoRestarted")] == []


def test_at_rest_it_asks_for_nothing(api, controller):
    def asked():
        return [r for r in list(api.requests) if "watch" not in r.target]

    controller.settle()
    make(api, "box")
    reach(api, "box", "Running")
    wait_for(lambda: {"Creating", "Running"} <= set(reasons(api, "box")), what="events")
    wait_for(lambda: time.monotonic() - asked()[-1].at > 1, what="rest")
    before = len(asked())
    time.sleep(3)
    assert asked()[before:] == []


def test_many_sandboxes_and_conflicts(api, controller):
    """I31, I32: other writers of the same objects."""
    api.on("PATCH", r"/sandboxes/[^/]+/status", status(409, "Conflict", "changed since"), times=40)
    for i in range(30):
        make(api, f"s{i}")
    for i in range(30):
        reach(api, f"s{i}", "Running")
        made_once(api, f"s{i}")
    assert not [e for e in api.all("events") if e["reason"] in ("Error", "AutoRestarted")]


# ---- an apiserver on a bad day ----


def test_W4_the_apiserver_is_away_for_20_seconds_while_sandboxes_are_made(api, controller):
    api.on("POST", "/networkpolicies", delay(1.5), times=1)
    make(api, "before")
    time.sleep(0.5)
    api.go_away()
    time.sleep(20)
    make(api, "meanwhile")
    api.come_back()
    for name in ("before", "meanwhile"):
        reach(api, name, "Running")
        made_once(api, name)
        # Events come late rather than never: others act on them.
        wait_for(lambda n=name: {"Creating", "Running"} <= set(reasons(api, n)), what="events")
        assert "Error" not in reasons(api, name)
    assert controller.process.poll() is None


@pytest.mark.parametrize("code", [429, 500, 503])
def test_W4_refusals_that_pass_are_waited_for(api, controller, code):
    api.on("POST", r"/(persistentvolumeclaims|networkpolicies|pods|events)", status(code, headers={"Retry-After": "1"}), times=6)
    api.on("PATCH", "/status", status(code), times=3)
    make(api, "box")
    reach(api, "box", "Running")
    made_once(api, "box")
    assert "Error" not in reasons(api, "box")


@pytest.mark.parametrize("plural", ["pods", "persistentvolumeclaims", "networkpolicies"])
def test_I31_an_answer_that_is_lost_makes_no_second_object(api, controller, plural):
    api.on("POST", f"/{plural}", cut(20), times=1)
    make(api, "box")
    reach(api, "box", "Running")
    made_once(api, "box")


def test_a_lost_answer_to_the_status_is_no_second_event_storm(api, controller):
    api.on("PATCH", r"/sandboxes/box/status", cut(10), times=2)
    make(api, "box")
    reach(api, "box", "Running")
    time.sleep(0.5)
    assert reasons(api, "box").count("Running") <= 1


def test_an_event_whose_answer_is_lost_is_there_once(api, controller):
    api.on("POST", "/events", cut(5), times=2)
    make(api, "box")
    reach(api, "box", "Running")
    wait_for(lambda: {"Creating", "Running"} <= set(reasons(api, "box")))
    time.sleep(1.5)
    assert sorted(reasons(api, "box")) == ["Creating", "Running"]


def test_refusals_that_stay_are_errors_that_say_why(api, controller):
    api.forbidden.add(("create", "pods"))
    make(api, "box")
    reach(api, "box", "Error")
    assert state(api, "box")["message"].startswith("Pod creation failed: ") and "create" in state(api, "box")["message"]
    api.forbidden.clear()
    api.quota = "pods"
    make(api, "second")
    reach(api, "second", "Error")
    assert "exceeded quota" in state(api, "second")["message"]


def test_2_7_missing_rights_on_secrets_hang_no_deletion(api, controller):
    api.forbidden.add(("*", "secrets"))
    make(api, "box")
    reach(api, "box", "Running")
    httpx.delete(f"{api.url}/apis/agenttier.io/v1alpha1/namespaces/default/sandboxes/box")
    wait_for(lambda: not api.get("sandboxes", "box", "default"))


def test_S23_lies_and_nonsense_do_not_end_it(api, controller):
    api.on("POST", "/persistentvolumeclaims", body(b"{\"kind\":\"Pod\",\"metadata\":[]}", 201), times=1)
    api.on("POST", "/networkpolicies", body(b"\xff\xfe not json", 201), times=1)
    wait_for(lambda: api.watchers("pods"), what="a watch")
    api.say("pods", b"not json\n")
    api.put("sandboxes", {"metadata": {"name": "odd", "namespace": "default", "finalizers": [7], "annotations": {"agenttier.io/action": 5}},
                          "spec": {"templateRef": [], "env": {"a": 1}, "timeout": 7, "storage": "x", "network": [1],
                                   "credentials": [1, None], "sidecars": "no", "createdBy": 3},
                          "status": {"phase": 7, "conditions": "x", "forwardedPorts": {"a": 1}, "restartCount": "many"}})
    make(api, "box")
    reach(api, "box", "Running")
    assert controller.process.poll() is None


def test_S23_answers_that_are_nested_as_deep_as_they_may_be(api, controller):
    """An object of a definition that is not ours may have fields of any shape; the answers to writes show them."""
    deep = b',"deep":' + b'{"a":[' * 1000 + b"1" + b"]}" * 1000 + b"}"

    def answer(api, request, connection):
        code, value = api.work(request)
        connection.answer(code, json.dumps(value).encode()[:-1] + deep)
        return True

    for method in ("POST", "PUT", "PATCH"):
        api.on(method, "/(sandboxes|pods|persistentvolumeclaims|networkpolicies)", answer)
    make(api, "box")
    reach(api, "box", "Running")
    assert controller.process.poll() is None


def test_11_1_a_snapshot_that_cannot_be_taken_does_not_keep_it_running(api, controller):
    del api.kinds["volumesnapshots"]  # a cluster without them
    make(api, "box", storage={"snapshotOnStop": True})
    reach(api, "box", "Running")
    found = api.get("sandboxes", "box", "default")
    api.put("sandboxes", {**found, "metadata": {**found["metadata"], "annotations": {"agenttier.io/action": "stop"}}})
    reach(api, "box", "Stopped")
    wait_for(lambda: "SnapshotFailed" in reasons(api, "box"))
    (event,) = [e for e in api.all("events") if e["reason"] == "SnapshotFailed"]
    assert event["message"].startswith("SnapshotOnStop failed: ") and event["type"] == "Warning"


def test_watches_that_are_cut_miss_nothing(api, kubelet, controller):
    kubelet.paused = True
    make(api, "box")
    wait_for(lambda: api.all("pods"))
    api.cut_watches(how="reset")
    kubelet.paused = False
    reach(api, "box", "Running")
    api.compact()
    api.cut_watches()
    api.remove("pods", "box-pod", "default")
    reach(api, "box", "Error")
    assert "before restart attempt 1/5" in state(api, "box")["message"]


# ---- the controller on a bad day ----


@pytest.mark.parametrize("step", ["persistentvolumeclaims", "networkpolicies", "pods", "sandboxes/box/status"])
def test_I32_killed_in_the_middle_of_a_creation(api, kubelet, step):
    """kill -9 at each step: the next one finishes what was begun, once."""
    with Controller(api) as first:
        api.on("*", f"/{step}$", hang(), times=1)
        make(api, "box")
        wait_for(lambda: [r for r in api.asked("*", f"/{step}$") if r.method in ("POST", "PATCH")], 60, 0.01, step)
        first.kill()
    api.clear()
    with Controller(api):
        reach(api, "box", "Running")
        made_once(api, "box")
        wait_for(lambda: reasons(api, "box").count("Running") == 1, what="one event")


def test_W1_killed_between_stopped_and_the_pods_removal(api, kubelet):
    with Controller(api) as first:
        make(api, "box")
        reach(api, "box", "Running")
        api.on("DELETE", "/pods/", hang(), times=1)
        found = api.get("sandboxes", "box", "default")
        api.put("sandboxes", {**found, "metadata": {**found["metadata"], "annotations": {"agenttier.io/action": "stop"}}})
        reach(api, "box", "Stopped")
        wait_for(lambda: api.asked("DELETE", "/pods/"), 60, 0.01)
        first.kill()
    api.clear()
    with Controller(api):
        wait_for(lambda: not api.all("pods"))
        assert state(api, "box")["phase"] == "Stopped"
        assert "AutoRestarted" not in reasons(api, "box")


@pytest.mark.parametrize("flag, hangs", [("--leader-elect=false", "/status"), ("--leader-elect=true", "/leases")])
def test_sigterm_ends_it_within_its_grace_although_the_apiserver_hangs(api, kubelet, flag, hangs):
    """The chart gives it 15 s; a call has 30."""
    with Controller(api, flag) as started:
        if "leases" in hangs:
            wait_for(started.leads, what="a leader")
        api.on("*", hangs, hang())
        before = len(api.asked("*", hangs))
        make(api, "box")
        wait_for(lambda: len(api.asked("*", hangs)) > before, what="a call that hangs")
        began = datetime.datetime.now(datetime.timezone.utc)
        assert started.stop() == 0
        assert ended_after(started, began) < 14


def test_sigterm_ends_it_soon_and_leaves_sandboxes_alone(api, controller):
    make(api, "box")
    reach(api, "box", "Running")
    began = datetime.datetime.now(datetime.timezone.utc)
    assert controller.stop() == 0
    assert ended_after(controller, began) < 5
    assert len(api.all("pods")) == 1


# ---- leader election ----


def holder(api):
    return (api.get("leases", LEASE, "agenttier") or {"spec": {}})["spec"].get("holderIdentity")


def test_1_1_one_leads_and_hands_over_at_once_on_sigterm(api, kubelet):
    with Controller(api, "--leader-elect") as first:
        wait_for(first.leads)
        with Controller(api, "--leader-elect=true") as second:
            make(api, "one")
            reach(api, "one", "Running")
            time.sleep(2.5)
            assert first.leads() and not second.leads()
            lease = api.get("leases", LEASE, "agenttier")["spec"]
            assert lease["leaseDurationSeconds"] == 15 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", lease["renewTime"])
            mine = holder(api)
            first.stop()
            wait_for(second.leads, 6, 0.05, "the second leads")  # not only when the lease ends, after 15 s
            assert holder(api) not in (None, mine)
            assert api.get("leases", LEASE, "agenttier")["spec"]["leaseTransitions"] == 1
            make(api, "two")
            reach(api, "two", "Running")
            made_once(api, "two")


def test_1_1_a_killed_leader_is_followed_after_the_leases_time(api, kubelet):
    with Controller(api, "--leader-elect") as first:
        wait_for(first.leads)
        with Controller(api, "--leader-elect") as second:
            time.sleep(2.5)
            first.kill()
            renewed = api.get("leases", LEASE, "agenttier")["spec"]["renewTime"]
            make(api, "box")
            wait_for(second.leads, 60, 0.1, "the second leads")
            taken = api.get("leases", LEASE, "agenttier")["spec"]["acquireTime"]
            waited = datetime.datetime.fromisoformat(taken[:26]) - datetime.datetime.fromisoformat(renewed[:26])
            assert waited.total_seconds() >= 14.9, "it did not wait for the lease to end"
            reach(api, "box", "Running")


def test_1_1_who_cannot_renew_stops_to_work_and_works_again(api, kubelet):
    with Controller(api, "--leader-elect") as first:
        wait_for(first.leads)
        api.on("*", "/leases", status(503))
        wait_for(lambda: not first.leads(), 60, 0.1, "it stops to lead")
        # Before the lease ends, after 15 s, and with it the time in which nobody else leads.
        renewed = api.get("leases", LEASE, "agenttier")["spec"]["renewTime"]
        (ended,) = first.records("not leading any more")
        took = datetime.datetime.fromisoformat(ended["time"][:26] + "+00:00") - datetime.datetime.fromisoformat(renewed[:-1] + "+00:00")
        assert took.total_seconds() < 15
        kubelet.paused = True
        make(api, "box")
        time.sleep(1)
        assert not state(api, "box") and not api.all("pods"), "it wrote without leading"
        api.clear()
        kubelet.paused = False
        wait_for(first.leads, 60, 0.1, "it leads again")
        reach(api, "box", "Running")


# ---- custom resource definitions ----


def serve_crds(api):
    """What an apiserver does with definitions: it serves them."""
    def run():
        while not api.stopping.wait(0.05):
            for crd in api.all("customresourcedefinitions"):
                if not crd.get("status"):
                    api.set_status("customresourcedefinitions", crd["metadata"]["name"],
                                   conditions=[{"type": "Established", "status": "True"}])
    threading.Thread(target=run, daemon=True).start()


def test_1_1_definitions_are_applied_and_replaced_when_they_differ(api, kubelet):
    serve_crds(api)
    api.put("customresourcedefinitions", {"metadata": {"name": CRDS[0], "labels": {"mine": "1"}, "annotations": {"a": "b"}},
                                          "spec": {"group": "agenttier.io", "old": True}})
    with Controller(api, crds=True):
        make(api, "box")
        reach(api, "box", "Running")
    found = {c["metadata"]["name"]: c for c in api.all("customresourcedefinitions")}
    assert sorted(found) == sorted(CRDS)
    first = found[CRDS[0]]
    assert first["metadata"]["labels"]["mine"] == "1" and first["metadata"]["annotations"]["a"] == "b"
    assert first["spec"]["names"]["kind"] == "Sandbox" and "old" not in first["spec"]
    version = first["spec"]["versions"][0]
    assert version["served"] is True and version["subresources"] == {"status": {}}
    size = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["storage"]["properties"]["size"]
    assert size["default"] == "10Gi"
    versions = {n: c["metadata"]["resourceVersion"] for n, c in found.items()}
    with Controller(api, crds=True) as again:
        wait_for(again.leads, what="the start")  # definitions come first
    assert versions == {c["metadata"]["name"]: c["metadata"]["resourceVersion"] for c in api.all("customresourcedefinitions")}


def test_1_1_without_the_right_definitions_are_left_to_others(api, kubelet):
    api.forbidden.add(("*", "customresourcedefinitions"))
    with Controller(api, crds=True) as started:
        make(api, "box")
        reach(api, "box", "Running")
        assert "left to others" in started.text()
    assert not api.all("customresourcedefinitions")


# ---- the command line ----


def test_I15_I37_the_start_names_permissions_that_the_account_lacks(api):
    api.forbidden |= {("create", "pods/exec"), ("watch", "networkpolicies", "one"), ("update", "leases", "agenttier")}
    for flags, wanted in (((), [("pods/exec", "create", "(all)")]), (("--watch-namespaces=one,two", "--leader-elect"), [
            ("networkpolicies.networking.k8s.io", "watch", "one"), ("pods/exec", "create", "one"), ("pods/exec", "create", "two"),
            ("leases.coordination.k8s.io", "update", "agenttier")])):
        started = Controller(api, "--runtime-delivery=exec", *flags).start()
        try:
            wait_for(lambda c=started, n=len(wanted): len(c.records("the account lacks a permission")) == n, what="warnings")
            lines = started.records("the account lacks a permission")
            assert [(x["resource"], x["verbs"], x["namespace"]) for x in lines] == wanted
        finally:
            started.kill()
            shutil.rmtree(started.folder, ignore_errors=True)
    api.forbidden.clear()
    with Controller(api, "--runtime-delivery=exec") as allowed:
        wait_for(lambda: "has all permissions that it needs" in allowed.log.read_text(), what="the check")


def run(*arguments, **env):
    return subprocess.run([str(PROGRAM), *arguments], capture_output=True, text=True, timeout=60, check=False,
                          env=clean_environment(**env))


def test_the_command_line():
    done = run("--help")
    assert done.returncode == 0 and "--leader-elect" in done.stdout and "kubectl apply" in done.stdout
    assert run("--version").stdout.startswith("agenttier-controller ")
    for wrong in ("--nonsense", "nonsense", "--max-concurrency=0", "--max-concurrency=many", "--runtime-delivery=mail", "--leader-elect=perhaps",
                  "--creation-deadline=soon", "--default-storage-size=big", "--enable-webhook", "--backup-snapshots=perhaps", "--backup-interval=soon", "--namespace"):
        done = run(wrong)
        assert done.returncode == 2 and done.stderr.startswith("agenttier-controller: "), wrong
    assert run("--enable-webhook=false", "--webhook-failure-policy=Fail", "--backup-interval=6h", "--kubeconfig=/nonexistent",
               "--runtime-delivery=none").returncode == 1
    done = run("--kubeconfig=/nonexistent", "--runtime=/nonexistent")
    assert done.returncode == 1 and "--runtime" in done.stderr


def test_1_1_probes_and_metrics(api, controller):
    for path in ("/healthz", "/readyz"):
        assert controller.get(controller.health, path).text == "ok"
    assert controller.get(controller.health, "/metrics").status_code == 404
    assert httpx.post(f"http://127.0.0.1:{controller.health}/healthz", content=b"x" * 100000, timeout=20).status_code == 405
    make(api, "box")
    reach(api, "box", "Running")
    wait_for(lambda: controller.metric('agenttier_controller_sandboxes{phase="Running"}') == 1, what="the answer to what it wrote")
    assert controller.metric("agenttier_controller_pods_created_total") == 1


def test_logs_are_json_lines(api, controller):
    make(api, "box")
    reach(api, "box", "Running")
    assert controller.stop() == 0
    for line in controller.text().splitlines():
        json.loads(line)
    assert "token" not in controller.text()


def test_only_the_named_namespaces_are_served(api, kubelet):
    with Controller(api, "--watch-namespaces=mine,yours"):
        make(api, "box")
        api.put("sandboxes", {"metadata": {"name": "his", "namespace": "mine"}, "spec": {}})
        wait_for(lambda: api.get("sandboxes", "his", "mine").get("status", {}).get("phase") == "Running")
        assert not state(api, "box")
    assert os.path.exists(PROGRAM)


# ---- the runtime, sent over pods/exec ----


@pytest.fixture
def pods_exec(api, tmp_path):
    """Containers are directories of this machine here: the real script in a real shell, the real runtime."""
    runtime, port = tmp_path / "volume", free_port()
    runtime.mkdir()
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 1\nexec /bin/sh -c "$2" "$3" {runtime} "$5" 127.0.0.1:{port}\n')
    shell.chmod(0o755)
    served = FakeExec(tmp_path, shell=(str(shell),), tls=False)

    def serve(request, connection):
        served.handle(connection.sock, request.method, request.headers, request.target)
        raise Gone  # what follows on this connection are no requests

    api.route("/exec$", serve)
    served.runtime_port, served.volume = port, runtime
    yield served
    served.close()
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if str(runtime) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            pass  # it is gone


@pytest.fixture
def sender(api, pods_exec):
    with Controller(api, "--runtime-delivery=exec", f"--runtime={BUILD / 'agenttier-runtime'}") as started:
        yield started


def start_pod(api, name="box", container="containerd://1"):
    """As a kubelet does, with the container's id."""
    wait_for(lambda: api.get("pods", f"{name}-pod", "default"), 60, 0.02)
    api.set_status("pods", f"{name}-pod", "default", phase="Running", conditions=[{"type": "Ready", "status": "True"}], containerStatuses=[
        {"name": "sandbox", "containerID": container, "ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}])


def marked(api, name="box"):
    return (api.get("pods", f"{name}-pod", "default")["metadata"].get("annotations") or {}).get("agenttier.io/runtime-ready")


def token_of(api, name="box"):
    return base64.b64decode(api.get("secrets", f"{name}-runtime-token", "default")["data"]["token"]).decode()


def test_the_runtime_is_sent_started_and_said_to_be_ready(api, pods_exec, sender):
    make(api, "box")
    start_pod(api)
    reach(api, "box", "Running")
    wait_for(lambda: marked(api) == "containerd://1", 60, 0.05, "the runtime")
    assert (pods_exec.volume / "agenttier-runtime").read_bytes() == (BUILD / "agenttier-runtime").read_bytes()
    assert [p.name for p in pods_exec.volume.iterdir()] == ["agenttier-runtime"]
    token, url = token_of(api), f"http://127.0.0.1:{pods_exec.runtime_port}"
    assert get(url + "/healthz", 20).json()["status"] == "ok"
    command = {"command": ["/bin/sh", "-c", "env; cat /proc/$PPID/environ /proc/*/cmdline 2>/dev/null"]}
    assert httpx.post(url + "/exec", json=command, timeout=60).status_code == 401
    answer = httpx.post(url + "/exec", json=command, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code == 200 and token not in answer.text, "O7: the token is in an environment or a command line"
    ((_, target, _),) = pods_exec.requests
    assert token not in target and "container=sandbox" in target
    assert token not in sender.text()


def test_W39_a_runtime_that_is_killed_is_replaced(api, pods_exec, sender):
    make(api, "box")
    start_pod(api)
    wait_for(lambda: marked(api))
    url = f"http://127.0.0.1:{pods_exec.runtime_port}"

    def processes():
        found = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if str(pods_exec.volume) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass  # it is gone
        return found

    there = processes()
    (keeper,) = [pid for pid, parent in there.items() if parent not in there]
    for pid in there:
        if pid != keeper:
            with contextlib.suppress(ProcessLookupError):  # what has answered that it serves may have ended meanwhile
                os.kill(pid, signal.SIGKILL)

    def answers():
        try:
            return get(url + "/healthz").status_code == 200
        except httpx.HTTPError:
            return False
    wait_for(answers, 60, 0.1, "another one answers")
    assert httpx.post(url + "/exec", json={"command": ["true"]}, headers={"Authorization": f"Bearer {token_of(api)}"}, timeout=60).status_code == 200
    for pid, parent in processes().items():
        if parent == keeper:
            os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes(), 60, 0.1, "it ends when it is asked to")


@pytest.mark.parametrize("fault", [{"refuse": (403, '{"kind":"Status","message":"forbidden"}')}, {"refuse": (500, "x")}, {"refuse_v5": True},
                                   {"cut_after": 0, "messages": [b"\x02x"], "no_status": True}, {"status": b"not json"}, {"raw": b"HTTP/1.1 200 OK\r\n\r\n"}])
def test_I12_S23_a_bad_pods_exec_costs_no_sandbox_and_is_tried_again(api, pods_exec, sender, fault):
    pods_exec.faults = fault
    make(api, "box")
    began = time.monotonic()
    start_pod(api)
    reach(api, "box", "Running")
    if "refuse_v5" not in fault:
        wait_for(lambda: pods_exec.requests)
        time.sleep(0.5)
        assert not marked(api) and state(api, "box")["phase"] == "Running"
        pods_exec.faults = {}
    before = len(pods_exec.requests)
    # Attempts of two requests, as v5 may be what is refused; a second after the first, two after the second, four.
    assert before <= 2 * (1 + math.log2(time.monotonic() - began + 1))
    wait_for(lambda: marked(api) == "containerd://1", 60, 0.05, "the runtime")
    assert len(pods_exec.requests) - before <= 2


def test_a_restarted_container_gets_it_again_and_another_controller_does_not_send_it_twice(api, pods_exec, kubelet):
    kubelet.paused = True
    flags = ("--runtime-delivery=exec", f"--runtime={BUILD / 'agenttier-runtime'}")
    with Controller(api, *flags):
        make(api, "box")
        start_pod(api)
        wait_for(lambda: marked(api))
    with Controller(api, *flags):
        time.sleep(1)
        assert len(pods_exec.requests) == 1
        start_pod(api, container="containerd://2")
        wait_for(lambda: marked(api) == "containerd://2")
        assert len(pods_exec.requests) == 2


def test_S16_the_token_of_another_sandbox_is_never_sent(api, pods_exec, sender):
    make(api, "box")
    wait_for(lambda: api.get("secrets", "box-runtime-token", "default"))
    stolen = api.get("secrets", "box-runtime-token", "default")
    stolen["metadata"]["ownerReferences"][0]["uid"] = "another"
    api.put("secrets", stolen)
    start_pod(api)
    reach(api, "box", "Running")
    time.sleep(1.5)
    assert not pods_exec.requests and not marked(api)


def test_O5_S16_a_pod_that_another_one_replaced_unseen_gets_no_token(api, pods_exec, sender):
    """pods/exec knows a pod by its name only: it is asked whose the name is before anything is sent."""
    make(api, "box")
    wait_for(lambda: api.get("pods", "box-pod", "default"), 60, 0.02)
    other = api.get("pods", "box-pod", "default")
    other["metadata"]["uid"] = "another"
    api.on("GET", r"/pods/box-pod$", body(other))
    start_pod(api)
    reach(api, "box", "Running")
    wait_for(lambda: api.asked("GET", r"/pods/box-pod$"), what="the question")
    time.sleep(1)
    assert not list(pods_exec.volume.iterdir()) and not marked(api)
    api.clear()
    start_pod(api, container="containerd://2")
    wait_for(lambda: marked(api) == "containerd://2", 60, 0.05, "the runtime")


def test_no_exec_where_the_template_says_no(api, pods_exec, sender):
    api.put("clustersandboxtemplates", {"metadata": {"name": "plain"}, "spec": {"harness": {"useHTTPExec": False}}})
    api.put("sandboxes", {"metadata": {"name": "box", "namespace": "default"}, "spec": {"templateRef": {"name": "plain", "kind": "ClusterSandboxTemplate"}}})
    start_pod(api)
    reach(api, "box", "Running")
    time.sleep(0.5)
    assert not pods_exec.requests and not api.all("secrets")
