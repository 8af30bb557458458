"""The way into sandboxes on Kubernetes, by the real Router: a scripted apiserver whose pods/exec really runs commands,
a real agenttier-runtime at a pod's address, and runtimes that are old, wrong or dead."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from cluster_router import ClusterRouter, harness, sandbox
from fake_apiserver import hang, status
from fake_exec import FakeExec, part

RUNTIME = pathlib.Path(os.environ.get("AGENTTIER_RUNTIME", pathlib.Path(harness.BINARY).with_name("agenttier-runtime")))
TOKEN = "token-of-box"
LONG = 60  # for what comes without fail, however busy the machine
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def address():
    """An address of this machine that looks like a pod's: S15 refuses loopback addresses. One of the range that is
    set aside for tests (RFC 2544), on the loopback interface, so that nothing of it leaves the machine."""
    if os.geteuid() != 0:
        pytest.skip("only root can give this machine an address for the tests")
    pid = os.getpid()
    found = f"198.18.{pid // 250 % 256}.{1 + pid % 250}"
    subprocess.run(["ip", "address", "replace", f"{found}/32", "dev", "lo"], check=True, timeout=10)
    yield found
    subprocess.run(["ip", "address", "del", f"{found}/32", "dev", "lo"], check=True, timeout=10)


@pytest.fixture
def pods(api, tmp_path):
    """pods/exec of the apiserver."""
    fake = FakeExec(tmp_path, token=None, listen=False)

    def handle(request, connection):
        fake.handle(connection.sock, request.method, request.headers, request.target)
        part(connection.sock)

    api.route(r"/pods/[^/]+/exec$", handle)
    yield fake
    fake.close()


def put(api, name="box", ip="192.0.2.9", uid=None, owner_uid=None, **status):
    """A Running sandbox and its pod."""
    api.put("sandboxes", {**sandbox(name), "status": {"phase": "Running", "podName": name + "-pod"}})
    put_pod(api, name, ip, owner_uid, **status)


def put_pod(api, name="box", ip="192.0.2.9", owner_uid=None, annotations=None, spec=None, **status):
    metadata = {"name": name + "-pod", "namespace": "default", "annotations": annotations or {},
                "labels": {"agenttier.io/managed": "true", "agenttier.io/sandbox": name}}
    if owner_uid:
        metadata["ownerReferences"] = [{"kind": "Sandbox", "name": name, "uid": owner_uid,
                                        "apiVersion": "agenttier.io/v1alpha1", "controller": True}]
    api.put("pods", {"metadata": metadata, "spec": {"containers": [{"name": "sandbox"}], **(spec or {})}, "status": {
        "phase": "Running", "podIP": ip, "containerStatuses": [
            {"name": "sandbox", "containerID": "containerd://1", "state": {"running": {}}}], **status}})


def put_token(api, name="box", token=TOKEN):
    import base64
    api.put("secrets", {"metadata": {"name": f"{name}-runtime-token", "namespace": "default"},
                        "data": {"token": base64.b64encode(token.encode()).decode()}})


class Box:
    def __init__(self, router, name="box"):
        self.client, self.base = router.client(), f"/api/v1/sandboxes/{name}"

    def run(self, command, **body):
        return self.client.post(self.base + "/exec", json={"command": command, **body}, timeout=60)

    def get(self, path):
        return self.client.get(self.base + path, timeout=60)

    def put(self, path, data):
        return self.client.put(self.base + path, content=data, timeout=60)


@pytest.fixture
def box(api, router, pods):
    put(api)
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")
    return box


@pytest.fixture
def runtime(address, tmp_path):
    process = subprocess.Popen([RUNTIME, f"--listen-addr={address}:9000"], stdin=subprocess.DEVNULL, start_new_session=True,
                               env={"AGENTTIER_RUNTIME_TOKEN": TOKEN, "PATH": os.environ["PATH"]}, cwd=tmp_path)
    harness.wait_for(lambda: listens(address), LONG, 0.02, "the runtime")
    yield process
    process.kill()
    process.wait()


def listens(address, port=9000):
    try:
        socket.create_connection((address, port), 1).close()
        return True
    except OSError:
        return False


def ways(router):
    return {way: router.metric(f'agenttier_access_streams_total{{way="{way}"}}') for way in ("runtime", "reference", "exec", "direct")}


def by_runtime(box, router, way="runtime"):
    """Waits until commands go by the runtime. One that was held up when it was asked is taken for none, for ten seconds."""
    harness.wait_for(lambda: box.run("true").status_code == 200 and ways(router)[way] > 0, LONG, 0.05, "the runtime in use")


def execs(api):
    return len(api.asked("GET", "/exec[?]"))


# ---- pods/exec ----


@pytest.mark.tsan
def test_commands_and_files_over_pods_exec(box, tmp_path):
    r = box.run("echo out; echo err >&2; exit 3")
    assert r.status_code == 200, r.text
    assert (r.json()["stdout"], r.json()["stderr"], r.json()["exitCode"]) == ("out\n", "err\n", 3)
    data = os.urandom(3_000_000)
    r = box.put(f"/files{tmp_path}/sub/f", data)
    assert r.status_code == 201 and r.json() == {"path": f"{tmp_path}/sub/f", "bytes": 3_000_000}
    r = box.get(f"/files{tmp_path}/sub/f")
    assert r.content == data and r.headers["Content-Length"] == "3000000"
    assert [e["name"] for e in box.get(f"/files/?path={tmp_path}/sub").json()["entries"]] == ["f"]
    assert box.get(f"/files{tmp_path}/none").status_code == 404
    assert box.run("sleep 30", timeout=1).json()["timedOut"] is True


def test_W05_transport_failures_are_no_exit_codes(api, box, pods):
    pods.faults = {"refuse": (403, '{"kind":"Status","reason":"Forbidden","message":"no pods/exec"}')}
    r = box.run("true")
    assert (r.status_code, r.json()["code"]) == (403, "kubernetes_forbidden")
    pods.faults = {"refuse": (500, "{}")}
    assert box.run("true").json()["code"] == "sandbox_unreachable"
    assert box.get("/files/tmp/x").status_code == 502


def test_I17_at_most_32_execs_of_a_sandbox(box, api, tmp_path):
    results = []
    command = f"until test -e {tmp_path}/gate; do sleep 0.3; done"
    threads = [threading.Thread(target=lambda: results.append(box.run(command).status_code)) for _ in range(40)]
    for thread in threads:
        thread.start()
    harness.wait_for(lambda: len(results) == 8, LONG, what="the refusals")
    assert results == [429] * 8
    (tmp_path / "gate").touch()
    for thread in threads:
        thread.join()
    assert sorted(results) == [200] * 32 + [429] * 8
    assert box.run("true").status_code == 200


# ---- the pod ----


@pytest.mark.parametrize("says", ['exec /bin/sh "$@"', "echo nonsense; sleep 1"])
def test_I3_a_command_given_up_before_it_began(box, pods, router, tmp_path, says):
    """It never begins, and nothing of it is left."""
    gate, given_up = tmp_path / "gate", len(pods.processes) + 3
    pods.shell = ["/bin/sh", "-c", f"until test -e {gate}; do sleep 0.1; done; " + says, "sh"]
    deadline = time.monotonic() + LONG
    while len(pods.processes) < given_up:
        assert time.monotonic() < deadline, "the Router asks for no shell"
        with pytest.raises(httpx.TimeoutException):
            box.client.post(box.base + "/exec", json={"command": f"touch {tmp_path}/begun; sleep 60"}, timeout=0.6)
    harness.wait_for(lambda: router.metric("agenttier_pod_exec_streams") == 0, LONG, 0.1, "the streams' end")
    gate.touch()
    harness.wait_for(lambda: all(p.poll() is not None for p in pods.processes), LONG, what="the shells' end")
    pods.shell = ["/bin/sh"]
    assert box.run("echo well").json()["stdout"] == "well\n"
    assert not (tmp_path / "begun").exists()
    assert router.process.poll() is None, router.tail()


class Soon:
    """Runs an action as soon as a file is there, by which a command says that it has begun."""

    def __init__(self, file, action):
        self.file, self.action, self.at = file, action, None
        self.thread = threading.Thread(target=self._wait)

    def _wait(self):
        harness.wait_for(self.file.exists, LONG, 0.01, f"{self.file}")
        self.at = time.monotonic()
        self.action()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()


def test_a_pod_that_goes_says_why(box, api, tmp_path):
    cases = [
        ("pod_deleted", lambda: api.remove("pods", "box-pod", "default")),
        ("pod_evicted", lambda: api.set_status("pods", "box-pod", "default", phase="Failed", reason="Evicted")),
        ("out_of_memory", lambda: api.set_status("pods", "box-pod", "default", containerStatuses=[
            {"name": "sandbox", "containerID": "containerd://1",
             "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}])),
        ("node_lost", lambda: api.set_status("pods", "box-pod", "default", conditions=[
            {"type": "Ready", "status": "False", "reason": "NodeNotReady"}])),
        ("container_restarted", lambda: api.set_status("pods", "box-pod", "default", containerStatuses=[
            {"name": "sandbox", "containerID": "containerd://2", "state": {"running": {}}}])),
    ]
    for code, action in cases:
        put_pod(api)
        harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "the pod again")
        with Soon(tmp_path / code, action) as gone:
            r = box.run(f"touch {gone.file}; sleep 50")
            answered = time.monotonic()
        assert (r.status_code, r.json()["code"]) == (502, code) and answered - gone.at < 5
        if api.get("pods", "box-pod", "default"):
            api.remove("pods", "box-pod", "default")


def test_a_killed_command_of_a_deleted_pod_is_no_outcome(box, api, pods):
    """Its status comes first."""
    pods.faults = {"status": json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {
        "causes": [{"reason": "ExitCode", "message": "137"}]}}).encode(),
        "told": lambda: (time.sleep(0.1), api.remove("pods", "box-pod", "default"))}
    r = box.run("kill -9 $$")
    assert (r.status_code, r.json()["code"]) == (502, "pod_deleted")


def test_a_stream_that_breaks_with_a_pod_under_deletion_says_so(box, api, pods, tmp_path):
    def begin_deletion():
        pod = api.get("pods", "box-pod", "default")
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        api.put("pods", pod)
        (tmp_path / "gate").touch()

    pods.faults = {"no_status": True}
    with Soon(tmp_path / "begun", begin_deletion) as soon:
        r = box.run(f"touch {soon.file}; until test -e {tmp_path}/gate; do sleep 0.1; done")
    assert (r.status_code, r.json()["code"]) == (502, "pod_deleted")


def test_a_killed_command_of_a_living_pod_is_one(box):
    assert box.run("kill -9 $$").json()["exitCode"] == 137


def test_O5_S16_pods_of_others_are_not_used(box, api):
    api.remove("pods", "box-pod", "default")
    put_pod(api, owner_uid="11111111-1111-1111-1111-111111111111")
    harness.wait_for(lambda: box.run("true").status_code == 409, LONG, 0.05, "a refusal")
    assert box.run("true").json()["code"] == "sandbox_not_running"


# ---- the runtime ----


def replace_pod(api, **metadata):
    """Somebody else's sandbox has the name by now, and so its pod; the watches have not told."""
    old = api.get("pods", "box-pod", "default")
    api.remove("pods", "box-pod", "default")
    fresh = {k: v for k, v in old["metadata"].items() if k not in ("uid", "resourceVersion", "creationTimestamp")}
    api.put("pods", {**old, "metadata": {**fresh, **metadata}})


