"""Parts of the cluster die while a client works: nothing is lost, nothing happens twice, and all of it
recovers without help. The client goes on by itself, as a careful one does: it repeats a call after 502,
503, 504 or a broken connection, and nothing else."""

import os
import signal
import threading
import time

import httpx
import pytest

import testbed
from harness import TEMPLATE, error_of, wait_for
from testbed import NAMESPACE, PATIENCE, get, kubectl, processes

API = "/api/v1"
REF = {"name": TEMPLATE, "kind": "ClusterSandboxTemplate"}
REPEATABLE = {502, 503, 504}


class Worker:
    """Writes numbered files into a sandbox, one after the other, and reads each back."""

    def __init__(self, api, box):
        self.client = httpx.Client(base_url=api.url, headers=api.headers, timeout=90, trust_env=False)
        self.box = box
        self.written, self.refusals, self.problems = 0, [], []
        self.longest = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _call(self, method, path, **options):
        """Repeats until an answer comes that is one; how long that took is noted."""
        began = time.monotonic()
        while True:
            try:
                answer = self.client.request(method, path, **options)
                if answer.status_code not in REPEATABLE:
                    return answer
                self.refusals.append(answer.status_code)
            except httpx.TransportError as error:
                self.refusals.append(type(error).__name__)
            self.longest = max(self.longest, time.monotonic() - began)
            if time.monotonic() - began > PATIENCE:
                raise AssertionError(f"no answer to {method} {path} within {PATIENCE} s: {self.refusals[-5:]}")
            time.sleep(0.1)

    def _work(self):
        try:
            while not self.ended.is_set():
                n, path = self.written, f"{self.box.base}/files/workspace/n/{self.written}"
                data = f"number {n}\n".encode() * 1000
                answer = self._call("PUT", path, content=data)
                assert answer.status_code == 201, (n, answer.status_code, answer.text[:300])
                answer = self._call("GET", path)
                assert answer.status_code == 200 and answer.content == data, (n, answer.status_code, answer.text[:300])
                self.written += 1
                time.sleep(0.05)
        except Exception as error:  # reported by the test
            self.problems.append(error)

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.written >= 3 or self.problems, PATIENCE, what="the worker at work")
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(PATIENCE + 120)  # its last call may take as long

    def goes_on(self, count=5, timeout=PATIENCE):
        goal = self.written + count
        wait_for(lambda: self.written >= goal or self.problems, timeout, 0.1, f"the client working again: {self.refusals[-5:]}")
        assert not self.problems, self.problems


@pytest.fixture
def box(api, fresh, secured):
    secured.settled()  # what the test before did to the pods is over
    handle = api.sandbox(fresh, key="u1")
    yield handle
    handle.remove()
    handle.client.close()


@pytest.fixture(autouse=True)
def nothing_lost_nothing_twice(api, box):
    """After each fault: the same sandbox, pod and volume, everything written is there, one pod for each sandbox."""
    before = (box.resource()["metadata"]["uid"], box.pod()["metadata"]["uid"])
    yield
    wait_for(testbed.api_ready, PATIENCE, 0.2, "the API server")
    assert (box.resource()["metadata"]["uid"], box.pod()["metadata"]["uid"]) == before
    assert box.status() == "Running"
    for sandbox in get("sandboxes.agenttier.io", "-n", "default"):
        name = sandbox["metadata"]["name"]
        live = [p for p in get("pods", "-n", "default", "-l", f"agenttier.io/sandbox={name}") if not p["metadata"].get("deletionTimestamp")]
        assert len(live) <= 1, name


def check_all_there(box, worker):
    assert not worker.problems, worker.problems
    listed = box.run("ls /workspace/n | wc -l").strip()
    assert int(listed) in (worker.written, worker.written + 1), (listed, worker.written)
    assert box.run("cat /workspace/n/* | sort -u | wc -l").strip() == listed
    print(f"{worker.written} files; refused {len(worker.refusals)} times; longest wait {worker.longest:.1f} s")


def make_once(api, client, name, timeout=PATIENCE):
    """Creates a sandbox as a careful client does: repeats after 503, takes 409 for done; waits until it runs."""
    wait_for(lambda: client.post(API + "/sandboxes", json={"name": name, "templateRef": REF}).status_code in (201, 409), timeout, 0.5, f"{name} made")
    made = testbed.Sandbox(api, client, name)

    def running():
        answer = made.get()
        assert answer.status_code in (200, 503), answer.text  # 503: a replica that does not know yet; never 404
        return answer.status_code == 200 and answer.json()["status"] == "Running"
    wait_for(running, timeout, 0.1, f"{name} running")
    assert len([p for p in made.pods() if not p["metadata"].get("deletionTimestamp")]) == 1
    return made