def test_O5_S16_a_pod_that_another_one_replaced_unseen_is_sent_nothing(box, api, pods, tmp_path):
    api.silent = True
    replace_pod(api)
    before = execs(api)
    for r in (box.run(f"touch {tmp_path}/command"), box.put(f"/files{tmp_path}/file", b"secret"), box.get("/files/etc/hostname"),
              box.run(f"touch {tmp_path}/kept", detach=True), box.client.get(box.base + "/exec/x-unknown")):
        assert (r.status_code, r.json()["code"]) == (404, "sandbox_not_found"), r.text
    assert execs(api) == before + 5 and not list(tmp_path.glob("command")) + list(tmp_path.glob("file")) + list(tmp_path.glob("kept"))
    api.silent = False


def test_pods_exec_when_nobody_says_whose_the_pod_is(box, api, router, tmp_path):
    for refusal, code in (((503, "unavailable"), 503), ((403, "kubernetes_forbidden"), 403)):
        api.on("GET", "/pods/box-pod$", status(refusal[0], "Forbidden", 'User "r" cannot get resource "pods" in API group ""'))
        r = box.run(f"touch {tmp_path}/command")
        assert (r.status_code, r.json()["code"]) == (code, refusal[1]), r.text
        api.clear()
    api.on("GET", "/pods/box-pod$", hang(), times=1)
    asked, began = len(api.asked("GET", "/pods/box-pod$")), time.monotonic()
    body = json.dumps({"command": f"touch {tmp_path}/command"})
    with harness.Raw(router) as raw:
        raw.send(f"POST {box.base}/exec HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        harness.wait_for(lambda: len(api.asked("GET", "/pods/box-pod$")) > asked, LONG, 0.01, "the question")
    assert box.run("echo others").json()["stdout"] == "others\n" and time.monotonic() - began < 20
    assert not list(tmp_path.glob("command"))
    api.stopping.set()


def use_runtime(api, address, **more):
    put_token(api)
    put_pod(api, ip=address, **more)


def test_runtime_is_used_and_trusted_by_its_token(api, router, pods, runtime, address, tmp_path):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router)
    before = execs(api)
    assert box.run("echo $PPID; exit 4").json()["exitCode"] == 4
    data = os.urandom(32 << 20)
    assert box.put(f"/files{tmp_path}/f", data).status_code == 201
    assert box.get(f"/files{tmp_path}/f").content == data
    assert execs(api) == before and ways(router)["runtime"] > 0
    assert len(api.asked("GET", "runtime-token")) == 1  # W63: known, and not asked for again


def test_W63_a_runtime_that_is_gone_falls_back_before_anything_was_sent(api, router, pods, runtime, address, tmp_path):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router)
    used, fallbacks = ways(router)["exec"], router.metric("agenttier_access_fallbacks_total")
    runtime.kill()
    runtime.wait()
    data = os.urandom(300_000)
    assert box.put(f"/files{tmp_path}/f", data).status_code == 201
    assert (tmp_path / "f").read_bytes() == data
    assert box.run("echo still").json()["stdout"] == "still\n"
    assert ways(router)["exec"] == used + 2 and router.metric("agenttier_access_fallbacks_total") == fallbacks + 1


def test_runtime_that_dies_with_the_command_leaves_its_outcome_unknown(api, router, pods, runtime, address, tmp_path):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router)
    before = execs(api)
    with Soon(tmp_path / "begun", lambda: os.killpg(runtime.pid, 9)) as soon:
        r = box.run(f"touch {soon.file}; sleep 50")
    assert (r.status_code, r.json()["code"]) == (502, "exec_outcome_unknown")
    assert execs(api) == before  # nothing was run twice


def test_runtime_sent_by_the_controller_is_used_when_it_is_ready(api, router, pods, runtime, address):
    put_token(api)
    put(api, ip=address, annotations={"agenttier.io/runtime-delivery": "exec"})
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")
    assert ways(router)["runtime"] == 0 and not api.asked("GET", "runtime-token")
    put_pod(api, ip=address, annotations={"agenttier.io/runtime-delivery": "exec",
                                          "agenttier.io/runtime-ready": "containerd://1"})
    harness.wait_for(lambda: box.run("true").status_code == 200 and ways(router)["runtime"] > 0, LONG, 0.1, "the runtime")