def test_a_replica_of_the_router_is_killed(api, box, release):
    with Worker(api, box) as worker:
        for victim in release.routers():
            before = release.restarts()
            (pid,) = processes(victim, "agenttier-router")
            os.kill(pid, signal.SIGKILL)
            worker.goes_on(20)
            release.restarted(before + 1)
    check_all_there(box, worker)
    assert worker.longest < 10


def test_a_rollout_of_the_router_refuses_nobody(api, box):
    with Worker(api, box) as worker:
        kubectl("rollout", "restart", f"deployment/{testbed.ROUTER}", "-n", NAMESPACE)
        kubectl("rollout", "status", f"deployment/{testbed.ROUTER}", "-n", NAMESPACE, f"--timeout={PATIENCE}s")
        worker.goes_on(20)
    check_all_there(box, worker)
    assert not worker.refusals, worker.refusals


def test_the_controller_is_killed(api, box, fresh):
    pods = get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller")
    (pid,) = processes(pods[0], "agenttier-controller")
    with Worker(api, box) as worker, api.client("u1") as client:
        os.kill(pid, signal.SIGKILL)
        # What is asked for while it is away is done when it is back.
        assert client.post(API + "/sandboxes", json={"name": fresh + "-new", "templateRef": REF}).status_code == 201
        made = testbed.Sandbox(api, client, fresh + "-new")
        made.wait("Running", PATIENCE)
        assert len(made.pods()) == 1
        made.remove()
        worker.goes_on()
    check_all_there(box, worker)
    assert not worker.refusals, worker.refusals


def test_the_api_server_is_away_for_20_seconds(api, box, fresh):
    """O3: reads go on, writes say 503 with Retry-After, nobody is told that a sandbox is not there."""
    with Worker(api, box) as worker, api.client("u1") as client:
        testbed.kill_part("kube-apiserver")
        try:
            down = time.monotonic()
            codes, writes = set(), set()
            while time.monotonic() - down < 20:
                codes.add(client.get(box.base).status_code)
                codes.add(client.get(API + "/sandboxes").status_code)
                answer = client.post(API + "/sandboxes", json={"name": fresh + "-away", "templateRef": REF})
                writes.add(answer.status_code)
                if answer.status_code == 503:
                    assert int(answer.headers["Retry-After"]) >= 1 and error_of(answer)
                answer = client.delete(box.base + "-not")
                writes.add(answer.status_code if answer.status_code != 404 else 503)  # 404 of what was never there is knowledge
                time.sleep(0.5)
        finally:
            testbed.start_part("kube-apiserver")
        assert codes == {200}, codes
        assert writes == {503}, writes
        wait_for(testbed.api_ready, PATIENCE, 0.2, "the API server")
        worker.goes_on(10)
        # What was answered with 503 may be tried again and is there once.
        began = time.monotonic()
        make_once(api, client, fresh + "-away").remove()
        print(f"a sandbox made and removed {time.monotonic() - began:.1f} s after the API server came back")
    check_all_there(box, worker)


def test_etcd_is_killed(api, box, fresh):
    with Worker(api, box) as worker, api.client("u1") as client:
        testbed.kill_part("etcd")
        time.sleep(5)
        testbed.start_part("etcd")
        wait_for(testbed.api_ready, PATIENCE, 0.2, "the API server")
        worker.goes_on(10)
        make_once(api, client, fresh + "-etcd").remove()
    check_all_there(box, worker)


def test_a_pod_is_killed_in_the_middle_of_a_command(api, fresh):
    """Out of memory, evicted: an error that says so, never an exit code that nobody saw."""
    victim = api.sandbox(fresh + "-victim", key="u1")
    answer = {}

    def wait_for_it():
        with api.client("u1", timeout=700) as client:
            answer["is"] = client.post(f"{victim.base}/exec", json={"command": "sleep 500; echo done", "timeout": 600})
    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    wait_for(lambda: any("sleep 500" in line for line in victim.ps()), PATIENCE, 0.3, "the command running")
    killed = victim.pod()
    kubectl("delete", "pod", killed["metadata"]["name"], "-n", "default", "--grace-period=0", "--force")
    waiting.join(PATIENCE)
    assert not waiting.is_alive(), "the command's caller still waits"
    if answer["is"].status_code == 200:
        assert answer["is"].json()["exitCode"] != 0 and "done" not in answer["is"].json()["stdout"]
    else:
        error_of(answer["is"], (409, 502, 503, 504))

    def healed():
        return victim.status() == "Running" and [p["metadata"]["uid"] for p in victim.pods()] not in ([], [killed["metadata"]["uid"]])
    wait_for(healed, PATIENCE, 0.3, "the sandbox healed")
    victim.remove()
    victim.client.close()