def detached(box, command):
    r = box.run(command, detach=True)
    assert r.status_code == 202, r.text
    return r.json()["execId"]


def test_kept_commands_are_found_whichever_way_they_were_begun(api, router, pods, runtime, address, tmp_path):
    """What one Router began over pods/exec, because the runtime was not there for it, another finds behind the runtime, and
    the other way round: 404 comes from knowledge."""
    put(api, ip=address)
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")
    by_exec = detached(box, "echo by exec")  # without its token the runtime is none
    sleeper = detached(box, f"sleep 1000; echo {tmp_path}")
    put_token(api)
    with ClusterRouter(api) as second:
        other = Box(second)
        by_runtime(other, second)
        behind = detached(other, "echo by the runtime")
        for each in (other, box):
            for id_, said in ((by_exec, "by exec\n"), (behind, "by the runtime\n")):
                r = each.get(f"/exec/{id_}?wait=20")
                assert r.status_code == 200 and r.json()["stdout"] == said, (id_, r.text)
            for r in (each.get("/exec/x-unknown"), each.client.delete(each.base + "/exec/x-unknown")):
                assert (r.status_code, r.json()["code"]) == (404, "exec_not_found"), r.text
        assert other.client.delete(f"{other.base}/exec/{sleeper}").status_code == 204
        ended = other.get(f"/exec/{sleeper}?wait=20").json()
        assert ended["killed"], ended
    for id_ in (by_exec, sleeper):
        shutil.rmtree(f"/tmp/.agenttier-exec/{id_}")


def test_I31_a_command_that_shall_run_once_is_not_begun_again_elsewhere(api, router, pods, runtime, address, tmp_path):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router)
    once = {"json": {"command": f"echo ran >> {tmp_path}/ran"}, "headers": {"Idempotency-Key": "one"}, "timeout": 60}
    r = box.client.post(box.base + "/exec", **once)
    assert r.status_code == 200 and r.json()["exitCode"] == 0, r.text
    kept = detached(box, "echo kept")
    runtime.kill()
    runtime.wait()
    for router_ in (router, None):  # one that knew the runtime, and one that has just started
        with contextlib.ExitStack() as stack:
            each = Box(router_ or stack.enter_context(ClusterRouter(api)))
            r = each.client.post(each.base + "/exec", **once)
            assert (r.status_code, r.json()["code"]) == (503, "unavailable") and r.headers["Retry-After"], r.text
            for r in (each.get(f"/exec/{kept}"), each.client.delete(f"{each.base}/exec/{kept}")):
                assert (r.status_code, r.json()["code"]) == (503, "unavailable"), r.text
            assert each.run("echo still").json()["stdout"] == "still\n", "other commands go over pods/exec"
    assert (tmp_path / "ran").read_text() == "ran\n"


@pytest.mark.parametrize("stdin", ["", "x" * 300_000], ids=["without-input", "with-input"])
def test_I31_a_command_that_was_begun_before_the_runtime_came_is_not_begun_again(api, router, pods, runtime, address, tmp_path, stdin):
    put_token(api)
    coming = {"agenttier.io/runtime-delivery": "exec"}
    put(api, ip=address, annotations=coming)
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")

    def post(command=f"echo ran >> {tmp_path}/ran; wc -c; echo err >&2; exit 3", key="one", **body):
        return box.client.post(box.base + "/exec", json={"command": command, **body}, headers={"Idempotency-Key": key}, timeout=60)

    first = post(stdin=stdin)
    assert first.status_code == 200 and first.json()["exitCode"] == 3, first.text
    slow = {"command": f"echo slow >> {tmp_path}/slow; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo end", "key": "slow", "stdin": stdin}
    begun = post(**slow, detach=True)
    assert begun.status_code == 202, begun.text
    assert ways(router)["runtime"] == 0
    put_pod(api, ip=address, annotations={**coming, "agenttier.io/runtime-ready": "containerd://1"})
    harness.wait_for(lambda: box.run("true").status_code == 200 and ways(router)["runtime"] > 0, LONG, 0.1, "the runtime")
    again = post(stdin=stdin)
    assert again.status_code == 200, again.text
    assert {k: v for k, v in again.json().items() if k != "durationMs"} == {k: v for k, v in first.json().items() if k != "durationMs"}
    assert again.json()["stdout"].strip() == str(len(stdin)) and again.json()["stderr"] == "err\n"
    other = post("echo other", stdin=stdin)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused"), other.text
    repeated = post(**slow, detach=True)  # it is still running
    assert (repeated.status_code, repeated.json()["execId"]) == (202, begun.json()["execId"]), repeated.text
    (tmp_path / "go").touch()
    assert box.get(f"/exec/{begun.json()['execId']}?wait=20").json()["stdout"] == "end\n"
    assert (tmp_path / "ran").read_text() == "ran\n" and (tmp_path / "slow").read_text() == "slow\n"
    fresh = post("echo fresh", key="two")  # what nobody has begun is the runtime's
    before = execs(api)
    assert fresh.json()["stdout"] == "fresh\n" and post("echo fresh", key="two").json() == fresh.json() and execs(api) == before
    kept = [pathlib.Path("/tmp/.agenttier-exec", answer.json()["execId"]) for answer in (first, begun)]
    harness.wait_for(lambda: (kept[1] / "end").exists(), LONG, 0.1, "the end of the slow command")
    shutil.rmtree(kept[1])
    (kept[0] / "at").write_text(f"{int(time.time()) - 601}\n")  # ten minutes after its end nothing is known of it
    gone = post(stdin=stdin)
    assert (gone.status_code, gone.headers["Retry-After"]) == (503, "1"), gone.text
    assert post(stdin=stdin).json()["exitCode"] == 3 and (tmp_path / "ran").read_text() == "ran\nran\n"
    assert not kept[0].exists()


def test_O5_the_token_of_a_later_sandbox_is_not_used_for_an_earlier_one(api, router, pods, runtime, address):
    """The Secret has the sandbox's name: after a deletion it may be another's."""
    put(api, ip=address)
    put_token(api)
    secret = api.get("secrets", "box-runtime-token", "default")
    api.put("secrets", {**secret, "metadata": {**secret["metadata"], "ownerReferences": [
        {"kind": "Sandbox", "name": "box", "uid": "another", "apiVersion": "agenttier.io/v1alpha1"}]}})
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")
    assert ways(router)["runtime"] == 0 and api.asked("GET", "runtime-token")


OLD = r"""
import http.server, json, subprocess, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def say(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.say(200, {"status": "ok"})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer TOKEN": return self.say(401, {"code": 401, "error": "invalid bearer token"})
        unknown = set(body) - {"command", "stdin", "timeoutSeconds", "workingDir", "env"}
        if unknown or self.path != "/exec": return self.say(400, {"code": 400, "error": f"unknown {unknown}"})
        try:
            p = subprocess.run(body["command"], capture_output=True, timeout=body["timeoutSeconds"], cwd=body.get("workingDir") or "/")
        except subprocess.TimeoutExpired:
            return self.say(200, {"exitCode": -1, "stdout": "", "stderr": "", "durationMs": 1, "timedOut": True})
        self.say(200, {"exitCode": p.returncode if p.returncode >= 0 else -1, "stdout": p.stdout.decode(errors="replace"),
                       "stderr": p.stderr.decode(errors="replace"), "durationMs": 12, "timedOut": False})
class S(http.server.ThreadingHTTPServer): request_queue_size = 64
S((sys.argv[1], 9000), H).serve_forever()
""".replace("TOKEN", TOKEN)


@pytest.fixture
def old_runtime(address):
    process = subprocess.Popen([sys.executable, "-c", OLD, address], start_new_session=True)
    harness.wait_for(lambda: listens(address), LONG, 0.02, "the old runtime")
    yield process
    process.kill()
    process.wait()


def test_a_runtime_of_the_reference(api, router, pods, old_runtime, address, tmp_path):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router, "reference")
    before = execs(api)  # commands by its POST /exec
    r = box.run("echo out; echo err >&2; exit 3").json()
    assert (r["stdout"], r["stderr"], r["exitCode"], r["timedOut"]) == ("out\n", "err\n", 3, False)
    assert box.run("sleep 9", timeout=1).json()["timedOut"] is True
    assert execs(api) == before
    data = os.urandom(100_000)  # files by pods/exec
    assert box.put(f"/files{tmp_path}/f", data).status_code == 201 and box.get(f"/files{tmp_path}/f").content == data
    r = box.run("cat", stdin="in")  # exact input needs pods/exec
    assert r.json()["stdout"] == "in" and execs(api) == before + 3


def test_W39_W63_a_runtime_of_the_reference_that_is_gone_falls_back(api, router, pods, old_runtime, address):
    put_token(api)
    put(api, ip=address)
    box = Box(router)
    by_runtime(box, router, "reference")
    before = execs(api)
    old_runtime.kill()
    old_runtime.wait()
    for _ in range(2):
        r = box.run("echo still")
        assert r.status_code == 200 and r.json()["stdout"] == "still\n", r.text
    assert execs(api) == before + 2


@contextlib.contextmanager
def listening(address, serve):
    """At the port of a runtime; `serve` gets each connection, on a thread of its own."""
    listener = socket.create_server((address, 9000), backlog=100)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts, so that the next test has the port
        acceptor.join()
        listener.close()


def test_I7_pods_that_answer_nothing_keep_no_workers_from_others(api, router, pods, address):
    """Each pod is asked for its runtime when it is first used; these take the connection and say nothing."""
    asked = []
    with listening(address, asked.append):
        for i in range(24):
            put_token(api, f"s{i}")
            put(api, f"s{i}", ip=address)
        put_pod(api, "last")  # known only after all the others
        harness.wait_for(lambda: len(router.names()) == 24, LONG, 0.05, "sandboxes in the cache")
        harness.wait_for(lambda: router.metric('agenttier_kubernetes_cached_objects{kind="Pod"}') == 25, LONG, 0.05, "their pods")
        answers = []
        threads = [threading.Thread(target=lambda i=i: answers.append(Box(router, f"s{i}").run("echo ok")))
                   for i in range(24)]
        with router.client() as client:
            for thread in threads:
                thread.start()
            harness.wait_for(lambda: len(asked) >= 4, LONG, 0.01, "as many questions as are asked at once")
            began = time.monotonic()
            assert client.patch("/api/v1/sandboxes/s0", json={"idleTimeout": "20m"}).status_code == 200
            took = time.monotonic() - began
        for thread in threads:
            thread.join()
        assert took < 2.8, took  # a worker that asks a pod is taken for 3 s
        assert [a.status_code for a in answers] == [200] * 24, [a.text for a in answers]


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_S26_an_answer_in_crumbs_costs_nobody_else_the_loop(api, router, pods, address):
    """What listens at the port of a runtime is the sandbox's: it can send a large answer without an end, in pieces that
    each look like its end."""
    def serve(conn):
        with conn, contextlib.suppress(OSError):  # the Router has had enough of it
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if b"/healthz" in conn.recv(65536):
                conn.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')
                return
            conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3000000\r\n" + b" " * 45_000_000)
            time.sleep(1)
            for _ in range(1200):
                conn.sendall(b"0\r\n\r\n")
                time.sleep(0.005)

    with listening(address, serve):
        put_token(api)
        put(api, ip=address)
        box = Box(router)
        harness.wait_for(lambda: box.get("/files/?path=/tmp").status_code == 200, LONG, 0.05, "a pod in the cache")
        before, began = cpu_seconds(router.process), time.monotonic()
        try:
            assert box.run("true", timeout=100).json()["code"] == "exec_outcome_unknown"
        except httpx.RemoteProtocolError:  # the answer had begun with a heartbeat: it is cut
            assert time.monotonic() - began > 15
        spent = cpu_seconds(router.process) - before
    assert spent < 1.2, f"{spent} s of the processor"


# ---- ports ----


@pytest.fixture
def web(address):
    server = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", address, "18123"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    harness.wait_for(lambda: listens(address, 18123), LONG, 0.02, "a server")
    yield 18123
    server.kill()
    server.wait()


def forward(box, port):
    assert box.client.post(box.base + "/ports", json={"port": port}).status_code == 201
    harness.wait_for(lambda: any(p["port"] == port for p in box.get("/ports").json()["ports"]), LONG, 0.05, "the forward")


def test_dial_goes_to_the_pods_address(api, box, address, web):
    put_pod(api, ip=address)
    forward(box, web)
    harness.wait_for(lambda: box.get(f"/preview/{web}/").status_code == 200, LONG, 0.1, "the preview")
    forward(box, 18124)
    r = box.get("/preview/18124/")
    assert (r.status_code, r.json()["code"]) == (502, "port_closed")


@pytest.mark.parametrize("ip, spec", [("127.0.0.1", {}), ("169.254.169.254", {}), ("0.0.0.0", {}), ("::1", {}),
                                      ("fe80::1", {}), ("::ffff:127.0.0.1", {}), ("", {}), ("not an address", {}),
                                      (None, {"hostNetwork": True})])
def test_S15_addresses_that_are_no_pods(api, router, pods, address, ip, spec):
    put(api, ip=address if ip is None else ip, spec=spec)
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code == 200, LONG, 0.05, "a pod in the cache")  # with its address
    forward(box, 18125)
    r = box.get("/preview/18125/")
    assert (r.status_code, r.json()["code"]) == (502, "sandbox_unreachable"), r.text


def test_S16_the_next_pod_at_an_address_is_not_this_one(api, router, pods, runtime, address):
    """The token goes with the pod: the runtime of another sandbox, now at this address, refuses it."""
    put_token(api, token="the token of another")
    put(api, ip=address)
    box = Box(router)
    harness.wait_for(lambda: box.run("true").status_code in (200, 502), LONG, 0.05, "a pod in the cache")
    r = box.run("id")
    assert r.status_code != 200 or execs(api) > 0
